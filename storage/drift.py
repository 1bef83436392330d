"""Whether a release loses more than the one it stands on, and whether its model has aged.

Knows the thresholds. Losses are compared row by row of the fidelity records, where both have an
interval: a row is worse if its whole interval lies above the other's by more than `MARGIN`. What
the images are (noise, gain, bits of `sources`) is compared by medians of the night: a camera that
changed may lose nothing, and is still not what the model and the record are for; `storage.night`
compares what their pixels show. A model has aged if the blocks that it cannot explain (`sources`)
grew by more than `GROWTH`: that costs bits and no science, so it asks for training and does not
stop a night; far more does.
"""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skyfold.images.index import ImageEntry

MARGIN = 0.25  # of the other's upper end; intervals hold 95 %, and there are hundreds of rows
FLOOR = {"sigma": 0.05}  # a loss below this is none, whatever the other's is
GROWTH = 0.25
LEAST = 100  # objects that a row must rest on: then ten lie above a 90th percentile
FEWEST = 8  # images of a base that tell what is usual
# Of the logarithm of each number: seeing and sky differ from night to night, fields by far more.
REACH = {"noise": 0.3, "gain": 0.3, "width": 0.25, "sources": 0.5}
ERRORS = 3.0
_OF_MEDIAN = 1.2533  # standard error of a median, in those of a mean (of a Gaussian)
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


def image_numbers(entry: ImageEntry) -> dict[str, float]:
    """What tells one camera and sky from another, each positive; those that an image has.

    ``noise`` of the sky and ``gain`` slope [stored unit], and ``sources``, the bits a pixel of
    that layer.
    """
    if entry.noise is None or entry.mode == "direct":
        return {}
    found = {
        "noise": math.ldexp(entry.noise.sigma, entry.noise.grid_exponent),
        "gain": math.ldexp(entry.noise.slope, entry.noise.grid_exponent),
        "sources": 8 * entry.bytes.get("sources", 0) / entry.pixels,
    }
    return {name: float(value) for name, value in found.items() if value > 0}


def strange_numbers(
    entries: Iterable[ImageEntry], base: Iterable[ImageEntry]
) -> list[dict[str, Any]]:
    """Numbers of a night's images whose median is not what it is in a base.

    Images of one night differ by their fields; so the median may differ by several of its standard
    errors, and by `REACH` in any case. Bands and numbers that the base has of fewer than `FEWEST`
    images are not compared.

    Returns
    -------
    list of dict
        ``band number value low high``: of `image_numbers`, and what is allowed.
    """
    now, then = _logarithms(entries), _logarithms(base)
    out = []
    for band, number in sorted(now):
        values, usual = now[band, number], then.get((band, number), [])
        if len(usual) < FEWEST:
            continue
        middle = median(usual)
        scatter = 1.4826 * median(abs(one - middle) for one in usual)
        error = _OF_MEDIAN * scatter * math.hypot(len(values) ** -0.5, len(usual) ** -0.5)
        told = outside(band, number, median(values), middle, ERRORS * error)
        out += [told] if told else []
    return out


def outside(
    band: str, number: str, value: float, middle: float, errors: float
) -> dict[str, Any] | None:
    """What is told of a logarithm that is off by more than its errors and `REACH`; else None."""
    reach = max(REACH[number], errors)
    if abs(value - middle) <= reach:
        return None
    found = map(math.exp, (value, middle - reach, middle + reach))
    return {
        "band": band,
        "number": number,
        **dict(zip(("value", "low", "high"), found, strict=True)),
    }


def _logarithms(entries: Iterable[ImageEntry]) -> dict[tuple[str, str], list[float]]:
    """Logarithms of the numbers of images, by band and number."""
    out: dict[tuple[str, str], list[float]] = defaultdict(list)
    for entry in entries:
        for name, value in image_numbers(entry).items():
            out[entry.band, name].append(math.log(value))
    return out


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
