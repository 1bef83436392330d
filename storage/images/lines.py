"""Trails that are too faint to be seen pixel by pixel: of what moved while the shutter was open.

A trail of 30 pixels may have a signal-to-noise ratio of 10, and nowhere 4 in what a filter of
points sees. So the residual is summed along straight lines at every place, slope and length, a few
dozen additions a leaf, by the fast Radon transform (Goetz & Druckmueller 1996, Pattern Recognition
29, 711; for trails Nir, Zackay & Ofek 2018, AJ 156, 229): a line across two blocks of rows is a
line across the one and a line across the other. A trail is alike all along, and a line across a
source is not: what counts is the mean of the middle half of the values on a line, which a source on
a quarter of it barely moves. Lines that cross a trail, or run along some of it, stand out as well:
of them only those count that do without what better ones hold.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from skyfold.ladder import LEAF
from storage.images.filtered import FWHM_TO_SIGMA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Plane = NDArray[np.float32]
    Marks = NDArray[np.bool_]
    _T = TypeVar("_T", bound=np.generic)

TRAIL_SIGNIFICANCE = 5.0
SHORTEST, LONGEST = 8, 32  # leaves; other filters see what is shorter, and longer has such parts
BEYOND = 4  # of its length: what a line is longer at each end than what was summed
WIDE = 24.0  # times the sigma of points, to either side: what is as wide is background
MIDDLE = 1.1  # times the scatter of a sum is that of as many values by their midmean
MIDDLE_HALF = 1.35  # standard deviations that the middle half of a Gaussian spans
NOISY = 1.25  # times the noise: what scatters more along a line lies where noise is not as stated
SOME = 1024  # sums of a slope, from which its noise is known to 4 %


class _Line(NamedTuple):
    """A line of leaves, and how far its sum is beyond noise."""

    excess: float
    view: int
    row: int
    column: int
    length: int
    slope: int
    middle: float
    far: float


def trail_leaves(residual: Plane, bright: Marks, fwhm: float) -> Marks:
    """Leaves of lines along which the residual is not noise.

    Parameters
    ----------
    residual : ndarray, shape (ny, nx), float32
        Sums over leaves, less the prediction, in their noise; 0 where there is no measurement.
    bright : ndarray, shape (ny, nx), bool
        Leaves of what is seen by itself and is no part of a faint trail: judged without them.
    fwhm : float
        Of point sources [pixel].
    """
    rest = np.where(bright, np.float32(0), residual)
    across = max(fwhm / FWHM_TO_SIGMA / LEAF, 0.4)
    noise = float(np.linalg.norm(_narrow(np.eye(1, 1025, 512, dtype=np.float32), across)))
    planes, lines = [], []
    for view in range(4):
        planes.append(np.ascontiguousarray(_narrow(_view(rest, view), across)))
        for length, sums in _sums(planes[-1]):
            found = _unlike_noise(sums, noise * math.sqrt(length))
            lines += [
                _Line(excess, view, block * (length // 2), column, length, slope, middle, far)
                for excess, slope, block, column, middle, far in found
            ]
    return _alone(planes, sorted(lines, reverse=True), round(2 * across))


def _view(plane: NDArray[_T], view: int) -> NDArray[_T]:
    """A plane in which lines of a quarter of all directions run down, and to the right."""
    turned = plane.T if view & 1 else plane
    return turned[:, ::-1] if view & 2 else turned


def _sums(plane: Plane) -> Iterator[tuple[int, list[Plane]]]:
    """Lengths of lines [rows], and for each number of columns they cross, the sums along them.

    The sums are of shape (blocks, nx): of lines that begin every half length, at each column.
    """
    parts, length = [plane], 1
    while length < LONGEST and 2 * length <= len(plane):
        length *= 2
        lines = [(parts[slope // 2], -(-slope // 2)) for slope in range(length)]
        if length >= SHORTEST:
            yield length, [_joined(part[:-1], part[1:], aside) for part, aside in lines]
        parts = [
            _joined(part[: len(part) // 2 * 2 : 2], part[1::2], aside) for part, aside in lines
        ]


def _joined(upper: Plane, lower: Plane, aside: int) -> Plane:
    """Sums of two parts of a line, the lower so many columns further."""
    total = upper.copy()
    total[:, : max(total.shape[1] - aside, 0)] += lower[:, aside:]
    return total


def _narrow(plane: Plane, across: float) -> Plane:
    """What is as narrow as points, across rows, less the mean around it."""
    around = uniform_filter1d(plane, 2 * round(WIDE * across) + 1, axis=1, mode="constant")
    return gaussian_filter1d(plane, across, axis=1, mode="constant", truncate=2.5) - around


@cache
def _columns(length: int, slope: int) -> NDArray[np.intp]:
    """Columns of a line's rows from that of its first, as `_sums` goes."""
    if length == 1:
        return np.zeros(1, np.intp)
    half = _columns(length // 2, slope // 2)
    return np.concatenate([half, half - (-slope // 2)])


def _unlike_noise(
    slopes: list[Plane], noise: float
) -> Iterator[tuple[float, int, int, int, float, float]]:
    """Excess, slope, block, column of the sums that noise does not reach; its middle and reach.

    Noise is at least that of white noise, and what the quieter half scatters at most slopes, and
    at its own: that of stripes is theirs alone.
    """
    levels = np.array([_level(sums) for sums in slopes])
    scatter = np.maximum(levels[:, 1], max(noise, float(np.median(levels[:, 1]))))
    for slope, (sums, middle, far) in enumerate(
        zip(slopes, levels[:, 0].tolist(), (TRAIL_SIGNIFICANCE * scatter).tolist(), strict=True)
    ):
        if middle - far < sums.min() and sums.max() < middle + far:
            continue
        for block, column in zip(*np.nonzero(np.abs(sums - middle) > far), strict=True):
            excess = abs(float(sums[block, column]) - middle) / far
            yield excess, slope, int(block), int(column), middle, far


def _level(sums: Plane) -> tuple[float, float]:
    """Median of sums, and the scatter of what lies below it."""
    some = sums.ravel()[:: max(sums.size // SOME, 1) | 1]
    some = np.sort(some[some != 0])
    if not some.size:
        return 0.0, 0.0
    middle = float(some[some.size // 2])
    return middle, middle - float(some[int(0.1587 * some.size)])


def _alone(planes: list[Plane], lines: list[_Line], wide: int) -> Marks:
    """Leaves of the lines, best first, that stand out without what better ones hold."""
    found = np.zeros(planes[0].shape, bool)
    beside = found.copy()
    for line in lines:
        plane, taken = planes[line.view], _view(beside, line.view)
        rows, columns = _inside(line, plane.shape, 0)
        left = ~taken[rows, columns]
        values = np.zeros(line.length)
        values[: len(rows)] = np.where(left, plane[rows, columns] - line.middle / line.length, 0)
        middle, scatter = _middle(values)
        scatter *= math.sqrt(line.length) * TRAIL_SIGNIFICANCE / NOISY
        if abs(middle) * line.length <= MIDDLE * max(line.far, scatter):
            continue
        rows, columns = _inside(line, plane.shape, line.length // BEYOND)
        _view(found, line.view)[rows, columns] = True
        for aside in range(-wide, wide + 1):
            taken[rows, np.clip(columns + aside, 0, plane.shape[1] - 1)] = True
    return found


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of the middle half of values, and the scatter that tells of a Gaussian's."""
    quarter = len(values) // 4
    half = np.sort(values)[quarter:-quarter]
    return float(half.mean()), float(half[-1] - half[0]) / MIDDLE_HALF


def _inside(
    line: _Line, shape: tuple[int, ...], more: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of a line, so many rows longer at each end, inside the plane."""
    step = np.arange(-more, line.length + more)
    turn = step % line.length
    columns = _columns(line.length, line.slope)[turn] + (step - turn) // line.length * line.slope
    rows, columns = line.row + step, line.column + columns
    good = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
    return rows[good], columns[good]
