"""Offsets of whole rows and columns of an image, which no mesh of 64 pixels follows.

Amplifiers whose levels differ, overscan beside the sky, glow along an edge, dead columns: what is
the same all along a row or a column is taken off before anything else is looked at, and stored with
the background.

Every row is measured in blocks of 64 pixels, apart from what is bright there, and has the median of
its blocks: sources are in few of them. A row counts that stands out from the error of such medians,
by the scatter of the blocks, and from the jitter of rows. Jitter itself is noise to all who look at
the image: without it, what it makes look like a source would not be kept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from skyfold.ladder import TILE
from skyfold.noise import MESH, STRIPE_STEP
from skyfold.science.sky import row_medians
from storage.images.mesh import in_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.images.noise_fit import Sky

NEAR = 3.0  # sigma from the mesh: what is farther is a source, unless most of a block is
LEAST_BLOCKS = 4  # of a row, for their median to stand for it
LEAST_PIXELS = MESH // 2  # of a block, for its mean to count
ROUNDS = 2  # what was far from the mesh is near it once its stripes are known
FAR = 6.0  # of the errors of rows, or of how they scatter, beyond which one stands out
JITTER = 0.75  # of the noise along rows: so much of it is noise as well, more hides sources
INTERLEAVED = 1, 2, 4  # rows or columns of one output of a detector: alike, and no jitter
AGREE = 0.75  # share of a row's blocks: a column that is dead in part has no offset of its own
MEDIAN_VARIANCE = 1.57  # of a median, over that of a mean
STD_OF_MAD = 1.4826

Axes = tuple["NDArray[np.float64]", "NDArray[np.float64]"]


def find_stripes(sky: Sky, sigma: float) -> Axes | None:
    """Offsets of rows and of columns; None where there are none.

    Parameters
    ----------
    sky : Sky
        The image less its mesh.
    sigma : float
        Of the noise, in its unit.

    Returns
    -------
    (ndarray, ndarray) or None
        Of every row, and of every column, in the unit of `sky`.
    """
    ny, nx = sky.image.stored.shape
    rows, columns = np.zeros(ny), np.zeros(nx)
    for _ in range(ROUNDS):
        for whole, blocks in zip((rows, columns), _measured(sky, sigma), strict=True):
            whole += sigma * _offsets(blocks, whole / sigma)
        if not (rows.any() or columns.any()):
            return None
        sky = sky.without((rows, columns))
    return rows, columns


def _measured(sky: Sky, sigma: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Means of the blocks of each row, and of each column, over sigma; shape (n, blocks)."""
    rows, columns = [], []
    for _, signal in sky.strips():
        signal /= np.float32(sigma)
        near = np.abs(signal) <= NEAR
        values = np.where(near, signal, np.float32(0))
        columns.append(_means(values.sum(axis=0), near.sum(axis=0, dtype=np.uint8), signal.T))
        beyond = ((0, 0), (0, -signal.shape[1] % MESH))
        total, count = (np.pad(one, beyond).reshape(-1, MESH) for one in (values, near))
        blocks = np.pad(signal, beyond, constant_values=np.nan).reshape(-1, MESH)
        found = _means(total.sum(axis=1), count.sum(axis=1, dtype=np.uint8), blocks)
        rows.append(found.reshape(len(signal), -1))
    return np.concatenate(rows), np.stack(columns, axis=1)


def _means(
    total: NDArray[np.float32], count: NDArray[np.uint8], blocks: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Mean of what is near; where that is little, the median; NaN where there is little at all."""
    means = np.asarray(total / np.maximum(count, 1), np.float32)
    few = np.flatnonzero(count < LEAST_PIXELS)
    if few.size:
        some = blocks[few]
        there = np.isfinite(some).sum(axis=1) >= LEAST_PIXELS
        means[few] = np.where(there, row_medians(some), np.nan)
    return means


def _offsets(blocks: NDArray[np.float32], before: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets of rows over sigma, beside those taken off before; 0 where there is none to tell."""
    offsets = np.zeros(len(blocks))
    count = np.isfinite(blocks).sum(axis=1)
    enough = count >= LEAST_BLOCKS
    if np.count_nonzero(enough) < LEAST_BLOCKS:
        return offsets
    some, count = blocks[enough], count[enough]
    found = row_medians(some)
    apart = np.abs(some - found[:, np.newaxis])
    spread = STD_OF_MAD * row_medians(apart)
    error = math.sqrt(MEDIAN_VARIANCE * float(np.mean(spread**2 / count)))
    whole = found + before[enough]
    steps = [np.abs(whole[apart:] - whole[:-apart]) for apart in INTERLEAVED if apart < len(whole)]
    jitter = STD_OF_MAD * min(float(np.median(one)) for one in steps) / math.sqrt(2)
    all_differ = jitter > JITTER * math.sqrt(MESH * float(np.mean(spread**2)))
    far = all_differ | (np.abs(found) > FAR * max(error, jitter))
    near = np.maximum(np.abs(found) / 2, FAR * float(np.median(spread)))
    agree = (apart < near[:, np.newaxis]).sum(axis=1) >= AGREE * count
    offsets[enough] = np.where(far & agree, found, 0)
    return offsets


def stripes_in_steps(
    stripes: Axes, grid_exponent: int, step: float, tiles: int
) -> NDArray[np.int32] | None:
    """Offsets as stored, see `skyfold.noise.stripes_at`; None if all are less than half a step.

    Raises
    ------
    OverflowError
        If 32 bits do not hold one.
    """
    whole = np.zeros((2, tiles * TILE), np.int32)
    for out, one in zip(whole, stripes, strict=True):
        out[: len(one)] = in_steps(one, grid_exponent, STRIPE_STEP * step)
    return whole if whole.any() else None
