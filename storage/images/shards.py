"""The objects that hold the layers of an image, made in memory.

Chunks are coded and laid out as Zarr does it, from an array's metadata, but one after another in
this thread: Zarr hands every chunk to an event loop and to other threads, which took a tenth of the
time to encode an image. The store then sees one write.
"""

from __future__ import annotations

import json
import math
from itertools import chain
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any
from weakref import finalize

import google_crc32c
import numpy as np

from skyfold.codecs.chunk import codec_class
from skyfold.images.chunks import LayerArray
from skyfold.images.details import ABSENT, SHARDED, encode_places, shard_index
from skyfold.ladder import LEVELS, TILE
from skyfold.layout import WHOLE, layers_read
from storage.images.encoder import encode_directly
from storage.images.mapped import part_of
from storage.images.prepared import NotLadderableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from storage.images.encoder import EncodedImage

DIRECT_GAIN = 0.98  # the raw array is stored by itself where that is smaller than this times
NEARLY = 1.05  # times the bytes read at `bounded`: it is not stored beside so few more
LOW_SHARE = 0.8  # of its bytes: levels up to `sources` that take more are not worth storing beside
SAMPLED_TILES = (2, 4)  # of an image, that tell how many bytes it would take by itself
CLEARLY = 0.05  # of the ladder's bytes: further from the limit fewer tiles will do
TOGETHER = 32  # tiles that are coded at once
_BESIDE = ("checksum", "flags")  # layers that every mode has
_IN_MEMORY = 2**25  # bytes of a layer's chunks; more are written to a file meanwhile

Places = dict[tuple[int, int], tuple[int, int]]  # of chunks, by tile: first byte and length


def make_shards(
    entry: ImageEntry,
    encoded: EncodedImage,
    documents: Mapping[str, bytes],
    *,
    smallest: str = "reads",
) -> tuple[str, dict[str, bytes | bytearray]]:
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
    try:
        made = _coded_strips(encoded, documents)
    except NotLadderableError:
        encoded = encode_directly(encoded.raw)
        made = _coded_strips(encoded, documents)
    mode, stored = encoded.mode, encoded.raw.stored
    direct = Coded(documents["direct"])
    if mode == "ladder":
        sizes = {name: one.size for name, one in made.items() if name not in _BESIDE}
        by_tile = np.sum([made[name].by_tile() for name in sizes if name not in WHOLE], axis=0)
        mode = choose_mode(sizes, direct_share(direct, stored, by_tile), smallest)
    if "direct" in mode:
        direct.add_tiles(stored, np.ndindex(*direct.tiles))
        made["direct"] = direct
    extra = _extra(encoded)
    wanted = {*chain.from_iterable(layers_read(level, mode, **extra) for level in LEVELS)}
    shards = {name: made.pop(name).shard() for name in sorted(wanted)}
    return mode, {name: shard for name, shard in shards.items() if shard}


def choose_mode(sizes: Mapping[str, int], share: float, smallest: str) -> str:
    """How an image is stored.

    Parameters
    ----------
    sizes : mapping of str to int
        Bytes of the layers of its ladder.
    share : float
        Bytes of the raw array by itself over the sum of these.
    smallest : {"reads", "storage"}
        As `make_shards` takes it.
    """
    ladder = sum(sizes.values())
    raw, bounded = share * ladder, ladder - sizes["exact"]
    low = bounded - sizes["bounded"]
    if raw <= bounded and low >= LOW_SHARE * raw:
        return "direct"
    if raw <= NEARLY * bounded:
        return "sources+direct" if smallest == "reads" or raw < ladder - low else "ladder"
    limit = DIRECT_GAIN * ladder if smallest == "reads" else sizes["exact"]
    return "ladder+direct" if raw < limit else "ladder"


def _extra(encoded: EncodedImage) -> dict[str, bool]:
    """What layers there are that most images do not need, as `layers_read` takes it."""
    return {
        "quantised": encoded.quantum is not None,
        "uneven": encoded.uneven,
        "striped": encoded.stripes is not None,
        "glowing": encoded.glowing,
    }


def _coded_strips(encoded: EncodedImage, documents: Mapping[str, bytes]) -> dict[str, Coded]:
    """The layers of an image, coded strip by strip as they are made; `direct` is none of them."""
    levels = (layers_read(level, encoded.mode, **_extra(encoded)) for level in LEVELS)
    names = dict.fromkeys(chain.from_iterable(levels))
    coded = {name: Coded(documents[name]) for name in names if name != "direct"}
    for name, values in encoded.of_all.items():
        coded[name].add(values)
    for layers in encoded.strips():
        for name, values in layers.items():
            coded[name].add(values)
    return coded


class Coded:
    """The chunks of one layer of an image, and the object that they become.

    Parameters
    ----------
    document : bytes
        ``zarr.json`` of the layer's array, whose first axis is that of images.
    """

    def __init__(self, document: bytes) -> None:
        self.array = LayerArray("", json.loads(document))
        self.places: Places = {}
        self._bytes = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed with this
        finalize(self, self._bytes.close)
        self._rows = self._end = 0
        self._parts: list[NDArray[Any]] = []

    def add(self, values: NDArray[Any]) -> None:
        """Code more rows of the layer, padded to whole tiles, below those that were added."""
        if not self.array.is_sharded:
            self._parts.append(values)
            return
        side = self.array.chunk[0]
        rows = range(len(values) // side)
        tiles = [(y, x) for y in rows for x in range(values.shape[1] // self.array.chunk[1])]
        cut = {(self._rows + y, x): values[_place(self.array, (y, x))] for y, x in tiles}
        self._code(cut)
        self._rows += len(rows)

    def add_tiles(self, plane: NDArray[Any], tiles: Iterable[tuple[int, int]]) -> None:
        """Code some tiles of a plane of pixels, but for those that are coded already."""
        left = [tile for tile in tiles if tile not in self.places]
        for start in range(0, len(left), TOGETHER):
            some = left[start : start + TOGETHER]
            self._code({tile: _tile_of(plane, self.array, tile) for tile in some})

    def _code(self, cut: Mapping[tuple[int, int], NDArray[Any]]) -> None:
        used = {tile: chunk for tile, chunk in cut.items() if _is_used(chunk)}
        for tile, data in zip(used, _encode(self.array, list(used.values())), strict=True):
            self.places[tile] = self._end, len(data)
            self._bytes.write(data)
            self._end += len(data)

    @property
    def tiles(self) -> tuple[int, int]:
        """Chunks along y and x."""
        ny, nx = (
            length // side
            for length, side in zip(self.array.shape[:2], self.array.chunk[:2], strict=True)
        )
        return ny, nx

    def by_tile(self) -> NDArray[np.int64]:
        """Bytes of the chunk of each tile, in C order."""
        ny, nx = self.tiles
        sizes = np.zeros(ny * nx, np.int64)
        for (y, x), (_, size) in self.places.items():
            sizes[y * nx + x] = size
        return sizes

    @property
    def size(self) -> int:
        """Bytes of the object."""
        if not self.array.is_sharded:
            return len(self.shard())
        tail = 16 * math.prod(self.tiles) + 4
        return self._end + tail if self.places else 0

    def shard(self) -> bytes | bytearray:
        """The object, as Zarr would write it.

        None of its bytes where every value is the array's fill value, 0: there is no object then.
        """
        if self.array.is_sharded:
            return self._joined() if self.places else b""
        whole = np.concatenate(self._parts)
        return _encode(self.array, [whole])[0] if _is_used(whole) else b""

    def _joined(self) -> bytearray:
        """Chunks one after another, then where each lies, then the checksum of that."""
        out, at = bytearray(self.size), 0
        index = np.full((*self.tiles, 2), ABSENT, "<u8")
        for tile in _tiles_in_order(*self.tiles):
            if tile not in self.places:
                continue
            start, size = self.places[tile]
            self._bytes.seek(start)
            self._bytes.readinto(memoryview(out)[at : at + size])
            index[tile] = at, size
            at += size
        tail = index.tobytes()
        out[at:] = tail + google_crc32c.value(tail).to_bytes(4, "little")
        return out


def make_shard(document: bytes, values: NDArray[Any]) -> bytes | bytearray:
    """Object of a layer that is all there; see `Coded`."""
    coded = Coded(document)
    coded.add(values)
    return coded.shard()


def _tile_of(plane: NDArray[Any], array: LayerArray, tile: tuple[int, int]) -> NDArray[Any]:
    """A tile of a plane, with zeros beyond the edge."""
    part = part_of(plane, _place(array, tile))
    beyond = [(0, side - length) for side, length in zip(array.chunk, part.shape, strict=True)]
    return np.pad(part, beyond)


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


def direct_share(direct: Coded, stored: NDArray[Any], ladder: NDArray[np.int64]) -> float:
    """Bytes of the raw array coded by itself, over those of the ladder, from a sample of tiles.

    Parameters
    ----------
    direct : Coded
        The layer `direct`, to which these tiles are added.
    stored : ndarray, shape (ny, nx)
        The raw array.
    ladder : ndarray of int, shape (tiles,)
        Bytes of each tile in all layers of the ladder; the share is 1 where there are none.
    """
    across, share = -(-stored.shape[1] // TILE), 1.0
    used = np.flatnonzero(ladder)
    for count in SAMPLED_TILES if used.size else ():
        some = used[:: -(-used.size // count)]
        tiles = [divmod(int(number), across) for number in some]
        direct.add_tiles(stored, tiles)
        sizes = direct.by_tile()[some]
        share = float(sizes.sum() / ladder[some].sum())
        if abs(share - DIRECT_GAIN) > CLEARLY:
            break
    return share


def places_of(entry: ImageEntry, shards: Mapping[str, bytes | bytearray]) -> bytes:
    """Where the chunks of an image lie, as its shards say; see `skyfold.images.details`."""
    return encode_places(_indexes(entry, shards))


def _indexes(
    entry: ImageEntry, shards: Mapping[str, bytes | bytearray]
) -> dict[str, NDArray[np.uint64]]:
    """Offsets and lengths of the chunks of each sharded layer that has any."""
    ny, nx = (-(-side // TILE) for side in entry.plane)
    return {
        layer: shard_index(shards[layer][-16 * ny * nx - 4 :], ny * nx)
        for layer in sorted(shards)
        if layer in SHARDED and shards[layer]
    }
