"""Geometry between sky and pixels: footprints, boxes around a position, and their WCS.

Pixels are 0-based with integers at pixel centres, arrays are ``[y, x]``, positions ``(x, y)``.
Angles are ICRS.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_scales

from skyfold.errors import InvalidRequestError

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.io import fits

HEALPIX_ORDER = 8


def read_wcs(header: fits.Header) -> WCS | None:
    """Celestial WCS of an image, or None if the header has none that can be used."""
    with warnings.catch_warnings():
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


def pixel_position(wcs: WCS, position: SkyCoord) -> tuple[float, float]:
    """Position (x, y) [pixel]; NaN where the projection does not reach."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            x, y = wcs.world_to_pixel(position)
        except Exception:
            return float("nan"), float("nan")
    return float(x), float(y)


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
    pair = _pair(size)
    scale = proj_plane_pixel_scales(wcs)  # deg per pixel along x, y
    lengths = [_length(one, scale[1 - axis]) for axis, one in enumerate(pair)]
    return lengths[0], lengths[1]


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


def shifted_wcs(wcs: WCS, x0: int, y0: int) -> WCS:
    """WCS of a window whose first pixel is (x0, y0) of the image."""
    moved = copy.deepcopy(wcs)
    moved.wcs.crpix -= np.array([x0, y0])
    if moved.sip is not None:
        from astropy.wcs import Sip

        sip = moved.sip
        moved.sip = Sip(sip.a, sip.b, sip.ap, sip.bp, sip.crpix - np.array([x0, y0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        moved.wcs.set()
    return moved
