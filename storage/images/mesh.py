"""The background mesh: stretched over an image, corrected by what is left, and as it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.noise import MESH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CORRECTIONS = 3  # rounds of the mesh's correction
FEW_BLANK = MESH * MESH // 32  # pixels of a cell: a mean of more is good to 0.09 of the noise


def stretched(
    mesh: NDArray[np.float64], shape: tuple[int, ...], kind: type[np.floating[Any]] = np.float64
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Mesh at every pixel, bilinear, of one row of cells after the other.

    Floats suffice where only noise is measured, and few rows at once stay near the processor.
    """
    down = (_between(mesh.shape[0], shape[0]) @ mesh).astype(kind)
    across = _between(mesh.shape[1], shape[1]).T.astype(kind)
    for y in range(0, shape[0], MESH):
        rows = slice(y, y + MESH)
        yield rows, down[rows] @ across


def _between(nodes: int, pixels: int) -> NDArray[np.float64]:
    """Weights of the nodes of an axis for each of its pixels, shape (pixels, nodes)."""
    place = np.clip((np.arange(pixels) + 0.5) / MESH - 0.5, 0, nodes - 1)
    return np.maximum(1 - np.abs(place[:, np.newaxis] - np.arange(nodes)), 0)


def mesh_correction(
    residual: NDArray[np.float32], blank: NDArray[np.bool_], limit: float
) -> NDArray[np.float64]:
    """What to add to the background mesh so that no cell's sky is off on average.

    Parameters
    ----------
    residual : ndarray, shape (ny, nx), float32
        Pixels less their prediction, whole mesh cells; NaN where there is no measurement.
    blank : ndarray of bool, shape (ny, nx)
        Away from sources. Cells that hold few such pixels are judged by all that they have, and
        cells with few measurements at all by those nearest to them.
    limit : float
        Residuals beyond it are sources that were not expected, and do not count.

    Notes
    -----
    A mesh that is bilinear between nodes blurs what its nodes are given, so what is left after
    one round is given to the next (van Cittert's iteration).
    """
    few = cell_sums(blank & np.isfinite(residual)) < FEW_BLANK
    judged = blank | np.repeat(np.repeat(few, MESH, axis=0), MESH, axis=1)
    left = np.where(judged, residual, np.float32(np.nan))
    total = step = np.zeros(few.shape)
    for _ in range(CORRECTIONS):
        means = []
        for rows, change in stretched(step, left.shape, np.float32):
            left[rows] -= change
            means.append(_near_mean(left[rows], limit))
        step = _nearest(np.concatenate(means))
        total = total + step
    return total


def _near_mean(plane: NDArray[np.float32], limit: float) -> NDArray[np.float64]:
    """Mean over each mesh cell of what is at most `limit` in size; NaN where little is."""
    near = np.abs(plane) <= limit
    count, total = cell_sums(near), cell_sums(np.where(near, plane, np.float32(0)))
    return np.where(count >= FEW_BLANK, total / np.maximum(count, 1), np.nan)


def cell_sums(plane: NDArray[Any], side: int = MESH) -> NDArray[np.float64]:
    """Sums over square cells, of which the plane has whole ones."""
    ny, nx = plane.shape
    kind = np.uint8 if plane.dtype == bool else np.float32  # at most 64 of a column are True
    rows = plane.reshape(ny // side, side, nx).sum(axis=1, dtype=kind)
    sums: NDArray[np.float64] = rows.reshape(ny // side, -1, side).sum(axis=2, dtype=np.float64)
    return sums


def _nearest(mesh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nodes that are NaN replaced by the nearest that is not; zeros where all are."""
    from scipy.ndimage import distance_transform_edt

    missing = np.isnan(mesh)
    if missing.all():
        return np.zeros_like(mesh)
    place = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return mesh[tuple(place)]


def in_steps(values: NDArray[np.float64], grid_exponent: int, step: float) -> NDArray[np.int32]:
    """Levels as stored: in units of `step` on the grid.

    Raises
    ------
    OverflowError
        If one lies so many times the noise from zero that 32 bits do not hold it.
    """
    whole = np.rint(np.ldexp(values, -grid_exponent) / step)
    limits = np.iinfo(np.int32)
    if not (limits.min <= whole.min() and whole.max() <= limits.max):
        raise OverflowError(f"background of {abs(whole).max():g} steps; int32 holds {limits.max}")
    return whole.astype(np.int32)


def mesh_in_steps(
    background: NDArray[np.float64],
    grid_exponent: int,
    step: float,
    nodes: tuple[int, int],
) -> NDArray[np.int32]:
    """Background mesh as stored, padded to whole tiles; see `in_steps`."""
    mesh = in_steps(background, grid_exponent, step)
    padding = [(0, want - have) for want, have in zip(nodes, mesh.shape, strict=True)]
    return np.pad(mesh, padding, mode="edge")
