"""Positions of a catalog: how far decoded ones lie from the raw, on the sky."""

from __future__ import annotations

from typing import Any

import numpy as np

from skyfold.science import Sample, ScienceCase
from skyfold.science.tables import require_rows

__all__ = ["POSITIONS", "Positions"]

_MAS_PER_RADIAN = np.degrees(1) * 3.6e6


class Positions(ScienceCase):
    """Angle between raw and decoded position [mas]: measure ``separation``, bin ``all``.

    Notes
    -----
    The half-angle (haversine) form, which keeps its digits at small angles.
    """

    name = "positions"
    kind = "catalogs"
    default_measure = "separation"

    def prepare(self, raw: Any, context: Any) -> Any:
        """Return raw right ascension and declination [rad], or None without positions."""
        if context.ra is None or context.dec is None or context.ra not in raw:
            return None
        return np.radians(raw[context.ra]), np.radians(raw[context.dec])

    def compare(self, state: Any, raw: Any, decoded: Any, context: Any) -> list[Sample]:
        """Return the separations of the counted rows; none without positions."""
        require_rows(raw, decoded, context)
        if state is None:
            return []
        ra, dec = state
        other_ra, other_dec = np.radians(decoded[context.ra]), np.radians(decoded[context.dec])
        half = np.sin((other_dec - dec) / 2) ** 2
        half += np.cos(dec) * np.cos(other_dec) * np.sin((other_ra - ra) / 2) ** 2
        apart = 2 * np.arcsin(np.sqrt(np.clip(half, 0, 1))) * _MAS_PER_RADIAN
        values = apart[context.counted & np.isfinite(apart)]
        return [Sample("separation", "all", values, "mas", "p90")]


POSITIONS = Positions()
