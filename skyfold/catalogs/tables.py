"""How decoded columns become a table of astropy, and such a table Parquet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.table import Column as TableColumn
from astropy.table import MaskedColumn, QTable
from astropy.utils.masked import Masked

from skyfold.access.parquet import OutColumn, write_columns
from skyfold.catalogs.rows import missing_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.catalogs.index import Column


def nothing(column: Column) -> list[NDArray[Any]]:
    """Decoded values and nulls of no rows, shape (elements, 0)."""
    kinds: dict[str, Any] = {"text": f"S{column.width}", "whole": "i8", "list": object}
    dtype = kinds.get(column.kind, column.native)
    return [np.empty((column.elements, 0), dtype), np.empty((column.elements, 0), bool)]


def make_table(columns: list[Column], numbers: NDArray[np.int64], decoded: list[Any]) -> QTable:
    """Table of decoded values and nulls of some columns, and the numbers of its rows."""
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
