"""`skyfold.blocks`: numbers that may be zero outside some blocks of 8 x 8 pixels.

Bytes of a chunk, whose last two sides are multiples of 8::

    u8     0: every value is zero, nothing follows
           1: all values follow, in C order
           2: a bitmap of the blocks that are not zero follows, then their values
    (2)    u16 little endian n, then n bytes of zlib: one bit a block, in C order, padded to bytes
    (1, 2) a standalone pcodec stream; of the blocks (2) one after another, each in C order

A value is zero if all of its bits are: minus zero and NaN are values. 8-bit types are widened to
16 bits for pcodec.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.streams import compress, decompress, repeats
from skyfold.errors import CorruptDataError
from skyfold.ladder import BLOCK

_ZERO, _ALL, _BITMAP = 0, 1, 2


@dataclass(frozen=True)
class BlocksCodec(ChunkCodec):
    """Pcodec of the blocks that are not zero; numbers of any width and kind.

    Examples
    --------
    >>> import numpy as np
    >>> chunk = np.zeros((1, 16, 16), np.int32)
    >>> chunk[0, :8, 8:] = 3
    >>> codec = BlocksCodec()
    >>> data = codec.encode_chunk(chunk)
    >>> bool((codec.decode_chunk(data, chunk.shape, chunk.dtype) == chunk).all())
    True
    """

    codec_name: ClassVar[str] = "skyfold.blocks"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        chunk = np.ascontiguousarray(chunk)
        blocks = _as_blocks(chunk)
        used = np.asarray(blocks.view(f"u{blocks.dtype.itemsize}").any(axis=1))
        if not used.any():
            return bytes([_ZERO])
        if used.all():
            return bytes([_ALL]) + compress(chunk.ravel())
        some = blocks[used].ravel()
        data = bytes([_BITMAP]) + write_bitmap(used) + compress(some)
        if not repeats(some):
            return data
        return min(data, bytes([_ALL]) + compress(chunk.ravel()), key=len)  # runs along rows

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        kind = data[0] if data else None
        if kind == _ZERO and len(data) == 1:
            return np.zeros(shape, dtype)
        size = int(np.prod(shape))
        if kind == _ALL:
            return decompress(data[1:], size, dtype).reshape(shape)
        if kind != _BITMAP:
            raise CorruptDataError(f"skyfold.blocks chunk begins with {kind}; 0, 1 or 2 is known")
        used, rest = read_bitmap(data[1:], size // BLOCK**2)
        blocks = np.zeros((len(used), BLOCK**2), dtype)
        blocks[used] = decompress(rest, int(used.sum()) * BLOCK**2, dtype).reshape(-1, BLOCK**2)
        return _from_blocks(blocks, shape)


def _as_blocks(chunk: NDArray[Any]) -> NDArray[Any]:
    """One row of 64 values a block."""
    ny, nx = chunk.shape[-2:]
    cut = chunk.reshape(-1, ny // BLOCK, BLOCK, nx // BLOCK, BLOCK)
    return np.ascontiguousarray(cut.transpose(0, 1, 3, 2, 4)).reshape(-1, BLOCK**2)


def _from_blocks(blocks: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    ny, nx = shape[-2:]
    cut = blocks.reshape(-1, ny // BLOCK, nx // BLOCK, BLOCK, BLOCK)
    return np.ascontiguousarray(cut.transpose(0, 1, 3, 2, 4)).reshape(shape)


def write_bitmap(used: NDArray[np.bool_]) -> bytes:
    """Bitmap of blocks: its length, then its bits under zlib."""
    bitmap = zlib.compress(np.packbits(used).tobytes(), 9)
    return len(bitmap).to_bytes(2, "little") + bitmap


def read_bitmap(data: bytes, blocks: int) -> tuple[NDArray[np.bool_], bytes]:
    """Which blocks are used, and the bytes after the bitmap; CorruptDataError if it is damaged."""
    end = 2 + int.from_bytes(data[:2], "little")
    inflate = zlib.decompressobj()
    try:
        packed = inflate.decompress(data[2:end], -(-blocks // 8) + 1)
    except zlib.error as error:
        raise CorruptDataError(f"bitmap of blocks: {error}") from error
    if len(packed) != -(-blocks // 8):
        raise CorruptDataError(f"bitmap of blocks has {len(packed)} bytes for {blocks} blocks")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=blocks)
    return bits.astype(bool), data[end:]
