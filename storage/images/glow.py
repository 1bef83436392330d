"""Glow: smooth light that the network left, too wide for a point and too narrow for the mesh.

A galaxy of low surface brightness, a ghost or the wing of a bright star is lost pixel by pixel in
the noise, and is many times it in a sum over its area. What is left of the sky is averaged over
cells of 8 x 8 pixels, and where the means, or what is smoother than they are, stand out from
their noise, they are stored as a second, finer mesh, whose other nodes are zero. The background's
mesh is corrected by what then is sky: a mean over light and sky would be off in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy.ndimage import binary_dilation, binary_propagation, correlate1d

from skyfold.noise import GLOW_CELL
from storage.images.mesh import cell_sums, mesh_correction, stretched

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"

SCALES = 1, 2, 4  # standard deviations of Gaussians [cells]
SEEN = 3.0, 3.0, 2.5  # sigma of their means
EDGE = 1.25  # likewise: as far down what is seen reaches
TOUCHING = np.ones((3, 3))
SQUARE = 4  # cells
ROUNDS = 3  # of van Cittert's iteration
FEW = GLOW_CELL**2 // 2  # pixels of a cell: of fewer, those around it tell more
BETWEEN = 1 / 8, 3 / 4, 1 / 8  # means over cells of what is bilinear between nodes
MAD = 1.4826
ENOUGH = 64  # differences, to tell a scatter by


def mesh_and_glow(
    left: NDArray[np.float32], blank: NDArray[np.bool_], limit: float
) -> tuple[Floats, Floats, Floats]:
    """Correction of the background mesh, and nodes of the glow, in units of the noise.

    Parameters
    ----------
    left : ndarray, shape (ny, nx), float32
        Pixels less all that is predicted of them, over their noise, whole mesh cells; NaN where
        there is no measurement or a source. The mesh is taken off it.
    blank, limit
        As `mesh_correction` takes them.

    Returns
    -------
    mesh : ndarray, shape (ny / 64, nx / 64)
    nodes : ndarray, shape (ny / 8, nx / 8)
        0 where there is no glow.
    seen : ndarray, shape (ny / 8, nx / 8)
        Share of what each node lights that is a measurement and no source.
    """
    mesh = _take_mesh(left, blank, limit)
    cells = _glowing_cells(left, limit)
    if not cells.any():
        return mesh, np.zeros(cells.shape), np.zeros(cells.shape)
    # beside glow, a mesh that was lifted by it is off
    around = np.repeat(np.repeat(cells, GLOW_CELL, axis=0), GLOW_CELL, axis=1)
    mesh = mesh + _take_mesh(left, blank & ~around, limit)
    seen = _of_axes(cell_sums(np.isfinite(left), GLOW_CELL) / GLOW_CELL**2, BETWEEN)
    return mesh, _nodes(left, cells, limit), seen


def _take_mesh(left: NDArray[np.float32], blank: NDArray[np.bool_], limit: float) -> Floats:
    mesh = mesh_correction(left, blank, limit)
    for rows, change in stretched(mesh, left.shape, np.float32):
        left[rows] -= change
    return mesh


def _glowing_cells(left: NDArray[np.float32], limit: float) -> NDArray[np.bool_]:
    """Cells of the glow, shape (ny / 8, nx / 8)."""
    mean, weight = _means(left, limit)
    active = np.zeros(mean.shape, bool)
    for scale, least in zip(SCALES, SEEN, strict=True):
        active |= _standing_out(mean, weight, scale, least)
    measured = cell_sums(np.isfinite(left), GLOW_CELL) > 0
    active &= binary_dilation(measured, TOUCHING)
    return active


def _nodes(left: NDArray[np.float32], cells: NDArray[np.bool_], limit: float) -> Floats:
    """Nodes of what is left in these cells; 0 in others."""
    mean, weight = _means(left, limit)
    whole = np.where(weight > 0, mean, _smooth(mean, weight, 1))
    nodes = np.zeros(cells.shape)
    for _ in range(ROUNDS):
        nodes += np.where(cells, whole - _of_axes(nodes, BETWEEN), 0)
    return nodes


def to_steps(nodes: Floats, seen: Floats) -> NDArray[np.int32]:
    """Nodes in steps to whole ones, so that what is seen of them in squares of 4 x 4 is kept.

    Light of less than half a step, that many nodes share, would else be gone; and if it went to
    those of them that are seen from those that are not, the sky would be off. Sides are multiples
    of 4.
    """
    values, weights = _squares(nodes), _squares(seen)
    whole = np.rint(values)
    left = weights * (values - whole)
    missing = left.sum(axis=1, keepdims=True)
    order = (-np.sign(missing) * left).argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(weights, order, axis=1)
    middles = ordered.cumsum(axis=1) - ordered / 2  # before it one more brings the sum nearer
    more = np.sign(missing) * ((middles < np.abs(missing)) & (ordered > 0))
    np.put_along_axis(whole, order, np.take_along_axis(whole, order, axis=1) + more, axis=1)
    ny, nx = nodes.shape
    back = whole.reshape(ny // SQUARE, nx // SQUARE, SQUARE, SQUARE).swapaxes(1, 2)
    return back.reshape(ny, nx).astype(np.int32)


def _squares(plane: Floats) -> Floats:
    """Squares of 4 x 4 as rows."""
    ny, nx = plane.shape
    cut = plane.reshape(ny // SQUARE, SQUARE, nx // SQUARE, SQUARE).swapaxes(1, 2)
    return cut.reshape(-1, SQUARE**2)


def _means(left: NDArray[np.float32], limit: float) -> tuple[Floats, Floats]:
    """Mean of each cell and its weight, which is one over its variance; 0 and 0 of few pixels."""
    near = np.abs(left) <= limit
    near_or_0 = np.where(near, left, np.float32(0))
    count, total = (cell_sums(one, GLOW_CELL) for one in (near, near_or_0))
    count[count < FEW] = 0
    mean = total / np.maximum(count, 1) * (count > 0)
    return mean, count / _variance(mean, count)


def _standing_out(mean: Floats, weight: Floats, scale: int, least: float) -> NDArray[np.bool_]:
    """Cells in which what is smoother than `scale` stands out, and what of it reaches beyond."""
    kernel = _gaussian(scale)
    total = _of_axes(mean * weight, kernel)
    variance = _of_axes(weight, kernel**2)
    height = total / np.sqrt(np.maximum(variance, 1e-9))
    found = np.zeros(mean.shape, bool)
    for one in (height, -height):
        seen = binary_propagation(one > least, TOUCHING, one > EDGE)
        found |= binary_dilation(seen, TOUCHING, scale) & (one > 0)
    return found


def _variance(mean: Floats, count: Floats) -> float:
    """Of a pixel in means of many cells: of 1, or more where noise is correlated.

    Means of cells two apart tell how they scatter, those side by side how much they share.
    """
    near, apart = (_scatter(mean, count, lag) for lag in (1, 2))
    shared = max(1 - (near / apart) ** 2, 0) if apart else 0
    return max(1.0, (apart * (1 + 2 * shared)) ** 2)


def _scatter(mean: Floats, count: Floats, lag: int) -> float:
    """Standard deviation of a pixel by means that lie so many cells apart."""
    one, other = count[:, lag:], count[:, :-lag]
    told = (one > 0) & (other > 0)
    if np.count_nonzero(told) < ENOUGH:
        return 1.0
    steps = (mean[:, lag:] - mean[:, :-lag])[told] / np.sqrt(1 / one[told] + 1 / other[told])
    return float(MAD * np.median(np.abs(steps)))


def _smooth(mean: Floats, weight: Floats, scale: int) -> Floats:
    """Means as those nearby are."""
    kernel = _gaussian(scale)
    filled: Floats = _of_axes(mean * weight, kernel) / np.maximum(_of_axes(weight, kernel), 1e-9)
    return filled


def _gaussian(scale: int) -> Floats:
    kernel = np.exp(-((np.arange(-3 * scale, 3 * scale + 1) / scale) ** 2) / 2)
    return kernel / kernel.sum()


def _of_axes(plane: Floats, kernel: object) -> Floats:
    for axis in (0, 1):
        plane = correlate1d(plane, kernel, axis, mode="nearest")
    return plane
