"""Fluxes, magnitudes and colors: how far decoded values are from the raw, in their own errors.

A color's error is the two magnitudes' errors in quadrature; its signal-to-noise ratio is the lower
of the two. Neighbouring columns, in the order of the catalog, make a color.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import Sample, ScienceCase
from skyfold.science.bins import split
from skyfold.science.tables import Table, TableContext, magnitudes, require_rows

__all__ = ["COLORS", "Colors"]


class Colors(ScienceCase):
    """Values and colors, (decoded - raw) / error of raw.

    Measures ``value`` (every column that has an error, together) and ``color``; bins by the raw
    signal-to-noise ratio. Missing values are left out.
    """

    name = "colors"
    kind = "catalogs"
    default_measure = "value"

    def prepare(self, raw: Any, context: Any) -> Any:
        """Return the names and magnitudes of the raw columns that have errors."""
        return magnitudes(raw, context)

    def compare(self, state: Any, raw: Any, decoded: Any, context: Any) -> list[Sample]:
        """Return the changes, in bins of S/N."""
        require_rows(raw, decoded, context)
        moved = [_value_change(raw, decoded, context, name) for name in state[0]]
        return _sample("value", moved) + _sample(
            "color", _color_changes(state, decoded, context, raw)
        )


def _value_change(
    raw: Table, decoded: Table, context: TableContext, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with np.errstate(invalid="ignore", divide="ignore"):
        change = (decoded[name] - raw[name]) / context.sigma[name]
    return _counted(change, context.snr(raw, name), context)


def _counted(
    change: NDArray[np.float64], snr: NDArray[np.float64], context: TableContext
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    good = context.counted & np.isfinite(change) & np.isfinite(snr)
    return change[good], snr[good]


def _color_changes(state: Any, decoded: Table, context: TableContext, raw: Table) -> list[Any]:
    names, before = state
    _, after = magnitudes(decoded, context)
    snr = [context.snr(raw, name) for name in names]
    found = []
    for i in range(len(names) - 1):
        change = (after[:, i] - after[:, i + 1]) - (before[:, i] - before[:, i + 1])
        with np.errstate(invalid="ignore", divide="ignore"):
            error = np.hypot(1 / snr[i], 1 / snr[i + 1]) * (2.5 / np.log(10))
            found.append(_counted(change / error, np.minimum(snr[i], snr[i + 1]), context))
    return found


def _sample(measure: str, parts: list[Any]) -> list[Sample]:
    empty = [(np.empty(0), np.empty(0))]
    values, snr = (np.concatenate(side) for side in zip(*(parts or empty), strict=True))
    return split(values, snr, measure=measure, unit="sigma", statistic="p90")


COLORS = Colors()
