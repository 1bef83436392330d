"""Glow: smooth light that the network left, too wide for a point and too narrow for the mesh.

A galaxy of low surface brightness, a ghost or the wing of a bright star is lost pixel by pixel in
the noise, and is many times it in a sum over its area. What is left of the sky is averaged over
cells of 16 x 16 pixels, and where the means, or what is smoother than they are, stand out from
their noise, they are stored as a second, finer mesh, whose other nodes are zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy.ndimage import binary_dilation, correlate1d

from skyfold.noise import GLOW_CELL
from storage.images.mesh import cell_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"

SEEN = 2.25  # sigma of a mean
SCALES = 1.0, 2.0  # standard deviations of Gaussians [cells]
ROUNDS = 3  # of van Cittert's iteration
FEW = GLOW_CELL**2 // 2  # pixels of a cell: of fewer, those around it tell more
BETWEEN = 1 / 8, 3 / 4, 1 / 8  # means over cells of what is bilinear between nodes
MAD = 1.4826
ENOUGH = 64  # differences, to tell a scatter by


def find_glow(left: NDArray[np.float32], limit: float) -> Floats:
    """Nodes of the glow, shape (ny / 16, nx / 16), in units of the noise; 0 where there is none.

    Parameters
    ----------
    left : ndarray, shape (ny, nx), float32
        Pixels less all that is predicted of them, over their noise, whole cells; NaN where there is
        no measurement or a source.
    limit : float
        What is beyond it is not of the sky, and does not count.
    """
    mean, weight = _means(left, limit)
    active = np.zeros(mean.shape, bool)
    for scale in SCALES:
        active |= _standing_out(mean, weight, scale)
    if not active.any():
        return np.zeros(mean.shape)
    whole = np.where(weight > 0, mean, _smooth(mean, weight, 1.0))
    nodes = np.zeros(mean.shape)
    for _ in range(ROUNDS):
        nodes += np.where(active, whole - _of_axes(nodes, BETWEEN), 0)
    return nodes


def _means(left: NDArray[np.float32], limit: float) -> tuple[Floats, Floats]:
    """Mean of each cell and its weight, which is one over its variance; 0 and 0 of few pixels."""
    near = np.abs(left) <= limit
    near_or_0 = np.where(near, left, np.float32(0))
    count, total = (cell_sums(one, GLOW_CELL) for one in (near, near_or_0))
    count[count < FEW] = 0
    mean = total / np.maximum(count, 1) * (count > 0)
    return mean, count * min(1.0, _one_over_variance(mean, count))


def _one_over_variance(mean: Floats, count: Floats) -> float:
    """Of a pixel, as the means of cells side by side tell it: noise may be correlated."""
    one, other = count[:, 1:], count[:, :-1]
    told = (one > 0) & (other > 0)
    if np.count_nonzero(told) < ENOUGH:
        return 1.0
    scaled = (mean[:, 1:] - mean[:, :-1])[told] / np.sqrt(1 / one[told] + 1 / other[told])
    return float(1 / np.maximum(MAD * np.median(np.abs(scaled)), 1e-3) ** 2)


def _standing_out(mean: Floats, weight: Floats, scale: float) -> NDArray[np.bool_]:
    """Cells in which what is smoother than `scale` stands out, and what of it reaches beyond."""
    kernel = _gaussian(scale)
    total = _of_axes(mean * weight, kernel)
    variance = _of_axes(weight, kernel**2)
    height = total / np.sqrt(np.maximum(variance, 1e-9))
    found = np.zeros(mean.shape, bool)
    for one in (height, -height):
        found |= binary_dilation(one > SEEN, np.ones((3, 3)), int(scale)) & (one > 0)
    return found


def _smooth(mean: Floats, weight: Floats, scale: float) -> Floats:
    """Means as those nearby are."""
    kernel = _gaussian(scale)
    filled: Floats = _of_axes(mean * weight, kernel) / np.maximum(_of_axes(weight, kernel), 1e-9)
    return filled


def _gaussian(scale: float) -> Floats:
    reach = np.arange(-int(3 * scale), int(3 * scale) + 1)
    kernel = np.exp(-((reach / max(scale, 1)) ** 2) / 2)
    return kernel / kernel.sum()


def _of_axes(plane: Floats, kernel: object) -> Floats:
    for axis in (0, 1):
        plane = correlate1d(plane, kernel, axis, mode="nearest")
    return plane
