"""The shapes that densities have once position and width are taken out.

Knows how a model of densities is learnt: amplitudes of a sample are brought to one position and one
width, and the principal components of what comes out are the shapes. Where a set is too small to
learn from, or to pay for a model, the built-in shapes (`skyfold.amplitude.hermite_shapes`) serve.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyfold.amplitude import (
    SHAPE_DENSITY,
    SHAPE_POINTS,
    SHAPE_UNIT,
    Float,
    find_cores,
    width_units,
)

SHAPES = 6
MAX_VALUE = 4 * SHAPE_UNIT  # far above any value of a unit vector that varies over a width
_OFFSETS = (np.arange(SHAPE_POINTS) - SHAPE_POINTS // 2) / SHAPE_DENSITY


def learn_shapes(masses: Float, count: int = SHAPES) -> NDArray[np.int32]:
    """Shapes of a sample of densities.

    Parameters
    ----------
    masses : ndarray, shape (n, points), float64
        Probability masses, rows of sum 1.
    count : int
        Number of shapes.

    Returns
    -------
    ndarray, shape (count, 241), int32
        As `skyfold.amplitude.core_amplitude` takes them.
    """
    place, width = find_cores(masses)
    sd = width_units(width) / 65536
    aligned = _aligned(np.sqrt(masses), place, sd)
    vectors = np.linalg.svd(aligned.T @ aligned)[2][:count]
    vectors *= np.sign(vectors.sum(axis=1, keepdims=True) + 1e-12)
    values = np.rint(vectors * np.sqrt(SHAPE_DENSITY) * SHAPE_UNIT)
    return np.clip(values, -MAX_VALUE, MAX_VALUE).astype(np.int32)


def _aligned(amplitude: Float, place: Float, sd: Float) -> Float:
    """Amplitudes against the distance from the core in widths, shape (n, 241)."""
    points = amplitude.shape[1]
    x = place[:, np.newaxis] + sd[:, np.newaxis] * _OFFSETS
    low = np.floor(x)
    part = x - low
    padded = np.pad(amplitude, ((0, 0), (1, 1)))
    index = np.clip(low.astype(int) + 1, 0, points)
    value = np.take_along_axis(padded, index, 1) * (1 - part)
    value += np.take_along_axis(padded, np.minimum(index + 1, points + 1), 1) * part
    return np.asarray(value * np.sqrt(sd / SHAPE_DENSITY)[:, np.newaxis])
