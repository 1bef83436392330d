"""Reading the layers of images: which bytes a tile needs, and arrays from those bytes.

It knows Zarr's metadata and byte ranges, and codecs only by their name: a chunk is read by the
place that `skyfold.images.details` gives it, not through Zarr, so that the chunks of many tiles and
layers come in one round of requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.access.trust import reading
from skyfold.codecs.chunk import codec_class
from skyfold.codecs.latents import LatentsCodec, SparseLatentsCodec
from skyfold.errors import CorruptDataError, UnknownCodecError
from skyfold.ladder import LEVELS, TILE
from skyfold.layout import STRIDE, WHOLE
from skyfold.noise import GLOW_CELL, MESH, NOISE_CELL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from skyfold.images.details import Places
    from skyfold.images.index import ImageEntry

Range = tuple[str, int, int]
_PIXELS = dict.fromkeys(("guard", "flags"), "uint8") | dict.fromkeys(
    ("sources", "bounded"), "int32"
)
_SIDE = TILE // STRIDE  # latent positions a side of a tile
_MAX_CHANNELS = 256
_TOGETHER = {LatentsCodec.codec_name, SparseLatentsCodec.codec_name}
_SLACK = 4096  # bytes that coding may add to a small chunk


@dataclass(frozen=True)
class LayerArray:
    """One layer of a group of images, as its Zarr metadata describes it.

    Attributes
    ----------
    path : str
        Key of the array.
    metadata : dict
        Content of its ``zarr.json``.
    """

    path: str
    metadata: dict[str, Any]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape without the axis of images."""
        return tuple(self.metadata["shape"][1:])

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Type of its numbers, native byte order."""
        return np.dtype(self.metadata["data_type"])

    @cached_property
    def is_sharded(self) -> bool:
        """Whether an object holds a chunk for each tile, and not the whole image."""
        return bool(self.metadata["codecs"][0]["name"] == "sharding_indexed")

    @cached_property
    def chunk(self) -> tuple[int, ...]:
        """Shape of a chunk without the axis of images."""
        if not self.is_sharded:
            return self.shape
        return tuple(self.metadata["codecs"][0]["configuration"]["chunk_shape"][1:])

    @cached_property
    def codecs(self) -> list[dict[str, Any]]:
        """What codes a chunk, as the metadata has it, in the order of writing."""
        codecs = self.metadata["codecs"]
        return codecs[0]["configuration"]["codecs"] if self.is_sharded else codecs

    @property
    def _chunk_bytes(self) -> int:
        return int(np.prod(self.chunk)) * self.dtype.itemsize

    def key(self, row: int) -> str:
        """Key of the object that holds an image."""
        return "/".join([self.path, "c", str(row), *["0"] * len(self.shape)])

    def decode(self, data: bytes | None) -> NDArray[Any]:
        """Chunk of its stored bytes; zeros if there are none.

        Raises
        ------
        CorruptDataError, UnknownCodecError
        """
        if data is None:
            return np.zeros(self.chunk, self.dtype)
        first, *rest = self.codecs
        try:
            for codec in reversed(rest):
                data = _decompress(data, codec["name"], self._chunk_bytes)
            return self._from_bytes(data, first)
        except (UnknownCodecError, CorruptDataError):
            raise
        except Exception as error:  # each library has errors of its own
            raise CorruptDataError(f"chunk of {self.path} cannot be decoded: {error}") from error

    def decode_together(self, chunks: list[bytes | None]) -> list[NDArray[Any]]:
        """Chunks of their stored bytes: latents of several tiles cost little more than of one.

        Raises
        ------
        CorruptDataError, UnknownCodecError
        """
        codec = self.codecs[0]
        full = [data for data in chunks if data is not None]
        if codec["name"] not in _TOGETHER or len(full) < 2:
            return [self.decode(data) for data in chunks]
        decoder = _decoder(codec["name"], tuple(codec["configuration"].items()))
        found = iter(decoder.decode_chunks(full, (1, *self.chunk), self.dtype))
        return [self.decode(None) if data is None else next(found) for data in chunks]

    def _from_bytes(self, data: bytes, codec: dict[str, Any]) -> NDArray[Any]:
        if codec["name"] == "bytes":
            values = np.frombuffer(data, self.dtype.newbyteorder("<"))
            return values.astype(self.dtype).reshape(self.chunk)
        decoder = _decoder(codec["name"], tuple(codec["configuration"].items()))
        chunk: NDArray[Any] = decoder.decode_chunk(data, (1, *self.chunk), self.dtype)
        return chunk.reshape(self.chunk)


@cache
def _decoder(name: str, configuration: tuple[tuple[str, Any], ...]) -> Any:
    """Chunk codec by the name and configuration in Zarr's metadata."""
    if not name.startswith("skyfold."):
        raise UnknownCodecError(f"codec {name!r} is none of this version; upgrade skyfold")
    return codec_class(name)(**dict(configuration))


def _decompress(data: bytes, name: str, size: int) -> bytes:
    """Plain bytes, which must be `size`: a stream that states more is not expanded."""
    from numcodecs.zstd import decompress

    if name != "zstd":
        raise UnknownCodecError(f"compressor {name!r} is not zstd; upgrade skyfold")
    plain = np.empty(size, np.uint8)
    decompress(data, plain)
    return plain.tobytes()


def require_layer(entry: ImageEntry, layer: str, array: LayerArray) -> None:
    """Raise unless a layer's array has the tiles and the type that its image gives it.

    What is decoded then has a known size, whatever the metadata claims.

    Raises
    ------
    CorruptDataError
    """
    with reading(array.path, f"the layer {layer} of image {entry.id}"):
        ty, tx = (-(-side // TILE) for side in entry.plane)
        channels = int(array.shape[-1])
        shape, chunk, dtype = {
            "background": ((ty * TILE // MESH, tx * TILE // MESH), None, "int32"),
            "noise": ((ty * TILE // NOISE_CELL, tx * TILE // NOISE_CELL), None, "int32"),
            "glow": ((ty * TILE // GLOW_CELL, tx * TILE // GLOW_CELL), None, "int32"),
            "stripes": ((2, max(ty, tx) * TILE), None, "int32"),
            "checksum": ((ty, tx, len(LEVELS)), None, "uint32"),
            "quantum": ((2, ty * TILE), None, "float64"),
            "latent": ((ty * _SIDE, tx * _SIDE, channels), (_SIDE, _SIDE, channels), "int16"),
        }.get(layer, ((ty * TILE, tx * TILE), (TILE, TILE), _PIXELS.get(layer, entry.dtype)))
        if layer == "exact":
            dtype = "int64" if np.dtype(entry.dtype).itemsize == 8 else "int32"
        met = (array.shape, array.chunk, array.dtype.name)
        too_deep = layer == "latent" and channels > _MAX_CHANNELS
        if met != (shape, chunk or shape, dtype) or too_deep:
            raise ValueError(f"it has shape, chunk and type {met}")


def _side_by_side(chunks: Iterator[NDArray[Any]], rows: int, columns: int) -> NDArray[Any]:
    """Chunks of so many rows and columns of tiles as one array, each copied once."""
    first = next(chunks)
    ny, nx = first.shape[:2]
    out = np.empty((rows * ny, columns * nx, *first.shape[2:]), first.dtype)
    for (y, x), chunk in zip(np.ndindex(rows, columns), chain([first], chunks), strict=True):
        out[y * ny : (y + 1) * ny, x * nx : (x + 1) * nx] = chunk
    return out


class LayerBytes:
    """Stored bytes of one image's layers for some tiles: which to fetch, and arrays from them.

    Parameters
    ----------
    entry : ImageEntry
    arrays : dict of str to LayerArray
    places : dict
        Of the image's chunks, by layer and tile number.
    """

    def __init__(self, entry: ImageEntry, arrays: dict[str, LayerArray], places: Places) -> None:
        for layer, array in arrays.items():
            require_layer(entry, layer, array)
        self.entry = entry
        self.arrays = arrays
        self.places = places
        self.held: dict[Range, bytes] = {}

    @property
    def tiles_across(self) -> int:
        """Tiles along x."""
        return int(self.arrays["checksum"].shape[1])

    def needed(self, layers: tuple[str, ...], tiles: list[tuple[int, int]]) -> list[Range]:
        """Ranges that decoding tiles (y, x) reads of the named layers."""
        found = (self.range_of(layer, tile) for layer in layers for tile in tiles)
        return list(dict.fromkeys(one for one in found if one is not None))

    def range_of(self, layer: str, tile: tuple[int, int]) -> Range | None:
        """Where the bytes of a tile's chunk lie; None where it holds zeros alone.

        Raises
        ------
        CorruptDataError
            If it claims more bytes than such a chunk can have.
        """
        array = self.arrays[layer]
        key = array.key(self.entry.row)
        number = tile[0] * self.tiles_across + tile[1]
        if array.is_sharded:
            start, length = self.places.get(layer, {}).get(number, (0, 0))
            self._require_possible(length, array, key)
            return (key, start, start + length) if length else None
        size = self.entry.bytes.get(layer, 0)
        self._require_possible(size, array, key)
        if layer == "checksum":  # four numbers of each tile, not compressed
            return (key, 16 * number, 16 * number + 16) if size else None
        return (key, 0, size) if size else None

    def _require_possible(self, size: int, array: LayerArray, key: str) -> None:
        most = 2 * array._chunk_bytes + _SLACK
        if size > most:
            raise CorruptDataError(
                f"a chunk of {key} claims {size:,} bytes where {most:,} are possible; run `skyfold "
                "verify` and fetch the release again"
            )

    def chunk(self, layer: str, tile: tuple[int, int]) -> NDArray[Any]:
        """Array of one tile; of the whole image for layers without tiles.

        Raises
        ------
        CorruptDataError
            If the stored bytes are not those of such a chunk.
        """
        place = self.range_of(layer, tile)
        data = None if place is None else self.held[place]
        array = self.arrays[layer]
        name = f"{layer} of tile {tile} of image {self.entry.id}"
        if place is not None and data is not None and len(data) != place[2] - place[1]:
            raise CorruptDataError(
                f"{name}: {place[0]} ends before byte {place[2]}; run `skyfold verify`"
            )
        if layer == "checksum":
            return np.frombuffer(data or bytes(16), "<u4").astype(np.uint32)[np.newaxis, np.newaxis]
        try:
            return array.decode(data)
        except CorruptDataError as error:
            raise CorruptDataError(f"{name}, in {array.key(self.entry.row)}: {error}") from error

    def _latents(self, tiles: list[tuple[int, int]]) -> list[NDArray[Any]]:
        """Latents of tiles; where they cannot be decoded together, the error names one."""
        places = [self.range_of("latent", tile) for tile in tiles]
        stored = [None if place is None else self.held[place] for place in places]
        try:
            return self.arrays["latent"].decode_together(stored)
        except CorruptDataError:
            return [self.chunk("latent", tile) for tile in tiles]

    def window(
        self, names: tuple[str, ...], tiles_y: slice, tiles_x: slice
    ) -> dict[str, NDArray[Any]]:
        """Layers of a window of tiles, side by side; the `read` of `skyfold.images.window`."""
        rows, columns = range(tiles_y.start, tiles_y.stop), range(tiles_x.start, tiles_x.stop)
        return {name: self._joined(name, rows, columns) for name in names}

    def _joined(self, name: str, rows: range, columns: range) -> NDArray[Any]:
        if name in WHOLE:
            return self.chunk(name, (rows[0], columns[0]))
        tiles = [(ty, tx) for ty in rows for tx in columns]
        if name == "latent":
            found = iter(self._latents(tiles))
        else:
            found = (self.chunk(name, tile) for tile in tiles)
        if len(tiles) == 1:
            return next(found)
        return _side_by_side(found, len(rows), len(columns))
