"""Which columns belong together: values and their errors, right ascension and declination.

Only names (and units, where stated) are looked at. A declaration in the configuration always wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from astropy import units as u

from skyfold.errors import InputError
from storage.catalogs.reader import InputColumn

_INSIDE = re.compile(r"^(?P<before>.+?)_?(?P<mark>err|error|ivar|unc|sigma)(?P<after>_.*)?$")
_BEFORE = re.compile(r"^(?:e|err|error|sigma|unc)_(?P<name>.+)$")
_POSITIONS = (
    ("ra", "dec"),
    ("ra", "decl"),
    ("raj2000", "dej2000"),
    ("ra_icrs", "de_icrs"),
    ("ra_deg", "dec_deg"),
    ("alpha_j2000", "delta_j2000"),
    ("alphawin_j2000", "deltawin_j2000"),
    ("coord_ra", "coord_dec"),
)


def find_errors(
    columns: Sequence[InputColumn], declared: Mapping[str, str]
) -> dict[str, tuple[str, float, bool]]:
    """Error column of each value column: name, factor of units, whether an inverse variance.

    Parameters
    ----------
    columns : sequence of InputColumn
    declared : mapping
        Value column to error column, as configured.

    Raises
    ------
    InputError
        If a declared column is not there, holds no floats, or has a unit that does not fit.
    """
    known = {column.name: column for column in columns}
    pairs: dict[str, tuple[str, float, bool]] = {}
    for value, error in declared.items():
        _require(known, value, error)
        is_inverse = _is_inverse(error)
        factor = 1.0 if is_inverse else _factor(known[value], known[error])
        if factor is None or not _fits(known[value], known[error]):
            raise InputError(
                f"errors: column {error!r} ({known[error].unit}, {known[error].shape}) cannot "
                "be the error "
                f"of {value!r} ({known[value].unit}, {known[value].shape}); declare another"
            )
        pairs[value] = error, factor, is_inverse
    for column in columns:
        found = _likely_error(column, columns) if column.name not in pairs else None
        if found is not None and column.name not in declared.values():
            pairs[column.name] = found
    return pairs


def _require(known: Mapping[str, InputColumn], *names: str) -> None:
    for name in names:
        if name not in known:
            some = ", ".join(list(known)[:8])
            raise InputError(
                f"errors: there is no column {name!r}; there are such as {some}; correct it"
            )
        if not _is_float(known[name]):
            raise InputError(
                f"errors: column {name!r} is of type {known[name].dtype}; only floats have "
                "errors; take "
                "it out"
            )


def _is_float(column: InputColumn) -> bool:
    return column.dtype.lstrip("<>=|")[:1] == "f" and not column.is_list


def _is_inverse(name: str) -> bool:
    return "ivar" in name.lower()


def _likely_error(
    column: InputColumn, columns: Sequence[InputColumn]
) -> tuple[str, float, bool] | None:
    if not _is_float(column):
        return None
    for error in columns:
        if _is_float(error) and _names_error(error, column) and _fits(column, error):
            factor = 1.0 if _is_inverse(error.name) else _factor(column, error)
            if factor is not None:
                return error.name, factor, _is_inverse(error.name)
    return None


def _names_error(error: InputColumn, column: InputColumn) -> bool:
    """Whether a name reads as that of the other's error."""
    name, value = error.name.lower(), column.name.lower()
    if name == value or re.search(r"err|ivar", value):
        return False
    inside, before = _INSIDE.match(name), _BEFORE.match(name)
    if inside and value == inside["before"] + (inside["after"] or ""):
        return True
    if before and value == before["name"]:
        return True
    same_unit = error.unit is not None and error.unit == column.unit
    short = len(re.sub(r"[^a-z]", "", value)) <= 2  # eg for g, eu-g for u-g
    return (name == "d" + value and same_unit) or (name == "e" + value and short)


def _fits(column: InputColumn, error: InputColumn) -> bool:
    return error.shape in (column.shape, ())


def _factor(column: InputColumn, error: InputColumn) -> float | None:
    """Units of the value in one of the error; None if they cannot be compared."""
    if column.unit is None or error.unit is None or column.unit == error.unit:
        return 1.0
    try:
        return float(u.Unit(error.unit).to(u.Unit(column.unit)))
    except (ValueError, TypeError, u.UnitsError):
        return None


def find_positions(
    columns: Sequence[InputColumn], ra: str | None, dec: str | None
) -> tuple[str, str] | None:
    """Names of right ascension and declination, as configured or by their usual names.

    Raises
    ------
    InputError
        If a configured column is not there.
    """
    names = {column.name for column in columns if _is_float(column) and not column.shape}
    if ra is not None and dec is not None:
        lacking = [name for name in (ra, dec) if name not in names]
        if lacking:
            raise InputError(
                f"ra, dec: there is no column {lacking[0]!r} of floats; there are such as "
                f"{', '.join(sorted(names)[:8])}; correct it"
            )
        return ra, dec
    lower = {name.lower(): name for name in names}
    for first, second in _POSITIONS:
        if first in lower and second in lower:
            return lower[first], lower[second]
    return None
