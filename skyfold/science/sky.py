"""The sky level under an image's sources.

This module knows the estimator: a mesh of 64-pixel means, clipped at 3 of the context's sigma
about the block's median, smoothed by a 3 x 3 median, interpolated linearly. The clipping never
uses the image's own scatter, which a decoded image lacks: an estimator that does, such as a
sigma-clipped mode, would call the absence of noise a change of sky.
"""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

MESH = 64  # [pixel]
_CLIP = 3.0  # [sigma]
_SPARSE = 4
_ENOUGH = 0.1  # share of usable pixels below which a block takes its neighbours' level


def sky(image: Plane, noise: Plane, usable: NDArray[np.bool_]) -> Plane:
    """Return the sky level under every pixel of an image; see `SkyMesh`.

    Parameters
    ----------
    image, noise : ndarray, shape (ny, nx), float32
        Pixels and their standard deviation, in one unit.
    usable : ndarray, shape (ny, nx), bool
        Blocks with less than a tenth of these take the level of their neighbours; 0 without any.

    Returns
    -------
    ndarray, shape (ny, nx), float32
        In the unit of the image.
    """
    return SkyMesh(noise, usable).level(image)


class SkyMesh:
    """Where the sky of images of one field is measured.

    Parameters
    ----------
    noise : ndarray, shape (ny, nx), float32
        Standard deviation of pixels.
    usable : ndarray, shape (ny, nx), bool
        As of `sky`.
    """

    def __init__(self, noise: Plane, usable: NDArray[np.bool_]) -> None:
        self.shape = noise.shape
        blocks = _blocks(usable, False)
        self._enough = blocks.sum(axis=1) >= _ENOUGH * MESH**2
        self._usable = blocks[self._enough]
        # no pixel lies within a negative distance
        self._width = np.where(self._usable, _CLIP * _blocks(noise, 0)[self._enough], -1)

    @cached_property
    def _sparse(self) -> NDArray[np.bool_]:
        """Blocks of which every fourth pixel is enough to say where to clip."""
        some = self._usable[:, ::_SPARSE]
        return some.sum(axis=1) >= _ENOUGH / 2 * some.shape[1]

    def level(self, image: Plane) -> Plane:
        """Return the sky level under every pixel of an image, in its unit.

        Parameters
        ----------
        image : ndarray, shape (ny, nx), float32
            Finite where usable.
        """
        blocks = _blocks(image, 0)[self._enough]
        level = self._medians(blocks)
        for _ in range(2):
            # small numbers, which single precision sums well
            apart = blocks - level[:, None].astype(np.float32)
            inside = np.abs(apart) < self._width
            count = np.count_nonzero(inside, axis=1)
            np.copyto(apart, 0, where=~inside)
            level = level.astype(np.float32) + apart.sum(axis=1) / np.maximum(count, 1)
        mesh = np.full(len(self._enough), np.nan)
        mesh[self._enough] = level
        rows, columns = (-(-size // MESH) for size in self.shape)
        return _interpolate(_smooth_mesh(mesh.reshape(rows, columns)), self.shape)

    def _medians(self, blocks: Plane) -> NDArray[np.float64]:
        """Medians of every fourth pixel, which say where to clip; of all where they are few."""
        level = np.empty(len(blocks))
        for rows, step in ((self._sparse, _SPARSE), (~self._sparse, 1)):
            if rows.any():
                some = np.where(self._usable[rows, ::step], blocks[rows, ::step], np.nan)
                level[rows] = row_medians(some)
        return level


def row_medians(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the median of each row, NaN left out; NaN of a row that has nothing else.

    As numpy's ``nanmedian``, which goes through short rows one by one.
    """
    ordered = np.sort(rows, axis=1)  # NaN come last
    count = np.count_nonzero(~np.isnan(rows), axis=1)
    row, two = np.arange(len(rows)), rows.dtype.type(2)
    middle: NDArray[Any] = (ordered[row, (count - 1) // 2] + ordered[row, count // 2]) / two
    return middle


def _blocks(image: NDArray[Any], beyond: float) -> NDArray[Any]:
    """Return the image as rows of MESH x MESH pixels each, with a value beyond its edge."""
    rows, columns = (-(-size // MESH) for size in image.shape)
    full = image
    if image.shape != (rows * MESH, columns * MESH):
        full = np.full((rows * MESH, columns * MESH), beyond, image.dtype)
        full[: image.shape[0], : image.shape[1]] = image
    return full.reshape(rows, MESH, columns, MESH).swapaxes(1, 2).reshape(rows * columns, -1)


def _smooth_mesh(mesh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill empty blocks from their neighbours, then take the 3 x 3 median."""
    while np.isnan(mesh).any():
        if np.isnan(mesh).all():
            return np.zeros_like(mesh)
        mesh = np.where(np.isnan(mesh), median_of_neighbours(mesh), mesh)
    return median_of_neighbours(mesh)


def median_of_neighbours(mesh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 3 x 3 median that ignores what is missing; NaN where all nine are."""
    padded = np.pad(mesh, 1, constant_values=np.nan)
    nine = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(-1, 9)
    return row_medians(nine).reshape(mesh.shape)


def _interpolate(mesh: NDArray[np.float64], shape: tuple[int, ...]) -> Plane:
    """Bilinear interpolation between block centres, level beyond the outer ones."""
    lines = _between(_between(mesh, shape[1]).T, shape[0])
    return np.ascontiguousarray(lines.T)


def _between(mesh: NDArray[Any], size: int) -> Plane:
    """Linear interpolation along the last axis, shape (..., size)."""
    at = np.clip((np.arange(size) + 0.5) / MESH - 0.5, 0, mesh.shape[1] - 1)
    before = np.minimum(at.astype(int), max(mesh.shape[1] - 2, 0))
    after = np.minimum(before + 1, mesh.shape[1] - 1)
    share = (at - before).astype(np.float32)
    mesh = mesh.astype(np.float32)
    return np.asarray(mesh[:, before] + share * (mesh[:, after] - mesh[:, before]))
