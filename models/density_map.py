"""The map of densities: a self-organizing map of their amplitudes, whose cells are densities.

A row is the square root of its probability masses, so that distances on the map are Hellinger
distances, and a cell's prototype, the mean amplitude of its rows, is a density again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.som import side_for, train_som
from skyfold.catalogs.model import assign_cells
from skyfold.codecs.amplitude import UNIT

__all__ = ["train_density_map"]

MAX_SIDE = 16


def train_density_map(mass: NDArray[np.float64], *, seed: int = 1) -> NDArray[np.int32]:
    """Prototypes of the cells of a map of densities.

    Parameters
    ----------
    mass : ndarray, shape (n, points), float64
        Probability masses of a sample; rows of sum 1.
    seed : int

    Returns
    -------
    ndarray, shape (ny, nx, points), int32
        Amplitudes of unit length [2**-20], not negative.
    """
    rows = np.sqrt(mass).astype(np.float32)
    weights = train_som(rows, min(side_for(len(rows)), MAX_SIDE), seed=seed)
    cells = assign_cells(rows, weights)
    flat = np.maximum(weights.reshape(-1, rows.shape[1]).astype(np.float64), 0)
    for cell in np.unique(cells):
        flat[cell] = rows[cells == cell].mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    unit = np.where(length > 0, flat / np.where(length > 0, length, 1), 1 / np.sqrt(len(flat[0])))
    return np.rint(unit * UNIT).astype(np.int32).reshape(weights.shape)
