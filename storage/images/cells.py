"""Pixels of square cells: their median, and how they scatter without what stands out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIP = 3.0
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
    first = np.zeros(len(ordered), int)
    last = _places(ordered, np.full(len(ordered), np.inf), after=True)
    above = ordered - _middle(ordered, first, last)  # NaN come last, and count in no range
    sums = [_running(above), _running(above * above)]
    for _ in range(5):
        centre = _middle(ordered, first, last)[:, 0]
        spread = _spread(sums, first, last)
        low = _places(ordered, centre - CLIP * spread)
        high = _places(ordered, centre + CLIP * spread, after=True)
        if (low == first).all() and (high == last).all():
            break
        first, last = np.maximum(first, low), np.minimum(last, high)
    shape = cells.shape[:-1]
    return centre.reshape(shape), (spread / CLIPPED_STD).reshape(shape)


def _places(
    ordered: NDArray[Any], limits: NDArray[np.float64], *, after: bool = False
) -> NDArray[np.intp]:
    """How many values of each sorted row lie below its limit, or up to it; NaN lie beyond all."""
    row, width = np.arange(len(ordered)), ordered.shape[1]
    low, high = np.zeros(len(ordered), int), np.full(len(ordered), width)
    for _ in range(width.bit_length()):
        middle = (low + high) // 2
        met = ordered[row, np.minimum(middle, width - 1)]
        below = ((met <= limits) if after else (met < limits)) & (middle < high)
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    return low


def _middle(
    ordered: NDArray[Any], first: NDArray[np.intp], last: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Median of each sorted row between two places; a column."""
    row = np.arange(len(ordered))
    low = np.clip((first + last - 1) // 2, 0, ordered.shape[1] - 1)
    high = np.clip((first + last) // 2, 0, ordered.shape[1] - 1)
    middle = (ordered[row, low] + ordered[row, high]) / 2
    middle[last <= first] = np.nan
    return middle[:, np.newaxis]


def _running(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values.astype(np.float64), axis=-1, out=sums[:, 1:])
    return sums


def _spread(
    sums: list[NDArray[np.float64]], first: NDArray[np.intp], last: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Standard deviation of each row between two places."""
    row, count = np.arange(len(first)), np.maximum(last - first, 1)
    mean, square = ((total[row, last] - total[row, first]) / count for total in sums)
    spread: NDArray[np.float64] = np.sqrt(np.maximum(square - mean**2, 0))
    spread[last <= first] = np.nan
    return spread
