"""Geometry between sky and pixels: footprints, boxes around a position, and their WCS.

Pixels are 0-based with integers at pixel centres, arrays are ``[y, x]``, positions ``(x, y)``.
Angles are ICRS.
"""

from __future__ import annotations

import copy
import re
import threading
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle, BaseCoordinateFrame, SkyCoord
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_scales

from skyfold.errors import InvalidRequestError

if TYPE_CHECKING:
    from astropy.io import fits
    from numpy.typing import NDArray

HEALPIX_ORDER = 8
_CARD = re.compile(  # FITS papers I, II and IV (distortion), SIP, and what astropy reads beside
    r"(WCSAXES|NAXIS\d?|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)\d|(CD|PC)\d_\d|P[VS]\d_\d+"
    r"|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|EPOCH|(MJD|DATE)-(OBS|AVG|BEG|END)|MJDREF[IF]?"
    r"|[AB]P?_(ORDER|DMAX|\d_\d))"
)
_lock = (
    threading.RLock()
)  # wcslib sets a WCS up on first use; warnings are filtered for all threads


def read_wcs(header: fits.Header) -> WCS | None:
    """Celestial WCS of an image, or None if the header has none that can be used."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wcs = WCS(header)
            if not wcs.has_celestial:
                return None
            celestial = wcs.celestial
            finite = np.isfinite(celestial.pixel_to_world_values(0.0, 0.0)).all()
        except Exception:  # a header may be wrong in any way; the pixels are still good
            return None
    return celestial if finite else None


def wcs_cards(header: fits.Header) -> str:
    """Cards of a header that place its pixels on the sky, joined by newlines; "" without a WCS.

    All cards, where those of the standard alone would place pixels elsewhere.
    """
    whole = read_wcs(header)
    if whole is None:
        return ""
    cards = [card for card in header.cards if _CARD.fullmatch(card.keyword)]
    text = "\n".join(str(card).rstrip() for card in cards)
    return text if _agree(cards_wcs(text), whole, header) else header.tostring("\n", padding=False)


def _agree(few: WCS | None, whole: WCS, header: fits.Header) -> bool:
    """Whether two WCS place the same pixels, corners and between, at the same positions."""
    if few is None or few.wcs.radesys != whole.wcs.radesys:
        return False
    sides = [np.linspace(0, header.get(f"NAXIS{axis}", 1000), 5) for axis in (1, 2)]
    x, y = (grid.ravel() for grid in np.meshgrid(*sides))
    one, other = few.pixel_to_world_values(x, y), whole.pixel_to_world_values(x, y)
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


@lru_cache(maxsize=4096)
def cards_wcs(cards: str) -> WCS | None:
    """Celestial WCS of FITS cards joined by newlines; None if they hold none. Not to be changed."""
    from astropy.io import fits

    return read_wcs(fits.Header.fromstring(cards, sep="\n"))


def footprint(wcs: WCS, shape: tuple[int, int]) -> tuple[float, float, float, tuple[int, ...]]:
    """Circle that holds an image, and the HEALPix cells that it touches.

    Returns
    -------
    ra, dec, radius_deg : float
        [deg, ICRS]
    healpix : tuple of int
        Nested cells of order 8, ascending; empty if they would be more than 10,000.
    """
    from astropy_healpix import HEALPix

    ny, nx = shape
    along_x, along_y = np.linspace(-0.5, nx - 0.5, 9), np.linspace(-0.5, ny - 0.5, 9)
    x, y = (grid.ravel() for grid in np.meshgrid(along_x, along_y))
    edge = wcs.pixel_to_world(x, y).icrs
    centre = wcs.pixel_to_world((nx - 1) / 2, (ny - 1) / 2).icrs
    radius = float(np.nanmax(centre.separation(edge).deg))
    sky = HEALPix(nside=2**HEALPIX_ORDER, order="nested", frame="icrs")
    if radius > 20:
        return centre.ra.deg, centre.dec.deg, radius, ()
    cells = sky.cone_search_skycoord(centre, radius * u.deg)
    return centre.ra.deg, centre.dec.deg, radius, tuple(int(cell) for cell in np.sort(cells))


def require_position(position: Any) -> None:
    """Raise `InvalidRequestError` unless these are positions that say their frame and unit."""
    if not isinstance(position, SkyCoord | BaseCoordinateFrame):
        raise InvalidRequestError(
            f"position {position!r:.80} is a {type(position).__name__}: give an astropy SkyCoord, "
            'such as SkyCoord(150.1, 2.2, unit="deg")'
        )


def pixel_positions(wcs: WCS, positions: SkyCoord) -> tuple[NDArray[Any], NDArray[Any]]:
    """Positions x, y [pixel] of an array of positions; NaN where the projection does not reach."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            x, y = _to_pixels(wcs, positions)
        except Exception:  # SIP that does not converge for one position raises for all
            if positions.isscalar or positions.size == 1:
                nothing = np.full(positions.shape, np.nan)
                return nothing, nothing
            each = [pixel_positions(wcs, positions[n : n + 1]) for n in range(len(positions))]
            x, y = (np.concatenate(part) for part in zip(*each, strict=True))
    return np.asarray(x, float), np.asarray(y, float)


def _to_pixels(wcs: WCS, positions: SkyCoord) -> tuple[NDArray[Any], NDArray[Any]]:
    """As of ``wcs.world_to_pixel``, which takes a millisecond to find that ICRS is ICRS."""
    axes = wcs.wcs
    if (axes.radesys, axes.lngtyp, axes.lattyp, axes.lng) != ("ICRS", "RA", "DEC", 0):
        return wcs.world_to_pixel(positions)  # type: ignore[no-any-return]
    here = (positions if positions.name == "icrs" else positions.icrs).spherical
    return wcs.world_to_pixel_values(here.lon.deg, here.lat.deg)  # type: ignore[no-any-return]


def box_in_pixels(wcs: WCS, size: Any) -> tuple[int, int]:
    """Box (ny, nx) [pixel] of a size on the sky.

    Parameters
    ----------
    size : Quantity or int, or a pair (ny, nx) of them
        Angle, or pixels as an int.

    Raises
    ------
    InvalidRequestError
        If a size is not positive, not finite, or has a unit that is not an angle.
    """
    x_scale, y_scale = proj_plane_pixel_scales(wcs)  # deg per pixel
    ny, nx = _pair(size)
    return _length(ny, y_scale), _length(nx, x_scale)


def box_of(size: Any, scale_deg: float) -> tuple[int, int]:
    """As `box_in_pixels`, for square pixels of a side."""
    ny, nx = _pair(size)
    return _length(ny, scale_deg), _length(nx, scale_deg)


def _pair(size: Any) -> tuple[Any, Any]:
    if np.size(size) == 1:
        return size, size
    if np.size(size) == 2:
        return size[0], size[1]
    raise InvalidRequestError(f"size {size!r}: give one length or a pair (ny, nx)")


def _length(size: Any, scale_deg: float) -> int:
    try:
        length = Angle(size).deg / scale_deg if isinstance(size, u.Quantity) else float(size)
    except u.UnitsError as error:
        raise InvalidRequestError(f"size {size}: give an angle, or pixels as an int") from error
    if not np.isfinite(length) or length <= 0:
        raise InvalidRequestError(f"size {size}: a cutout has a positive, finite size")
    return max(int(np.ceil(length - 1e-6)), 1)


def shifted_wcs(wcs: WCS, x0: int, y0: int, shape: tuple[int, int]) -> WCS:
    """WCS of a window of shape (ny, nx) whose first pixel is (x0, y0) of the image."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        moved = copy.deepcopy(wcs)
        moved.wcs.crpix -= np.array([x0, y0])
        if moved.sip is not None:
            from astropy.wcs import Sip

            sip = moved.sip
            moved.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - np.array([x0, y0]))
        moved.pixel_shape = shape[::-1]  # footprints are reckoned from it
        moved.wcs.set()
    return moved
