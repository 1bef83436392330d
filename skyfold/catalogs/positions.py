"""Positions of a catalog's rows: their units, the HEALPix cells that order them, and cones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle, SkyCoord

from skyfold.errors import InvalidRequestError
from skyfold.sky import require_position

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.catalogs.columns import Floats

HEALPIX_ORDER = 29  # of the curve that rows follow
NO_CELL = 12 * 4**HEALPIX_ORDER  # of a position that is not on the sky
_CELL_DEG = 58.6  # side of a HEALPix cell of order 0
_CELLS_OF_RADIUS = 8


def angle_unit_deg(unit: str | None) -> float:
    """Degrees in the unit of a position column; degrees where none that fits is stated."""
    try:
        return float(u.Unit(unit, parse_strict="silent").to(u.deg)) if unit else 1.0
    except (u.UnitsError, ValueError, TypeError):
        return 1.0


def in_degrees(values: NDArray[Any], unit: str | None) -> Floats:
    """Values of a position column [deg]."""
    return np.asarray(values.astype(np.float64) * angle_unit_deg(unit))


def on_sky(ra_deg: Floats, dec_deg: Floats) -> NDArray[np.bool_]:
    """Which positions are some, shape (n,)."""
    with np.errstate(invalid="ignore"):
        return (
            np.isfinite(ra_deg)
            & np.isfinite(dec_deg)
            & (np.abs(dec_deg) <= 90)
            & (np.abs(ra_deg) <= 720)
        )


def sky_cells(ra_deg: Floats, dec_deg: Floats) -> NDArray[np.int64]:
    """Nested HEALPix cells of order 29 of positions [deg]; beyond the last where there is none."""
    from astropy_healpix import HEALPix

    good = on_sky(ra_deg, dec_deg)
    cells = np.full(len(ra_deg), NO_CELL, np.int64)
    grid = HEALPix(nside=2**HEALPIX_ORDER, order="nested")
    cells[good] = grid.lonlat_to_healpix(ra_deg[good] * u.deg, dec_deg[good] * u.deg)
    return cells


@dataclass(frozen=True)
class Cone:
    """A circle on the sky.

    Attributes
    ----------
    centre : astropy.coordinates.SkyCoord
        ICRS.
    radius : astropy.coordinates.Angle
    """

    centre: SkyCoord
    radius: Angle

    @classmethod
    def of(cls, position: SkyCoord, radius: Any) -> Cone:
        """Cone of a position and an angle above 0 and up to 180 deg; else InvalidRequestError."""
        require_position(position)
        if not position.isscalar:
            raise InvalidRequestError(
                f"{len(position)} positions: give one; ask for each, or take the rows of a wider "
                "cone and match them with astropy"
            )
        try:
            reach = Angle(radius)
        except (u.UnitsError, ValueError, TypeError) as error:
            raise InvalidRequestError(
                f"radius {radius!r}: give an angle, such as 2 * u.arcmin"
            ) from error
        if not (reach.isscalar and 0 < reach.deg <= 180):
            raise InvalidRequestError(f"radius {radius}: give one angle above 0 and up to 180 deg")
        return cls(position.icrs, reach)

    def chunks(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.intp]:
        """Numbers of the chunks whose range of cells of order 29, low to high, meets the cone."""
        from astropy_healpix import HEALPix

        order = np.floor(np.log2(_CELL_DEG * _CELLS_OF_RADIUS / self.radius.deg))
        order = int(np.clip(order, 0, HEALPIX_ORDER))
        grid = HEALPix(nside=2**order, order="nested", frame="icrs")
        cells = np.sort(grid.cone_search_skycoord(self.centre, self.radius)).astype(np.int64)
        shift = 2 * (HEALPIX_ORDER - order)
        first = np.searchsorted(cells, low >> shift)
        last = np.searchsorted(cells, high >> shift, side="right")
        return np.flatnonzero(last > first)

    def holds(self, ra_deg: Floats, dec_deg: Floats) -> NDArray[np.bool_]:
        """Which positions lie inside, shape (n,); those that are none do not."""
        good = on_sky(ra_deg, dec_deg)
        sky = SkyCoord(ra_deg[good], dec_deg[good], unit="deg")
        inside = np.zeros(len(good), bool)
        inside[good] = sky.separation(self.centre) <= self.radius
        return inside
