"""Catalogs that are held in memory: VOTables, CSV, ECSV and columns divided by blanks."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow.csv

from skyfold.errors import InputError
from storage.catalogs.arrow import from_arrow_table
from storage.catalogs.source import (
    CatalogSource,
    InputColumn,
    MemorySource,
    Values,
    is_archived,
    left_out,
    native,
)


def from_table(file: str, table: Any) -> CatalogSource:
    """Source of an astropy table; times and sky positions as their parts, ``t.jd1`` or ``c.ra``."""
    from astropy.table.serialize import represent_mixins_as_columns

    table = represent_mixins_as_columns(table)
    columns: dict[str, tuple[InputColumn, Values]] = {}
    notices = []
    for name in table.colnames:
        column = table[name]
        nulls = np.ma.getmaskarray(column) if hasattr(column, "mask") else None
        values = np.asarray(np.ma.getdata(column))
        dtype = values.dtype.str
        if values.dtype.kind == "O" and all(
            isinstance(one, str) for one in values.ravel().tolist()
        ):
            values = values.astype(str)
        if values.dtype.kind == "U":
            values, dtype = np.strings.encode(values, "utf-8"), "str"
        if not is_archived(values.dtype):
            notices.append(left_out(file, name, values.dtype))
            continue
        unit = str(column.unit) if getattr(column, "unit", None) is not None else None
        about = InputColumn(name, dtype, values.shape[1:], unit, column.info.description or "")
        mask = nulls if nulls is not None and nulls.any() else None
        columns[name] = about, (native(values) if values.dtype.kind != "S" else values, mask)
    source = MemorySource(file, columns)
    source.notices = notices
    return source


def open_votable(file: str, place: Any, key: str | None) -> CatalogSource:
    """The first table of a VOTable, or that of an ID or number."""
    from astropy.table import Table

    chosen = {} if key is None else {"table_id": int(key) if key.isdigit() else key}
    return from_table(file, Table.read(place.path, format="votable", **chosen))


def open_ecsv(file: str, place: Any, _key: str | None) -> CatalogSource:
    """A table of ECSV, with its units and masks."""
    from astropy.table import Table

    return from_table(file, Table.read(place.path, format="ascii.ecsv"))


def open_csv(file: str, place: Any, key: str | None) -> CatalogSource:
    """Values divided by commas; ECSV too, whatever its name.

    Raises
    ------
    InputError
        If something else divides the names.
    """
    with open(place.path, "rb") as stream:
        head = stream.readline()
    if head.startswith(b"# %ECSV"):
        return open_ecsv(file, place, key)
    others = [mark for mark in (";", "\t", "|") if mark.encode() in head]
    if others and b"," not in head:
        raise InputError(
            f"{file}: its first line has no comma, but {others[0]!r}: columns of CSV are divided "
            "by commas; write it so, or as ECSV, Parquet or FITS"
        )
    table = pyarrow.csv.read_csv(place.path)
    return from_arrow_table(file, table)


def open_text(file: str, place: Any, _key: str | None) -> CatalogSource:
    """Columns divided by blanks, below a line of names that may begin with ``#``.

    Raises
    ------
    InputError
        If there are no rows, or a row has not one value for each name.
    """
    with open(place.path, encoding="utf-8") as stream:
        if stream.readline().startswith("# %ECSV"):
            return open_ecsv(file, place, None)
        stream.seek(0)
        lines = [line for line in stream if line.strip()]
    if not lines:
        raise InputError(f"{file}: the catalog has no rows; take it out of the configuration")
    heads = [line for line in lines if line.lstrip().startswith("#")]
    rows = [line for line in lines if not line.lstrip().startswith("#")]
    names = heads[-1].lstrip("# \t").split() if heads else rows.pop(0).split()
    for number, line in enumerate(rows, 1):
        met = len(line.split())
        if met != len(names):
            raise InputError(
                f"{file}: the header names {len(names)} columns, and row {number} has {met}; "
                "correct "
                "the header, or the row"
            )
    text = "".join(",".join(line.split()) + "\n" for line in [" ".join(names), *rows])
    return from_arrow_table(file, pyarrow.csv.read_csv(io.BytesIO(text.encode())))
