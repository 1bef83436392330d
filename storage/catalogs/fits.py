"""Catalogs in FITS: binary and ASCII tables, LDAC, vectors, scaled and null integers."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from skyfold.errors import InputError
from storage.catalogs.source import (
    PACKED,
    CatalogSource,
    InputColumn,
    Values,
    as_lists,
    is_archived,
    left_out,
    native,
)


class FitsSource(CatalogSource):
    """A FITS binary or ASCII table; memory-mapped where the file is not packed."""

    def __init__(self, file: str, place: Any, key: str | None) -> None:
        from astropy.io import fits

        self.file = file
        self._place = place
        # The table stays mapped when its file is closed.
        with fits.open(place.path, memmap=True) as self._hdus:
            self._take(self._choose(key))

    def _take(self, hdu: Any) -> None:
        """Rows and columns of the table."""
        self.rows = hdu.header["NAXIS2"]
        self._check_size(hdu)
        self._data = hdu.data
        self._nulls: dict[str, int] = {}
        self.columns, self.notices = [], []
        for number, column in enumerate(hdu.columns, 1):
            self._describe(column, str(hdu.header.get(f"TCOMM{number}", "")))

    def _choose(self, key: str | None) -> Any:
        from astropy.io import fits

        tables = [hdu for hdu in self._hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if key is not None:
            named = [hdu for hdu in tables if key in (hdu.name, str(self._hdus.index(hdu)))]
        else:
            named = [hdu for hdu in tables if hdu.name == "LDAC_OBJECTS"] or tables
        if not named:
            there = ", ".join(f"{self._hdus.index(hdu)} {hdu.name}".strip() for hdu in tables)
            raise InputError(
                f"{self.file}: no table {'' if key is None else repr(key)}; there are: "
                f"{there or 'none'}; give one of them as key"
            )
        return named[0]

    def _check_size(self, hdu: Any) -> None:
        """Refuse a truncated file, which astropy would pad."""
        end = hdu._data_offset + hdu.header["NAXIS1"] * self.rows
        met = os.path.getsize(self._place.path)
        if met < end and not self._place.path.lower().endswith(PACKED):
            raise InputError(
                f"{self.file}: truncated: its table ends at byte {end}, the file at {met}; "
                "fetch it again"
            )

    def _describe(self, column: Any, comment: str) -> None:
        values = np.asarray(self._data.field(column.name)[:1])
        if values.dtype.kind == "O":
            self._describe_lists(column, np.asarray(values[0]), comment)
            return
        if values.dtype.kind == "U":
            values = np.asarray(values, "S")
        if not is_archived(values.dtype):
            self.notices.append(left_out(self.file, column.name, values.dtype.name))
            return
        dtype = values.dtype.str if values.dtype.kind != "S" else f"S{_text_width(column.format)}"
        if column.null is not None and values.dtype.kind in "iu":
            self._nulls[column.name] = int(column.null)
        self.columns.append(InputColumn(column.name, dtype, values.shape[1:], column.unit, comment))

    def _describe_lists(self, column: Any, values: Any, comment: str) -> None:
        """An array of variable length (FITS 4.0, section 7.3.5); astropy holds all its values."""
        if values.dtype.kind not in "biuf" or "X" in column.format:
            self.notices.append(
                f"{self.file}: column {column.name!r} ({column.format}) holds lists of changing "
                "length that are not of numbers, which is not archived; flatten it"
            )
            return
        about = InputColumn(column.name, values.dtype.str, (), column.unit, comment, is_list=True)
        self.columns.append(about)

    def read(self, name: str, start: int, stop: int) -> Values:
        """Values of one column in a range of rows."""
        field = self._data.field(name)[start:stop]
        values = np.asarray(field)
        if values.dtype.kind == "O":
            return as_lists(np.asarray(one).ravel() for one in values), None
        if values.dtype.kind in "SU":
            # Blanks that fill a field mean nothing (FITS 4.0, section 7.3.3.1).
            return np.strings.rstrip(np.asarray(values, "S"), b" "), None
        null = self._nulls.get(name)
        return native(values), None if null is None else values == null


def _text_width(format_: str) -> int:
    found = re.match(r"(\d*)A(\d*)", format_.strip()) or re.match(r"A(\d+)()", format_.strip())
    width = (found[2] or found[1]) if found else ""
    return max(int(width or 1), 1)
