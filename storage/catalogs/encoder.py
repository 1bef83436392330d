"""Rows of a catalog to its layers: the writing half of the ladder of tables.

Everything is decoded again here with the reader's own functions, so that each bound is checked and
each stored checksum is that of what a reader must find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold import ladder
from skyfold.catalogs import columns as cells
from skyfold.catalogs.columns import FLAG_FILL, FLAG_NOT_FINITE, FLAG_RAW, LEVELS
from skyfold.catalogs.index import ROW_MAJOR, CatalogInfo, Column
from skyfold.catalogs.model import TableModel
from skyfold.catalogs.relations import to_rest
from skyfold.catalogs.rows import RowDecoder, checked_level, checksums, missing_values
from skyfold.errors import InputError
from storage.catalogs.reader import Batch, longest

_NONE = np.empty(0, np.int64)
_RELATIVE = 1 / 64  # bound of a stored error


@dataclass
class EncodedRows:
    """Layers of one run of rows, ready to be written.

    Attributes
    ----------
    layers : dict of ndarray
        By name, shape (elements, n); text as ``text/<element>``, shape (n, width).
    checksum : ndarray, shape (real columns, chunks, levels - 1), uint32
    least, most : ndarray, shape (chunks, real and whole elements), float64
        Exact values that are not missing.
    sums : ndarray, shape (3, cells, real elements), float64
        Number, sum and sum of squares of the values of each cell of the map.
    """

    layers: dict[str, NDArray[Any]]
    checksum: NDArray[np.uint32]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    sums: NDArray[np.float64]


def elements_of(column: Column, values: NDArray[Any]) -> NDArray[Any]:
    """Values of a column as the layers have them: shape (elements, n), whole ones as int64."""
    rows = values.reshape(len(values), -1).T
    if column.kind == "whole":
        return np.ascontiguousarray(_whole(np.ascontiguousarray(rows)))
    if column.kind == "text":
        return np.ascontiguousarray(rows.astype(f"S{column.width}"))
    if column.kind == "list":
        return rows
    return np.ascontiguousarray(rows.astype(column.native, copy=False))


def list_rows(column: Column, lists: NDArray[np.object_]) -> NDArray[Any]:
    """Lists as a layer has them, shape (n, 1 + longest): number of values, values, zeros."""
    out = np.zeros((len(lists), 1 + column.width), column.list_dtype)
    for row, values in zip(out, lists, strict=True):
        row[0] = len(values)
        row[1 : 1 + len(values)] = _whole(values.astype(column.native, copy=False))
    return out


def _whole(values: NDArray[Any]) -> NDArray[Any]:
    """Bits of floats; times and other integers as int64."""
    if values.dtype.kind == "f":
        return cells.bits_of(values)
    return values.view(np.int64) if values.dtype.kind in "Mm" else values.astype(np.int64)


def nulls_of(column: Column, nulls: NDArray[np.bool_] | None, rows: int) -> NDArray[np.bool_]:
    """Where there is no value, shape (elements, n)."""
    if nulls is None:
        return np.zeros((column.elements, rows), bool)
    return np.ascontiguousarray(nulls.reshape(rows, -1).T)


def real_values(info: CatalogInfo, batch: Batch) -> NDArray[np.float64]:
    """Values of all real elements, shape (elements, n), NaN where missing, for the model."""
    rows = len(next(iter(batch.values()))[0])
    out = np.full((info.numbers("real"), rows), np.nan)
    for column in info.columns:
        if column.is_real:
            values, nulls = batch[column.name]
            found = elements_of(column, values)
            missing = missing_values(column, found, nulls_of(column, nulls, rows))
            out[column.places("bounded")] = np.where(missing | ~np.isfinite(found), np.nan, found)
    return out


def encode_rows(
    info: CatalogInfo, model: TableModel | None, batch: Batch, numbers: NDArray[np.int64]
) -> EncodedRows:
    """All layers of one run of rows.

    Parameters
    ----------
    info : CatalogInfo
    model : TableModel or None
    batch : dict
        Columns by name; see `storage.catalogs.reader`.
    numbers : ndarray, shape (n,), int64
        Row numbers of the input.

    Raises
    ------
    InputError
        If a text is longer than when the catalog was looked at.
    """
    return RowEncoder(info, model, batch, numbers).run()


class RowEncoder:
    """Encodes one run of rows; holds its growing layers."""

    def __init__(
        self, info: CatalogInfo, model: TableModel | None, batch: Batch, numbers: NDArray[np.int64]
    ) -> None:
        self.info = info
        self.model = model
        self.rows = len(numbers)
        self.values = {c.name: elements_of(c, self._fitting(c, batch)) for c in info.columns}
        self.nulls = {c.name: nulls_of(c, batch[c.name][1], self.rows) for c in info.columns}
        self.layers: dict[str, NDArray[Any]] = {
            layer: np.zeros((count, self.rows), dtype)
            for layer, (dtype, count) in info.arrays().items()
        }
        self.layers["rows"][0] = numbers
        self.real = real_values(info, batch)
        self.decoder = RowDecoder(info, model, self._read)

    def _fitting(self, column: Column, batch: Batch) -> NDArray[Any]:
        values = batch[column.name][0]
        if column.kind in ROW_MAJOR and longest(values) > column.width:
            raise InputError(
                f"column {column.name!r} of catalog {self.info.name!r} holds a {column.kind} of "
                f"length {longest(values)}; the longest had {column.width} when it was planned: "
                "run train again"
            )
        return values

    def _read(self, layer: str, places: Sequence[int]) -> NDArray[Any]:
        if layer.startswith("text/"):
            return self.layers[layer]
        return self.layers[layer][list(places)]

    def run(self) -> EncodedRows:
        """All layers, each checked."""
        if self.model is not None:
            units = self.model.to_units(self.real[self.model.targets])
            found = self.model.assign(units)
            self.layers["map"][0] = found
            self.layers["latent"][:] = self.model.encode(units, found)
        for column in sorted(self.info.columns, key=self._turn):
            self._column(column)
        checks = self._checksums()
        least, most = self._extremes()
        return EncodedRows(self.layers, checks, least, most, self._sums())

    def _turn(self, column: Column) -> int:
        """Order of encoding: bits, errors before their values' cells, then what is told."""
        if column.kind == "plain":
            return 0
        others = map(self.info.column, column.bounded_from)
        return 1 + max(map(self._turn, others), default=0)

    def _column(self, column: Column) -> None:
        first = self.info.null_place(column)
        self.layers["nulls"][first : first + column.elements] = self.nulls[column.name]
        values = self.values[column.name]
        if column.kind == "whole":
            self.layers["whole"][column.places("whole")] = values
        elif column.kind == "text":
            for row, place in zip(values, column.places("text"), strict=True):
                self.layers[f"text/{place}"] = row.view(np.uint8).reshape(self.rows, column.width)
        elif column.kind == "list":
            self.layers[f"list/{column.first}"] = list_rows(column, values[0])
        else:
            self._real(column, values)

    def _real(self, column: Column, values: NDArray[Any]) -> None:
        for layer, rows in self.bounded_layers(column).items():
            self.layers[layer][column.places("bounded")] = rows
        if column.is_refined:
            bounded = self.decoder.bounded(column)
            exact = ladder.remainder(values, _NONE, _NONE, bounded)
            self.layers["exact"][column.places("exact")] = exact
        else:
            layer = column.direct_layer
            self.layers[layer][column.places(layer)] = self._bits(column, values)

    def bounded_layers(self, column: Column) -> dict[str, NDArray[Any]]:
        """Flags of a column, and unless they are kept as they are, its cells and what has none."""
        values = self.values[column.name]
        flags = self._flags(column, values)
        if column.kind == "plain":
            return {"flags": flags}
        stored, good = self._cells(column, values)
        stored = np.where((flags == 0) & good, stored, 0)
        flags = np.where((flags == 0) & ~good, FLAG_RAW, flags).astype(np.uint8)
        kept = (flags == FLAG_RAW) | (flags == FLAG_NOT_FINITE)
        raw = np.where(kept, cells.bits_of(values), np.uint64(0))
        return {"flags": flags, "bounded": stored, "raw": raw}

    def _bits(self, column: Column, values: NDArray[Any]) -> NDArray[Any]:
        """Bits of values, or how far they are from what other columns say."""
        if column.relation is None:
            return cells.bits_of(values)
        told = self.decoder.told(column, column.relation, lambda other: self.values[other.name])
        return to_rest(values, told)

    def _flags(self, column: Column, values: NDArray[Any]) -> NDArray[np.uint8]:
        flags = np.where(np.isfinite(values), 0, FLAG_NOT_FINITE).astype(np.uint8)
        bits = cells.bits_of(values)
        for number, fill in enumerate(cells.bits_of(column.fill_values()).tolist()):
            flags[bits == np.uint64(fill)] = FLAG_FILL + number
        return flags

    def _cells(
        self, column: Column, values: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Cell numbers of a column, and where they keep the bound."""
        places = column.places("bounded")
        widths = self.decoder.widths(column, values.shape)
        wide = values.astype(np.float64)
        stored, good = np.zeros(values.shape, np.int64), np.zeros(values.shape, bool)
        bound = self._bound(column, wide)
        for number, place in enumerate(places):
            base = self.decoder.base_of(column, place)
            if column.kind == "error":
                good[number] = np.isfinite(wide[number]) & (wide[number] > 0)
                found = cells.error_cells(
                    np.where(good[number], values[number], 1).astype(column.native)
                )
                stored[number] = found - self.decoder.error_base(column, base)
            else:
                start = np.zeros(self.rows) if base is None else base
                stored[number], good[number] = cells.to_cells(wide[number], start, widths[number])
            decoded = self.decoder.from_cells(column, base, stored[number], widths[number])
            with np.errstate(invalid="ignore"):
                good[number] &= np.abs(decoded.astype(np.float64) - wide[number]) <= bound[number]
        return stored, good

    def _bound(self, column: Column, wide: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far each decoded value may be from the true one."""
        if column.kind == "error":
            return np.abs(wide) * _RELATIVE
        if column.kind == "fixed" or column.partner is None:
            return np.full(wide.shape, (column.precision or 0) / 2)
        errors = self.values[column.partner].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            sigma = 1 / np.sqrt(errors) if column.is_inverse else errors
        return np.broadcast_to(self.info.fraction * sigma * column.factor, wide.shape)

    def _checksums(self) -> NDArray[np.uint32]:
        info = self.info
        chunks = -(-self.rows // info.chunk_rows)
        out = np.zeros((len(info.real_columns), chunks, len(LEVELS) - 1), np.uint32)
        for row, column in enumerate(info.real_columns):
            for level in LEVELS[1:]:
                values = self.decoder.decode(column, level)
                place = checked_level(column, level)
                if place is not None:
                    out[row, :, place] = checksums(values, info.chunk_rows)
            self._require_exact(column, values)
        return out

    def _require_exact(self, column: Column, values: NDArray[Any]) -> None:
        if not np.array_equal(cells.bits_of(values), cells.bits_of(self.values[column.name])):
            raise AssertionError(f"column {column.name!r} does not come back bit for bit")

    def _extremes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest value of each element in each chunk; NaN without any."""
        found = []
        for sort in ("real", "whole"):
            for column in self.info.columns:
                if (column.is_real and sort == "real") or column.kind == sort:
                    values = self.values[column.name]
                    missing = missing_values(column, values, self.nulls[column.name])
                    found += [
                        _outward(row, hole) for row, hole in zip(values, missing, strict=True)
                    ]
        step = self.info.chunk_rows
        chunks = [slice(start, start + step) for start in range(0, self.rows, step)]
        least = [[_extreme(low[chunk], np.nanmin) for low, _ in found] for chunk in chunks]
        most = [[_extreme(high[chunk], np.nanmax) for _, high in found] for chunk in chunks]
        shape = (len(chunks), len(found))
        return np.array(least).reshape(shape), np.array(most).reshape(shape)

    def _sums(self) -> NDArray[np.float64]:
        """Number, sum and sum of squares of the values in each cell of the map."""
        count = self.model.cells if self.model is not None else 0
        out = np.zeros((3, count, len(self.real)))
        if count:
            place = self.layers["map"][0]
            for number, row in enumerate(self.real):
                good = np.isfinite(row)
                for power in range(3):
                    with np.errstate(over="ignore"):
                        weights = row[good] ** power
                    out[power, :, number] = np.bincount(place[good], weights, count)
        return out


def _outward(values: NDArray[Any], missing: NDArray[np.bool_]) -> tuple[Any, Any]:
    """Values as float64 not above, and not below, the true ones; NaN where missing."""
    wide = values.astype(np.float64)
    if values.dtype.kind == "f":
        low = high = np.where(missing, np.nan, wide)
        return low, high
    far = np.abs(wide) >= 2**53
    low = np.where(far, np.nextafter(wide, -np.inf), wide)
    high = np.where(far, np.nextafter(wide, np.inf), wide)
    return np.where(missing, np.nan, low), np.where(missing, np.nan, high)


def _extreme(values: NDArray[np.float64], which: Any) -> float:
    return float(which(values)) if np.isfinite(values).any() else np.nan
