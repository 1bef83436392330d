"""Tiles about objects as the encoder sees them, and the features of changed copies of them.

This is what explaining an object needs: the same pixels in noise units on the same grid of latents,
so that a copy in which nothing was changed has the features that were stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from skyfold import ladder
from skyfold.errors import CorruptDataError
from skyfold.ladder import TILE
from skyfold.layout import STRIDE
from skyfold.noise import noise_at, stripes_at
from storage.objects.finder import pool

if TYPE_CHECKING:
    from skyfold.images.index import ImageEntry
    from skyfold.images.network import Network
    from skyfold.release import DataRelease

__all__ = ["features_of", "stored_layer", "tile_about"]


def stored_layer(release: DataRelease, entry: ImageEntry, layer: str) -> NDArray[Any]:
    """A layer of an image as stored, such as ``latent``, without the axis of images.

    Raises
    ------
    CorruptDataError
        If it is missing.
    """
    release.network(entry.model)  # brings the tables that latents are decoded with
    path = f"images/{entry.set}/{entry.group}/{layer}"
    found = release.home(entry.release).group.get(path)
    if not isinstance(found, zarr.Array):
        raise CorruptDataError(f"{release.url}/{path} is missing; run `skyfold verify`")
    return np.asarray(found[entry.row])


def tile_about(
    release: DataRelease, image_id: str, x: float, y: float
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """A tile of an image in noise units with an object near its middle; 0 where bad or beyond.

    Returns
    -------
    tile : ndarray, shape (256, 256), float32
    place : (float, float)
        y, x of the object in the tile [pixel].
    """
    entry = release.images.entry(image_id)
    assert entry.noise is not None  # objects are found in images with noise only
    corner = [round((at - TILE / 2) / STRIDE) * STRIDE for at in (y, x)]
    inside = [
        slice(max(first, 0), min(first + TILE, side))
        for first, side in zip(corner, entry.plane, strict=True)
    ]
    window = release.images.read(image_id, "exact", *inside)
    background = entry.noise.background(stored_layer(release, entry, "background"), *inside)
    if entry.striped:
        stripes, step = stored_layer(release, entry, "stripes"), entry.noise.background_step
        background += stripes_at(stripes, step, *inside)
    factor = noise_at(stored_layer(release, entry, "noise"), *inside) if entry.uneven else None
    good = (window.flags == 0) & np.isfinite(window.values)
    grid = ladder.to_grid(np.where(good, window.values, 0), entry.noise)
    units = np.where(good, entry.noise.to_noise_units(grid - background, factor), 0)
    tile = np.zeros((TILE, TILE), np.float32)
    tile[tuple(slice(s.start - c, s.stop - c) for s, c in zip(inside, corner, strict=True))] = units
    return tile, (y - corner[0], x - corner[1])


def features_of(
    tiles: NDArray[np.float32], network: Network, place: tuple[float, float], radius: float
) -> NDArray[np.float32]:
    """Pooled latents, shape (n, 2 c), of tiles, shape (n, 256, 256), about one place in each.

    Parameters
    ----------
    place : (float, float)
        y, x [pixel].
    radius : float
        Half-light radius [pixel]; NaN where it is not known.
    """
    y, x, size = (np.array([one]) for one in (*place, radius))
    return np.concatenate([pool(latents, y, x, size) for latents in network.encode(tiles)])
