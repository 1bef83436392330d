"""The objects that hold the layers of an image, made in memory.

Chunks are coded and laid out as Zarr does it, from an array's metadata, but one after another in
this thread: Zarr hands every chunk to an event loop and to other threads, which took a tenth of the
time to encode an image. The store then sees one write.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from skyfold import layout
from skyfold.codecs.chunk import codec_class
from skyfold.images.chunks import LayerArray
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
        return make_shard(documents[layer], encoded.layers[layer])

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


def make_shard(document: bytes, values: NDArray[Any]) -> bytes:
    """Bytes of the object of one image, as Zarr would write them.

    Parameters
    ----------
    document : bytes
        ``zarr.json`` of the layer's array, whose first axis is that of images.
    values : ndarray, shape of the array without its first axis
        The layer, padded to whole tiles.

    Returns
    -------
    bytes
        None of them where every value is the array's fill value, 0: there is no object then.
    """
    array = LayerArray("", json.loads(document))
    if not array.is_sharded:
        return _encode(array, [values])[0] if _is_used(values) else b""
    ny, nx = (side // chunk for side, chunk in zip(array.shape[:2], array.chunk[:2], strict=True))
    cut = {tile: values[_place(array, tile)] for tile in _tiles_in_order(ny, nx)}
    used = {tile: chunk for tile, chunk in cut.items() if _is_used(chunk)}
    chunks = dict(zip(used, _encode(array, list(used.values())), strict=True))
    return _join(chunks, ny, nx) if chunks else b""


def _place(array: LayerArray, tile: tuple[int, int]) -> tuple[slice, ...]:
    return tuple(
        slice(number * side, (number + 1) * side)
        for number, side in zip(tile, array.chunk[:2], strict=True)
    )


def _tiles_in_order(ny: int, nx: int) -> list[tuple[int, int]]:
    """Tiles in the order of their chunks in a shard: Zarr's, by the bits of y and x in turn."""
    bits_y, bits_x = ((side - 1).bit_length() for side in (ny, nx))

    def place(tile: tuple[int, int]) -> int:
        number = at = 0
        for bit in range(max(bits_y, bits_x)):
            for coordinate, bits in zip(tile, (bits_y, bits_x), strict=True):
                if bit < bits:
                    number |= (coordinate >> bit & 1) << at
                    at += 1
        return number

    return sorted(np.ndindex(ny, nx), key=place)


def _join(chunks: Mapping[tuple[int, int], bytes], ny: int, nx: int) -> bytes:
    """Chunks one after another, then where each lies, then the checksum of that."""
    index = np.full((ny, nx, 2), 2**64 - 1, "<u8")
    at = 0
    for tile, chunk in chunks.items():
        index[tile] = at, len(chunk)
        at += len(chunk)
    tail = index.tobytes()
    return b"".join([*chunks.values(), tail, google_crc32c.value(tail).to_bytes(4, "little")])


def _is_used(values: NDArray[Any]) -> bool:
    """Whether any bit is set: minus zero is a value."""
    return bool(np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").any())


def _encode(array: LayerArray, chunks: list[NDArray[Any]]) -> list[bytes]:
    """Bytes of chunks by the codecs of their array."""
    first, *rest = array.codecs
    if first["name"] == "bytes":
        little = array.dtype.newbyteorder("<")
        coded = [chunk.astype(little, order="C", copy=False).tobytes() for chunk in chunks]
    else:
        codec = codec_class(first["name"]).from_dict(first)
        coded = codec.encode_chunks([chunk[np.newaxis] for chunk in chunks])
    for one in rest:
        coded = [_compress(data, **one["configuration"]) for data in coded]
    return coded


def _compress(data: bytes, level: int, checksum: bool) -> bytes:
    from numcodecs.zstd import compress

    return bytes(compress(data, level, checksum))


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
