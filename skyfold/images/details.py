"""What a reader needs of one image only when it reads it: where its chunks lie, and its header.

A set keeps both, image after image, in ``images/<set>/details.bin``; a row of the index says where
an image's part begins. So opening a release of many images reads neither, and a cutout finds every
chunk of its image by one small request, not by one for the index of each layer's shard.

Bytes of one image::

    zlib of the places     for each layer that has chunks: u8 number in `LAYERS`, u32 n,
                           n times u32 tile number (C order), n times u32 length in bytes;
                           in the order in which the chunks follow one another from byte 0 of
                           the shard, without gaps
    zlib of the header     FITS cards joined by newlines, UTF-8

Integers are little endian. A tile that is not listed holds zeros.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.errors import CorruptDataError
from skyfold.layout import LAYERS, WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SHARDED = tuple(layer for layer in LAYERS if layer not in (*WHOLE, "checksum"))
Places = dict[str, dict[int, tuple[int, int]]]
_HEAD = struct.Struct("<BI")
_MAX_BYTES = 2**28  # of one image's places or header: more is a decompression bomb
ABSENT = 2**64 - 1  # offset of a chunk that there is not


def details_key(image_set: str) -> str:
    """Key of the details of a set's images."""
    return f"images/{image_set}/details.bin"


def encode_places(shards: Mapping[str, NDArray[np.uint64]]) -> bytes:
    """Bytes of where chunks lie.

    Parameters
    ----------
    shards : mapping of str to ndarray, shape (tiles, 2), uint64
        By layer, the index of its shard: offset and length of each chunk.

    Raises
    ------
    ValueError
        If chunks do not follow one another from byte 0.
    """
    parts = []
    for layer, index in shards.items():
        tiles = np.flatnonzero(index[:, 0] != ABSENT)
        tiles = tiles[np.argsort(index[tiles, 0], kind="stable")]
        offsets, lengths = index[tiles].T.astype(np.int64)
        if (offsets != np.cumsum(lengths) - lengths).any():
            raise ValueError(f"chunks of {layer} do not follow one another in their shard")
        parts += [_HEAD.pack(LAYERS.index(layer), len(tiles)), tiles.astype("<u4").tobytes()]
        parts.append(lengths.astype("<u4").tobytes())
    return zlib.compress(b"".join(parts), 9)


def decode_places(data: bytes, name: str) -> Places:
    """For each layer, offset and length of the chunk of each tile that has one.

    Raises
    ------
    CorruptDataError
        If the bytes do not say this.
    """
    try:
        plain, places, at = _inflate(data), {}, 0
        while at < len(plain):
            layer, count = _HEAD.unpack_from(plain, at)
            numbers = np.frombuffer(plain, "<u4", 2 * count, at + _HEAD.size).astype(np.int64)
            tiles, lengths = numbers[:count], numbers[count:]
            starts = np.cumsum(lengths) - lengths
            spans = zip(starts.tolist(), lengths.tolist(), strict=True)
            places[LAYERS[layer]] = dict(zip(tiles.tolist(), spans, strict=True))
            at += _HEAD.size + 8 * count
    except (zlib.error, struct.error, IndexError, ValueError) as error:
        raise CorruptDataError(f"{name} does not say where chunks lie: {error}") from error
    return places


def encode_header(cards: str) -> bytes:
    """Bytes of a FITS header, cards joined by newlines."""
    return zlib.compress(cards.encode(), 9)


def decode_header(data: bytes, name: str) -> str:
    """Inverse of `encode_header`; CorruptDataError if the bytes hold no header."""
    try:
        return _inflate(data).decode()
    except (zlib.error, ValueError) as error:
        raise CorruptDataError(f"{name} holds no header: {error}") from error


def _inflate(data: bytes) -> bytes:
    inflater: Any = zlib.decompressobj()
    plain: bytes = inflater.decompress(data, _MAX_BYTES)
    if not inflater.eof:
        raise ValueError(f"it is cut short, or longer than {_MAX_BYTES} bytes")
    return plain


def shard_index(tail: bytes | bytearray, tiles: int) -> NDArray[np.uint64]:
    """Offset and length of each chunk, from the last ``16 * tiles + 4`` bytes of its shard."""
    return np.frombuffer(tail, "<u8", 2 * tiles).reshape(tiles, 2)
