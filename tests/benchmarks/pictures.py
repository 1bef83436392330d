"""What a run of the benchmark shows: rate-distortion pictures, and tables of records and bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table

from tests.benchmarks.bars import BARS, TARGET, middle

Record = dict[str, Any]
PANELS = {
    "flux_p90 >=5": "flux error p90, S/N >= 5 [sigma]",
    "flux_p90 3-5": "flux error p90, S/N 3-5 [sigma]",
    "max_error": "largest error [noise units]",
    "ellipticity_p90": "ellipticity error p90, S/N >= 10 [own errors]",
}
COLUMNS = {
    "bpp": "bpp",
    "flux_p90 3-5": "flux 3-5",
    "flux_p90 >=5": ">=5",
    "flux_p90 5-20": "5-20",
    "flux_p90 >20": ">20",
    "centroid_p90": "centroid",
    "size_p90": "size",
    "ellipticity_p90": "ellip.",
    "lost": "lost",
    "created": "created",
    "max_error": "max",
    "rms_error": "rms",
    "encode_mpix_s": "enc Mpix/s",
    "decode_mpix_s": "dec",
    "encode_peak_mb": "enc MB",
}
OURS = "skyfold"


def draw(name: str, records: Sequence[Record], folder: Path) -> Path:
    """Rate-distortion curves of every codec on one image, as ``<folder>/<name>.png``."""
    mpl.use("Agg")
    codecs = sorted({one["codec"] for one in records}, key=lambda codec: (codec == OURS, codec))
    figure, axes = plt.subplots(2, 2, figsize=(12, 9), constrained_layout=True)
    for axis, (measure, label) in zip(axes.flat, PANELS.items(), strict=True):
        for codec in codecs:
            _curve(axis, codec, [one for one in records if one["codec"] == codec], measure)
        axis.set(xscale="log", yscale="log", xlabel="bits a pixel", ylabel=label)
        axis.grid(visible=True, which="both", alpha=0.2)
    axes[0, 0].axhline(TARGET, color="0.6", linestyle=":")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(name)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path


def _curve(axis: Any, codec: str, records: list[Record], measure: str) -> None:
    points = sorted((one["bpp"], one[measure]) for one in records if one[measure])
    if not points:
        return
    bits, errors = np.array(points).T
    best = errors <= np.minimum.accumulate(errors)  # settings that no cheaper one beats
    bits, errors = bits[best], errors[best]
    style = {"color": "black", "linewidth": 2.5, "marker": "s"} if codec == OURS else {}
    axis.plot(bits, errors, **{"marker": ".", "label": codec, **style})


def show_records(console: Console, name: str, records: Sequence[Record]) -> None:
    """Table of everything measured on one image."""
    table = Table(title=name, title_justify="left")
    table.add_column("codec")
    table.add_column("setting")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for one in records:
        style = "bold" if one["codec"] == OURS else None
        cells = [_cell(one.get(key)) for key in COLUMNS]
        table.add_row(one["codec"], str(one["setting"]), *cells, style=style)
    console.print(table)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def show_bars(console: Console, judged: Mapping[str, Mapping[str, dict[str, float]]]) -> None:
    """Tables of the bars, for each kind: one row an image, and their median.

    Parameters
    ----------
    judged : mapping
        kind -> image -> what `bars.judge` found.
    """
    for kind, images in judged.items():
        table = Table(title=f"bars, {kind} images", title_justify="left")
        table.add_column("image")
        for bar in BARS.values():
            sign = ">=" if bar.at_least else "<="
            table.add_column(f"{bar.name}\n{sign} {bar.limit:g}", justify="right")
        rows = {**images, "median": middle(images.values())}
        for name, found in rows.items():
            table.add_row(name, *(_judged(bar, found) for bar in BARS))
        console.print(table)
    for bar in BARS.values():
        console.print(f"{bar.name}: {bar.ratio}", highlight=False, markup=False)


def _judged(bar: str, found: Mapping[str, float]) -> str:
    if bar not in found:
        return "-"
    color = "green" if BARS[bar].is_met(found[bar]) else "red"
    return f"[{color}]{found[bar]:.3g}[/{color}]"
