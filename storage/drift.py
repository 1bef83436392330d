"""Whether a release loses more than the one it stands on, and whether its model has aged.

Knows the two thresholds. Losses are compared row by row of the fidelity records, where both have
an interval: a row is worse if its whole interval lies above the other's by more than `MARGIN`. A
model has aged if the blocks that it cannot explain (`sources`) grew by more than `GROWTH`: that
costs bits and no science, so it asks for training and does not stop a night.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skyfold.images.index import ImageEntry

MARGIN = 0.25  # of the other's upper end; intervals hold 95 %, and there are hundreds of rows
FLOOR = {"sigma": 0.05}  # a loss below this is none, whatever the other's is
GROWTH = 0.25
LEAST = 30  # objects that a row must rest on
_WHAT = ("kind", "band", "level", "case", "measure", "bin", "unit", "statistic")


def worse_rows(
    rows: Iterable[Mapping[str, Any]], base: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of a record that are worse than those of a base, with the base's interval beside.

    Parameters
    ----------
    rows, base : iterable of mapping
        As of `skyfold.fidelity.record.FidelityRecord.rows`; sets differ from night to night and
        are not compared, so the worst of the base's sets counts.

    Returns
    -------
    list of dict
        ``kind set band level case measure bin low high unit`` and ``allowed``: what the lower end
        may be.
    """
    allowed: dict[tuple[Any, ...], float] = defaultdict(lambda: -math.inf)
    for row in base:
        if _is_measured(row):
            key = tuple(row[name] for name in _WHAT)
            allowed[key] = max(allowed[key], float(row["high"]))
    out = []
    for row in rows:
        most = allowed.get(tuple(row[name] for name in _WHAT))
        if most is None or not _is_measured(row):
            continue
        limit = max(most + MARGIN * abs(most), FLOOR.get(row["unit"], 0.0))
        if row["low"] > limit:
            shown = {name: row[name] for name in (*_WHAT[:6], "set", "low", "high", "unit")}
            out.append(shown | {"allowed": limit})
    return out


def _is_measured(row: Mapping[str, Any]) -> bool:
    interval = (row["low"], row["high"])
    return row["n"] >= LEAST and all(v is not None and math.isfinite(v) for v in interval)


def growth(entries: Iterable[ImageEntry], base: Iterable[ImageEntry]) -> dict[str, float]:
    """By how much the bits a pixel of `sources` grew in each band; 0.1 is 10 %.

    Bands that the base lacks, and images without a ladder, are left out.
    """
    now, then = _bits(entries), _bits(base)
    return {band: now[band] / then[band] - 1 for band in sorted(now) if then.get(band)}


def _bits(entries: Iterable[ImageEntry]) -> dict[str, float]:
    """Bits a pixel of `sources`, by band."""
    size: dict[str, float] = defaultdict(float)
    pixels: dict[str, int] = defaultdict(int)
    for entry in entries:
        if entry.mode != "direct":
            size[entry.band] += 8 * entry.bytes_at("sources")
            pixels[entry.band] += entry.pixels
    return {band: size[band] / pixels[band] for band in size}
