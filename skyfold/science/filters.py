"""Filters of planes, along one axis after the other.

Convolutions are products of strips with band matrices: a matrix product is what a processor does
fastest, and takes a fifth of the time of sums of shifted planes.
"""

import numpy as np
from numpy.typing import NDArray

_STRIP = 16  # rows or columns that one product gives: few, since most of a wide band is zeros
_ROWS = 128  # at once, so that what is between the two axes stays near the processor

Plane = NDArray[np.float32]


def convolve(image: Plane, profile: NDArray[np.float64]) -> Plane:
    """Return the convolution of an image with a symmetric profile along both axes.

    Parameters
    ----------
    image : ndarray, shape (ny, nx), float32
        Finite. Zero beyond the edge.
    profile : ndarray, shape (2 r + 1,)
    """
    (ny, nx), radius = image.shape, len(profile) // 2
    band = _band(profile.astype(np.float32))
    reach, wide = band.shape[1], nx + -nx % _STRIP
    out = np.empty((ny, wide), np.float32)
    padded = np.zeros((_ROWS + 2 * radius, nx), np.float32)
    half = np.zeros((_ROWS, wide + 2 * radius), np.float32)
    for y in range(0, ny, _ROWS):
        first, last = max(y - radius, 0), min(y + _ROWS + radius, ny)
        padded[: first + radius - y] = 0
        padded[first + radius - y : last + radius - y] = image[first:last]
        padded[last + radius - y :] = 0
        for row in range(0, _ROWS, _STRIP):
            strip = half[row : row + _STRIP, radius : radius + nx]
            np.matmul(band, padded[row : row + reach], out=strip)
        rows = min(_ROWS, ny - y)
        for x in range(0, wide, _STRIP):
            np.matmul(half[:rows, x : x + reach], band.T, out=out[y : y + rows, x : x + _STRIP])
    return out if wide == nx else np.ascontiguousarray(out[:, :nx])


def gaussian(image: Plane, sigma: float, reach: float = 3.0) -> Plane:
    """Return an image smoothed by a Gaussian of a standard deviation [pixel], cut at its reach."""
    radius = int(reach * sigma + 0.5)
    profile = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return convolve(image, profile / profile.sum())


def highest(planes: Plane, side: int) -> Plane:
    """Return the largest value in the square of an odd side around each pixel.

    Parameters
    ----------
    planes : ndarray, shape (..., ny, nx), float32
        Beyond the edge is what is at the edge.
    side : int
    """
    half = side // 2
    for axis in (-2, -1):
        pad = [(0, 0)] * planes.ndim
        pad[axis] = (half, half)
        high, reach = np.moveaxis(np.pad(planes, pad, mode="edge"), axis, -1), 1
        while reach < side:  # windows of 1, 2, 4, ... pixels
            shift = min(reach, side - reach)
            high, reach = np.maximum(high[..., shift:], high[..., :-shift]), reach + shift
        planes = np.moveaxis(high, -1, axis)
    return planes


def _band(profile: Plane) -> NDArray[np.float32]:
    """Matrix whose row i holds the profile from column i on."""
    band = np.zeros((_STRIP, _STRIP + len(profile) - 1), np.float32)
    for row in range(_STRIP):
        band[row, row : row + len(profile)] = profile
    return band
