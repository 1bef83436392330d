"""What a chunk of `skyfold.interlaced` says before its numbers: weights, contexts, tables.

All of it is stored, and nothing derived, so that a writer may choose as it likes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.tables import SCALES, SHAPES
from skyfold.errors import CorruptDataError

Ints = NDArray[np.int32]

MAX_CONTEXTS = 32
_PASSES = 3  # at each distance: weights of those at distance 1, then of those at the others
_CONTEXT = struct.Struct("<H3BH")
_VALUE = struct.Struct("<B7b")


@dataclass(frozen=True, eq=False)
class Weights:
    """Integers that predict the values of one kind of pass.

    Attributes
    ----------
    context : ndarray, shape (4,), int32
        For `expect` of `skyfold.codecs.interlaced_passes.Known`, in 1/16: one of 0..65535, three
        of 0..255.
    steep : int
        Near differences from which a pixel is steep; 0 for never.
    value : tuple of one or two ndarrays of shape (8,), int32
        For its `predict`, in 1/128: one of 0..255, seven of -128..127; of pixels that are not
        steep, and of those that are.
    """

    context: Ints
    steep: int
    value: tuple[Ints, ...]

    def to_bytes(self) -> bytes:
        """As `skyfold.codecs.interlaced` describes it."""
        values = [_VALUE.pack(*one.tolist()) for one in self.value]
        return b"".join([_CONTEXT.pack(*self.context.tolist(), self.steep), *values])

    @classmethod
    def from_bytes(cls, data: bytes, at: int) -> tuple[Weights, int]:
        """Weights that begin at a byte, and where they end."""
        *context, steep = _CONTEXT.unpack_from(data, at)
        at += _CONTEXT.size
        count = 2 if steep else 1
        values = [_VALUE.unpack_from(data, at + n * _VALUE.size) for n in range(count)]
        value = tuple(np.array(one, np.int32) for one in values)
        return cls(np.array(context, np.int32), steep, value), at + count * _VALUE.size


@dataclass(frozen=True, eq=False)
class Plan:
    """All that the writer chose for a plane.

    Attributes
    ----------
    offset : int
    thresholds : ndarray, shape (K - 1,), int32
    tables : tuple of (int, int)
        Scale and shape of the table of each context, then of the coarsest pixels. Five numbers of
        a table whose sides differ (`skyfold.codecs.tables`), which `skyfold.skewed` may have.
    weights : tuple of six `Weights`
        For distance 1 and for the others, by pass.
    """

    offset: int
    thresholds: Ints
    tables: tuple[tuple[int, ...], ...]
    weights: tuple[Weights, ...]

    def of(self, distance: int, number: int) -> Weights:
        """Weights of a pass."""
        return self.weights[number if distance == 1 else _PASSES + number]

    def contexts(self, doubts: Ints) -> NDArray[np.uint8]:
        """Context of each doubt."""
        if not len(self.thresholds):
            return np.zeros(doubts.shape, np.uint8)
        return self._lookup[np.minimum(doubts, self.thresholds[-1])]

    @cached_property
    def _lookup(self) -> NDArray[np.uint8]:
        """Context of every doubt up to the last threshold."""
        every = np.arange(int(self.thresholds[-1]) + 1)
        return np.searchsorted(self.thresholds, every, side="right").astype(np.uint8)

    def to_bytes(self) -> bytes:
        """As `skyfold.codecs.interlaced` describes it."""
        head = struct.pack("<iB", self.offset, len(self.tables) - 1)
        weights = [one.to_bytes() for one in self.weights]
        tables = bytes(number for one in self.tables for number in one[:2])
        return b"".join([head, self.thresholds.astype("<u2").tobytes(), tables, *weights])

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Plan, bytes]:
        """Plan, and the bytes after it; CorruptDataError where there is no plan."""
        try:
            return cls._parse(data)
        except (struct.error, ValueError) as error:
            raise CorruptDataError(f"skyfold.interlaced chunk is cut short: {error}") from error

    @classmethod
    def _parse(cls, data: bytes) -> tuple[Plan, bytes]:
        offset, contexts = struct.unpack_from("<iB", data)
        if not 0 < contexts <= MAX_CONTEXTS:
            raise CorruptDataError(f"skyfold.interlaced chunk has {contexts} contexts; 1 to 32")
        at = 5 + 2 * (contexts - 1)
        thresholds = np.frombuffer(data, "<u2", contexts - 1, 5).astype(np.int32)
        numbers = data[at : at + 2 * contexts + 2]
        pairs = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        if len(pairs) <= contexts or any(one >= SCALES or two >= SHAPES for one, two in pairs):
            raise CorruptDataError("skyfold.interlaced chunk names a table that there is not")
        at += 2 * contexts + 2
        weights = []
        for _ in range(2 * _PASSES):
            one, at = Weights.from_bytes(data, at)
            weights.append(one)
        return cls(offset, thresholds, pairs, tuple(weights)), data[at:]
