"""Commands about loss: the record, the same measured again, and the cheapest level of a need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skyfold.cli.arguments import OUTSIDE, Json, Url, open_url
from skyfold.cli.terminal import print_json, print_record, print_table, progress, say, short, size


def fidelity(url: Url, as_json: Json = False) -> None:
    """Measured loss of every science case at every level."""
    record = open_url(url).fidelity
    if as_json:
        print_json(record.rows())
    else:
        print_record(record.rows())


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
