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

from skyfold.codecs.chunk import codec_class
from skyfold.images.chunks import LayerArray
from skyfold.images.details import ABSENT, SHARDED, encode_places, shard_index
from skyfold.ladder import TILE
from skyfold.layout import layers_read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from storage.images.encoder import EncodedImage

DIRECT_GAIN = 0.98  # the raw array is stored by itself where that is smaller than this times
SAMPLED_TILES = (2, 4)  # of an image, that tell how many bytes it would take by itself
CLEARLY = 0.05  # of the ladder's bytes: further from the limit fewer tiles will do

Chunks = dict[tuple[int, int], bytes]


def make_shards(
    entry: ImageEntry,
    encoded: EncodedImage,
    documents: Mapping[str, bytes],
    *,
    smallest: str = "reads",
) -> tuple[str, dict[str, bytes]]:
    """Every object of an image: the ladder, unless the raw array by itself is smaller.

    Parameters
    ----------
    documents : mapping of str to bytes
        ``zarr.json`` of the array of each layer.
    smallest : {"reads", "storage"}
        What is kept small where the raw array takes fewer bytes than the ladder and more than the
        layers up to `bounded`: what a reader of `exact` fetches, or what is stored.

    Returns
    -------
    mode : str
        As `skyfold.layout.layers_read` takes it.
    shards : dict
        Objects by layer; none of layers without an object.
    """
    mode = encoded.mode
    made: dict[str, bytes] = {}
    trial: Chunks = {}

    def make(layer: str) -> bytes:
        known = trial if layer == "direct" else None
        return make_shard(documents[layer], encoded.layers[layer], known)

    quantised = encoded.quantum is not None
    if mode == "ladder":
        names = layers_read("exact", mode, quantised=quantised)
        made = {name: make(name) for name in names}
        refined = {name: made[name] for name in names if name not in ("checksum", "flags")}
        ladder = sum(map(len, refined.values()))
        by_tile = _bytes_by_tile(entry, refined)
        share, trial = direct_share(documents["direct"], encoded.layers["direct"], by_tile)
        if share * ladder <= ladder - len(made["exact"]):
            mode = "direct"
        elif share < (DIRECT_GAIN if smallest == "reads" else len(made["exact"]) / ladder):
            mode = "ladder+direct"
    wanted = {*layers_read("exact", mode, quantised=quantised), *layers_read("latent", mode)}
    wanted |= {*layers_read("bounded", mode)}
    shards = {name: made[name] if name in made else make(name) for name in sorted(wanted)}
    return mode, {name: shard for name, shard in shards.items() if shard}


def make_shard(document: bytes, values: NDArray[Any], known: Chunks | None = None) -> bytes:
    """Bytes of the object of one image, as Zarr would write them.

    Parameters
    ----------
    document : bytes
        ``zarr.json`` of the layer's array, whose first axis is that of images.
    values : ndarray, shape of the array without its first axis
        The layer, padded to whole tiles.
    known : dict, optional
        Chunks by tile that are coded already.

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
    known = known or {}
    coded = known | _chunks(array, {tile: used[tile] for tile in used if tile not in known})
    return _join({tile: coded[tile] for tile in used}, ny, nx) if used else b""


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
                    number |= ((coordinate >> bit) & 1) << at
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


def _chunks(array: LayerArray, values: dict[tuple[int, int], NDArray[Any]]) -> Chunks:
    return dict(zip(values, _encode(array, list(values.values())), strict=True))


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


def _bytes_by_tile(entry: ImageEntry, shards: Mapping[str, bytes]) -> NDArray[np.int64]:
    """Bytes of each tile's chunks in all shards."""
    ny, nx = (-(-side // TILE) for side in entry.plane)
    total = np.zeros(ny * nx, np.int64)
    for index in _indexes(entry, shards).values():
        total += np.where(index[:, 0] == ABSENT, 0, index[:, 1]).astype(np.int64)
    return total


def direct_share(
    document: bytes, stored: NDArray[Any], ladder: NDArray[np.int64]
) -> tuple[float, Chunks]:
    """Bytes of the raw array coded by itself, over those of the ladder, from a sample of tiles.

    Parameters
    ----------
    document : bytes
        ``zarr.json`` of the layer `direct`.
    stored : ndarray, shape (ny, nx)
        The raw array, padded to whole tiles.
    ladder : ndarray of int, shape (tiles,)
        Bytes of each tile in all layers of the ladder.

    Returns
    -------
    share : float
        1 where the ladder has no bytes.
    chunks : dict
        What was coded of the layer.
    """
    array = LayerArray("", json.loads(document))
    across, share = stored.shape[1] // TILE, 1.0
    chunks: Chunks = {}
    used = np.flatnonzero(ladder)
    for count in SAMPLED_TILES if used.size else ():
        some = used[:: -(-used.size // count)]
        tiles = [divmod(int(number), across) for number in some]
        left = {tile: stored[_place(array, tile)] for tile in tiles if tile not in chunks}
        chunks |= _chunks(array, left)
        share = float(sum(len(chunks[tile]) for tile in tiles) / ladder[some].sum())
        if abs(share - DIRECT_GAIN) > CLEARLY:
            break
    return share, chunks


def places_of(entry: ImageEntry, shards: Mapping[str, bytes]) -> bytes:
    """Where the chunks of an image lie, as its shards say; see `skyfold.images.details`."""
    return encode_places(_indexes(entry, shards))


def _indexes(entry: ImageEntry, shards: Mapping[str, bytes]) -> dict[str, NDArray[np.uint64]]:
    """Offsets and lengths of the chunks of each sharded layer that has any."""
    ny, nx = (-(-side // TILE) for side in entry.plane)
    return {
        layer: shard_index(shards[layer][-16 * ny * nx - 4 :], ny * nx)
        for layer in sorted(shards)
        if layer in SHARDED and shards[layer]
    }
