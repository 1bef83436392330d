"""The README's figure: rate against the loss of three science cases, skyfold beside its peers.

    python docs/make_peers_figure.py

draws the benchmark run that is kept in ``docs/benchmarks.json`` (see `generate.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from generate import DRAWN, SNAPSHOT

OUTPUT = Path(__file__).parent / "images/peers.png"
INK, OURS = "#22303c", "#c8553d"
PEERS = {  # color-blind safe: Okabe & Ito
    "RICE_1": ("#000000", "s"),
    "HCOMPRESS_1": ("#e69f00", "^"),
    "JPEG XL": ("#0072b2", "v"),
    "JPEG 2000": ("#56b4e9", "D"),
    "SZ3": ("#009e73", "P"),
    "ZFP": ("#cc79a7", "X"),
    "wavelet": ("#999999", "o"),
}
LEVELS = ("latent", "sources", "bounded")
BESIDE: dict[str, dict[str, Any]] = {
    level: {
        "xytext": (shift, -16),
        "textcoords": "offset points",
        "ha": "center",
        "color": OURS,
        "fontsize": 9,
        "family": "monospace",
    }
    for level, shift in zip(LEVELS, (-18, 0, -22), strict=True)
}
RANGE = (0.03, 8), (0.05, 12)  # bits a pixel; losses


def main() -> None:
    """Write docs/images/peers.png."""
    curves = json.loads(SNAPSHOT.read_text())["curves"]
    plt.rcParams.update({"font.size": 10, "text.color": INK, "axes.labelcolor": INK})
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.3), dpi=110, sharey=True)
    for axis, (measure, title) in zip(axes, DRAWN.items(), strict=True):
        for codec, (color, marker) in PEERS.items():
            points = _front(curves.get(codec, []), measure)
            axis.plot(*points, color=color, marker=marker, ms=4, lw=1, alpha=0.85, label=codec)
        _draw_levels(axis, curves["skyfold"], measure)
        axis.set(xscale="log", yscale="log", xlim=RANGE[0], ylim=RANGE[1])
        axis.set_xticks([0.05, 0.1, 0.5, 1, 5], ["0.05", "0.1", "0.5", "1", "5"])
        axis.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
        axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axis.yaxis.set_minor_locator(mpl.ticker.NullLocator())
        axis.grid(visible=True, color="#e6eaed", lw=0.8)
        axis.set_axisbelow(True)
        axis.set_xlabel("bits per pixel")
        axis.set_title(title, fontsize=10.5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("p90 of the error it adds [own error]")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="lower center", ncol=8, frameon=False, fontsize=9.5)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(OUTPUT, metadata={"Software": None})


def _front(records: list[dict[str, Any]], measure: str) -> tuple[list[float], list[float]]:
    """Settings that no other setting of the codec beats in both rate and loss."""
    rates, losses = [], []
    best = float("inf")
    for one in records:
        loss = one[measure]
        if loss is not None and 0 < loss < best:
            rates.append(one["bpp"])
            losses.append(loss)
            best = loss
    return rates, losses


def _draw_levels(axis: Any, records: list[dict[str, Any]], measure: str) -> None:
    found = {one["setting"]: one for one in records if one["setting"] in LEVELS}
    rates = [found[level]["bpp"] for level in LEVELS]
    losses = [found[level][measure] for level in LEVELS]
    axis.plot(rates, losses, color=OURS, marker="o", ms=7, lw=2.2, label="skyfold", zorder=5)
    for level, rate, loss in zip(LEVELS, rates, losses, strict=True):
        axis.annotate(level, (rate, loss), **BESIDE[level])


if __name__ == "__main__":
    main()
