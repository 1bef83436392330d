"""The catalogs of a release: columns, cones, cells of the map and conditions, at any level.

Rows come in the order of the input. A request reads only the chunks that can hold its rows, and
of those only the columns that it names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import Angle, SkyCoord
from astropy.table import Column as TableColumn
from astropy.table import MaskedColumn, QTable
from astropy.utils.masked import Masked

from skyfold.access.model_files import CARD
from skyfold.access.parquet import OutColumn, write_columns
from skyfold.access.products import Products
from skyfold.access.store import named_store_errors
from skyfold.access.trust import reading, require_memory
from skyfold.catalogs.columns import LEVELS
from skyfold.catalogs.index import (
    HEALPIX_ORDER,
    CatalogInfo,
    Chunks,
    Column,
    catalog_path,
    check_level,
)
from skyfold.catalogs.model import ARRAYS, MAX_BYTES, TableModel
from skyfold.catalogs.query import Condition, parse_condition
from skyfold.catalogs.rows import RowDecoder, check, checked_level, lists_of, missing_values
from skyfold.errors import InvalidRequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.release import DataRelease

_RUN_CHUNKS = 64  # decoded together: bounds the memory of a request's layers
_MAP_VALUES = 2**25  # of one array of the map


class CatalogLibrary(Products["Catalog"]):
    """Catalogs of a release by name; UnknownNameError for any other.

    Examples
    --------
    >>> release.catalogs["galaxies"].read(["ra", "mag_r"], level="bounded")  # doctest: +SKIP
    """

    noun = "catalog"

    def _open(self, name: str) -> Catalog:
        return Catalog(self._release.holder(catalog_path(name)), name)


class Catalog:
    """One catalog of a release.

    Attributes
    ----------
    name : str
    description : CatalogInfo
        Columns and how each is stored.
    levels : tuple of str
        Fidelity levels, coarsest first.
    """

    levels = LEVELS

    def __init__(self, release: DataRelease, name: str) -> None:
        self._release = release
        self.name = name
        self.path = catalog_path(name)
        key = f"{self.path}/catalog.json"
        self.description = CatalogInfo.from_json(release.read(key), key)
        self._chunks: Chunks | None = None
        self._model: TableModel | None = None
        self._arrays: dict[str, Any] = {}

    def __len__(self) -> int:
        return self.description.rows

    def __repr__(self) -> str:
        return f"<Catalog {self.name}: {len(self)} rows, {len(self.columns)} columns>"

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in the order of the input."""
        return [column.name for column in self.description.columns]

    @property
    def chunks(self) -> Chunks:
        """Index of the chunks of rows."""
        if self._chunks is None:
            key = f"{self.path}/index.parquet"
            self._chunks = Chunks.from_parquet(self._release.read(key), self.description, key)
        return self._chunks

    @property
    def model(self) -> TableModel | None:
        """Model of the table, or None; CorruptDataError if its files are damaged."""
        digest = self.description.model
        if self._model is None and digest:
            files = self._release.model_files(digest, (CARD, ARRAYS), MAX_BYTES)
            self._model = TableModel.from_files(files, digest)
        return self._model

    @property
    def som(self) -> dict[str, NDArray[Any]]:
        """The self-organizing map: its arrays by name, with axes (y, x) first.

        ``weights``, ``u_matrix``, ``hits`` (rows in each cell), ``mean``, ``scatter`` and ``count``
        of every real element, and ``redshift`` and ``redshift_scatter`` where there is a redshift.
        """
        names = self.description.som.get("arrays", [])
        with reading(f"{self._release.url}/{self.path}/som", "the map of a catalog"):
            return {name: np.asarray(self._array(f"som/{name}")[...]) for name in names}

    def info(self) -> dict[str, Any]:
        """Rows, columns, and bytes of the stored layers that each level reads."""
        info = self.description
        return {
            "rows": info.rows,
            "columns": self.columns,
            "levels": {
                level: {
                    "bytes": info.levels[level],
                    "bytes_per_row": info.levels[level] / info.rows,
                }
                for level in LEVELS
            },
            "fraction": info.fraction,
            "bounds": {column.name: bound_of(info, column) for column in info.columns},
            "som": {name: value for name, value in info.som.items() if name != "arrays"},
            "notices": list(info.notices),
        }

    # Requests.

    def read(
        self,
        columns: Sequence[str] | str | None = None,
        rows: slice | Sequence[int] | NDArray[np.integer[Any]] | None = None,
        level: str = "exact",
    ) -> QTable:
        """Columns of some or all rows.

        Parameters
        ----------
        columns : sequence of str, or str, optional
            All unless given.
        rows : slice or sequence of int, optional
            Row numbers of the input, from 0; all unless given.
        level : str

        Returns
        -------
        astropy.table.QTable
            In the order of the input; missing values are masked, and stand below the mask as they
            were stored. ``meta["rows"]`` holds the row numbers.

        Raises
        ------
        UnknownNameError, LevelNotStoredError, InvalidRequestError, CorruptDataError
        """
        check_level(level)
        wanted = self._wanted(columns)
        if rows is None:
            return self._table(wanted, level, range(self.description.chunks))
        asked = self._row_numbers(rows)
        numbers = self._stored_rows()
        chunks = np.unique(np.flatnonzero(np.isin(numbers, asked)) // self.description.chunk_rows)
        return self._table(wanted, level, chunks, lambda run: np.isin(run.numbers, asked))

    def read_chunks(
        self, chunks: Sequence[int], columns: Sequence[str] | None = None, level: str = "exact"
    ) -> QTable:
        """All rows of some chunks, by number; see `read`."""
        check_level(level)
        return self._table(self._wanted(columns), level, chunks)

    def _row_numbers(self, rows: Any) -> NDArray[np.int64]:
        stored = self._stored_rows()
        last = int(stored.max()) + 1
        if isinstance(rows, slice):
            return np.arange(*rows.indices(last))
        asked = np.atleast_1d(np.asarray(rows))
        absent = asked[~np.isin(asked, stored)] if asked.dtype.kind in "iu" else asked
        if absent.size:
            raise InvalidRequestError(
                f"rows {absent[:3].tolist()} of catalog {self.name!r} are not there; it has "
                f"{len(self)} "
                f"rows numbered up to {last - 1}; give row numbers of the input or a slice"
            )
        return asked.astype(np.int64)

    def cone(
        self,
        position: SkyCoord,
        radius: Any,
        level: str = "exact",
        columns: Sequence[str] | str | None = None,
    ) -> QTable:
        """Rows within a radius of a position.

        Parameters
        ----------
        position : astropy.coordinates.SkyCoord
        radius : Quantity or Angle
        level : str
        columns : sequence of str, or str, optional

        Returns
        -------
        astropy.table.QTable
            As `read` gives it; no rows where there are none.

        Raises
        ------
        InvalidRequestError
            If the catalog has no positions, or the radius is not a positive angle up to 180 deg.
        """
        check_level(level)
        ra, dec = self._position_columns()
        reach = self._radius(radius)
        chunks = self._chunks_near(position.icrs, reach)

        def inside(run: _Run) -> NDArray[np.bool_]:
            sky = SkyCoord(_degrees(ra, run), _degrees(dec, run), unit="deg")
            return np.asarray(sky.separation(position.icrs) <= reach)

        return self._table(self._wanted(columns), level, chunks, inside)

    def _position_columns(self) -> tuple[Column, Column]:
        info = self.description
        if info.ra is None or info.dec is None:
            raise InvalidRequestError(
                f"catalog {self.name!r} has no positions: its ra and dec were not given; use "
                "read or where"
            )
        return info.column(info.ra), info.column(info.dec)

    def _radius(self, radius: Any) -> Any:
        try:
            reach = Angle(radius)
        except (u.UnitsError, ValueError, TypeError) as error:
            raise InvalidRequestError(
                f"radius {radius!r}: give an angle, such as 2 * u.arcmin"
            ) from error
        if not (reach.isscalar and 0 < reach.deg <= 180):
            raise InvalidRequestError(f"radius {radius}: give one angle above 0 and up to 180 deg")
        return reach

    def _chunks_near(self, position: SkyCoord, reach: Any) -> NDArray[np.intp]:
        """Chunks whose range of HEALPix cells meets the cone."""
        from astropy_healpix import HEALPix

        order = int(np.clip(np.floor(np.log2(58.6 * 8 / reach.deg)), 0, HEALPIX_ORDER))
        grid = HEALPix(nside=2**order, order="nested", frame="icrs")
        cells = np.sort(grid.cone_search_skycoord(position, reach)).astype(np.int64)
        shift = 2 * (HEALPIX_ORDER - order)
        chunks = self.chunks
        first = np.searchsorted(cells, chunks.low >> shift)
        last = np.searchsorted(cells, chunks.high >> shift, side="right")
        return np.flatnonzero(last > first)

    def cell(
        self, number: int, level: str = "exact", columns: Sequence[str] | str | None = None
    ) -> QTable:
        """Rows of one cell of the self-organizing map (``y * nx + x``); see `read`.

        Raises
        ------
        InvalidRequestError
            If the catalog has no map, or the map no such cell.
        """
        check_level(level)
        cells = self.chunks.cells.shape[1]
        if not 0 <= number < cells:
            raise InvalidRequestError(
                f"cell {number} of catalog {self.name!r}: its map has {cells} cells, from 0; "
                "give one"
            )
        chunks = np.flatnonzero(self.chunks.cells[:, number])
        return self._table(
            self._wanted(columns), level, chunks, lambda run: run.decoder.map_cells() == number
        )

    def where(
        self, condition: str, level: str = "exact", columns: Sequence[str] | str | None = None
    ) -> QTable:
        """Rows that meet a condition.

        Parameters
        ----------
        condition : str
            Comparisons of columns with numbers or text, joined by ``and``, ``or``, ``not``, ``in``
            and parentheses, such as ``"(mag_r < 24 or flags in (1, 3)) and 0.1 < z <= 0.3"``. A
            missing value meets none; names with odd characters stand in backticks.
        level : str
            At which values are compared, and returned.
        columns : sequence of str, or str, optional

        Returns
        -------
        astropy.table.QTable
            As `read` gives it.

        Raises
        ------
        InvalidRequestError, UnknownNameError, LevelNotStoredError, CorruptDataError

        Notes
        -----
        The coarse is looked at first: chunks whose lowest and highest values rule the condition
        out are not read; of the others, `bounded` values and their bounds are, and what refines
        them to `exact` only where a row may meet it; other columns only where a row does.
        """
        check_level(level)
        tree = parse_condition(condition)
        used = {one.column: self.description.column(one.column) for one in tree.comparisons()}
        self._require_comparable(condition, tree, used)
        possible = self._chunks_meeting(tree, used, level)
        return self._table(
            self._wanted(columns), level, possible, lambda run: run.meets(tree, used), together=1
        )

    def _require_comparable(
        self, condition: str, tree: Condition, used: Mapping[str, Column]
    ) -> None:
        for one in tree.comparisons():
            column = used[one.column]
            is_text, is_list = column.kind == "text", column.kind == "list"
            if column.shape or is_list or is_text != isinstance(one.value, bytes):
                holds = "text" if is_text else "lists" if is_list else "numbers"
                raise InvalidRequestError(
                    f"condition {condition!r} compares {one.column!r} with {one.value!r}; that "
                    f"column holds {holds} of shape {column.shape or '()'}: compare columns of one "
                    "number a row with numbers, and of text with text"
                )

    def _chunks_meeting(
        self, condition: Condition, used: Mapping[str, Column], level: str
    ) -> NDArray[np.intp]:
        """Chunks that may hold such rows; coarse levels may move a value out of its range."""
        real = self.description.numbers("real")
        ranges = {}
        for name, column in used.items():
            place = column.first + (0 if column.is_real else real)
            if column.kind != "text" and (level == "exact" or not column.is_real):
                ranges[name] = self.chunks.least[:, place], self.chunks.most[:, place]
        possible = np.ones(self.description.chunks, bool) & condition.possible(ranges)
        return np.flatnonzero(possible)

    def to_parquet(
        self,
        path: str | os.PathLike[str],
        level: str = "exact",
        columns: Sequence[str] | str | None = None,
    ) -> None:
        """Write all rows to a Parquet file; see `write_parquet`."""
        write_parquet(self.read(columns, level=level), path)

    # Decoding.

    def _wanted(self, columns: Sequence[str] | str | None) -> list[Column]:
        names = (
            self.columns if columns is None else [columns] if isinstance(columns, str) else columns
        )
        return [self.description.column(name) for name in names]

    def _stored_rows(self) -> NDArray[np.int64]:
        with reading(f"{self._release.url}/{self.path}/rows", "the numbers of rows"):
            return np.asarray(self._array("rows")[0])

    def _array(self, layer: str) -> Any:
        if layer not in self._arrays:
            path = f"{self.path}/{layer}"
            spec = self.description.specs().get(layer) or self._som_spec(path)
            self._arrays[layer] = self._release.array(path, spec)
        return self._arrays[layer]

    def _require_memory(self, columns: list[Column], chunks: int) -> None:
        """Refuse a table that is larger than the user allows."""
        rows = min(self.description.rows, chunks * self.description.chunk_rows)
        needed = rows * sum(column.row_bytes + column.elements for column in columns)
        require_memory(needed, self._release.max_bytes, f"reading catalog {self.name!r}")

    def _som_spec(self, path: str) -> dict[str, Any]:
        """What an array of the map may be: one chunk, whose first sides are the map's."""
        found = self._release.metadata(path)
        with reading(path, "an array of the map"):
            shape = tuple(int(side) for side in found["shape"])
            dtype = np.dtype(found["data_type"])
            is_map = list(shape[:2]) == list(self.description.som["shape"])
            if not is_map or dtype.kind not in "fiu" or math.prod(shape) > _MAP_VALUES:
                raise ValueError(f"it has shape {shape} and type {dtype}")
        return {"shape": shape, "chunks": shape, "dtype": dtype, "compressors": "zstd"}

    def _table(
        self,
        columns: list[Column],
        level: str,
        chunks: Sequence[int] | range | NDArray[np.intp],
        select: Any = None,
        together: int = _RUN_CHUNKS,
    ) -> QTable:
        """Table of the selected rows of some chunks, in the order of the input."""
        if select is None:
            self._require_memory(columns, len(chunks))
        parts: list[tuple[NDArray[np.int64], list[Any]]] = []
        for first, last in _runs(np.asarray(chunks, int), together):
            with reading(f"{self._release.url}/{self.path}", f"a catalog at {level}"):
                run = _Run(self, level, first, last)
                chosen = slice(None) if select is None else np.flatnonzero(select(run))
                if isinstance(chosen, slice) or chosen.size:
                    found = [[part[:, chosen] for part in run.column(one)] for one in columns]
                    parts.append((run.numbers[chosen], found))
        if not parts:
            return _make_table(columns, np.empty(0, np.int64), [_nothing(one) for one in columns])
        numbers = np.concatenate([part[0] for part in parts])
        order = np.argsort(numbers, kind="stable")
        joined = [
            [
                np.concatenate([part[1][place][i] for part in parts], axis=1)[:, order]
                for i in (0, 1)
            ]
            for place in range(len(columns))
        ]
        return _make_table(columns, numbers[order], joined)


class _Run:
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


def _runs(chunks: NDArray[np.intp], together: int) -> Iterator[tuple[int, int]]:
    """First and last (excluded) of adjoining chunks, at most so many together."""
    start = 0
    for place in range(1, len(chunks) + 1):
        ends = place == len(chunks) or chunks[place] != chunks[place - 1] + 1
        if ends or place - start == together:
            yield int(chunks[start]), int(chunks[place - 1]) + 1
            start = place


def _degrees(column: Column, run: _Run) -> NDArray[np.float64]:
    values = run.column(column)[0][0].astype(np.float64)
    return values * angle_unit_deg(column.unit)


def angle_unit_deg(unit: str | None) -> float:
    """Degrees in the unit of a position column; degrees where none that fits is stated."""
    try:
        return float(u.Unit(unit, parse_strict="silent").to(u.deg)) if unit else 1.0
    except (u.UnitsError, ValueError, TypeError):
        return 1.0


def bound_of(info: CatalogInfo, column: Column) -> dict[str, Any]:
    """What `bounded` guarantees for a column, for people and programs."""
    if column.kind == "scaled":
        return {"fraction": info.fraction, "of": column.partner}
    if column.kind == "error":
        return {"relative": 1 / 64}
    if column.kind == "fixed" and column.precision is not None:
        return {"absolute": column.precision / 2, "unit": column.unit}
    return {"absolute": 0.0}


def _nothing(column: Column) -> list[NDArray[Any]]:
    kinds: dict[str, Any] = {"text": f"S{column.width}", "whole": "i8", "list": object}
    dtype = kinds.get(column.kind, column.native)
    return [np.empty((column.elements, 0), dtype), np.empty((column.elements, 0), bool)]


def _make_table(columns: list[Column], numbers: NDArray[np.int64], decoded: list[Any]) -> QTable:
    table = QTable(meta={"rows": numbers})
    for column, (values, nulls) in zip(columns, decoded, strict=True):
        missing = missing_values(column, values, nulls)
        shape = (len(numbers), *column.shape)
        table[column.name] = _table_column(
            column, restore(column, values), missing.T.reshape(shape), nulls.T.reshape(shape)
        )
        table[column.name].info.description = column.description or None
    return table


def restore(column: Column, values: NDArray[Any]) -> NDArray[Any]:
    """Decoded values, shape (elements, n), as they came: type, byte order and shape."""
    rows = np.ascontiguousarray(values.T).reshape(values.shape[1], *column.shape)
    if column.dtype == "str":
        return np.strings.decode(rows, "utf-8") if rows.size else rows.astype(np.str_)
    dtype = np.dtype(column.dtype)
    if column.kind == "list":
        for place, values in enumerate(rows):
            rows[place] = _restored(values, dtype)
        return rows
    return _restored(rows, dtype)


def _restored(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind in "Mm":
        return values.view(dtype.newbyteorder("=")).astype(dtype)
    return values.astype(dtype, copy=False)


def _table_column(
    column: Column, values: NDArray[Any], missing: NDArray[np.bool_], nulls: NDArray[np.bool_]
) -> Any:
    """Quantity where there is a unit, column otherwise; masked where a value is missing."""
    unit = u.Unit(column.unit, parse_strict="silent") if column.unit else None
    known = unit is not None and not isinstance(unit, u.UnrecognizedUnit)
    meta = {"nulls": nulls} if nulls.any() else {}
    if known and values.dtype.kind in "fiu":
        quantity = u.Quantity(values, unit, dtype=values.dtype, copy=False)
        out = Masked(quantity, mask=missing) if missing.any() else quantity
    elif missing.any():
        out = MaskedColumn(values, mask=missing, unit=None)
    else:
        out = TableColumn(values)
    out.info.meta = meta | ({"unit": column.unit} if column.unit and not known else {})
    return out


def write_parquet(table: QTable, path: str | os.PathLike[str]) -> None:
    """Write a table of a release to Parquet; see `parquet_columns`."""
    write_columns(parquet_columns(table), os.fspath(path))


def parquet_columns(table: QTable) -> list[OutColumn]:
    """Columns of a table of a release as Parquet holds them, units and descriptions as metadata.

    Only values that the input lacked become null; missing ones such as 99 and NaN stay numbers.
    """
    columns = []
    for name in table.colnames:
        column = table[name]
        values = plain_values(column)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        nulls = (column.info.meta or {}).get("nulls")
        unit = (column.info.meta or {}).get("unit") or (
            str(column.unit) if column.info.unit else ""
        )
        about = {"unit": unit, "description": column.info.description or ""}
        kept = {key: text for key, text in about.items() if text}
        columns.append(OutColumn(name, values, nulls, kept))
    return columns


def plain_values(column: Any) -> NDArray[Any]:
    """Values of a table's column as they were stored, without unit and mask."""
    plain = getattr(column, "unmasked", column)
    plain = plain.value if isinstance(plain, u.Quantity) else plain
    return np.asarray(np.ma.getdata(plain))
