"""Why an object or a row is far from what the map knows: Shapley values and occlusion.

What is explained is always one number: how isolated an object is among others, or how far a row is
from the weights of its cell on a self-organizing map. Shapley values (Shapley 1953; Lundberg & Lee
2017, NeurIPS 30, eq. 4) share it out among the features of the row, by the weighted regression of
the latter's section 4.1. Occlusion (Zeiler & Fergus 2014, ECCV, section 4.2) replaces pixels by
sky, block by block, and tells by how much that number falls.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.model import assign_cells
from skyfold.errors import MissingDependencyError

__all__ = ["map_distance", "occlusion", "shapley_values"]

BACKGROUND = 16  # typical rows, against which a feature is absent
COALITIONS = 256  # sets of features that are tried for each row


def map_distance(rows: NDArray[Any], som: NDArray[np.float32]) -> NDArray[np.float64]:
    """Distance of each row, shape (n, f), from the weights of its cell, shape (n,)."""
    values = np.ascontiguousarray(rows, np.float32)
    weights = som.reshape(-1, som.shape[-1])[assign_cells(values, som)]
    return np.asarray(np.linalg.norm(values - weights, axis=1), np.float64)


def shapley_values(
    rows: NDArray[Any],
    typical: NDArray[Any],
    score: Callable[[NDArray[Any]], NDArray[np.float64]],
    *,
    seed: int = 1,
) -> NDArray[np.float32]:
    """Share of each feature in the score of each row.

    Parameters
    ----------
    rows : ndarray, shape (n, f)
        What is explained.
    typical : ndarray, shape (m, f)
        A sample of all rows.
    score : callable
        Scores, shape (m,), of rows, shape (m, f).
    seed : int

    Returns
    -------
    ndarray, shape (n, f), float32
        They sum to the row's score less the mean score of the background.

    Raises
    ------
    MissingDependencyError
        If the library shap is not installed.
    """
    shap = _load_shap()
    generator = np.random.default_rng(seed)
    background = np.asarray(typical, np.float64)[generator.permutation(len(typical))[:BACKGROUND]]
    kept = np.random.get_state()  # noqa: NPY002 - the library draws from the global generator
    try:
        np.random.seed(seed)  # noqa: NPY002
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            explainer = shap.KernelExplainer(score, background)
            found = explainer.shap_values(
                np.asarray(rows, np.float64), nsamples=COALITIONS, l1_reg=False, silent=True
            )
    finally:
        np.random.set_state(kept)  # noqa: NPY002
    return np.asarray(found, np.float32)


def _load_shap() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import touches what matplotlib will change
            import shap
    except ImportError as missing:
        raise MissingDependencyError(
            "explaining objects needs the library shap, which is not installed; it comes with the "
            "extra 'produce': pip install skyfold[produce]"
        ) from missing
    return shap


def occlusion(
    tile: NDArray[np.float32],
    corner: tuple[int, int],
    side: int,
    block: int,
    score: Callable[[NDArray[np.float32]], NDArray[np.float64]],
) -> NDArray[np.float32]:
    """By how much a score falls where each block of a square is replaced by sky.

    Parameters
    ----------
    tile : ndarray, shape (ny, nx), float32
        Noise units, so that sky is 0.
    corner : (int, int)
        First row and column of the square; parts outside the tile change nothing.
    side, block : int
        Blocks a side, and pixels a side of one.
    score : callable
        Scores of tiles, shape (n, ny, nx).

    Returns
    -------
    ndarray, shape (side, side), float32
        Above 0 where the block makes the score what it is.
    """
    copies = np.repeat(tile[None], side * side + 1, axis=0)
    for number, (row, column) in enumerate(np.ndindex(side, side)):
        y, x = corner[0] + row * block, corner[1] + column * block
        copies[number, max(y, 0) : max(y + block, 0), max(x, 0) : max(x + block, 0)] = 0
    found = score(copies)
    return (found[-1] - found[:-1]).reshape(side, side).astype(np.float32)
