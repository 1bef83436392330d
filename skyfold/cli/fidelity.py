"""Commands about loss: the record, the same measured again, and the cheapest level of a need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skyfold.cli.arguments import OUTSIDE, Json, Url, open_url
from skyfold.cli.terminal import print_json, print_table, progress, say, short, size

_COLUMNS = ("set", "band", "measure", "bin", "level", "n", "loss", "at most", "unit", "bpp")
_LEGEND = (
    "loss: 90th percentile of absolute losses; of rates and biases, the mean.\n"
    "at most: the end of its 95 % interval that `skyfold choose` judges by."
)


def fidelity(
    url: Url,
    as_json: Json = False,
    case: Annotated[list[str] | None, typer.Option(help="This case alone; repeatable.")] = None,
    band: Annotated[list[str] | None, typer.Option(help="This band alone; repeatable.")] = None,
    level: Annotated[list[str] | None, typer.Option(help="This level alone; repeatable.")] = None,
) -> None:
    """Measured loss of every science case at every level."""
    wanted = {"case": case, "band": band, "level": level}
    record = open_url(url).fidelity.filter(**{name: one for name, one in wanted.items() if one})
    if as_json:
        print_json(record.rows())
    else:
        print_record(record.rows())


def print_record(rows: list[dict[str, Any]]) -> None:
    """Print rows of a fidelity record, a table a case; what all its rows share stands above it."""
    say(_LEGEND if rows else "the fidelity record has no such rows")
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == case]
        lines = {_line(row): None for row in of_case}  # in the record's order
        told = [_told(row) for one in lines for row in of_case if _line(row) == one]
        differ = [name for name in _COLUMNS if len({row[name] for row in told}) > 1]
        shared = [f"{name} {told[0][name]}" for name in _COLUMNS if name not in differ]
        shared = [one for one in shared if not one.endswith(" ")]  # catalogs have no band
        say(f"\n{', '.join([case, *shared])}")
        if differ:
            print_table(tuple(differ), [tuple(row[name] for name in differ) for row in told])


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    """What the levels are held against each other of."""
    return row["set"], row["band"], row["measure"], row["bin"]


def _told(row: dict[str, Any]) -> dict[str, str]:
    """A row as it is shown, with the numbers that decide."""
    from skyfold.fidelity.choice import worst_end

    shown = {name: short(row.get(name)) for name in _COLUMNS}
    shown["loss"] = short(row["p90"] if row["statistic"] == "p90" else row["bias"])
    shown["at most"] = "too few" if row["high"] is None else short(worst_end(row))
    return shown


def measure(
    url: Url,
    raw: Annotated[
        list[Path] | None,
        typer.Option(help="Survey file to compare `exact` with first, bit for bit; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the fidelity record again, and hold it against the one that was recorded."""
    from skyfold.fidelity.remeasure import compare_records, measure_release, require_same_raw

    release = open_url(url)
    compared = require_same_raw(release, raw or [])
    with progress("measuring") as told:
        measured = measure_release(release, told)
    table = compare_records(release.fidelity, measured)
    verdicts = [str(one) for one in table["verdict"]]
    if as_json:
        rows = [dict(zip(table.colnames, row, strict=True)) for row in _plain_rows(table)]
        print_json({"rows": rows, "raw": compared})
    else:
        print_table(tuple(table.colnames), [tuple(map(short, row)) for row in _plain_rows(table)])
        say(", ".join(f"{verdicts.count(one)} {one}" for one in dict.fromkeys(verdicts)))
        for image_id in compared:
            say(f"{image_id}: exact is the survey file, bit for bit")
    if "outside" in verdicts:
        raise typer.Exit(OUTSIDE)


def _plain_rows(table: Any) -> list[list[Any]]:
    """Rows of a table as JSON can hold them; NaN becomes None."""
    columns = [table[name].tolist() for name in table.colnames]
    return [[None if one != one else one for one in row] for row in zip(*columns, strict=True)]


def choose(url: Url, case: str, need: list[str], as_json: Json = False) -> None:
    """Cheapest level that is recorded to meet a need, such as "0.1 sigma at S/N 10"."""
    choice = open_url(url).choice(case, need)
    if as_json:
        print_json(
            {
                "level": choice.level,
                "bytes": choice.bytes,
                "bpp": choice.bpp,
                "row": choice.row,
                "missed": choice.missed,
            }
        )
    else:
        say(f"{choice.level}: {choice.bpp:.3f} bits per pixel, {size(choice.bytes)} in all")
        for reason in choice.missed:
            say(f"  not {reason}")
