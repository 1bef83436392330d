"""The picture of docs/calibration.md: recorded intervals, and what other libraries find there.

python -m tests.calibration
python docs/make_calibration.py --rows build/calibration/rows.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

INK, COLOR, OUTSIDE = "#22303c", "#2d6a8e", "#c8553d"


def main() -> None:
    """Write docs/images/calibration.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=Path, nargs="+", default=[Path("build/calibration/rows.json")]
    )
    output = Path(__file__).parent / "images/calibration.png"
    parser.add_argument("--output", type=Path, default=output)
    given = parser.parse_args()
    rows = [row for path in given.rows for row in json.loads(path.read_text())["rows"]]
    rows = [row for row in rows if row["recorded"] > 0 and row["high"] > row["low"]]
    plt.rcParams.update({"font.size": 10, "text.color": INK, "axes.labelcolor": INK})
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), dpi=110, width_ratios=(3, 2))
    _draw_pairs(axes[0], rows)
    _draw_places(axes[1], rows)
    figure.tight_layout()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.output, metadata={"Software": None})


def _draw_pairs(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Measured against recorded, with the recorded interval."""
    for inside, color in ((True, COLOR), (False, OUTSIDE)):
        some = [row for row in rows if row["inside"] == inside]
        recorded = np.array([row["recorded"] for row in some])
        measured = [row["measured"] for row in some]
        ends = np.array([[row["low"], row["high"]] for row in some]).reshape(-1, 2).T
        axes.errorbar(
            measured,
            recorded,
            yerr=np.maximum(np.abs(ends - recorded), 0),
            fmt="o",
            ms=3.5,
            lw=0.9,
            color=color,
            label=f"{'inside' if inside else 'outside'} the interval: {len(some)}",
        )
    ends = axes.get_xlim()
    line = np.geomspace(max(ends[0], 1e-3), ends[1], 2)
    axes.plot(line, line, color="#9aa5ae", lw=0.8, zorder=0)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("measured with photutils, scipy, astropy")
    axes.set_ylabel("recorded, with its 95 % interval")
    axes.legend(frameon=False)


def _draw_places(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Where in its interval each measurement lies: 0 the lower end, 1 the upper."""
    place = [(row["measured"] - row["low"]) / (row["high"] - row["low"]) for row in rows]
    axes.hist(np.clip(place, -0.5, 1.5), bins=np.linspace(-0.5, 1.5, 21), color=COLOR)
    for end in (0, 1):
        axes.axvline(end, color=OUTSIDE, lw=1)
    axes.set_xticks((-0.5, 0, 0.5, 1, 1.5))
    axes.set_xlabel("place in the interval (0 lower end, 1 upper end)")
    axes.set_ylabel("rows")


if __name__ == "__main__":
    main()
