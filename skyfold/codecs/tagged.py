"""`skyfold.tagged`: a plane of integers of two kinds, told apart by their last bit.

The layer `bounded` holds two kinds of numbers: in leaves of 2 x 2 pixels that `sources` keeps, the
few that lead from a coarse cell to a fine one, and everywhere else cells of the sky. Each kind has
its own stream, and one mask of leaves tells them apart. An odd number 2 v + 1 is v of the first
kind, an even number 2 v is v of the second.

Bytes of a chunk::

    u8      form: 0 a skyfold.interlaced chunk of the numbers as they are follows, 1:
    ...     the mask of the odd leaves, as in skyfold.interlaced
    u32 n   and n bytes: v of the odd leaves, then v of all others; no bytes where all are 0
    u8      2 or 3: what stands behind the mask of a skyfold.interlaced chunk of that form, and of
            these leaves, follows; 4: a mask of leaves that are zero, and of those that are left
            again 2 or 3 and what it says; 5: a skyfold.interlaced chunk, 0 in leaves not of a kind
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.interlaced import (
    InterlacedCodec,
    coded_leaves,
    decode_used,
    encode_used,
    is_near_plane,
    pixels_of,
    read_mask,
    write_mask,
)
from skyfold.codecs.streams import compress
from skyfold.errors import CorruptDataError
from skyfold.ladder import LEAF

_PLAIN, _TAGGED = 0, 1
_PREDICTED, _STREAM, _SOME, _CHUNK = 2, 3, 4, 5
MOST_BLANK = 1 / 64  # share of leaves that are coded though they are zero, to save a second mask
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class TaggedCodec(ChunkCodec):
    """Integers of planes of two kinds; `skyfold.interlaced` where leaves are of both.

    Examples
    --------
    >>> import numpy as np
    >>> chunk = np.arange(64 * 64, dtype=np.int32).reshape(1, 64, 64) * 2
    >>> chunk[:, :8] += 1
    >>> codec = TaggedCodec()
    >>> data = codec.encode_chunk(chunk)
    >>> bool((codec.decode_chunk(data, chunk.shape, chunk.dtype) == chunk).all())
    True
    """

    codec_name: ClassVar[str] = "skyfold.tagged"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        odd = _odd_leaves(chunk)
        if odd is None:
            return bytes([_PLAIN]) + InterlacedCodec().encode_chunk(chunk)
        tagged = pixels_of(odd)
        plane = chunk.reshape(tagged.shape) >> 1
        few = plane[tagged]
        first = bytes([_STREAM]) + compress(few) if few.any() else b""
        others = _encode_others(np.where(tagged, 0, plane), odd)
        return b"".join(
            [bytes([_TAGGED]), write_mask(odd), _LENGTH.pack(len(first)), first, others]
        )

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        if data[:1] == bytes([_PLAIN]):
            return InterlacedCodec().decode_chunk(data[1:], shape, dtype)
        if data[:1] != bytes([_TAGGED]):
            raise CorruptDataError(
                f"skyfold.tagged chunk begins with {data[:1]!r}; 0 or 1 is known"
            )
        odd, rest = read_mask(data[1:], (shape[-2], shape[-1]))
        tagged = pixels_of(odd)
        (length,) = _LENGTH.unpack_from(rest)
        rest = rest[_LENGTH.size :]
        plane = _decode_kind(rest[length:], ~tagged, shape, dtype)
        plane += _decode_kind(rest[:length], tagged, shape, dtype)
        plane <<= 1
        plane |= tagged
        return plane.reshape(shape)


def _encode_others(plane: NDArray[Any], odd: NDArray[np.bool_]) -> bytes:
    """Leaves that are not odd, zero in those that are."""
    if not plane.any():
        return b""
    if not is_near_plane(plane):
        return bytes([_CHUNK]) + InterlacedCodec().encode_chunk(plane[np.newaxis])
    blank, head = ~coded_leaves(np.where(pixels_of(odd), 1, plane)), b""
    used = ~odd
    if blank.mean() > MOST_BLANK:
        head, used = bytes([_SOME]) + write_mask(blank), used & ~blank
    kind, data = encode_used(plane, used)
    return head + bytes([kind]) + data


def _decode_kind(
    data: bytes, used: NDArray[np.bool_], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Plane of the leaves of one kind, zero in the others."""
    if not data:
        return np.zeros(used.shape, dtype)
    kind, rest = data[0], data[1:]
    if kind == _CHUNK:
        return InterlacedCodec().decode_chunk(rest, shape, dtype).reshape(used.shape)
    if kind == _SOME:
        blank, rest = read_mask(rest, (used.shape[0], used.shape[1]))
        used = used & ~pixels_of(blank)
        kind, rest = rest[0], rest[1:]
    if kind not in (_PREDICTED, _STREAM):
        raise CorruptDataError(f"skyfold.tagged chunk has leaves coded as {kind}; 2 to 5 is known")
    return decode_used(kind, rest, used, dtype)


def _odd_leaves(chunk: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Which leaves hold odd numbers; None if one holds both, or there are no leaves."""
    if chunk.dtype.kind not in "iu" or not is_near_plane(chunk & 1):
        return None
    ny, nx = (side // LEAF for side in chunk.shape[-2:])
    bits = (chunk & 1).astype(bool).reshape(ny, LEAF, nx, LEAF)
    odd = np.asarray(bits.any(axis=(1, 3)))
    return odd if np.array_equal(odd, bits.all(axis=(1, 3))) else None
