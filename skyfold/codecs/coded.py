"""Integers in the words of a range coder, each with the table that its context names.

Of a group of integers, those of the lowest context come first, then those of the next. For each
context: their symbols (`skyfold.codecs.tables`); then, for each length from the shortest, the
plain bits of what has it; then the lowest bits, where the table leaves these off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.tables import DIRECT, Table, join, lengths, split, table_of
from skyfold.codecs.words import to_bytes, to_decoder

Ints = NDArray[np.int32]
Names = Sequence[tuple[int, ...]]  # of tables, as `table_of` takes them


class Reader:
    """Reads integers, of one context after the other."""

    def __init__(self, words: bytes, tables: Names) -> None:
        self.coder = to_decoder(words)
        self.tables = [table_of(name) for name in tables]

    def read(self, contexts: NDArray[np.uint8]) -> Ints:
        """Integers of a group, of the shape of their contexts."""
        order, runs = _grouped(contexts.ravel())
        parts = [self._run(self.tables[context], count) for context, count in runs]
        read = np.empty(contexts.size, np.int32)
        read[order] = np.concatenate([*parts, np.empty(0, np.int32)])
        return read.reshape(contexts.shape)

    def _run(self, table: Table, count: int) -> Ints:
        symbols = self.coder.decode(table.model, count)
        whole = symbols - DIRECT
        if symbols.max() > 2 * DIRECT:
            bits = lengths(symbols)
            whole = join(symbols, bits, self._plain(bits))
        if not table.shift:
            return whole
        low = self.coder.decode(_uniform(table.shift), count)
        return (whole << table.shift) + low

    def _plain(self, bits: Ints) -> Ints:
        plain = np.zeros_like(bits)
        for length in np.unique(bits[bits > 0]):
            one = bits == length
            plain[one] = self.coder.decode(_uniform(length), int(one.sum()))
        return plain


def stacked(tables: Names) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where symbols of tables begin and end, and how many bits each leaves off.

    As `skyfold.codecs.read_kernels.group` takes them.
    """
    found = [table_of(name) for name in tables]
    return np.stack([one.sums for one in found]), np.array([one.shift for one in found])


class Writer:
    """Writes what `Reader` reads."""

    def __init__(self, tables: Names) -> None:
        self.coder = constriction.stream.queue.RangeEncoder()
        self.tables = [table_of(name) for name in tables]

    def write(self, contexts: NDArray[np.uint8], integers: Ints) -> None:
        """Integers of a group, shape (n,), and the context of each."""
        order, runs = _grouped(contexts)
        ordered = integers[order]
        shifts = np.repeat([self.tables[one].shift for one, _ in runs], [n for _, n in runs])
        symbols, bits, plain = split(ordered, shifts if shifts.any() else 0)
        with_plain, start = np.flatnonzero(bits), 0
        for context, count in runs:
            table, run = self.tables[context], slice(start, start + count)
            self.coder.encode(symbols[run], table.model)
            first, last = np.searchsorted(with_plain, (start, start + count))
            if last > first:
                self._write_plain(bits[with_plain[first:last]], plain[with_plain[first:last]])
            if table.shift:
                low = ordered[run] & ((1 << table.shift) - 1)
                self.coder.encode(low, _uniform(table.shift))
            start += count

    def _write_plain(self, bits: Ints, plain: Ints) -> None:
        for length in np.flatnonzero(np.bincount(bits)).tolist():
            self.coder.encode(plain[bits == length], _uniform(length))

    def words(self) -> bytes:
        """All that was written; the zero bytes at the end are left out."""
        return to_bytes(self.coder)


def _grouped(contexts: NDArray[np.uint8]) -> tuple[NDArray[np.intp], list[tuple[int, int]]]:
    """Order by context, and the number of each that there is."""
    counts = np.bincount(contexts)
    runs = [(int(context), int(counts[context])) for context in np.flatnonzero(counts)]
    return np.argsort(contexts, kind="stable"), runs


def _uniform(bits: int) -> Any:
    return constriction.stream.model.Uniform(1 << int(bits))
