"""Self-organizing maps: training on a sample, and what a trained map says about its rows.

Kohonen (1982, Biol. Cybern. 43, 59) as MiniSom trains it; everything that looks at all rows is a
matrix product over blocks of rows instead, so that a map can be an index of a whole catalog.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.model import assign_cells, u_matrix
from skyfold.errors import InvalidRequestError

__all__ = ["quantization_error", "side_for", "topographic_error", "train_som", "u_matrix"]

MAX_SIDE = 32
ROWS_PER_CELL = 8
STEPS_PER_CELL = 20
_BLOCK = 4096
Weights = NDArray[np.float32]


def side_for(rows: int) -> int:
    """Cells a side of a map whose cells hold about eight rows of a sample each; at most 32."""
    return int(np.clip(np.sqrt(rows / ROWS_PER_CELL), 1, MAX_SIDE))


def train_som(
    rows: Weights, side: int | None = None, *, seed: int = 1, steps: int | None = None
) -> Weights:
    """Weights of a map trained on a sample of rows.

    Parameters
    ----------
    rows : ndarray, shape (n, f), float32
        Scaled features; finite.
    side : int, optional
        Cells a side; `side_for` the number of rows unless given.
    seed : int
    steps : int, optional
        Rows shown, drawn at random; 20 for each cell unless given, and at least 5000.

    Returns
    -------
    ndarray, shape (side, side, f), float32

    Raises
    ------
    InvalidRequestError
        If there are no rows, or a feature is not finite.

    Examples
    --------
    >>> rows = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    >>> train_som(rows, 4).shape
    (4, 4, 3)
    """
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise InvalidRequestError(
            f"a map cannot be trained on an array of shape {rows.shape}: allowed are finite "
            "rows of "
            "features, at least one; fill or leave out missing values"
        )
    side = side_for(len(rows)) if side is None else side
    if side < 2 or len(rows) < 4:
        return np.broadcast_to(
            rows.mean(axis=0), (max(side, 1), max(side, 1), rows.shape[1])
        ).copy()
    return _train(rows, side, seed, steps or max(STEPS_PER_CELL * side * side, 5000))


def _train(rows: Weights, side: int, seed: int, steps: int) -> Weights:
    from minisom import MiniSom

    som = MiniSom(
        side,
        side,
        rows.shape[1],
        sigma=max(side / 3, 1.0),
        learning_rate=0.6,
        random_seed=seed,
        decay_function="linear_decay_to_zero",
        sigma_decay_function="linear_decay_to_one",
    )
    som._weights = _linear_start(rows, side)
    order = np.random.default_rng(seed).integers(len(rows), size=steps)
    for step, row in enumerate(order):
        som.update(rows[row], som.winner(rows[row]), step, steps)
    return np.asarray(som.get_weights(), np.float32)


def _linear_start(rows: Weights, side: int) -> NDArray[np.float64]:
    """Weights spread over the plane of the first two principal components."""
    centre = rows.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov((rows - centre).T).reshape(rows.shape[1], -1))
    axes = (vectors * np.sqrt(np.maximum(values, 0)))[:, ::-1][:, :2]
    if axes.shape[1] < 2:
        axes = np.concatenate([axes, np.zeros_like(axes)], axis=1)
    place = np.linspace(-2, 2, side)
    return np.asarray(
        centre + place[:, None, None] * axes[:, 0] + place[None, :, None] * axes[:, 1]
    )


def quantization_error(rows: Weights, weights: Weights) -> float:
    """Mean distance of rows from the weights of their cell."""
    flat = weights.reshape(-1, weights.shape[-1])
    return float(np.linalg.norm(rows - flat[assign_cells(rows, weights)], axis=1).mean())


def topographic_error(rows: Weights, weights: Weights) -> float:
    """Share of rows whose best and second-best cells do not touch (Kiviluoto 1996)."""
    ny, nx, features = weights.shape
    if ny * nx < 2:
        return 0.0
    flat = weights.reshape(-1, features)
    squares = (flat * flat).sum(axis=1)
    apart = 0
    for start in range(0, len(rows), _BLOCK):
        distance = squares - 2 * rows[start : start + _BLOCK] @ flat.T
        two = np.argpartition(distance, 1, axis=1)[:, :2]
        y, x = np.divmod(two, nx)
        apart += int(((np.abs(y[:, 0] - y[:, 1]) > 1) | (np.abs(x[:, 0] - x[:, 1]) > 1)).sum())
    return apart / len(rows)
