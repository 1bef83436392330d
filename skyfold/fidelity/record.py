"""The fidelity record: what each level costs each science case, and the choice it allows.

This module knows the record's columns and its file, and selects the rows that a choice is made
from.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from io import StringIO
from typing import Any, Self

import numpy as np
from astropy import units as u
from astropy.table import Table

from skyfold.access.trust import check_ecsv
from skyfold.errors import (
    CorruptDataError,
    FormatVersionError,
    InvalidRequestError,
    UnknownNameError,
)
from skyfold.fidelity.choice import LADDER, Choice, choose_level
from skyfold.fidelity.needs import Need, parse_needs
from skyfold.science.summary import Row, summarise

__all__ = ["LADDER", "Choice", "FidelityRecord", "summarise"]

FORMAT_VERSION = 1
_TEXT, _REAL = (str, None), (float, None)
_COLUMNS: dict[str, tuple[type, u.UnitBase | None]] = {
    **dict.fromkeys(("kind", "set", "band", "level", "case", "measure", "bin"), _TEXT),
    "n": (int, None),
    **dict.fromkeys(("bias", "scatter", "p50", "p90", "p99", "low", "high"), _REAL),
    "unit": _TEXT,
    "statistic": _TEXT,
    "exposure_lost": _REAL,
    "bytes": (int, u.byte),
    "bpp": (float, u.bit / u.pixel),
    "held_out": (bool, None),
    "note": _TEXT,
}


class FidelityRecord:
    """Measured losses, one row for each kind, set, band, level, case, measure and bin.

    Parameters
    ----------
    table : astropy.table.Table
        With the columns of the record; further ones are kept.

    Attributes
    ----------
    table : astropy.table.Table
        ``n`` objects; ``bias scatter p50 p90 p99`` and the 95 % interval ``low high`` of
        ``statistic``, in ``unit``; ``bytes`` and ``bpp`` of the stored layers up to the level, of
        that set and band; ``held_out`` where training never saw the sky; ``note``.

    Raises
    ------
    CorruptDataError
        If a column is missing.

    Examples
    --------
    >>> record = FidelityRecord.from_ecsv(release_folder.joinpath("fidelity.ecsv").read_text())
    >>> record.choose("photometry", "0.1 sigma at S/N 10", band="r").level
    'sources'
    """

    def __init__(self, table: Table) -> None:
        missing = [name for name in _COLUMNS if name not in table.colnames]
        if missing:
            raise CorruptDataError(
                f"reading a fidelity record: columns {', '.join(missing)} are missing; it must "
                f"have {', '.join(_COLUMNS)}; measure the release again"
            )
        self.table = table

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Self:
        """Return the record of rows as `summarise` and `rows` give them; None is NaN.

        Raises
        ------
        CorruptDataError
            If a row lacks a column.
        """
        given = list(rows)
        lacking = {name for row in given for name in _COLUMNS if name not in row}
        if lacking:
            raise CorruptDataError(
                f"building a fidelity record: a row lacks {', '.join(sorted(lacking))}; each "
                f"must have {', '.join(_COLUMNS)}; add what names the set and its bytes"
            )
        table = Table(meta={"format": "skyfold fidelity record", "version": FORMAT_VERSION})
        for name, (dtype, unit) in _COLUMNS.items():
            values = [math.nan if row[name] is None else row[name] for row in given]
            table[name] = np.array(values, dtype=dtype)
            table[name].unit = unit
        return cls(table)

    @classmethod
    def from_ecsv(cls, text: str | bytes) -> Self:
        """Return the record that `to_ecsv` wrote.

        Raises
        ------
        CorruptDataError
            If the text is not such a record.
        FormatVersionError
            If a newer version wrote it.
        """
        try:
            plain = text.decode("utf-8") if isinstance(text, bytes) else text
            check_ecsv(plain, "fidelity.ecsv")
            table = Table.read(plain.splitlines(), format="ascii.ecsv")
            version = int(table.meta.get("version", FORMAT_VERSION))
        except Exception as broken:
            raise CorruptDataError(
                f"reading a fidelity record: it is not ECSV ({broken}); a release holds it as "
                "fidelity.ecsv; verify the release"
            ) from broken
        if version > FORMAT_VERSION:
            raise FormatVersionError(
                f"reading a fidelity record: it has version {version}, this reader knows up to "
                f"{FORMAT_VERSION}; install a newer skyfold"
            )
        return cls(table.filled("") if table.has_masked_columns else table)

    def to_ecsv(self) -> str:
        """Return the record as text that astropy reads with units."""
        out = StringIO()
        self.table.write(out, format="ascii.ecsv")
        return out.getvalue()

    def rows(self) -> list[Row]:
        """Return the rows as objects that JSON can hold; NaN becomes None."""
        names = self.table.colnames
        lists = [self.table[name].tolist() for name in names]
        return [
            {
                name: None if value != value else value
                for name, value in zip(names, row, strict=True)
            }
            for row in zip(*lists, strict=True)
        ]

    def filter(self, **wanted: Any) -> Self:
        """Return the rows whose columns have the wanted value, or one of several.

        Raises
        ------
        InvalidRequestError
            If there is no such column.
        UnknownNameError
            If no row has such a value; the message lists what there is.
        """
        table = self.table
        for name, values in wanted.items():
            if name not in table.colnames:
                raise InvalidRequestError(
                    f"filtering a fidelity record: no column {name!r}; there are "
                    f"{', '.join(table.colnames)}; filter by one of them"
                )
            if not len(self.table):
                raise UnknownNameError(
                    f"the fidelity record is empty, and has no {name} {values!r}: nothing here was "
                    "measured. What is stored directly is exact at every level; read `exact`"
                )
            several = values if _is_several(values) else [values]
            present = sorted(set(table[name].tolist()))
            unknown = [value for value in several if value not in present]
            if unknown:
                raise UnknownNameError(
                    f"the fidelity record has no {name} {unknown[0]!r} here; there are "
                    f"{', '.join(str(one) or 'none' for one in present)}; choose one of them"
                )
            table = table[np.isin(table[name], list(several))]
        return type(self)(table)

    def choose(
        self,
        case: str,
        need: str | Need | Iterable[str | Need],
        *,
        kind: str | None = None,
        set: str | None = None,
        band: str | None = None,
        levels: Collection[str] | None = None,
    ) -> Choice:
        """Return the cheapest level that is recorded to meet one or several needs.

        Parameters
        ----------
        case : str
            Science case, such as ``"photometry"``.
        need : str, Need, or several of them
            Such as ``"0.1 sigma at S/N 10"``; `skyfold.fidelity.needs` shows the forms.
        kind, set, band : str, optional
            The need must be met in every set and band of the record, or in these alone.
        levels : collection of str, optional
            Levels to choose from; all that are recorded unless given.

        Raises
        ------
        NeedNotMetError
            If no level meets the need; the message names the nearest, and holds the table.
        InvalidNeedError
            If the need cannot be understood, or its unit or S/N is not one of the case's.
        UnknownNameError
            If the case, measure, kind, set, band or level is not in the record.
        """
        where = {"kind": kind, "set": set, "band": band, "level": levels}
        every = self.filter(**{name: value for name, value in where.items() if value is not None})
        considered = self.from_rows(every.filter(case=case).rows()).table
        return choose_level(every.rows(), considered, case, parse_needs(need))


def _is_several(values: Any) -> bool:
    """Tell a collection of values from a single one."""
    return isinstance(values, Collection) and not isinstance(values, str)
