"""Pixels of square cells: their median, and how they scatter without what stands out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.compiled import compiled_exactly

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIP = 3.0
_CUTS = 5
CLIPPED_STD = 0.98658  # standard deviation of a unit Gaussian cut at 3 sigma


def cells_of(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Values of cells of side x side pixels, NaN beyond the edge; shape (cy, cx, side**2)."""
    beyond = [(0, -length % side) for length in values.shape]
    if np.any(beyond):
        values = np.pad(values, beyond, constant_values=np.nan)
    ny, nx = (length // side for length in values.shape)
    cut = values.reshape(ny, side, nx, side).transpose(0, 2, 1, 3)
    return cut.reshape(*cut.shape[:2], side * side)


def clipped(cells: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and standard deviation of the last axis, cut at 3 sigma; NaN where all is NaN.

    Values are sorted once: what a cut leaves is then a range between two places.
    """
    ordered = np.sort(cells.reshape(-1, cells.shape[-1]), axis=-1)
    centre, spread = np.empty(len(ordered), ordered.dtype), np.empty(len(ordered))
    _cut(ordered, centre, spread)
    shape = cells.shape[:-1]
    return centre.reshape(shape), (spread / CLIPPED_STD).reshape(shape)


@compiled_exactly
def _place(row, limit, after):  # type: ignore[no-untyped-def]
    """How many of some rising values lie below a limit, or up to it; NaN lie beyond all."""
    low, high = 0, row.size
    while low < high:
        middle = (low + high) // 2
        if row[middle] < limit or (after and row[middle] == limit):
            low = middle + 1
        else:
            high = middle
    return low


@compiled_exactly
def _cut(ordered, centre, spread):  # type: ignore[no-untyped-def]
    """Median and standard deviation of rising rows between two places, filled in."""
    width = ordered.shape[1]
    sums, squares = np.zeros(width + 1), np.zeros(width + 1)
    above = np.empty(width, ordered.dtype)
    for n in range(ordered.shape[0]):
        row = ordered[n]
        first, last = 0, _place(row, np.inf, True)
        centre[n], spread[n] = np.nan, np.nan
        if last:
            centre[n] = (row[(last - 1) // 2] + row[last // 2]) / 2
        for k in range(last):
            above[k] = row[k] - centre[n]
            sums[k + 1] = sums[k] + above[k]
            squares[k + 1] = squares[k] + above[k] * above[k]
        for _ in range(_CUTS):
            if last <= first:
                centre[n], spread[n] = np.nan, np.nan
                break
            centre[n] = (row[(first + last - 1) // 2] + row[(first + last) // 2]) / 2
            mean = (sums[last] - sums[first]) / (last - first)
            square = (squares[last] - squares[first]) / (last - first)
            spread[n] = np.sqrt(max(square - mean * mean, 0.0))
            low = _place(row, centre[n] - CLIP * spread[n], False)
            high = _place(row, centre[n] + CLIP * spread[n], True)
            if low == first and high == last:
                break
            first, last = max(first, low), min(last, high)
