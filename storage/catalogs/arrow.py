"""Catalogs in Parquet, and what Arrow's columns are as plain arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skyfold.errors import InputError
from storage.catalogs.source import (
    BATCH_ROWS,
    Batch,
    CatalogSource,
    InputColumn,
    MemorySource,
    Values,
    as_lists,
    encoded,
    is_archived,
    join,
    left_out,
    reading,
)

BYTES = "S"  # of any length
_TEXTS = (pa.string(), pa.large_string(), pa.string_view())
_BINARIES = (pa.binary(), pa.large_binary(), pa.binary_view())


class ParquetSource(CatalogSource):
    """A Parquet file, read by row group."""

    def __init__(self, file: str, place: Any, _key: str | None) -> None:
        self.file = file
        self._place = place
        # Read ahead, Arrow would keep every group of the file until it is closed.
        self._file = pq.ParquetFile(place.path, pre_buffer=False)
        self.rows = self._file.metadata.num_rows
        self.columns, self.notices = [], []
        for field in self._file.schema_arrow:
            found = arrow_column(file, field)
            if isinstance(found, str):
                self.notices.append(found)
            else:
                self.columns.append(found)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Number of the first row and columns, batch by batch."""
        start = 0
        names = [column.name for column in self.columns]
        with reading(self.file):
            for batch in self._file.iter_batches(BATCH_ROWS, columns=names):
                yield (
                    start,
                    {one.name: from_arrow(batch.column(one.name), one) for one in self.columns},
                )
                start += len(batch)

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """Columns of some rows: only the row groups that hold them are read."""
        sizes = [
            self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)
        ]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        groups = np.searchsorted(starts, rows, side="right") - 1
        names = [column.name for column in self.columns]
        found = []
        for group in np.unique(groups).tolist():
            inside = pa.array(rows[groups == group] - starts[group])
            with reading(self.file):
                table = self._file.read_row_group(group, columns=names).take(inside)
            found.append(
                {one.name: from_arrow(table.column(one.name), one) for one in self.columns}
            )
        return join(found)

    def read(self, name: str, start: int, stop: int) -> Values:
        """Values of one column in a range of rows."""
        return self.take(np.arange(start, stop))[name]


def arrow_column(file: str, field: Any) -> InputColumn | str:
    """Description of an Arrow field, or why it cannot be archived."""
    about = {k.decode(): v.decode("utf-8", "replace") for k, v in (field.metadata or {}).items()}
    extra = {"unit": about.get("unit") or None, "description": about.get("description", "")}
    kind = field.type
    shape: tuple[int, ...] = ()
    while pa.types.is_fixed_size_list(kind):
        shape, kind = (*shape, kind.list_size), kind.value_type
    is_list = not shape and (pa.types.is_list(kind) or pa.types.is_large_list(kind))
    if is_list:
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    code = "str" if kind in _TEXTS else BYTES if kind in _BINARIES else None
    if code is not None and not is_list:
        return InputColumn(field.name, code, shape, **extra)
    if pa.types.is_null(kind):  # nothing but nulls, in a text format: a number fits as well as any
        return InputColumn(field.name, "<f8", shape, **extra)
    try:
        dtype = np.dtype(kind.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        dtype = np.dtype(object)
    if pa.types.is_date(kind):
        dtype = np.dtype("M8[D]" if pa.types.is_date32(kind) else "M8[ms]")
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        dtype = np.dtype(f"{'M' if pa.types.is_timestamp(kind) else 'm'}8[{kind.unit}]")
    if code is not None or not is_archived(dtype):
        return left_out(file, field.name, field.type)
    return InputColumn(field.name, dtype.str, shape, **extra, is_list=is_list)


def from_arrow(column: Any, about: InputColumn) -> Values:
    """Values of an Arrow column, and where there is none."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    nulls = np.asarray(column.is_null()) if column.null_count else None
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if about.is_list:
        return _lists(column, about), nulls
    if about.shape:
        return _vectors(column, about, np.zeros(len(column), bool) if nulls is None else nulls)
    if about.dtype in ("str", BYTES):
        return encoded(one or "" for one in column.to_pylist()), nulls
    dtype = np.dtype(about.dtype)
    if dtype.kind in "Mm":
        days = pa.types.is_date32(column.type)  # which Arrow casts to 32 bits alone
        column = (column.cast(pa.int32()) if days else column).cast(pa.int64()).fill_null(0)
        return np.asarray(column).view(dtype), nulls
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype), np.ones(len(column), bool)
    if nulls is not None:
        column = column.fill_null(False if dtype.kind == "b" else pa.scalar(0, column.type))
    return np.asarray(column.to_numpy(zero_copy_only=False)).astype(dtype, copy=False), nulls


def _vectors(column: Any, about: InputColumn, nulls: NDArray[np.bool_]) -> Values:
    """Vectors of one length, whose own elements may be vectors; zeros where there is none."""
    inner = replace(about, shape=about.shape[1:])
    values, inside = from_arrow(column.flatten(), inner)  # without those that are null
    shape = (len(column), *about.shape)
    out, mask = np.zeros(shape, values.dtype), np.zeros(shape, bool)
    out[~nulls] = values.reshape(-1, *about.shape)
    mask[nulls] = True
    if inside is not None:
        mask[~nulls] = inside.reshape(-1, *about.shape)
    return out, mask if mask.any() else None


def _lists(column: Any, about: InputColumn) -> NDArray[np.object_]:
    """Lists of an Arrow column, empty where there is none."""
    values, nulls = from_arrow(column.flatten(), replace(about, is_list=False))
    if nulls is not None:
        raise InputError(
            f"column {about.name!r} holds lists with nulls inside, which are not archived; "
            "write NaN, or a number that stands for a missing one, in their place"
        )
    lengths = np.asarray(pc.list_value_length(column).fill_null(0))
    ends = np.cumsum(lengths)
    return as_lists(values[a:b] for a, b in zip(ends - lengths, ends, strict=True))


def from_arrow_table(file: str, table: Any) -> CatalogSource:
    """Source of an Arrow table in memory; InputError if two columns have one name."""
    columns, notices = {}, []
    names = table.schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{file}: columns {twice} are named twice; give each its own name")
    for field in table.schema:
        about = arrow_column(file, field)
        if isinstance(about, str):
            notices.append(about)
        else:
            columns[field.name] = about, from_arrow(table.column(field.name), about)
    source = MemorySource(file, columns)
    source.notices = notices
    return source
