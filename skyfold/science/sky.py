"""The sky level under an image's sources.

This module knows the estimator: a mesh of 64-pixel means, clipped at 3 of the context's sigma
about the block's median, smoothed by a 3 x 3 median, interpolated linearly. The clipping never
uses the image's own scatter, which a decoded image lacks: an estimator that does, such as a
sigma-clipped mode, would call the absence of noise a change of sky.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

MESH = 64  # [pixel]
_CLIP = 3.0  # [sigma]
_SPARSE = 4
_ENOUGH = 0.1  # share of usable pixels below which a block takes its neighbours' level


def sky(image: Plane, noise: Plane, usable: NDArray[np.bool_]) -> Plane:
    """Return the sky level under every pixel of an image.

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
    blocks = _blocks(np.where(usable, image, np.nan).astype(np.float32))
    spread = _blocks(noise)
    enough = np.isfinite(blocks).mean(axis=1) >= _ENOUGH
    mesh = np.full(len(blocks), np.nan)
    kept, width = blocks[enough], _CLIP * spread[enough]
    level = _medians(kept)
    for _ in range(2):
        inside = np.abs(kept - level[:, None]) < width
        total = np.where(inside, kept, 0).sum(axis=1, dtype=np.float64)
        level = np.where(inside.any(axis=1), total / np.maximum(inside.sum(axis=1), 1), level)
    mesh[enough] = level
    rows, columns = (-(-size // MESH) for size in image.shape)
    return _interpolate(_smooth_mesh(mesh.reshape(rows, columns)), image.shape)


def _medians(blocks: Plane) -> NDArray[np.float64]:
    """Medians of every fourth pixel, which say where to clip; of all where those are missing."""
    some = blocks[:, ::_SPARSE]
    few = np.isfinite(some).mean(axis=1) < _ENOUGH / 2
    level = np.empty(len(blocks))
    for rows, pixels in ((~few, some), (few, blocks)):
        if rows.any():
            level[rows] = row_medians(pixels[rows])
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


def _blocks(image: Plane) -> Plane:
    """Return the image as rows of MESH x MESH pixels each, NaN beyond its edge."""
    rows, columns = (-(-size // MESH) for size in image.shape)
    full = np.full((rows * MESH, columns * MESH), np.nan, np.float32)
    full[: image.shape[0], : image.shape[1]] = image
    return full.reshape(rows, MESH, columns, MESH).swapaxes(1, 2).reshape(rows * columns, -1)


def _smooth_mesh(mesh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fill empty blocks from their neighbours, then take the 3 x 3 median."""
    while np.isnan(mesh).any():
        if np.isnan(mesh).all():
            return np.zeros_like(mesh)
        mesh = np.where(np.isnan(mesh), _median_of_neighbours(mesh), mesh)
    return _median_of_neighbours(mesh)


def _median_of_neighbours(mesh: NDArray[np.float64]) -> NDArray[np.float64]:
    """3 x 3 median that ignores what is missing; NaN where all nine are."""
    padded = np.pad(mesh, 1, constant_values=np.nan)
    nine = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(-1, 9)
    return row_medians(nine).reshape(mesh.shape)


def _interpolate(mesh: NDArray[np.float64], shape: tuple[int, ...]) -> Plane:
    """Bilinear interpolation between block centres, level beyond the outer ones."""
    weights = []
    for size, count in zip(shape, mesh.shape, strict=True):
        at = np.clip((np.arange(size) + 0.5) / MESH - 0.5, 0, count - 1)
        weights.append(np.maximum(1 - np.abs(at[:, None] - np.arange(count)), 0))
    return np.asarray(weights[0] @ mesh @ weights[1].T, np.float32)
