"""Decoding rows of a catalog's columns: the layers they need, joined, each chunk checked.

The writer decodes what it is about to store with these same functions, so that every bound is
checked, and every stored checksum is that of what a reader must find.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyfold import ladder
from skyfold.catalogs import columns as cells
from skyfold.catalogs.columns import FLAG_FILL, FLAG_NOT_FINITE, FLAG_RAW, LEVELS
from skyfold.catalogs.index import ROW_MAJOR
from skyfold.catalogs.relations import from_rest
from skyfold.errors import CorruptDataError

if TYPE_CHECKING:
    from skyfold.catalogs.index import CatalogInfo, Column
    from skyfold.catalogs.model import TableModel
    from skyfold.catalogs.relations import Relation

ReadLayer = Callable[[str, Sequence[int]], NDArray[Any]]
_NONE = np.empty(0, np.int64)


class RowDecoder:
    """Decodes columns of one run of rows; holds what they share.

    Parameters
    ----------
    info : CatalogInfo
    model : TableModel or None
        None where the catalog has no floats that are modelled.
    read : callable
        Gives the named rows of a layer's array for this run, shape (places, n). Text layers are
        named ``text/<element>`` and give shape (n, width); ``list/<element>`` gives lists, shape
        (n,), of type object, as `lists_of` makes them.
    """

    def __init__(self, info: CatalogInfo, model: TableModel | None, read: ReadLayer) -> None:
        self.info = info
        self.model = model
        self._read = read
        self._cells: NDArray[Any] | None = None
        self._latents: NDArray[np.int64] | None = None
        self._bounded: dict[str, NDArray[Any]] = {}
        self._centres: dict[tuple[str, Relation], NDArray[np.float64]] = {}
        self._others: dict[str, NDArray[Any]] = {}

    def decode(self, column: Column, level: str) -> NDArray[Any]:
        """Values of a column, shape (elements, n), in native byte order.

        Text gives byte strings, times and booleans integers, lists arrays of either.
        """
        if column.kind == "text":
            rows = [self._read(f"text/{place}", []) for place in column.places("text")]
            return np.stack(
                [np.ascontiguousarray(one).view(f"S{column.width}")[:, 0] for one in rows]
            )
        if column.kind == "whole":
            return self._read("whole", column.places("whole"))
        if column.kind == "list":
            return self._read(f"list/{column.first}", [])[None]
        if column.is_position and level in ("map", "latent"):
            level = "bounded"
        return {
            "map": self._from_map,
            "latent": self._from_latents,
            "bounded": self.bounded,
            "exact": self._exact,
        }[level](column)

    def nulls(self, column: Column) -> NDArray[np.bool_]:
        """Where the input had no value at all, shape (elements, n)."""
        first = self.info.null_place(column)
        return self._read("nulls", range(first, first + column.elements)) != 0

    def map_cells(self) -> NDArray[Any]:
        """Cell of the map of each row, shape (n,); CorruptDataError if it is not on the map."""
        if self._cells is None:
            self._cells = self._read("map", [0])[0]
            if self._model.cells <= self._cells.max(initial=0) or self._cells.min(initial=0) < 0:
                raise CorruptDataError(
                    f"the map of catalog {self.info.name!r} has {self._model.cells} cells, and "
                    "a row "
                    f"names cell {self._cells.max()}; fetch the release again"
                )
        return self._cells

    @property
    def _model(self) -> TableModel:
        if self.model is None:
            raise CorruptDataError(f"catalog {self.info.name!r} names no model; fetch it again")
        return self.model

    def _from_map(self, column: Column) -> NDArray[Any]:
        if self.model is None:
            rows = self.nulls(column).shape[1]
            return np.full((column.elements, rows), np.nan, column.native)
        values = self._model.prototypes[self.map_cells()][:, column.places("bounded")].T
        with np.errstate(over="ignore"):
            return values.astype(column.native)

    def latents(self) -> NDArray[np.int64]:
        """Whole latents, shape (c, n)."""
        if self._latents is None:
            rest = self._read("latent", range(self.info.channels))
            self._latents = self._model.latents(rest, self.map_cells())
        return self._latents

    def _prediction(self, column: Column, place: int) -> NDArray[np.float64] | None:
        if column.is_position or self.model is None:
            return None
        return self.model.predict(self.latents(), place)

    def _from_latents(self, column: Column) -> NDArray[Any]:
        flags = self._read("flags", column.places("flags"))
        out = np.full(flags.shape, np.nan, column.native)
        for number, place in enumerate(column.places("flags")):
            predicted = self._prediction(column, place)
            if predicted is not None:
                with np.errstate(over="ignore"):
                    out[number] = predicted.astype(column.native)
        out[flags == FLAG_NOT_FINITE] = np.nan
        return self._fill(column, out, flags)

    def bounded(self, column: Column) -> NDArray[Any]:
        """Values within the column's bound."""
        if column.kind == "plain":
            return self._direct(column)
        if column.name not in self._bounded:
            places = column.places("bounded")
            flags, stored = self._read("flags", places), self._read("bounded", places)
            widths = self.widths(column, stored.shape)
            out = np.stack(
                [
                    self.from_cells(
                        column, self.base_of(column, place), stored[number], widths[number]
                    )
                    for number, place in enumerate(places)
                ]
            )
            kept = (flags == FLAG_RAW) | (flags == FLAG_NOT_FINITE)
            raw = self._read("raw", places)
            out[kept] = cells.from_bits(raw[kept], column.native)
            self._bounded[column.name] = self._fill(column, out, flags)
        return self._bounded[column.name]

    def widths(self, column: Column, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Cell widths of a column, shape (elements, n); NaN where there is none."""
        if column.kind == "scaled" and column.partner is not None:
            errors = self.bounded(self.info.column(column.partner))
            width = cells.scaled_width(
                errors, self.info.fraction, column.factor, inverse=column.is_inverse
            )
            return np.broadcast_to(width, shape)
        precision = np.nan if column.precision is None else column.precision
        return np.full(shape, cells.fixed_width(precision))

    def from_cells(
        self,
        column: Column,
        predicted: NDArray[np.float64] | None,
        stored: NDArray[Any],
        width: NDArray[np.float64],
    ) -> NDArray[Any]:
        """Values of one element's cell numbers, counted from `base_of` it."""
        if column.kind == "error":
            return cells.from_error_cells(
                stored + self.error_base(column, predicted), column.native
            )
        base = np.zeros(len(stored)) if predicted is None else predicted
        return cells.from_cells(stored, base, width, column.native)

    def error_base(self, column: Column, predicted: NDArray[np.float64] | None) -> Any:
        """Cell of the predicted error; 0 without one."""
        if predicted is None:
            return 0
        limits = np.finfo(column.native)
        likely = np.clip(predicted, float(limits.tiny), float(limits.max))
        return cells.error_cells(likely.astype(column.native))

    def base_of(self, column: Column, place: int) -> NDArray[np.float64] | None:
        """What the cells of one element are counted from; None for 0."""
        if column.centre is None:
            return self._prediction(column, place)
        key = column.name, column.centre
        if key not in self._centres:
            self._centres[key] = self.told(column, column.centre, self.bounded)
        return self._centres[key][place - column.first]

    def _exact(self, column: Column) -> NDArray[Any]:
        if not column.is_refined:
            return self._direct(column)
        bounded = self.bounded(column)
        rest = self._read("exact", column.places("exact"))
        return ladder.apply_remainder(rest, _NONE, _NONE, bounded)

    def _direct(self, column: Column) -> NDArray[Any]:
        bits = self._read(column.direct_layer, column.places(column.direct_layer))
        if column.relation is None:
            return np.ascontiguousarray(bits).view(column.native)
        predicted = self.told(column, column.relation, self._by_itself)
        return from_rest(bits, predicted, column.native)

    def told(
        self, column: Column, relation: Relation, values: Callable[[Column], NDArray[Any]]
    ) -> NDArray[np.float64]:
        """What a relation says of a column, shape (elements, n), from values of the others."""
        others = [values(self.info.column(name)) for name in relation.columns]
        with np.errstate(invalid="ignore"):  # of NaN that signal
            wide = [one.astype(np.float64) for one in others]
        predicted = relation.predict(wide)
        return np.broadcast_to(predicted, (column.elements, predicted.shape[1]))

    def _by_itself(self, column: Column) -> NDArray[Any]:
        """Exact values of a column that others are told from, kept for the next of them."""
        if column.name not in self._others:
            self._others[column.name] = self._direct(column)
        return self._others[column.name]

    def _fill(self, column: Column, values: NDArray[Any], flags: NDArray[np.uint8]) -> NDArray[Any]:
        filled = flags >= FLAG_FILL
        if filled.any():
            fills = column.fill_values()
            number = flags[filled] - FLAG_FILL
            if number.max() >= len(fills):
                raise CorruptDataError(
                    f"column {column.name!r} of catalog {self.info.name!r} flags fill value "
                    f"{number.max()} of {len(fills)}; fetch the release again"
                )
            values[filled] = fills[number]
        return values


def lists_of(rows: NDArray[Any], column: Column) -> NDArray[np.object_]:
    """Lists of the rows of a layer of lists, shape (n,), of floats or int64.

    Parameters
    ----------
    rows : ndarray, shape (n, 1 + width)
        Number of values, values, zeros; see `skyfold.codecs.columns.ListsCodec`.
    """
    out = np.empty(len(rows), object)
    kind = column.native if column.native.kind == "f" else np.dtype(np.int64)
    for number, row in enumerate(rows):
        values = row[1 : 1 + int(row[0])]
        out[number] = cells.from_bits(values, kind) if kind.kind == "f" else values.copy()
    return out


def checksums(values: NDArray[Any], chunk_rows: int) -> NDArray[np.uint32]:
    """CRC-32 of every chunk of a column's values, shape (elements, n)."""
    starts = range(0, values.shape[1], chunk_rows)
    return np.array([ladder.checksum(values[:, at : at + chunk_rows]) for at in starts], np.uint32)


def check(
    info: CatalogInfo, column: Column, level: str, values: NDArray[Any], stored: NDArray[np.uint32]
) -> None:
    """Raise `CorruptDataError` if decoded chunks do not have their stored checksums.

    Parameters
    ----------
    values : ndarray, shape (elements, n)
        Whole chunks.
    stored : ndarray, shape (chunks,), uint32
    """
    met = checksums(values, info.chunk_rows)
    if not np.array_equal(met, stored):
        chunk = int(np.flatnonzero(met != stored)[0])
        raise CorruptDataError(
            f"column {column.name!r} of catalog {info.name!r} at level {level} has CRC "
            f"{met[chunk]:08x} in chunk {chunk} of those read, stored is "
            f"{stored[chunk]:08x}: run `skyfold verify` and fetch the release again"
        )


def checked_level(column: Column, level: str) -> int | None:
    """Place of a level's checksum; None for what comes from the map, and for bits kept as they are.

    Those have the checksum of their chunk (`skyfold.numbers`), and nothing is computed with them.
    """
    if not column.is_real:
        return None
    if column.is_position and level in ("map", "latent"):
        level = "bounded"
    direct = level == "exact" and not column.is_refined
    direct |= level == "bounded" and column.kind == "plain"
    if level == "map" or (direct and column.relation is None):
        return None
    return LEVELS.index(level) - 1


def missing_values(
    column: Column, values: NDArray[Any], nulls: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Where a column holds no measurement: null, NaN, or one of its missing values."""
    if column.kind in ROW_MAJOR or column.native.kind in "Mmb":
        return nulls
    missing = nulls | np.isnan(values) if column.is_real else nulls.copy()
    for value in column.missing:
        missing |= values == np.array(value).astype(values.dtype)
    return missing
