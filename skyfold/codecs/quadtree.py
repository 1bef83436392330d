"""A mask of leaves of 2 x 2 pixels, as a tree: which squares of 16, 8, 4 and 2 pixels hold any.

Bytes of a mask of ny x nx pixels, multiples of 16::

    u8    s: a square of 16 pixels is used with probability (s + 1/2) / 256
    u16   n
    n     words of constriction's range coder, uint32, the zero bytes at the end left out

Coded are, in C order, whether each square of 16 is used; then for the squares of 16, of 8 and of 4
that are, which of their four quarters are. The symbol is the sum of 1, 2, 4 and 8 for the upper
left, upper right, lower left and lower right quarter, less 1. Its table is the row of `QUARTERS`
whose number is the sum of 1, 2, 4 and 8 for a used square of the same size above, below, to the
left and to the right; squares of one row follow one another, and rows rise. Probabilities are the
numbers over 1024.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.words import decode_booleans, encode_booleans, to_bytes, to_decoder
from skyfold.errors import CorruptDataError

ROOT = 16
_DEPTH = 3
_SCALE = 1 << 14  # 1024 in the 24 bits of a range coder's probability

# Measured on masks of simulated and real skies, and made symmetric.
QUARTERS = (
    (217, 216, 13, 216, 13, 13, 6, 216, 13, 13, 6, 13, 6, 6, 57),
    (169, 169, 371, 81, 13, 7, 12, 81, 7, 13, 12, 11, 4, 4, 70),
    (81, 81, 11, 169, 13, 7, 4, 169, 7, 13, 4, 371, 12, 12, 70),
    (100, 100, 147, 100, 35, 12, 16, 100, 12, 35, 16, 147, 16, 16, 172),
    (169, 81, 13, 169, 371, 7, 12, 81, 7, 11, 4, 13, 12, 4, 70),
    (387, 11, 174, 11, 174, 3, 143, 8, 3, 3, 4, 3, 4, 2, 94),
    (11, 8, 3, 387, 174, 3, 4, 11, 3, 3, 2, 174, 143, 4, 94),
    (53, 9, 29, 53, 225, 4, 60, 9, 4, 4, 5, 29, 60, 5, 475),
    (81, 169, 13, 81, 11, 7, 4, 169, 7, 371, 12, 13, 4, 12, 70),
    (11, 387, 174, 8, 3, 3, 4, 11, 3, 174, 143, 3, 2, 4, 94),
    (8, 11, 3, 11, 3, 3, 2, 387, 3, 174, 4, 174, 4, 143, 94),
    (9, 53, 29, 9, 4, 4, 5, 53, 4, 225, 60, 29, 5, 60, 475),
    (100, 100, 35, 100, 147, 12, 16, 100, 12, 147, 16, 35, 16, 16, 172),
    (53, 53, 225, 9, 29, 4, 60, 9, 4, 29, 60, 4, 5, 5, 475),
    (9, 9, 4, 53, 29, 4, 5, 53, 4, 29, 5, 225, 60, 60, 475),
    (8, 8, 13, 8, 13, 6, 15, 8, 6, 13, 15, 13, 15, 15, 868),
)

_NONE = np.empty(0, np.int32)

Mask = NDArray[np.bool_]


def encode_mask(leaves: Mask) -> bytes:
    """Bytes of a mask of leaves, shape (ny / 2, nx / 2), sides multiples of 8."""
    levels = [leaves]
    for _ in range(_DEPTH):
        levels.append(_any_quarter(levels[-1]))
    roots = levels[-1]
    coder = constriction.stream.queue.RangeEncoder()
    share = encode_booleans(coder, roots)
    for parents, children in zip(levels[:0:-1], levels[-2::-1], strict=True):
        order, runs = _by_row(parents)
        symbols = _patterns(children)[parents][order] - 1
        start = 0
        for row, count in runs:
            coder.encode(symbols[start : start + count], _model(row))
            start += count
    words = to_bytes(coder)
    return bytes([share]) + len(words).to_bytes(2, "little") + words


def decode_mask(data: bytes, shape: tuple[int, int]) -> tuple[Mask, bytes]:
    """Mask of leaves of a plane of ny x nx pixels, and the bytes that follow it.

    Raises
    ------
    CorruptDataError
        If the bytes hold no mask.
    """
    end = 3 + int.from_bytes(data[1:3], "little")
    if len(data) < end:
        raise CorruptDataError(f"mask of a chunk needs {end} bytes; there are {len(data)}")
    coder = to_decoder(data[3:end])
    squares = (shape[0] // ROOT, shape[1] // ROOT)
    try:
        used = decode_booleans(coder, squares, data[0])
        for _ in range(_DEPTH):
            used = _split(used, coder)
    except AssertionError as error:  # constriction's word for bytes that it cannot have written
        raise CorruptDataError(f"mask of a chunk: {error}") from error
    return used, data[end:]


def _split(parents: Mask, coder: Any) -> Mask:
    """Which quarters of squares are used."""
    order, runs = _by_row(parents)
    parts = [coder.decode(_model(row), count) for row, count in runs]
    patterns = np.zeros(parents.shape, np.uint8)
    patterns.ravel()[np.flatnonzero(parents)[order]] = np.concatenate([*parts, _NONE]) + 1
    children = np.empty((parents.shape[0] * 2, parents.shape[1] * 2), np.uint8)
    for bit, (y, x) in enumerate(np.ndindex(2, 2)):
        np.bitwise_and(patterns >> bit, 1, out=children[y::2, x::2])
    return children.view(np.bool_)


def _any_quarter(children: Mask) -> Mask:
    used: Mask = _patterns(children) > 0
    return used


def _patterns(children: Mask) -> NDArray[np.int32]:
    """For each square, the sum of 1, 2, 4, 8 for its used quarters."""
    bits = children.astype(np.int32)
    rows = bits[:, ::2] + 2 * bits[:, 1::2]
    return rows[::2] + 4 * rows[1::2]


def _by_row(parents: Mask) -> tuple[NDArray[np.intp], list[tuple[int, int]]]:
    """Order of the used squares by the row of their table, and how many each has."""
    used = parents.view(np.uint8)
    around = np.zeros(parents.shape, np.uint8)
    around[1:] += used[:-1]
    around[:-1] += 2 * used[1:]
    around[:, 1:] += 4 * used[:, :-1]
    around[:, :-1] += 8 * used[:, 1:]
    rows = around[parents]
    counts = np.bincount(rows, minlength=1).tolist()
    return rows.argsort(kind="stable"), [(n, count) for n, count in enumerate(counts) if count]


@cache
def _model(row: int) -> Any:
    return _exact_model(np.array(QUARTERS[row], np.float64) * _SCALE)


def _exact_model(counts: NDArray[np.float64]) -> Any:
    """Model with exactly these probabilities, over 2**24: constriction adds 1 to each."""
    return constriction.stream.model.Categorical(counts - 1, perfect=False)
