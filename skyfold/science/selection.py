"""Selection cuts: which rows a cut on a decoded value keeps or drops that it would not on the raw.

The cuts lie at the quartiles of each column, where the most rows are near; a cut in the tails of a
column moves fewer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skyfold.science import Sample, ScienceCase
from skyfold.science.tables import require_rows

__all__ = ["SELECTION", "Selection"]

QUANTILES = (0.25, 0.5, 0.75)
MAX_COLUMNS = 32


class Selection(ScienceCase):
    """Share of rows that change sides of a cut: measure ``moved``, bin ``all``.

    Every counted row counts once for each column and quartile; a missing value is on neither side.
    """

    name = "selection"
    kind = "catalogs"
    default_measure = "moved"

    def prepare(self, raw: Any, context: Any) -> Any:
        """Return the cuts: names of columns and their quartiles."""
        roles = (context.ra, context.dec)
        cuts: dict[str, Any] = {}
        for name, values in raw.items():
            good = values[context.counted & np.isfinite(values)]
            if good.size and name not in roles and len(cuts) < MAX_COLUMNS:
                cuts[name] = np.quantile(good, QUANTILES)
        return cuts

    def compare(self, state: Any, raw: Any, decoded: Any, context: Any) -> list[Sample]:
        """Return 1 for each row, column and cut where the sides differ, 0 elsewhere."""
        require_rows(raw, decoded, context)
        moved = [np.empty(0)]
        for name, cuts in state.items():
            good = context.counted & np.isfinite(raw[name])
            before, after = raw[name][good, None] < cuts, decoded[name][good, None] < cuts
            moved.append((before != after).ravel().astype(np.float64))
        return [Sample("moved", "all", np.concatenate(moved), "fraction", "mean")]


SELECTION = Selection()
