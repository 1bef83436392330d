"""Noise beneath structure: fringes, nebulae, spectra, which no mesh of 64 pixels follows.

Pixels scatter by both. Second differences of near pixels, bends, scatter by the noise, and by
structure only as far as it bends between them. Of independent pixels all bends scatter alike. Where
noise is correlated, bends of near pixels scatter less, and more the farther apart, up to the noise;
where there is structure, those of far ones scatter more. So the noise is what bends scatter by from
where on they rise no more, along rows or along columns; where they rise all the way, they tell
nothing. Where bends of neighbours scatter as pixels do, along either axis, nothing is hidden: what
all rows have of their own, each another, is noise. Unless it is most of it: where bends along the
other axis scatter alike from the first on, and far less, they tell the noise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

APART = (1, 2, 4, 8)  # pixels between the three of a bend
LINES = 3  # one of so many rows or columns: their bends tell the scatter to a few percent
FLAT = 1.05  # of the scatter, from one distance to the next: it rises no more
STEEP = 1.5  # from the least such step on, all is correlated, or structure
LESS = 0.9  # of the scatter of pixels: what bends scatter by where the rest is structure
SOME = 256  # cells: a quarter of them tells the scatter to 2 %
HIDDEN = 0.75  # of it: less than so along one axis is the noise, whatever the other has
EVEN = 1.15  # of what neighbours scatter by: farther ones do too, so that none are correlated
LOPSIDED = 1.15  # ratio of both sides' scatter, from which light lifts pixels
LIKE = 0.2  # correlation of neighbours, from which they share light: those of photons have none
BRIGHT = 4.5  # times the median deviation, three standard deviations
QUANTILES = 2.275, 15.866, 50, 84.134  # percent: two and one standard deviations, and the middle
ALIKE = 35 / 18  # sum of squared correlations of neighbouring bends: so many count as one
_TINY = 1e-30  # in units of about the noise


def bends(cells: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Bends of square cells with the scatter of the noise: along x at each distance, then along y.

    Parameters
    ----------
    cells : ndarray, shape (n, side**2), float32
        NaN where there is no measurement.

    Yields
    ------
    ndarray, shape (n, bends), float32
    """
    side = math.isqrt(cells.shape[1])
    square = cells.reshape(-1, side, side)
    unit = np.float32(1 / math.sqrt(6))
    for plane in (square[:, ::LINES], square.transpose(0, 2, 1)[:, ::LINES]):
        for apart in APART:
            ends = plane[..., : -2 * apart] + plane[..., 2 * apart :]
            bend = (ends - 2 * plane[..., apart:-apart]) * unit
            yield bend.reshape(len(cells), -1)


def noise_beneath(
    scatter: NDArray[np.float64], of_bends: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Noise from how pixels scatter, and how bends do: theirs where it is clearly less.

    Parameters
    ----------
    scatter : ndarray, any shape
    of_bends : ndarray, shape (2 * distances, *shape of `scatter`)
        In the order of `bends`.

    Returns
    -------
    ndarray, shape of `scatter`
    """
    least, alone = np.full((2, *scatter.shape), np.inf)
    axes = of_bends.reshape(2, len(APART), *scatter.shape)
    for axis in axes:
        steps = axis[1:] / np.maximum(axis[:-1], _TINY)
        steps = np.where(np.isfinite(steps) & (axis[:-1] > 0), steps, np.inf)
        flat = steps < FLAT
        place = np.where(flat.any(axis=0), flat.argmax(axis=0), steps.argmin(axis=0))[np.newaxis]
        far = np.take_along_axis(axis[1:], place, 0)[0]
        known = np.take_along_axis(steps, place, 0)[0] < STEEP
        least = np.fmin(least, np.where(known, far, np.inf))
        alone = np.fmin(alone, np.where(far < EVEN * axis[0], far, np.inf))
    hides = (least < LESS * scatter) & (np.fmax(*axes[:, 0]) < LESS * scatter)
    hides |= (least < HIDDEN * scatter) & (alone <= least)
    return np.where(hides, least, scatter)


def beneath_light(cells: NDArray[np.float32]) -> float:
    """Most that noise can be beneath light that lifts pixels, as in a crowded field; else infinite.

    What is added to noise spreads its quantiles apart, if its density is log-concave as that of a
    Gaussian is (Lewis & Thompson 1981, J. Appl. Prob. 18, 76); those below least of all. Told
    where neighbours are alike and pixels lie farther above the middle than below it, even in the
    cells where they do least.

    Parameters
    ----------
    cells : ndarray, shape (n, side**2), float32
        Square; NaN where there is no measurement.
    """
    cells = cells[:: len(cells) // SOME | 1]
    cells = cells[np.isfinite(cells).sum(axis=-1) >= cells.shape[-1] // 2]
    if not len(cells) or min(_likeness(cells)) < LIKE:
        return math.inf
    low, lower, middle, high = np.nanpercentile(cells, QUANTILES, axis=-1)
    least = (high - middle) <= np.percentile(high - middle, 25)
    above, below, noise = (
        float(np.median(one[least])) for one in (high - middle, middle - lower, lower - low)
    )
    return noise if above > LOPSIDED * below else math.inf


def _likeness(cells: NDArray[np.float32]) -> tuple[float, float]:
    """Correlation of neighbours along both axes, of the typical cell; bright ones count little."""
    side = math.isqrt(cells.shape[1])
    apart = cells - np.nanmedian(cells, axis=1)[:, np.newaxis]
    usual = np.nanmedian(np.abs(apart), axis=1)[:, np.newaxis]
    square = np.nan_to_num(np.clip(apart, -BRIGHT * usual, BRIGHT * usual)).reshape(-1, side, side)
    whole = np.maximum((square**2).sum(axis=(1, 2)), _TINY)
    along_y = (square[:, 1:] * square[:, :-1]).sum(axis=(1, 2)) / whole
    along_x = (square[:, :, 1:] * square[:, :, :-1]).sum(axis=(1, 2)) / whole
    return float(np.median(along_y)), float(np.median(along_x))
