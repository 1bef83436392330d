"""The catalogs of a release: columns, cones, cells of the map and conditions, at any level.

Rows come in the order of the input. A request reads only the chunks that can hold its rows, and
of those only the columns that it names.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import QTable

from skyfold.access.model_files import CARD
from skyfold.access.products import Products
from skyfold.access.trust import reading, require_memory
from skyfold.catalogs.chunks import Chunks
from skyfold.catalogs.columns import LEVELS
from skyfold.catalogs.index import (
    CatalogInfo,
    Column,
    catalog_path,
    check_level,
)
from skyfold.catalogs.model import ARRAYS, MAX_BYTES, TableModel
from skyfold.catalogs.positions import Cone, in_degrees
from skyfold.catalogs.query import Condition, parse_condition
from skyfold.catalogs.run import Run, runs
from skyfold.catalogs.tables import make_table, nothing, write_parquet
from skyfold.errors import InvalidRequestError

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
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
        area = Cone.of(position, radius)
        chunks = area.chunks(self.chunks.low, self.chunks.high)

        def inside(run: Run) -> NDArray[np.bool_]:
            return area.holds(*(in_degrees(run.column(one)[0][0], one.unit) for one in (ra, dec)))

        return self._table(self._wanted(columns), level, chunks, inside)

    def _position_columns(self) -> tuple[Column, Column]:
        info = self.description
        if info.ra is None or info.dec is None:
            raise InvalidRequestError(
                f"catalog {self.name!r} has no positions: its ra and dec were not given; use "
                "read or where"
            )
        return info.column(info.ra), info.column(info.dec)

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
        for first, last in runs(np.asarray(chunks, int), together):
            with reading(f"{self._release.url}/{self.path}", f"a catalog at {level}"):
                run = Run(self, level, first, last)
                chosen = slice(None) if select is None else np.flatnonzero(select(run))
                if isinstance(chosen, slice) or chosen.size:
                    found = [[part[:, chosen] for part in run.column(one)] for one in columns]
                    parts.append((run.numbers[chosen], found))
        if not parts:
            return make_table(columns, np.empty(0, np.int64), [nothing(one) for one in columns])
        numbers = np.concatenate([part[0] for part in parts])
        order = np.argsort(numbers, kind="stable")
        joined = [
            [
                np.concatenate([part[1][place][i] for part in parts], axis=1)[:, order]
                for i in (0, 1)
            ]
            for place in range(len(columns))
        ]
        return make_table(columns, numbers[order], joined)


def bound_of(info: CatalogInfo, column: Column) -> dict[str, Any]:
    """What `bounded` guarantees for a column, for people and programs."""
    if column.kind == "scaled":
        return {"fraction": info.fraction, "of": column.partner}
    if column.kind == "error":
        return {"relative": 1 / 64}
    if column.kind == "fixed" and column.precision is not None:
        return {"absolute": column.precision / 2, "unit": column.unit}
    return {"absolute": 0.0}
