"""The objects that hold the layers of an image, made in memory.

Zarr lays out and codes the chunks; the store then sees one write, and no look-ups of what the
writer knows: the array's metadata, how long the object became, and where its chunks lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype

from skyfold import layout
from skyfold.images.details import SHARDED, encode_places, shard_index
from skyfold.ladder import TILE
from skyfold.layout import layers_read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from storage.images.encoder import EncodedImage

DIRECT_GAIN = 0.97  # the raw array is stored by itself where that is smaller than this times
SAMPLED_TILES = (2, 8)  # of an image, that tell how many bytes it would take by itself
CLEARLY = 1.05


def make_shards(
    entry: ImageEntry, encoded: EncodedImage, documents: Mapping[str, bytes]
) -> tuple[str, dict[str, bytes]]:
    """Every object of an image: the ladder, unless the raw array by itself is smaller.

    Parameters
    ----------
    documents : mapping of str to bytes
        ``zarr.json`` of the array of each layer.

    Returns
    -------
    mode : str
        As `skyfold.layout.layers_read` takes it.
    shards : dict
        Objects by layer; none of layers without an object.
    """

    def make(layer: str) -> bytes:
        return make_shard(documents[layer], entry.row, encoded.layers[layer])

    mode, made = encoded.mode, dict[str, bytes]()
    quantised = encoded.quantum is not None
    if mode == "ladder":
        names = layers_read("exact", mode, quantised=quantised)
        made = {name: make(name) for name in names}
        ladder = sum(len(made[name]) for name in names if name not in ("checksum", "flags"))
        direct = _direct_bytes(encoded.layers["direct"], entry.plane, ladder)
        if direct <= ladder - len(made["exact"]):
            mode = "direct"
        elif direct < DIRECT_GAIN * ladder:
            mode = "ladder+direct"
    wanted = {*layers_read("exact", mode, quantised=quantised), *layers_read("latent", mode)}
    wanted |= {*layers_read("bounded", mode)}
    shards = {name: made[name] if name in made else make(name) for name in sorted(wanted)}
    return mode, {name: shard for name, shard in shards.items() if shard}


def make_shard(document: bytes, row: int, values: NDArray[Any]) -> bytes:
    """Bytes of the object of one image.

    Parameters
    ----------
    document : bytes
        ``zarr.json`` of the layer's array, whose first axis is that of images.
    row : int
        Of the image.
    values : ndarray, shape of the array without its first axis
        The layer, padded to whole tiles.

    Returns
    -------
    bytes
        None of them where every value is the array's fill value: there is no object then.
    """
    buffer = default_buffer_prototype().buffer
    objects: dict[str, Any] = {layout.ZARR_KEY: buffer.from_bytes(document)}
    array = zarr.open_array(zarr.storage.MemoryStore(objects), mode="r+", zarr_format=3)
    array[row] = values
    made = [bytes(one.to_bytes()) for key, one in objects.items() if key != layout.ZARR_KEY]
    if len(made) > 1:
        raise ValueError(f"a layer of an image is one object; {array.shards} gives {len(made)}")
    return made[0] if made else b""


def _direct_bytes(stored: np.ndarray[Any, Any], plane: tuple[int, int], ladder: int) -> int:
    """Bytes of the raw array coded by itself, with its shard index, from a sample of its tiles.

    A few tiles will do where they are clearly more than those of the ladder. Tiles at the edge
    count by the pixels that they have of the image, whose shape is `plane`.
    """
    codec = layout.direct_codec(stored.dtype.name)
    places = list(np.ndindex(stored.shape[0] // TILE, stored.shape[1] // TILE))
    sizes: dict[tuple[int, ...], int] = {}
    for count in SAMPLED_TILES:
        some = places[:: -(-len(places) // count)]
        for y, x in set(some) - set(sizes):
            tile = stored[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
            sizes[y, x] = len(codec.encode_chunk(tile[np.newaxis])) + 16
        pixels = sum(
            min(TILE, plane[0] - y * TILE) * min(TILE, plane[1] - x * TILE) for y, x in sizes
        )
        total = round(sum(sizes.values()) * plane[0] * plane[1] / pixels)
        if total > CLEARLY * ladder:
            break
    return total


def places_of(entry: ImageEntry, shards: Mapping[str, bytes]) -> bytes:
    """Where the chunks of an image lie, as its shards say; see `skyfold.images.details`."""
    ny, nx = (-(-side // TILE) for side in entry.plane)
    tail = 16 * ny * nx + 4
    sharded = {layer: shards[layer] for layer in sorted(shards) if layer in SHARDED}
    return encode_places(
        {layer: shard_index(shard[-tail:], ny * nx) for layer, shard in sharded.items()}
    )
