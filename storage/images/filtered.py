"""The filters that `sources` looks through, and how what passes is told from noise.

A source is judged as photometry judges it, by the noise of its pixels taken as independent;
residuals and what lies below the sky by their own filtered scatter on the quiet side, so that
correlated noise is no surprise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import median_filter

from skyfold.ladder import LEAF
from skyfold.science.filters import gaussian

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SOURCE_SIGNIFICANCE = 4.4  # matched filter; a source of S/N 5 in a 1 FWHM aperture has 6.2
PEAK_SIGNIFICANCE = 4.2  # of a peak where noise is white: other noise reaches as high
WHITE = 1.5  # times the scatter of white noise, at most
EXTENDED_SIGNIFICANCE = 5.0
RESIDUAL_SIGNIFICANCE = 5.0
WIDE_SCALES = (2.0, 4.0)  # Gaussian sigma [pixel]
SAMPLE = 120_000  # filtered pixels, from which their quantiles are known to 0.007 of their noise
TROUGH = 16  # pixels a side of a cell whose median says how low the sky is there
EVERY = 2  # of its pixels: a filtered plane has no more to tell
DEEPEST = 5.0  # of the noise of a pixel: what lies lower is dead, or overscan
MARGINS = 0.8, 0.4  # of the noise: so low the median of a cell is in any sky, and that of nine
FWHM_TO_SIGMA = 2 * math.sqrt(2 * math.log(2))


@dataclass(frozen=True)
class Level:
    """The level of the quiet parts of a filtered plane, and the size of its noise.

    What lies below is never expected: it is told by the plane's own scatter.
    """

    quiet: float
    noise: float
    scatter: float

    def above(self, smooth: NDArray[np.float32], significance: float) -> NDArray[np.bool_]:
        """Where a plane lies so many times the noise above the quiet level."""
        return smooth > np.float32(self.quiet + significance * self.noise)

    def below(self, smooth: NDArray[np.float32], significance: float) -> NDArray[np.bool_]:
        """Where it lies so many times its scatter below it."""
        return smooth < np.float32(self.quiet - significance * self.scatter)


Levels = list[Level]
Sample = tuple["NDArray[np.float32]", "NDArray[np.float32]"]  # of what is judged, of the data


@dataclass(frozen=True)
class Filter:
    """A Gaussian filter, and how what passes it is judged.

    Its noise is at least that of white noise; of sources it is that.
    """

    sigma: float
    significance: float
    of_sources: bool = False
    of_leaves: bool = False
    is_white: bool = False

    def is_seen(self, smooth: NDArray[np.float32], level: Level) -> NDArray[np.bool_]:
        """Where a filtered plane has a source; of a faint one, if noise is white, its peak."""
        seen = level.above(smooth, self.significance)
        if level.scatter > WHITE * level.noise:
            return seen
        faint = np.nonzero(level.above(smooth, PEAK_SIGNIFICANCE) & ~seen)
        seen[faint] = _is_peak(smooth, *faint)
        return seen

    def level(self, samples: list[Sample]) -> Level:
        """Level and noise from samples of what passed.

        The quiet level is where the lower quantiles say that the median of noise alone would be:
        in a crowded field the median itself lies among the sources. What scatters more than the
        data themselves is no noise: a network that was trained on too little leaves that.
        """
        least = 1 / (2 * self.sigma * math.sqrt(math.pi))
        measured, data = (np.concatenate(parts) for parts in zip(*samples, strict=True))
        if not measured.size:
            return Level(0.0, least, least)
        middle, low, lowest = np.percentile(measured, (50, 15.87, 2.28))
        quiet = float(min(middle, 2 * low - lowest))
        scatter = max(min(float(middle - low), _lower_scatter(data)), least)
        return Level(quiet, least if self.is_white else scatter, scatter)


def _is_peak(
    plane: NDArray[np.float32], row: NDArray[np.intp], column: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Which of some pixels no neighbour exceeds."""
    padded = np.pad(plane, 1, mode="edge")
    around = [padded[row + y, column + x] for y in range(3) for x in range(3)]
    return np.asarray(padded[row + 1, column + 1] == np.max(around, axis=0, initial=-np.inf))


def _lower_scatter(sample: NDArray[np.float32]) -> float:
    middle, low = np.percentile(sample, (50, 15.87))
    return float(middle - low)


def filters(fwhm: float) -> list[Filter]:
    """The filters, for points of this width [pixel]."""
    psf = max(fwhm / FWHM_TO_SIGMA, 0.6)
    return [
        Filter(psf, SOURCE_SIGNIFICANCE, of_sources=True, is_white=True),
        Filter(1.0, RESIDUAL_SIGNIFICANCE),
        # A wider filter sees means of leaves as well.
        Filter(2.5 * psf / LEAF, EXTENDED_SIGNIFICANCE, of_sources=True, of_leaves=True),
        *(Filter(one / LEAF, RESIDUAL_SIGNIFICANCE, of_leaves=True) for one in WIDE_SCALES),
    ]


def filtered(
    signal: NDArray[np.float32], residual: NDArray[np.float32], fwhm: float
) -> Iterator[tuple[Filter, NDArray[np.float32], NDArray[np.float32]]]:
    """Every filter, the plane to put through it, and the same of the data."""
    for kind in filters(fwhm):
        planes = (signal if kind.of_sources else residual, signal)
        plane, data = map(leaf_values, planes) if kind.of_leaves else planes
        yield kind, plane, data


def troughs(smooth: NDArray[np.float32], level: Level) -> NDArray[np.float32]:
    """How far a filtered plane lies below its quiet level where it does so all around; at most 0.

    A mesh of the background is too high beside a step, an edge or bright light: sources there are
    to be seen above what is around them. Sides of the plane are multiples of `TROUGH`.
    """
    side = TROUGH // EVERY
    some = smooth[::EVERY, ::EVERY]
    ny, nx = (length // side for length in some.shape)
    cells = some.reshape(ny, side, nx, side).transpose(0, 2, 1, 3).reshape(ny, nx, side**2)
    low = np.partition(cells, side**2 // 2, axis=-1)[..., side**2 // 2]
    lone, near = (np.float32(one * level.noise) for one in MARGINS)
    depth = np.minimum(low + lone, median_filter(low, 3, mode="nearest") + near)
    depth = np.minimum(depth - np.float32(level.quiet), 0)
    depth[depth < -DEEPEST] = 0
    return np.repeat(np.repeat(depth, TROUGH, axis=0), TROUGH, axis=1)


def sample_levels(
    signal: NDArray[np.float32], residual: NDArray[np.float32], fwhm: float
) -> list[Sample]:
    """Samples of what passes each filter in a part of an image; arguments of `select_leaves`."""
    return [
        sample(kind, gaussian(plane, kind.sigma), plane, data)
        for kind, plane, data in filtered(signal, residual, fwhm)
    ]


def measure_levels(samples: list[list[Sample]], fwhm: float) -> Levels:
    """Level of each filter from the samples of some parts of an image."""
    by_filter = zip(filters(fwhm), zip(*samples, strict=True), strict=True)
    return [kind.level(list(parts)) for kind, parts in by_filter]


def sample(
    kind: Filter,
    smooth: NDArray[np.float32],
    plane: NDArray[np.float32],
    data: NDArray[np.float32],
) -> Sample:
    """Some filtered pixels of those that are measurements, and those of the data."""
    # odd, so as not to fall in with columns
    every = max(int(np.count_nonzero(plane)) // SAMPLE, 1) | 1
    is_some = plane.ravel()[::every] != 0
    found = smooth.ravel()[::every][is_some]
    if kind.of_sources:
        return found, found
    return found, gaussian(data, kind.sigma).ravel()[::every][is_some]


def leaf_values(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over leaves, in their noise: that of a pixel is 1."""
    rows = plane[::LEAF] + plane[1::LEAF]
    return (rows[:, ::LEAF] + rows[:, 1::LEAF]) * np.float32(1 / LEAF)
