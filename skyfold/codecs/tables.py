"""Coding tables that two small integers name: a scale and a shape.

A symbol is a residual, its lowest bits left off where the scale is large, or the length of one
beyond `DIRECT`. Its probability is that of the density ``(1 + x^2 / (2 m s^2))^-m`` (a Student
distribution of 2 m - 1 degrees of freedom, a Gaussian for large m), integrated over the residuals
of the symbol. Five integers name a table whose sides differ: scale and shape of residuals below 0,
of the others, and the share of these. Only + - * / of float64 in a fixed order take part, which
IEEE 754 rounds the same everywhere, so that a table need not be stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.words import sums_of

Ints = NDArray[np.int32]

DIRECT = 32  # largest magnitude, without the bits left off, with a symbol of its own
LENGTHS = 20  # bit lengths of what is beyond, on either side
SYMBOLS = 2 * DIRECT + 1 + 2 * LENGTHS
SCALES = 128
SHAPES = 9  # m = 1, 2, 4, ... 256
_TOTAL = (1 << 24) - SYMBOLS
_BELOW = np.r_[0:DIRECT, 2 * DIRECT + 1 + LENGTHS : SYMBOLS]  # symbols of residuals below 0
_REST = np.r_[DIRECT : 2 * DIRECT + 1 + LENGTHS]
_SIDED = 5  # integers that name a table of two sides
_POINTS = 8  # of the density to a symbol


@dataclass(frozen=True, eq=False)
class Table:
    """One table.

    Attributes
    ----------
    shift : int
        Lowest bits of a residual that are coded as they are.
    model : constriction model
        Gives symbol i the probability ``(count_i + 1) / 2**24``.
    cost : ndarray, shape (SYMBOLS,), float64
        Bits of each symbol, with the plain bits of a length; an estimate, to choose by.
    counts : ndarray, shape (SYMBOLS,), float64
    """

    shift: int
    model: Any
    cost: NDArray[np.float64]
    counts: NDArray[np.float64]

    @cached_property
    def sums(self) -> NDArray[np.int64]:
        """Where symbols begin and end, in 2**-24, shape (SYMBOLS + 1,)."""
        return sums_of(self.counts)


def scale_of(index: int) -> float:
    """Scale s of an index below `SCALES`: steps of 1/8 to 1/16 of itself, from 1/8 up."""
    return (8 + index % 8) * 2.0 ** (index // 8) / 64


def shift_of(scale: int) -> int:
    """Bits that the table of a scale leaves off: s is between 4 and 8 without them."""
    return max(0, scale // 8 - 5)


def table_of(numbers: tuple[int, ...]) -> Table:
    """Table of the two or the five integers that name it."""
    return get_sided(*numbers) if len(numbers) == _SIDED else get_table(*numbers)


@cache
def get_table(scale: int, shape: int) -> Table:
    """Table of a scale and a shape, below `SCALES` and `SHAPES`."""
    shift = shift_of(scale)
    weights = weights_of(scale, shape, shift)
    total = np.cumsum(weights)[-1]  # a running sum: its order is fixed
    return _table(np.floor(weights / total * _TOTAL), shift)


@lru_cache(1024)
def get_sided(scale: int, shape: int, other_scale: int, other_shape: int, share: int) -> Table:
    """Table of residuals below 0 and of the others, whose probability is (share + 1/2) / 256."""
    shift = shift_of(min(scale, other_scale))
    rest = (2 * share + 1) * _TOTAL // 512
    counts = np.empty(SYMBOLS)
    for symbols, weights, its in (
        (_BELOW, weights_of(scale, shape, shift), _TOTAL - rest),
        (_REST, weights_of(other_scale, other_shape, shift), rest),
    ):
        counts[symbols] = np.floor(weights[symbols] / np.cumsum(weights[symbols])[-1] * its)
    return _table(counts, shift)


def sides() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Symbols of residuals below 0, and of the others, in their order."""
    return _BELOW, _REST


def _table(counts: NDArray[np.float64], shift: int) -> Table:
    """Table of counts whose sum is at most the whole; what is missing goes to 0."""
    counts[DIRECT] += _TOTAL - int(counts.sum())
    model = constriction.stream.model.Categorical(counts, perfect=False)
    return Table(shift, model, 24 - np.log2(counts + 1) + plain_bits() + shift, counts)


def plain_bits() -> NDArray[np.float64]:
    """Plain bits beside each symbol, but for those that a table leaves off."""
    return np.concatenate([np.zeros(2 * DIRECT + 1), np.tile(np.arange(float(LENGTHS)), 2)])


@lru_cache(4096)
def weights_of(scale: int, shape: int, shift: int) -> NDArray[np.float64]:
    """Weights of the symbols of a scale and a shape with some bits left off. Not to be changed."""
    return _weights(scale_of(scale) / 2.0**shift, shape, half=0.5 / 2.0**shift)


def _weights(s: float, shape: int, half: float) -> NDArray[np.float64]:
    """Integral of the density over each symbol, not normalised.

    Symbol q begins `half` below q: half a residual.
    """
    whole = np.arange(-DIRECT, DIRECT + 1) - half
    far = DIRECT + 2.0 ** np.arange(LENGTHS) - half
    above = far, 2.0 ** np.arange(LENGTHS)
    below = 1 - 2 * half - far - above[1], above[1]
    starts = np.concatenate([whole, above[0], below[0]])
    widths = np.concatenate([np.ones(2 * DIRECT + 1), above[1], below[1]])
    summed = np.zeros(SYMBOLS)
    for point in range(_POINTS):
        x = starts + widths * ((2 * point + 1) / (2 * _POINTS))
        summed = summed + _density(x, s, shape)
    return summed * widths


def _density(x: NDArray[np.float64], s: float, shape: int) -> NDArray[np.float64]:
    value = 1 / (1 + x * x / (2 * 2**shape * (s * s)))
    for _ in range(shape):
        value = value * value
    return value


def split(residuals: NDArray[np.int32], shift: int | NDArray[np.intp]) -> tuple[Ints, Ints, Ints]:
    """Symbols of residuals; how many plain bits each has beside, and those.

    Parameters
    ----------
    residuals : ndarray, shape (n,), int32
        Below 2**20 in size.
    shift : int, or ndarray of int, shape (n,)
        Of the table; of that of each.

    Returns
    -------
    symbols, bits, plain : ndarray, shape (n,), int32
        Plain bits are those of a length below its first.
    """
    symbols = residuals >> np.asarray(shift, np.int32)
    symbols += DIRECT
    bits, plain = np.zeros_like(symbols), np.zeros_like(symbols)
    far = np.flatnonzero((symbols < 0) | (symbols > 2 * DIRECT))
    if far.size:
        whole = symbols[far] - DIRECT
        excess = np.abs(whole) - DIRECT
        length = np.frexp(excess.astype(np.float64))[1].astype(np.int32)
        symbols[far] = 2 * DIRECT + length + np.where(whole < 0, LENGTHS, 0)
        bits[far] = length - 1
        plain[far] = excess - (1 << (length - 1))
    return symbols, bits, plain


def lengths(symbols: Ints) -> Ints:
    """How many plain bits stand beside each symbol."""
    tail = symbols - (2 * DIRECT + 1)
    return np.where(tail >= 0, tail % LENGTHS, 0).astype(np.int32)


def join(symbols: Ints, bits: Ints, plain: Ints) -> Ints:
    """Residuals of symbols, without the bits left off; inverse of `split`."""
    tail = symbols - (2 * DIRECT + 1)
    size = DIRECT + (1 << bits) + plain
    return np.where(tail < 0, symbols - DIRECT, np.where(tail < LENGTHS, size, -size))
