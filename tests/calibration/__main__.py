"""Measure every survey again by other means; print what lies outside, coverage, and costs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tests.calibration.independent import measure
from tests.calibration.surveys import OTHERS, REAL, SIMULATED, build

ROOT = Path(__file__).resolve().parents[2]
LEAST = 100  # numbers of a row that is compared


def main() -> None:
    """Run the surveys that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="names of surveys")
    parser.add_argument("--others", action="store_true", help="six other simulated surveys instead")
    parser.add_argument("--images", type=int, default=4, help="of a simulated survey")
    parser.add_argument("--size", type=int, default=1024, help="of a simulated image [pixel]")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/calibration")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    costs = {}
    for survey in OTHERS if given.others else (*SIMULATED, *REAL):
        if given.only and survey.name not in given.only:
            continue
        if survey.files and not list(given.data.glob(survey.files)):
            print(f"{survey.name}: no file {given.data / survey.files}; left out")
            continue
        release, seconds = build(
            survey, given.folder / survey.name, given.data, images=given.images, size=given.size
        )
        found = compare(survey.name, release)
        costs[survey.name] = seconds
        rows += found
        print(
            f"{survey.name}: {_inside(found)} rows inside; at the record's positions "
            f"{_inside(compare(survey.name, release, given=True))}; measuring took "
            f"{seconds['measure'] / seconds['encode']:.2f} of the time of encoding",
            flush=True,
        )
    given.folder.mkdir(parents=True, exist_ok=True)
    name = "others.json" if given.others else "rows.json"
    (given.folder / name).write_text(json.dumps({"rows": rows, "seconds": costs}, indent=1))
    _report(rows)


def _inside(rows: list[dict[str, Any]]) -> str:
    return f"{sum(row['inside'] for row in rows)} of {len(rows)}"


def compare(name: str, release: Any, *, given: bool = False) -> list[dict[str, Any]]:
    """Rows of the record with enough numbers beside what was measured by other means."""
    other = measure(release, given=given)
    rows = []
    for row in release.fidelity.rows():
        key = tuple(row[label] for label in ("level", "case", "measure", "bin"))
        if key not in other or row["n"] < LEAST or row["high"] is None:
            continue
        value, width = other[key]["value"], row["high"] - row["low"]
        slack = 1e-6 * abs(value)  # single precision rounds equal numbers apart
        recorded = row["bias"] if row["statistic"] == "mean" else row["p90"]
        rows.append(
            {
                "survey": name,
                "row": "/".join(key),
                "n": row["n"],
                "other_n": other[key]["n"],
                "recorded": recorded,
                "low": row["low"],
                "high": row["high"],
                "measured": value,
                "inside": row["low"] - slack <= value <= row["high"] + slack,
                "understated_widths": max(0.0, value - row["high"] - slack) / max(width, 1e-30),
            }
        )
    return rows


def _report(rows: list[dict[str, Any]]) -> None:
    outside = [row for row in rows if not row["inside"]]
    for row in sorted(outside, key=lambda one: -one["understated_widths"]):
        print(
            f"outside: {row['survey']} {row['row']}: {row['measured']:.4g} measured (n "
            f"{row['other_n']}), recorded {row['recorded']:.4g} in {row['low']:.4g} to "
            f"{row['high']:.4g} (n {row['n']}): {row['understated_widths']:.2f} widths above"
        )
    if not rows:
        sys.exit("no row could be compared")
    print(
        f"{len(rows) - len(outside)} of {len(rows)} rows inside "
        f"({1 - len(outside) / len(rows):.1%}); most understated by "
        f"{max(row['understated_widths'] for row in rows):.2f} interval widths"
    )


if __name__ == "__main__":
    main()
