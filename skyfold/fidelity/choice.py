"""Which level meets a need, as far as the fidelity record can promise.

This module knows the rule. A level meets a need if the upper end of the recorded interval does,
in every set and band asked about; a bin with too few objects promises nothing. Levels are taken
by their stored bytes, the lower step of the ladder first where those are equal. Only `exact`
needs no numbers: it is lossless by construction.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from astropy.table import Table

from skyfold.errors import NeedNotMetError, UnknownNameError
from skyfold.fidelity.needs import Need, converts, matching_bins, value_in
from skyfold.ladder import LEVELS
from skyfold.science import get_case
from skyfold.science.summary import Row

LADDER = ("map", *LEVELS)
LOSSLESS = "exact"
_SHOWN = ("level", "set", "band", "measure", "bin", "n", "low", "high", "unit", "bytes", "note")
_ROUNDING = 1e-9  # of unit conversion
_MOST_SHOWN = 40  # rows of the table in a refusal's message

Area = tuple[str, str, str]


@dataclass(frozen=True)
class Choice:
    """The cheapest level that meets a need.

    Attributes
    ----------
    level : str
    bytes : int
        Stored bytes up to this level, over the sets and bands asked about.
    bpp : float
        The same in bits per pixel.
    row : dict
        The row of the record that came closest to missing the need.
    missed : tuple of str
        Why each cheaper level was not chosen: what it loses where, or that too few objects tell.
    """

    level: str
    bytes: int
    bpp: float
    row: Row
    missed: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Demand:
    """A need in the terms of the record: these bins must hold, those must where they can."""

    measure: str
    most: float
    required: list[str]
    checked: list[str]


@dataclass(frozen=True)
class _Verdict:
    """How a level fares: the worst ratio of an upper end to what is allowed, and where."""

    level: str
    bytes: int
    bpp: float
    ratio: float
    most: float
    row: Row


def choose_level(rows: list[Row], considered: Table, case: str, needs: list[Need]) -> Choice:
    """Return the cheapest level that meets all needs in every set and band of the rows.

    Parameters
    ----------
    rows : list of dict
        Of the record, for all cases: they say which sets, bands and levels there are.
    considered : astropy.table.Table
        The rows of this case, shown in a refusal.
    case : str
    needs : list of Need

    Raises
    ------
    NeedNotMetError
        If no level meets the needs; the message names the nearest, and holds the table.
    InvalidNeedError
        If a unit or S/N is not one of the case's.
    UnknownNameError
        If a measure is not recorded.
    """
    of_case = [row for row in rows if row["case"] == case]
    demands = [_demand(need, case, of_case) for need in needs]
    kinds = {row["kind"] for row in of_case}
    verdicts = _judge([row for row in rows if row["kind"] in kinds], of_case, demands)
    for number, verdict in enumerate(verdicts):
        if verdict.ratio <= 1 + _ROUNDING:
            missed = tuple(_reason(one) for one in verdicts[:number])
            return Choice(verdict.level, verdict.bytes, verdict.bpp, verdict.row, missed)
    raise _refusal(case, needs, demands, verdicts, considered)


def _demand(need: Need, case: str, rows: list[Row]) -> _Demand:
    """Look a need's measure, unit and bins up in the rows of its case."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    named = {name.lower(): name for name in measures}.get((need.measure or "").lower())
    measure = named or need.measure or _measure_meant(need, case, rows)
    of_measure = [row for row in rows if row["measure"] == measure]
    if not of_measure:
        raise UnknownNameError(
            f"need {str(need)!r}: no measure {measure!r} is recorded for {case}; there are "
            f"{', '.join(measures) or 'none'}; name one of them"
        )
    subject = f"{case} {measure}"
    most = value_in(need, of_measure[0]["unit"], subject)
    bins = list(dict.fromkeys(row["bin"] for row in of_measure))
    return _Demand(measure, most, *matching_bins(need, bins, subject))


def _measure_meant(need: Need, case: str, rows: list[Row]) -> str:
    """Return the case's default measure, or the first whose unit is that of the need."""
    units = {row["measure"]: row["unit"] for row in rows}
    default = _default_measure(case, list(units))
    if default in units and converts(need, units[default]):
        return default
    return next((name for name, unit in units.items() if converts(need, unit)), default)


def _default_measure(case: str, measures: list[str]) -> str:
    """Return the case's own default; of a case that is not installed here, the first recorded."""
    try:
        return get_case(case).default_measure
    except UnknownNameError:
        return measures[0]


def _judge(rows: list[Row], of_case: list[Row], demands: list[_Demand]) -> list[_Verdict]:
    """Hold every level against the demands, cheapest level first."""
    areas = list(dict.fromkeys(_area(row) for row in rows))
    stored = {(row["level"], _area(row)): row for row in rows}
    recorded = {(row["level"], _area(row), row["measure"], row["bin"]): row for row in of_case}
    verdicts = []
    for level in dict.fromkeys(row["level"] for row in rows):
        found = [
            _ratio(level, area, demand, name, recorded)
            for area in areas
            for demand in demands
            for name in demand.required + demand.checked
        ]
        ratio, most, row = max(found, key=lambda one: one[0])
        here = [stored[level, area] for area in areas if (level, area) in stored]
        if len(here) < len(areas):
            ratio = math.inf  # not stored everywhere
        elif level == LOSSLESS:
            ratio = 0.0
        verdicts.append(_Verdict(level, *_cost(here), ratio, most, row))
    return sorted(verdicts, key=lambda verdict: (verdict.bytes, _step(verdict.level)))


def _ratio(
    level: str, area: Area, demand: _Demand, name: str, recorded: Mapping[Any, Row]
) -> tuple[float, float, Row]:
    """Upper end over limit, and both; infinite where a required bin cannot tell."""
    place = dict(zip(("kind", "set", "band"), area, strict=True))
    blank = {"level": level, "measure": demand.measure, "bin": name, "high": None}
    row = recorded.get((level, area, demand.measure, name), place | blank)
    if row["high"] is None:
        return (math.inf if name in demand.required else 0.0), demand.most, row
    worst = worst_end(row)
    if demand.most == 0:
        return (math.inf if worst else 0.0), demand.most, row
    return worst / demand.most, demand.most, row


def worst_end(row: Row) -> float:
    """Return the end of a row's interval that lies farther from 0: a bias may be negative."""
    return max(abs(row["low"]), abs(row["high"]))


def _area(row: Row) -> Area:
    """Return what a row's bytes belong to."""
    return row["kind"], row["set"], row["band"]


def _cost(rows: list[Row]) -> tuple[int, float]:
    """Bytes over all areas, and bits per pixel weighted by their pixels."""
    total = sum(row["bytes"] for row in rows)
    if any(not row["bpp"] for row in rows):
        return total, math.nan
    return total, total / sum(row["bytes"] / row["bpp"] for row in rows)


def _step(level: str) -> int:
    """Return the place of a level on the ladder; unknown ones come last."""
    return LADDER.index(level) if level in LADDER else len(LADDER)


def _reason(verdict: _Verdict) -> str:
    """Say how a level misses the need."""
    found, place = _upper_end(verdict.row), _place(verdict.row)
    return f"{verdict.level}: {found} ({place}), allowed {verdict.most:g}"


def _upper_end(row: Row) -> str:
    """Return the upper end of a row's interval in words."""
    if row["high"] is not None:
        return f"{worst_end(row):.3g} {row['unit']}".strip()
    number = row.get("n")
    return "not known, for too few objects" + ("" if number is None else f" ({number})")


def _place(row: Row) -> str:
    return f"{row['measure']}, bin {row['bin']}, set {row['set']}, band {row['band']}"


def _refusal(
    case: str,
    needs: list[Need],
    demands: list[_Demand],
    verdicts: list[_Verdict],
    considered: Table,
) -> NeedNotMetError:
    """Build the error with the nearest level and the rows considered."""
    nearest = min(verdicts, key=lambda verdict: verdict.ratio)
    row, what = nearest.row, " and ".join(repr(str(need)) for need in needs)
    asked = {(demand.measure, name) for demand in demands for name in demand.required}
    asked |= {(demand.measure, name) for demand in demands for name in demand.checked}
    table = considered[[(row["measure"], row["bin"]) in asked for row in considered]]
    lines = table[list(_SHOWN)].pformat(max_lines=-1, max_width=-1)
    if len(lines) > _MOST_SHOWN:
        lines = [*lines[:_MOST_SHOWN], f"... {len(lines) - _MOST_SHOWN} more rows"]
    return NeedNotMetError(
        f"no level is recorded to meet {what} for {case}; nearest is {nearest.level}, whose upper "
        f"end is {_upper_end(row)} ({_place(row)}), allowed {nearest.most:g}; ask for less or for "
        f"fewer sets or bands, or allow level {LOSSLESS} where it is stored\n" + "\n".join(lines),
        table,
    )
