"""Noise beneath structure: fringes, nebulae, spectra, which no mesh of 64 pixels follows.

Pixels scatter by both. Second differences of near pixels, bends, scatter by the noise, and by
structure only as far as it bends between them. Of independent pixels all bends scatter alike. Where
noise is correlated, bends of near pixels scatter less, and more the farther apart, up to the noise;
where there is structure, those of far ones scatter more. So the noise is what bends scatter by from
where on they rise no more, along rows or along columns; where they rise all the way, they tell
nothing. Where bends of neighbours scatter as pixels do, along either axis, nothing is hidden: what
all rows have of their own, each another, is noise.
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
    least = np.full(scatter.shape, np.inf)
    axes = of_bends.reshape(2, len(APART), *scatter.shape)
    for axis in axes:
        steps = axis[1:] / np.maximum(axis[:-1], _TINY)
        steps = np.where(np.isfinite(steps) & (axis[:-1] > 0), steps, np.inf)
        flat = steps < FLAT
        place = np.where(flat.any(axis=0), flat.argmax(axis=0), steps.argmin(axis=0))[np.newaxis]
        far = np.take_along_axis(axis[1:], place, 0)[0]
        known = np.take_along_axis(steps, place, 0)[0] < STEEP
        least = np.fmin(least, np.where(known, far, np.inf))
    hides = (least < LESS * scatter) & (np.fmax(*axes[:, 0]) < LESS * scatter)
    return np.where(hides, least, scatter)
