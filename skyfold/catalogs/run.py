"""Runs of chunks of a catalog: decoded once at one level, each column held to its checksum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.access.store_errors import named_store_errors
from skyfold.catalogs.rows import RowDecoder, check, checked_level, lists_of, missing_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.catalogs.index import Column
    from skyfold.catalogs.library import Catalog
    from skyfold.catalogs.query import Condition


class Run:
    """Some adjoining chunks of a catalog, decoded at one level; each column once."""

    def __init__(self, catalog: Catalog, level: str, first: int, last: int) -> None:
        info = catalog.description
        self.catalog = catalog
        self.level = level
        self.chunks = slice(first, last)
        self.rows = slice(first * info.chunk_rows, min(last * info.chunk_rows, info.rows))
        self.decoder = RowDecoder(info, catalog.model, self._read)
        self.numbers = self._read("rows", [0])[0]
        self._decoded: dict[tuple[str, str], Any] = {}

    def _read(self, layer: str, places: Sequence[int]) -> NDArray[Any]:
        array = self.catalog._array(layer)
        with named_store_errors(f"{self.catalog._release.url}/{self.catalog.path}/{layer}", "read"):
            if layer.startswith("text/"):
                return np.asarray(array[self.rows])
            if layer.startswith("list/"):
                return self._lists(layer, array)
            if not len(places):
                return np.empty((0, self.rows.stop - self.rows.start), array.dtype)
            return np.asarray(array[places[0] : places[-1] + 1, self.rows])

    def _lists(self, layer: str, array: Any) -> NDArray[np.object_]:
        """Lists of a layer, a chunk at a time: they are filled up to the longest only there."""
        info = self.catalog.description
        column = next(c for c in info.columns if layer == f"list/{c.first}" and c.kind == "list")
        starts = range(self.rows.start, self.rows.stop, info.chunk_rows)
        ends = (min(start + info.chunk_rows, self.rows.stop) for start in starts)
        parts = (lists_of(array[a:b], column) for a, b in zip(starts, ends, strict=True))
        return np.concatenate(list(parts))

    def column(
        self, column: Column, level: str | None = None
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Checked values and nulls of a column, each of shape (elements, n)."""
        level = level or self.level
        key = column.name, level
        if key not in self._decoded:
            values = self.decoder.decode(column, level)
            place = checked_level(column, level)
            if place is not None:
                info = self.catalog.description
                stored = self.catalog._array("checksum")
                row = info.real_columns.index(column)
                check(info, column, level, values, np.asarray(stored[row, self.chunks, place]))
            self._decoded[key] = values, self.decoder.nulls(column)
        found: tuple[NDArray[Any], NDArray[np.bool_]] = self._decoded[key]
        return found

    def meets(self, condition: Condition, used: Mapping[str, Column]) -> NDArray[np.bool_]:
        """Rows that meet a condition; what is refined is read only where a row may."""
        refined = [name for name, column in used.items() if column.is_refined]
        if self.level == "exact" and refined:
            reach = {name: self._reach(used[name]) for name in refined}
            possible = np.asarray(condition.possible(reach))
            if not possible.any():
                return np.zeros(len(self.numbers), bool)
        values, known = {}, {}
        for name, column in used.items():
            found, nulls = self.column(column)
            values[name] = found[0]
            known[name] = ~missing_values(column, found, nulls)[0]
        return condition.holds(values, known)

    def _reach(self, column: Column) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest exact value that each `bounded` one may stand for."""
        bounded = self.column(column, "bounded")[0]
        values = bounded[0].astype(np.float64)
        if column.kind == "error":
            width = np.abs(values) / 32  # errors are within 1/64 of themselves
        else:
            # A cell is about twice the bound wide; without one, all bits are kept.
            width = np.nan_to_num(self.decoder.widths(column, bounded.shape)[0])
        return values - width, values + width


def runs(chunks: NDArray[np.intp], together: int) -> Iterator[tuple[int, int]]:
    """First and last (excluded) of adjoining chunks, at most so many together."""
    start = 0
    for place in range(1, len(chunks) + 1):
        ends = place == len(chunks) or chunks[place] != chunks[place - 1] + 1
        if ends or place - start == together:
            yield int(chunks[start]), int(chunks[place - 1]) + 1
            start = place
