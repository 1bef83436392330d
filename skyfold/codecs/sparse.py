"""`skyfold.sparse`: a few small numbers in a plane of zeros.

Bytes of a uint8 chunk: for each value that is not zero, in C order, one unsigned LEB128 number
``gap * 255 + value - 1``, where gap counts the zeros since the value before. Zeros after the last
value are not stored; an empty chunk has no bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.chunk import ChunkCodec
from skyfold.errors import CorruptDataError

_VALUES = 255


@dataclass(frozen=True)
class SparseCodec(ChunkCodec):
    """Positions and values of the few that are not zero; uint8 chunks, such as the guard."""

    codec_name: ClassVar[str] = "skyfold.sparse"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        flat = np.ascontiguousarray(chunk).ravel()
        place = np.flatnonzero(flat)
        gaps = np.diff(place, prepend=-1) - 1
        numbers = gaps * _VALUES + flat[place].astype(np.int64) - 1
        return b"".join(_to_leb128(number) for number in numbers.tolist())

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        flat = np.zeros(int(np.prod(shape)), dtype)
        place = -1
        for number in _from_leb128(data):
            gap, value = divmod(number, _VALUES)
            place += gap + 1
            if place >= flat.size:
                raise CorruptDataError(
                    f"skyfold.sparse chunk sets value {place} of a chunk of {flat.size}"
                )
            flat[place] = value + 1
        return flat.reshape(shape)


def _to_leb128(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _from_leb128(data: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if shift > 63:
            raise CorruptDataError("skyfold.sparse chunk holds a number of more than 63 bits")
        if byte < 0x80:
            numbers.append(number)
            number, shift = 0, 0
    if shift:
        raise CorruptDataError("skyfold.sparse chunk ends inside a number")
    return numbers
