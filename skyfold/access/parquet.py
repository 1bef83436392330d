"""Parquet, read and written by the small library that a reader installs (arro3, 33 MB).

Pyarrow (165 MB) is left to the producer. What is not a Parquet file raises `ParquetError`: arro3
panics there, and a panic is no `Exception`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import arro3.core
import arro3.io
import numpy as np
from numpy.typing import NDArray

from skyfold.access.parquet_check import check_parquet

_TIMES = ("ms", "us", "ns")  # units that Parquet has


class ParquetError(ValueError):
    """Bytes that are not a Parquet file, or one that cannot be read."""


def read_columns(data: bytes, names: list[str] | None = None) -> dict[str, list[Any]]:
    """Columns of a Parquet file, as Python values.

    Parameters
    ----------
    data : bytes
    names : list of str, optional
        Columns to read; all unless given.

    Returns
    -------
    dict of str to list
        Null is None, a list a list, a struct a dict, a map a list of pairs.

    Raises
    ------
    ParquetError
    """
    table = read_table(data)
    return {
        name: [value for chunk in table[name].chunks for value in chunk.to_pylist()]
        for name in names or table.column_names
    }


def read_rows(data: bytes) -> list[dict[str, Any]]:
    """Rows of a Parquet file, as Python values; see `read_columns`."""
    columns = read_columns(data)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def read_table(data: bytes) -> Any:
    """Arrow table (`arro3.core.Table`) of a Parquet file; ParquetError if it is none."""
    try:
        claims = check_parquet(data)
        reader = arro3.io.read_parquet(io.BytesIO(data), batch_size=claims.batch_rows)
        return _within(reader, claims.most_bytes)
    except Exception as error:
        raise ParquetError(str(error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ParquetError(str(error)) from error


def _within(reader: Any, most: int) -> Any:
    """Table of all batches; ParquetError as soon as they are more than a file may hold."""
    for column in reader.schema:
        if "ictionary" in str(column.type):  # it swells as it is read
            raise ParquetError(f"column {column.name!r} is a dictionary, which no release holds")
    batches, size = [], 0
    for batch in reader:
        batches.append(batch)
        size += sum(batch[name].nbytes for name in batch.column_names)
        if size > most:
            raise ParquetError(f"its {len(batches)} first batches take {size:,} bytes")
    return arro3.core.Table.from_batches(batches, schema=reader.schema)


def read_metadata(data: bytes) -> dict[bytes, bytes]:
    """Metadata of a Parquet file's schema; ParquetError if it is none."""
    found: dict[bytes, bytes] = read_table(data).schema.metadata
    return found


@dataclass(frozen=True)
class OutColumn:
    """A column to write.

    Attributes
    ----------
    name : str
    values : ndarray, shape (n, ...)
        Numbers, booleans, times or strings; further axes become one list a row, and so does an
        array in each row, of type object.
    nulls : ndarray of bool, of the shape of `values`, or None
        Where there is no value.
    metadata : dict of str to str
        Of the field.
    """

    name: str
    values: NDArray[Any]
    nulls: NDArray[np.bool_] | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def write_columns(
    columns: Sequence[OutColumn],
    file: str | Path | IO[bytes],
    *,
    metadata: dict[str, str] | None = None,
    row_group: int | None = None,
) -> None:
    """Write a Parquet file, compressed with zstd.

    Parameters
    ----------
    columns : sequence of OutColumn
        Of one length.
    file : path or binary file
    metadata : dict of str to str, optional
        Of the file.
    row_group : int, optional
        Rows of a group.
    """
    arrays = [_to_arrow(one.values, one.nulls) for one in columns]
    fields = [
        arro3.core.Field(one.name, array.type, nullable=True, metadata=one.metadata or None)
        for one, array in zip(columns, arrays, strict=True)
    ]
    schema = arro3.core.Schema(fields, metadata=metadata or {})
    table = arro3.core.Table.from_arrays(arrays, schema=schema)
    target = file if hasattr(file, "write") else str(file)
    arro3.io.write_parquet(table, target, compression="zstd(3)", max_row_group_size=row_group)


def _list_array(lists: NDArray[np.object_]) -> Any:
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int32)
    flat = np.concatenate([*lists]) if len(lists) else np.empty(0)
    flat = flat.astype(flat.dtype.newbyteorder("="), copy=False)
    return arro3.core.list_array(arro3.core.Array.from_numpy(offsets), _to_arrow(flat, None))


def _bytes_array(values: NDArray[np.bytes_]) -> Any:
    """Text where all bytes are, as FITS has it; bytes otherwise."""
    try:
        texts = np.strings.decode(values, "utf-8").tolist()
    except UnicodeDecodeError:
        return arro3.core.Array(values.tolist(), arro3.core.DataType.binary())
    return arro3.core.Array(texts, arro3.core.DataType.string())


def _to_arrow(values: NDArray[Any], nulls: NDArray[np.bool_] | None) -> Any:
    if values.ndim > 1:
        flat = _to_arrow(values.reshape(-1), None if nulls is None else nulls.reshape(-1))
        return arro3.core.fixed_size_list_array(flat, int(np.prod(values.shape[1:])))
    if values.dtype.kind == "O":
        array = _list_array(values)
    elif values.dtype.kind == "S":
        array = _bytes_array(values)
    elif values.dtype.kind == "U":
        array = arro3.core.Array(values.tolist(), arro3.core.DataType.string())
    else:
        if values.dtype.kind in "mM":
            nulls = np.isnat(values) if nulls is None else nulls | np.isnat(values)
        if values.dtype.kind in "mM" and np.datetime_data(values.dtype)[0] not in _TIMES:
            values = values.astype(f"{values.dtype.kind}8[us]")
        array = arro3.core.Array.from_numpy(np.ascontiguousarray(values))
    if nulls is None or not nulls.any():
        return array
    kept = [None if null else place for place, null in enumerate(nulls.tolist())]
    return array.take(arro3.core.Array(kept, arro3.core.DataType.uint64()))
