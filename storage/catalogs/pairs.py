"""Which columns belong together: values and their errors, right ascensions and declinations.

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


# Of one of an object's positions: ALPHAWIN_J2000, coord_ra, ra_psf; the latitude is named alike.
_LONGITUDE = re.compile(
    r"^(?P<before>(?:.*_)?)(?P<mark>ra|alpha)(?P<after>(?:[a-z]*_?[bj]?\d{4}|_.*)?)$"
)
_LATITUDES = {"ra": ("dec", "decl", "de"), "alpha": ("delta",)}
_NO_POSITION = re.compile(r"err|ivar|unc|sigma|corr|cov|pm|rate")


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


def find_angles(columns: Sequence[InputColumn]) -> list[tuple[str, str]]:
    """Names of every pair of columns that are positions on the sky, by their names and units.

    Both must state a unit of angle on the sky (not of seconds of arc, in which offsets are).
    """
    lower = {one.name.lower(): one for one in columns if _is_float(one) and _is_angle(one.unit)}
    found = []
    for name, first in lower.items():
        match = _LONGITUDE.match(name)
        for mark in _LATITUDES[match["mark"]] if match and not _NO_POSITION.search(name) else ():
            second = lower.get(f"{match['before']}{mark}{match['after']}") if match else None
            if second is not None and first.shape == second.shape == ():
                found.append((first.name, second.name))
    return found


def _is_angle(unit: str | None) -> bool:
    """Whether a unit is one in which positions on the sky are stated."""
    try:
        return u.Unit(unit) in (u.deg, u.rad, u.hourangle) if unit else False
    except (ValueError, TypeError):
        return False
