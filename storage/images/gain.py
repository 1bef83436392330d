"""The gain slope of an image: what a survey says of it, as far as bright pixels bear it out.

A gain in a header may belong to other data (electrons, a sum of frames, rescaled counts). Too large
a slope would loosen the bound of every bright pixel; so what is claimed counts only up to what the
scatter between neighbouring bright pixels shows.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from skyfold.noise import MESH

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.images.noise_fit import Sky

BRIGHT = 5.0  # times the noise of the sky
ENOUGH = 100  # bright triples
AT_MOST = 1 << 24  # pixels that are looked at, of rows from all over
LUCK = 4.0  # two standard errors of a Gaussian's first fifth, of one triple
SUDDENLY = 8.0  # times below all fainter bins: unlike structure, and unlike noise
NEAR_ZERO = 0.2533  # a fifth of a unit Gaussian lies within it
FLAT = 3.0  # times the noise: second differences of sky
CLIPPED_VARIANCE = 0.97334  # of a unit Gaussian cut at 3 sigma
LEAST_SHARE = 0.01  # of the variance of independent pixels, in second differences


def gain_slope(sky: Sky, sigma: float) -> float:
    """Variance per unit of signal, by the survey's variance or gain, as far as pixels show it.

    Parameters
    ----------
    sky : Sky
        An image above its background.
    sigma : float
        Noise of the sky, in the units of `sky`.

    Returns
    -------
    float
        0 where nothing is claimed, or too few pixels are bright enough to compare.
    """
    image = sky.image
    if image.variance is None and not _is_gain(image.gain):
        return 0.0
    seen, excess, triples, quiet = 0, [], [], np.zeros(2)
    every = max(sky.size // AT_MOST, 1)  # rows: bright pixels of a large image are many
    for rows, signal in sky.strips():
        bright = np.zeros(signal.shape, np.bool_)
        bright[::every] = signal[::every] > BRIGHT * sigma
        seen += int(np.count_nonzero(bright))
        if image.variance is not None:
            excess.append(_excess(sky.variance(rows), bright) / signal[bright])
        triples.append(_bright_triples(signal[::every], 3 * BRIGHT * sigma))
        quiet += _quiet_squares(signal, sigma)
    if seen < 30:
        return 0.0
    claimed = _claimed_slope(sky, excess)
    if claimed <= 0:
        return 0.0
    count, total = quiet
    share = total / count / CLIPPED_VARIANCE / sigma**2 if count > ENOUGH else 1.0
    share = min(max(share, LEAST_SHARE), 1.0)
    return min(claimed, _shown_slope(np.concatenate(triples, axis=1), sigma, share))


def _is_gain(gain: float | None) -> bool:
    return gain is not None and math.isfinite(gain) and gain > 0


def _excess(variance: NDArray[np.float64], bright: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What bright pixels have more than the median of their mesh cell, of whole rows of these."""
    ny, nx = (-(-length // MESH) for length in variance.shape)
    usual = np.empty((ny, nx))
    for cell in np.ndindex(ny, nx):
        place = tuple(slice(one * MESH, (one + 1) * MESH) for one in cell)
        part = variance[place]
        good = part[np.isfinite(part) & (part > 0)]
        usual[cell] = np.median(good) if good.size else 0.0
    y, x = np.nonzero(bright)
    return variance[bright] - usual[y // MESH, x // MESH]


def _claimed_slope(sky: Sky, excess: list[NDArray[np.float64]]) -> float:
    """By the survey: the median excess variance of bright pixels over their signal, or the gain."""
    image = sky.image
    if image.variance is not None:
        every = np.concatenate(excess)
        known = every[np.isfinite(every)]
        return max(float(np.median(known)), 0.0) if known.size else 0.0
    assert image.gain is not None  # as `gain_slope` saw
    return math.ldexp(1 / (image.gain * abs(image.bscale)), -sky.fills.exponent)


def _shown_slope(triples: NDArray[np.float64], sigma: float, share: float) -> float:
    """Upper limit on the slope: second differences along x hold the noise and more.

    The smallest over bins of brightness of their variance, less the sky's. It is read off the
    smallest fifth, where the profile of a source bends least; structure only adds to it, ever more
    with brightness. Noise that is correlated is less in differences, by the `share` that the sky's
    has. Where three pixels are the same to the last bit, or brighter ones suddenly scatter far
    less, a detector was full: these show nothing.
    """
    before, middle, after = triples
    level = (before + middle + after) / 3
    second = np.abs(before - 2 * middle + after) / math.sqrt(6 * share)
    told = (before != middle) | (middle != after)
    limits: list[float] = []
    for low, high in pairwise(sigma * BRIGHT * 4.0 ** np.arange(12)):
        inside = told & (level > low) & (level <= high)
        if (count := np.count_nonzero(inside)) < ENOUGH:
            continue
        spread = float(np.percentile(second[inside], 20)) / NEAR_ZERO
        spread *= 1 + LUCK / math.sqrt(count)
        limit = max(spread**2 - sigma**2, 0.0) / float(np.median(level[inside]))
        if limits and limit < min(limits) / SUDDENLY:
            break
        limits.append(limit)
    return min(limits, default=0.0)


def _bright_triples(rows: NDArray[np.float32], least: float) -> NDArray[np.float64]:
    """Three neighbours along x whose sum is more than this, shape (3, n)."""
    three = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
    bright = sum(three) > least
    return np.stack([one[bright] for one in three]).astype(np.float64)


def _quiet_squares(rows: NDArray[np.float32], sigma: float) -> NDArray[np.float64]:
    """Number and sum of squares of second differences along x that are noise of the sky."""
    some = rows[::5].astype(np.float64)
    second = (some[:, :-2] - 2 * some[:, 1:-1] + some[:, 2:]) / math.sqrt(6)
    sky = np.abs(some[:, 1:-1]) < FLAT * sigma
    squares = second[sky & (np.abs(second) < FLAT * sigma)] ** 2
    return np.array([squares.size, squares.sum()])
