"""The README's figure: one piece of sky at every level, and what each level costs three measures.

    python docs/make_figures.py --demo build/demo

reads the raw files and the release that `python -m flows demo` left in that folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from astropy.io import fits

from skyfold import DataRelease, open_release

mpl.use("Agg")
import matplotlib.pyplot as plt

SIDE = 170  # pixels of a cutout
COLORS = {"r": "#c8553d", "i": "#2d6a8e"}
INK = "#22303c"
MEASURES = (
    ("photometry", "flux_1fwhm", ">=5", "p90", "flux in 1 FWHM, S/N ≥ 5", "p90 of the error [σ]"),
    ("photometry", "flux_2fwhm", ">=5", "p90", "flux in 2 FWHM, S/N ≥ 5", "p90 of the error [σ]"),
    ("detection", "lost", "3-5", "bias", "sources lost, S/N 3-5", "fraction"),
)


def main() -> None:
    """Write docs/images/levels.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("build/demo"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images/levels.png")
    given = parser.parse_args()
    release = open_release(given.demo / "archive/demo/dr1")
    plt.rcParams.update({"font.size": 10, "text.color": INK, "axes.labelcolor": INK})
    figure = plt.figure(figsize=(12, 6.1), dpi=110, facecolor="white")
    above = figure.add_gridspec(1, 5, left=0.01, right=0.99, top=0.93, bottom=0.52, wspace=0.03)
    below = figure.add_gridspec(1, 3, left=0.065, right=0.985, top=0.40, bottom=0.085, wspace=0.24)
    _draw_cutouts(figure, above, release, given.demo)
    for number, measure in enumerate(MEASURES):
        axes = figure.add_subplot(below[number])
        _draw_curve(axes, release, *measure)
        if number == 0:
            axes.legend(frameon=False, loc="lower left", title="band")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.output, metadata={"Software": None})


def _draw_cutouts(figure: Any, grid: Any, release: DataRelease, demo: Path) -> None:
    entry = next(iter(release.images.entries.values()))
    raw = fits.getdata(demo / entry.file).astype(float)
    y, x = _liveliest(raw)
    rows, columns = slice(y, y + SIDE), slice(x, x + SIDE)
    planes = {f"raw\n{8 * np.dtype(entry.dtype).itemsize} bits per pixel": raw[rows, columns]}
    for level, one in release.info()["images"][entry.set]["levels"].items():
        window = release.images.read(entry.id, level, rows, columns)
        title = f"{level}\n{one['bpp']:.2f} bits per pixel"
        planes[title] = window.values * entry.bscale + entry.bzero
    sky, noise = np.median(raw), 1.4826 * np.median(np.abs(raw - np.median(raw)))
    for number, (title, plane) in enumerate(planes.items()):
        axes = figure.add_subplot(grid[number])
        shown = np.arcsinh((plane - sky) / (2 * noise))
        axes.imshow(shown, origin="lower", cmap="magma", vmin=-1, vmax=3.6, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()


def _liveliest(raw: np.ndarray) -> tuple[int, int]:
    """Corner of the window whose inner part holds most sources, by the spread of its pixels."""
    squeezed = np.arcsinh((raw - np.median(raw)) / raw.std())
    rim, step = SIDE // 5, SIDE // 4
    inner = slice(rim, SIDE - rim)
    corners = [
        (y, x)
        for y in range(0, raw.shape[0] - SIDE, step)
        for x in range(0, raw.shape[1] - SIDE, step)
    ]
    return max(corners, key=lambda at: squeezed[at[0] :, at[1] :][inner, inner].std())


def _draw_curve(
    axes: Any,
    release: DataRelease,
    case: str,
    measure: str,
    name: str,
    number: str,
    title: str,
    unit: str,
) -> None:
    record = release.fidelity.filter(kind="images", case=case, measure=measure, bin=name)
    top = []
    for band, color in COLORS.items():
        rows = record.filter(band=band).rows()
        rate = [row["bpp"] for row in rows]
        loss = np.array([row[number] for row in rows], float)
        ends = np.abs(np.array([[row["low"], row["high"]] for row in rows], float).T - loss)
        top.append(max(row["high"] for row in rows))
        axes.errorbar(
            rate, loss, ends, color=color, marker="o", ms=5, lw=1.4, capsize=3, label=band
        )
    axes.set_xscale("log")
    axes.set_xlim(0.03, 13)
    axes.set_xticks([0.05, 0.1, 0.5, 1, 5], ["0.05", "0.1", "0.5", "1", "5"])
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    threshold = 0.3 if number == "p90" else 0.1
    axes.set_yscale("symlog", linthresh=threshold, linscale=1.5)
    axes.set_ylim(-0.08 * threshold, 1.3 * max(top))
    ticks = [tick for tick in (0, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 4) if tick < axes.get_ylim()[1]]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.grid(axis="y", color="#e6eaed", lw=0.8)
    axes.set_axisbelow(True)
    names = axes.secondary_xaxis("top")
    names.set_xticks([row["bpp"] for row in rows], [row["level"] for row in rows], fontsize=8.5)
    names.xaxis.set_minor_locator(mpl.ticker.NullLocator())
    names.get_xticklabels()[-1].set_horizontalalignment("left")
    names.tick_params(length=0, pad=1, colors="#7b8894")
    names.spines["top"].set_visible(False)
    axes.set_xlabel("bits per pixel")
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=10.5, pad=8)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
