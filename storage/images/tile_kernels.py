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
    above, coded, predictions, factor, sigma, slope, stretch, signal, residual
):
    """Signal and residual of a tile over the noise of what is predicted there, both filled in.

    Parameters
    ----------
    above : ndarray, shape (256, 256), float32
        Pixels less their background [grid units].
    coded : ndarray of bool, shape of `above`
    predictions : ndarray, shape of `above`, float32
        [noise units]
    factor : ndarray, shape of `above`, float64
        Of the noise.
    sigma, slope, stretch : float
        Of the noise model.
    signal, residual : ndarray, shape of `above`, float32
    """
    gain, least, none = np.float32(slope), np.float32(sigma * sigma), np.float32(0)
    for y in range(above.shape[0]):
        for x in range(above.shape[1]):
            wide = np.float64(predictions[y, x]) * factor[y, x]
            wide = min(max(wide, -PREDICTION_LIMIT), PREDICTION_LIMIT)
            if wide != wide:
                wide = 0.0
            smooth = np.float32((max(wide, 0.0) * (stretch / 4) * wide + wide) * sigma)
            scale = sigma
            if slope > 0:
                scale = np.float64(np.sqrt(max(smooth, none) * gain + least))
            scale *= factor[y, x]
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
    y : ndarray, shape (256, 256), float32
        What the network predicts [noise units], finite.
    background : ndarray, shape of `y`, float64
        [grid units]
    factor : ndarray, shape of `y`, float64
        Of the noise.
    grid : ndarray, shape of `y`, int64
        X.
    coded : ndarray of bool, shape of `y`
    extent : (int, int)
        Rows and columns that are of the image.
    noise : (float, float, float, int)
        Sigma, slope, stretch and step of rounding, of the noise model.
    tolerance, step : float
        Of the network; cell width in noise units.
    narrower : int
        See `skyfold.ladder_kernels.narrower`.
    odd, dithered : bool
    guard : ndarray, shape of `y`, uint8
    predicted, width, shift, found : ndarray, shape of `y`, int64
    """
    sigma, slope, stretch, unit = noise
    slack, per_step, farthest = np.float32(tolerance), 1.0 / unit, 0.0
    for top in range(0, y.shape[0], 8):
        for left in range(0, y.shape[1], 8):
            largest = np.float32(0)
            for i in range(top, top + 8):
                for j in range(left, left + 8):
                    largest = max(largest, abs(y[i, j]))
            scale = np.float64(slack * (np.float32(1) + largest))
            for i in range(top, top + 8):
                for j in range(left, left + 8):
                    wide = np.float64(y[i, j]) * factor[i, j]
                    wide = min(max(wide, -PREDICTION_LIMIT), PREDICTION_LIMIT)
                    signal = (max(wide, 0.0) * (stretch / 4) * wide + wide) * sigma
                    steps = (background[i, j] + signal) * per_step
                    below = np.floor(steps)
                    from_tie = (steps - below) - BELOW_TIE
                    whole = np.int64(np.floor(steps + ROUND_UP))
                    rise = sigma * (1 + (stretch / 2) * max(wide, 0.0)) * factor[i, j]
                    reach = scale * rise / unit
                    code = 0
                    if i < extent[0] and j < extent[1]:
                        farthest = max(farthest, reach)
                        if reach > WIDE:
                            code = whole % MODULUS + 3
                        elif abs(from_tie) <= reach:
                            code = 2 if from_tie >= 0 else 1
                    if 0 < code < 3:
                        whole = np.int64(below) + (code - 1)
                    guard[i, j] = code
                    m = whole * unit
                    noise_there = sigma
                    if slope > 0:
                        noise_there = np.sqrt(
                            max(m - background[i, j], 0.0) * slope + sigma * sigma
                        )
                    w = np.int64(np.floor(step * (noise_there * factor[i, j])))
                    if narrower > 0:
                        w -= 1 + (abs(m) >> narrower)
                    elif odd:
                        w |= 1
                    w = max(w, 1)
                    d = 0
                    if dithered:
                        phase = (49471 * j + 37345 * i) % 65536
                        d = (phase * w >> 16) - (w >> 1)
                    predicted[i, j], width[i, j], shift[i, j] = m, w, d
                    half = (w - ((i + j) & 1)) >> 1
                    k = np.floor(np.float64(grid[i, j] - (m + d) + half) / np.float64(w))
                    found[i, j] = np.int64(k) if coded[i, j] else 0
    return farthest
