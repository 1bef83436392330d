"""Another epoch of the same sky, laid on the pixels of an image.

This module knows the resampling: by whole pixels where the two grids are that alike, else linear
between the four nearest pixels. It is the same for raw and decoded, so that it adds nothing to
their difference; fluxes are not scaled and point-spread functions not matched, which would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from numpy.typing import NDArray

NODES = 16  # pixels between places where the two projections are compared
WHOLE = 0.02  # [pixel], how far from whole pixels a grid may lie


@dataclass(frozen=True, eq=False)
class Alignment:
    """Where each pixel of an image lies in another epoch.

    Attributes
    ----------
    x, y : ndarray, shape (ny, nx), float64
        Position in the other epoch [pixel, 0-based]; NaN where that is not.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Pixels that the other epoch covers."""
        return np.isfinite(self.x)

    def cropped(self) -> tuple[tuple[slice, slice], Alignment]:
        """Rows and columns of the other epoch that are needed, and the places within these."""
        starts, window = [], []
        for at in (self.y[self.inside], self.x[self.inside]):
            starts.append(int(np.floor(at.min())))
            window.append(slice(starts[-1], int(np.ceil(at.max())) + 1))
        return (window[0], window[1]), Alignment(self.x - starts[1], self.y - starts[0])

    def image(self, other: NDArray[Any]) -> NDArray[np.float64]:
        """The other epoch on this grid; 0 outside."""
        return self._blend(np.asarray(other, np.float64), power=1)

    def variance(self, other: NDArray[Any]) -> NDArray[np.float64]:
        """Variance of `image`, of the other epoch's independent pixels; 0 outside."""
        return self._blend(np.asarray(other, np.float64), power=2)

    def mask(self, other: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Pixels outside, or made of a bad one."""
        return ~self.inside | (self._blend(other.astype(np.float64), power=1) > 0)

    def _blend(self, other: NDArray[np.float64], power: int) -> NDArray[np.float64]:
        out = np.zeros(self.x.shape)
        x, y = self.x[self.inside], self.y[self.inside]
        column, row = np.floor(x).astype(int), np.floor(y).astype(int)
        u, v = x - column, y - row
        total = np.zeros(len(x))
        for dy, dx in np.ndindex(2, 2):
            weight = (u if dx else 1 - u) * (v if dy else 1 - v)
            rows, columns = (
                np.minimum(at, size - 1)
                for at, size in zip((row + dy, column + dx), other.shape, strict=True)
            )
            total += np.where(weight > 0, weight**power * other[rows, columns], 0)
        out[self.inside] = total
        return out


def align(
    wcs: WCS, shape: tuple[int, int], other_wcs: WCS, other_shape: tuple[int, int]
) -> Alignment:
    """Return where each pixel of an image lies in another epoch.

    Parameters
    ----------
    wcs, other_wcs : astropy.wcs.WCS
        Celestial, of the image and of the other epoch.
    shape, other_shape : (int, int)
        (ny, nx)
    """
    nodes = [np.linspace(0, size - 1, max(2, size // NODES)) for size in shape]
    grid_y, grid_x = np.meshgrid(*nodes, indexing="ij")
    there = other_wcs.world_to_pixel(wcs.pixel_to_world(grid_x, grid_y))
    hats = [_hats(size, at) for size, at in zip(shape, nodes, strict=True)]
    x, y = (
        _whole(hats[0] @ np.asarray(plane) @ hats[1].T, axis) for axis, plane in enumerate(there)
    )
    with np.errstate(invalid="ignore"):
        inside = (x >= 0) & (y >= 0) & (x <= other_shape[1] - 1) & (y <= other_shape[0] - 1)
    return Alignment(np.where(inside, x, np.nan), np.where(inside, y, np.nan))


def _hats(size: int, nodes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of linear interpolation between nodes, shape (size, nodes)."""
    step = max(float(nodes[1] - nodes[0]), 1e-9)
    return np.maximum(1 - np.abs(np.arange(size)[:, None] - nodes) / step, 0)


def _whole(position: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Positions along x (0) or y (1), on whole pixels if they are nearly so everywhere."""
    here = np.indices(position.shape)[1 - axis]
    shift = np.round(np.nanmedian(position - here))
    near = np.nanmax(np.abs(position - here - shift)) < WHOLE
    return here + shift if near else position
