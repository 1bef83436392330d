"""The arithmetic of `skyfold.ladder`, compiled: the same numbers, without a pass for each step.

`skyfold.ladder` and `skyfold.noise` are what the format says; tests compare the two, bit for bit.
"""

# mypy: disable-error-code="assignment,arg-type"
from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skyfold.compiled import compiled_exactly, compiled_inside
from skyfold.ladder import BLOCK, LEAF, MODULUS, ROUND_UP, TILE
from skyfold.noise import PREDICTION_LIMIT, Factor

LATENT, SOURCES, BOUNDED = 0, 1, 2


def evenly(factor: Factor, shape: tuple[int, int] = (TILE, TILE)) -> NDArray[np.float64]:
    """Factors of a tile's noise, 1 where there are none."""
    return _ones(shape) if factor is None else factor


@lru_cache(64)
def _ones(shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.ones(shape)


def narrower(dtype: np.dtype[np.generic]) -> int:
    """Binary digits of a prediction above the one that a cell of a stored dtype is narrower by.

    22 for single precision, 62 for double, 0 for integers.
    """
    return {"f4": 22, "f8": 62}.get(dtype.str[1:], 0)


@compiled_inside
def width_of(width, prediction, narrower, odd):  # type: ignore[no-untyped-def]
    """Width of a cell that should be so wide: see `skyfold.ladder.cell_width`."""
    w = np.int64(np.floor(width))
    if narrower > 0:
        w -= 1 + (abs(prediction) >> narrower)
    elif odd:
        w |= 1
    return max(w, 1)


@compiled_exactly
def refine(  # type: ignore[no-untyped-def]
    level,
    y,
    background,
    factor,
    guard,
    cells,
    glow,
    noise,
    step,
    narrower,
    odd,
    dithered,
    coarse,
    smooth,
    sigma,
    width,
    centres,
    used,
):
    """Prediction, noise, w and centres of a tile at a level, filled in.

    Parameters
    ----------
    level : int
        0 latent, 1 sources, 2 bounded.
    y : ndarray, shape (ny, nx), float32
        What the network predicts [noise units]; sides multiples of 8.
    background, factor : ndarray, shape of `y`, float64
        [grid units]; of the noise.
    guard : ndarray, shape of `y`, uint8
    cells : ndarray, shape of `y`, int32
        K at `sources`, k at `bounded`.
    glow : ndarray, shape of `y`, or (0, 0) without any, float64
        What `sources` adds [grid units], with coarse cells.
    noise : (float, float, float, int, bool)
        `skyfold.noise.NoiseModel.numbers`.
    step : float
        Cell width in noise units.
    narrower : int
        See the function of this name.
    odd, dithered : bool
    coarse : int
        q; 0 where both layers hold k.
    smooth, sigma : ndarray, shape of `y`, float64
        The sum of background and signal; noise of each pixel [grid units].
    width : ndarray, shape of `y`, int64
        w; filled in at `bounded`.
    centres : ndarray, shape of `y`, int64
        M at `latent`, S in quarters of a grid unit at `sources` unless `coarse` is 0, else C.
    used : ndarray of bool, shape of `y`
        At `sources`, where blocks hold any cell that is not 0.
    """
    scale, slope, stretch, unit, of_sky = noise
    per_step, least, curve = 1.0 / unit, scale * scale, stretch / 4
    across = y.shape[1]
    lowest, highest = -PREDICTION_LIMIT, PREDICTION_LIMIT
    quarters = 4 if level == SOURCES and coarse > 0 else 1
    rounded = np.empty(across)
    for i in range(y.shape[0]):  # row by row, in loops that take several pixels at once
        for j in range(across):
            wide = np.float64(y[i, j]) * factor[i, j]
            wide = wide if wide == wide else 0.0
            wide = min(max(wide, lowest), highest)
            smooth[i, j] = (max(wide, 0.0) * curve * wide + wide) * scale + background[i, j]
            rounded[j] = np.floor(smooth[i, j] * per_step + ROUND_UP)
        for j in range(across):
            if guard[i, j]:
                steps, code = smooth[i, j] * per_step, np.int64(guard[i, j])
                if code < 3:
                    rounded[j] = np.floor(steps) + (code == 2)
                else:
                    apart = (code - 3 - np.int64(rounded[j])) % MODULUS
                    rounded[j] += apart - MODULUS if apart > MODULUS // 2 else apart
        for j in range(across):
            rounded[j] *= unit
            sigma[i, j] = scale * factor[i, j]
        if slope > 0 and of_sky:
            for j in range(across):
                variance = max(rounded[j] - background[i, j], 0.0) * slope
                sigma[i, j] = np.sqrt(variance + sigma[i, j] * sigma[i, j])
        elif slope > 0:
            for j in range(across):
                variance = max(rounded[j] - background[i, j], 0.0) * slope + least
                sigma[i, j] = np.sqrt(variance) * factor[i, j]
        for j in range(across):
            centres[i, j] = np.int64(rounded[j]) * quarters
        if level == BOUNDED:
            for j in range(across):
                w, d = width_of(step * sigma[i, j], centres[i, j], narrower, odd), np.int64(0)
                if dithered:
                    d = ((49471 * j + 37345 * i) % 65536 * w >> 16) - (w >> 1)
                width[i, j] = w
                centres[i, j] += d + np.int64(cells[i, j]) * w
    if level == SOURCES:
        times = coarse if coarse > 0 else 1
        for top in range(0, y.shape[0], BLOCK):
            for left in range(0, across, BLOCK):
                some = 0
                for i in range(top, top + BLOCK):
                    for j in range(left, left + BLOCK):
                        some |= cells[i, j]
                used[top : top + BLOCK, left : left + BLOCK] = some != 0
                if some == 0:
                    continue
                for i in range(top, top + BLOCK):
                    for j in range(left, left + BLOCK):
                        up, over = i - i % LEAF, j - j % LEAF
                        kept = cells[up, over] | cells[up, over + 1]
                        kept |= cells[up + 1, over] | cells[up + 1, over + 1]
                        if kept == 0:
                            continue
                        w = width_of(step * sigma[i, j], centres[i, j] // quarters, narrower, odd)
                        if dithered:
                            d = ((49471 * j + 37345 * i) % 65536 * w >> 16) - (w >> 1)
                            centres[i, j] += quarters * d
                        centres[i, j] += np.int64(cells[i, j]) * w * times
        for i in range(len(glow)):
            for j in range(across):
                smooth[i, j] += glow[i, j]
                centres[i, j] += np.int64(np.rint(4 * glow[i, j]))


@compiled_exactly
def sources_values(  # type: ignore[no-untyped-def]
    smooth, unit, centres, lattice, least, most, used, out
):
    """Values of a tile at `sources` [stored unit], filled in.

    Parameters
    ----------
    smooth, centres, used : ndarray, shape (ny, nx)
        As of `refine`.
    unit, lattice : float
        Unit of `smooth` and of `centres` [stored unit].
    least, most : float
        Range of what is stored.
    out : ndarray, shape of `smooth`, floating
    """
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            if used[i, j]:
                out[i, j] = min(max(centres[i, j] * lattice, least), most)
            else:
                out[i, j] = smooth[i, j] * unit
