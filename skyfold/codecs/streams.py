"""What the bytes of several codecs are made of: pcodec streams, and integers of variable length.

A stream is read into memory of the size that its reader expects, whatever it claims to hold.
8-bit types are widened to 16 bits, which pcodec begins with.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, DeltaSpec, standalone

from skyfold.errors import CorruptDataError

_WIDENED = {np.dtype("i1"): np.dtype("i2"), np.dtype("u1"): np.dtype("u2")}
MIN_REPEATS = 0.25  # share of values equal to the one before, from which earlier runs may repeat
LEAST_OF_ENTROPY = 0.9  # that a stream takes, of integers that do not repeat
_LOOKBACK_LEVEL = 12  # of pcodec; looking back at its usual 8 finds half as much
_MAX_SHIFT = 56  # [bit]: of the last seven bits of a number


def compress(values: NDArray[Any]) -> bytes:
    """Numbers as a standalone pcodec stream, the smaller of two where many repeat."""
    wide = values.astype(_WIDENED.get(values.dtype, values.dtype), copy=False)
    data = bytes(standalone.simple_compress(wide, ChunkConfig()))
    if not repeats(wide):
        return data
    lookback = ChunkConfig(_LOOKBACK_LEVEL, delta_spec=DeltaSpec.try_lookback())
    return min(data, bytes(standalone.simple_compress(wide, lookback)), key=len)


def repeats(values: NDArray[Any]) -> bool:
    """Whether many numbers equal the one before, so that a stream may look back."""
    return values.size > 1 and bool(np.mean(values[1:] == values[:-1]) >= MIN_REPEATS)


def needs_more_than(values: NDArray[Any], size: int, of_entropy: float = LEAST_OF_ENTROPY) -> bool:
    """Whether a stream of integers near each other is sure to take more than so many bytes.

    By the entropy of single values, less what differences of correlated ones could save a stream:
    1 where it is known that there are none.
    """
    if not values.size or repeats(values):
        return False
    counts = np.bincount(np.subtract(values, values.min(), dtype=np.int64).ravel())
    counts = counts[counts > 0]
    bits = values.size * np.log2(values.size) - counts @ np.log2(counts)
    return bool(size < of_entropy * bits / 8)


def decompress(data: bytes, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers of a pcodec stream, exactly `size` of a dtype, shape (size,); see `fill`."""
    return fill(np.zeros(size, _WIDENED.get(dtype, dtype)), data).astype(dtype, copy=False)


def fill(values: NDArray[Any], data: bytes) -> NDArray[Any]:
    """Put the numbers of a pcodec stream into an array, and give it back.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Of the dtype of the stream.
    data : bytes
        The stream.

    Raises
    ------
    CorruptDataError
        If it holds fewer or more numbers.
    """
    progress = standalone.simple_decompress_into(data, values)
    if progress.n_processed != len(values) or not progress.finished:
        raise CorruptDataError(
            f"pcodec stream holds {progress.n_processed} of {len(values)} values"
            f"{'' if progress.finished else ', and more'}; fetch the chunk again"
        )
    return values


def to_leb128(number: int) -> bytes:
    """Unsigned LEB128 of a number that is not negative."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_leb128(data: bytes, at: int) -> tuple[int, int]:
    """Number that begins at a byte, and the place of the byte after it.

    Raises
    ------
    CorruptDataError
        If the bytes end inside the number, or it has more than 63 bits.
    """
    number = shift = 0
    while at < len(data) and shift <= _MAX_SHIFT:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    raise CorruptDataError(
        f"chunk of {len(data)} bytes holds a number that ends beyond them or has more than 63 "
        "bits; fetch the chunk again"
    )
