"""The arithmetic of tiles, compiled, for the writer: the numbers of `skyfold.ladder`, bit for bit.

`skyfold.ladder` is what the format says: a test compares the two.
"""

# mypy: disable-error-code="assignment,arg-type"
from __future__ import annotations

import numpy as np

from skyfold.compiled import compiled_exactly
from skyfold.ladder import MODULUS, ROUND_UP, WIDE
from skyfold.noise import PREDICTION_LIMIT

BELOW_TIE = 1 - ROUND_UP


@compiled_exactly
def significance(  # type: ignore[no-untyped-def]
    above, coded, predictions, factor, noise, signal, residual
):
    """Signal and residual of a tile over the noise of what is predicted there, both filled in.

    Parameters
    ----------
    above : ndarray, shape (ny, nx), float32
        Pixels less their background [grid units].
    coded : ndarray of bool, shape of `above`
    predictions : ndarray, shape of `above`, float32
        [noise units]
    factor : ndarray, shape of `above`, float64
        Of the noise.
    noise : (float, float, float, int, bool)
        `skyfold.noise.NoiseModel.numbers`.
    signal, residual : ndarray, shape of `above`, float32
    """
    sigma, slope, stretch, _, of_sky = noise
    gain, least, none = np.float32(slope), np.float32(sigma * sigma), np.float32(0)
    for y in range(above.shape[0]):
        for x in range(above.shape[1]):
            wide = np.float64(predictions[y, x]) * factor[y, x]
            wide = min(max(wide, -PREDICTION_LIMIT), PREDICTION_LIMIT)
            if wide != wide:
                wide = 0.0
            smooth = np.float32((max(wide, 0.0) * (stretch / 4) * wide + wide) * sigma)
            own = sigma * factor[y, x]
            scale = own
            if slope > 0 and of_sky:
                variance = np.float32(max(smooth, none) * gain + own * own)
                scale = np.float64(np.sqrt(variance))
            elif slope > 0:
                scale = np.float64(np.sqrt(max(smooth, none) * gain + least)) * factor[y, x]
            left = above[y, x] - (smooth if coded[y, x] else none)
            signal[y, x] = np.float64(above[y, x]) / scale
            residual[y, x] = np.float64(left) / scale


@compiled_exactly
def cells(  # type: ignore[no-untyped-def]
    y,
    background,
    factor,
    grid,
    coded,
    extent,
    noise,
    tolerance,
    step,
    narrower,
    odd,
    dithered,
    guard,
    predicted,
    width,
    shift,
    found,
):
    """Guard, M, w, d and k of a tile, filled in; how far two machines may be apart [steps].

    Parameters
    ----------
    y : ndarray, shape (ny, nx), float32
        What the network predicts [noise units], finite; sides multiples of 8.
    background : ndarray, shape of `y`, float64
        [grid units]
    factor : ndarray, shape of `y`, float64
        Of the noise.
    grid : ndarray, shape of `y`, int64
        X.
    coded : ndarray of bool, shape of `y`
    extent : (int, int)
        Rows and columns that are of the image.
    noise : (float, float, float, int, bool)
        `skyfold.noise.NoiseModel.numbers`.
    tolerance, step : float
        Of the network; cell width in noise units.
    narrower : int
        See `skyfold.ladder_kernels.narrower`.
    odd, dithered : bool
    guard : ndarray, shape of `y`, uint8
    predicted, width, shift, found : ndarray, shape of `y`, int64
    """
    sigma, slope, stretch, unit, of_sky = noise
    slack, per_step, least, farthest = np.float32(tolerance), 1.0 / unit, sigma * sigma, 0.0
    across, lowest, highest = y.shape[1], -PREDICTION_LIMIT, PREDICTION_LIMIT
    scale, steps = np.empty(across), np.empty(across)
    reach, rounded = np.empty(across), np.empty(across)
    for i in range(y.shape[0]):  # row by row, in loops that take several pixels at once
        if i % 8 == 0:
            for left in range(0, across, 8):
                largest = np.float32(0)
                for row in range(i, i + 8):
                    for j in range(left, left + 8):
                        largest = max(largest, abs(y[row, j]))
                for j in range(left, left + 8):
                    scale[j] = np.float64(slack * (np.float32(1) + largest))
        for j in range(across):
            wide = np.float64(y[i, j]) * factor[i, j]
            wide = min(max(wide, lowest), highest)
            signal = (max(wide, 0.0) * (stretch / 4) * wide + wide) * sigma
            steps[j] = (background[i, j] + signal) * per_step
            rounded[j] = np.floor(steps[j] + ROUND_UP)
            rise = sigma * (1 + (stretch / 2) * max(wide, 0.0)) * factor[i, j]
            reach[j] = scale[j] * rise / unit
            guard[i, j] = 0
        for j in range(min(extent[1], across) if i < extent[0] else 0):
            farthest = max(farthest, reach[j])
            below = np.floor(steps[j])
            from_tie = (steps[j] - below) - BELOW_TIE
            if reach[j] > WIDE:
                guard[i, j] = np.int64(rounded[j]) % MODULUS + 3
            elif abs(from_tie) <= reach[j]:
                guard[i, j] = 2 if from_tie >= 0 else 1
                rounded[j] = below + (from_tie >= 0)
        for j in range(across):
            rounded[j] *= unit
            reach[j] = sigma * factor[i, j]  # from here on, the noise there
        if slope > 0 and of_sky:
            for j in range(across):
                variance = max(rounded[j] - background[i, j], 0.0) * slope
                reach[j] = np.sqrt(variance + reach[j] * reach[j])
        elif slope > 0:
            for j in range(across):
                variance = max(rounded[j] - background[i, j], 0.0) * slope + least
                reach[j] = np.sqrt(variance) * factor[i, j]
        for j in range(across):
            m, w = np.int64(rounded[j]), np.int64(np.floor(step * reach[j]))
            if narrower > 0:
                w -= 1 + (abs(m) >> narrower)
            elif odd:
                w |= 1
            predicted[i, j], width[i, j] = m, max(w, 1)
        for j in range(across):
            w, d = width[i, j], np.int64(0)
            if dithered:
                d = ((49471 * j + 37345 * i) % 65536 * w >> 16) - (w >> 1)
            half = (w - ((i + j) & 1)) >> 1
            k = np.floor(np.float64(grid[i, j] - (predicted[i, j] + d) + half) / np.float64(w))
            shift[i, j], found[i, j] = d, np.int64(k) if coded[i, j] else 0
    return farthest
