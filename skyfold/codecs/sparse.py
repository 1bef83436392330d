"""`skyfold.sparse`: a few numbers, most of them 1 or 2, in a plane of zeros.

Bytes of a uint8 chunk: for each value that is not zero, in C order, the unsigned LEB128 number
``gap * 3 + min(value, 3) - 1``, where gap counts the zeros since the value before; for values from
3 on, ``value - 3`` follows as one byte. Zeros after the last value are not stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.streams import read_leb128, to_leb128
from skyfold.errors import CorruptDataError

_KINDS = 3  # 1, 2, and a value that follows
_MAX = 255


@dataclass(frozen=True)
class SparseCodec(ChunkCodec):
    """Positions and values of the few that are not zero; uint8 chunks, such as the guard."""

    codec_name: ClassVar[str] = "skyfold.sparse"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        flat = np.ascontiguousarray(chunk).ravel()
        place = np.flatnonzero(flat)
        gaps = np.diff(place, prepend=-1) - 1
        out = bytearray()
        for gap, value in zip(gaps.tolist(), flat[place].tolist(), strict=True):
            out += to_leb128(gap * _KINDS + min(value, _KINDS) - 1)
            if value >= _KINDS:
                out.append(value - _KINDS)
        return bytes(out)

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        flat = np.zeros(int(np.prod(shape)), dtype)
        place, at = -1, 0
        while at < len(data):
            number, at = read_leb128(data, at)
            gap, kind = divmod(number, _KINDS)
            place += gap + 1
            value = kind + 1
            if value == _KINDS:
                value, at = _KINDS + _byte(data, at), at + 1
            if place >= flat.size or value > _MAX:
                raise CorruptDataError(
                    f"skyfold.sparse chunk sets place {place} of {flat.size} to {value}"
                )
            flat[place] = value
        return flat.reshape(shape)


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise CorruptDataError("skyfold.sparse chunk ends inside a number")
    return data[at]
