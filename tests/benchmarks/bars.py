"""What the project asks of its image codec, and how far a run of the benchmark meets it.

This module knows how codecs are compared "at the same error" though each has settings of its own:
between the cheapest setting that is good enough and the next cheaper one, bits are interpolated
against the logarithm of the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Record = dict[str, Any]
LOSSY = ("JPEG XL", "JPEG 2000", "HCOMPRESS_1", "ZFP", "SZ3")
BOUNDED = ("HCOMPRESS_1", "ZFP")
TARGET = 0.25  # flux error p90 at `sources`, and cell half width at `bounded` [noise units]
SLACK = 1.02  # of the bound: noise differs a little between those who state it


@dataclass(frozen=True)
class Bar:
    """One requirement.

    Attributes
    ----------
    ratio : str
        What the number is.
    limit : float
        Its allowed value.
    at_least : bool
        Whether larger is better.
    """

    name: str
    ratio: str
    limit: float
    at_least: bool

    def is_met(self, value: float) -> bool:
        """Whether a number meets the bar."""
        return value >= self.limit if self.at_least else value <= self.limit


BARS = {
    bar.name: bar
    for bar in (
        Bar("sources: error", "flux error p90 at S/N >= 5 [sigma]", TARGET, at_least=False),
        Bar("sources: RICE", "bits of RICE_1 / skyfold, same error", 8.0, at_least=True),
        Bar("sources: best", "bits of the best lossy peer / skyfold, same error", 5.0, True),
        Bar("bounded: RICE", "bits of skyfold / RICE_1, same maximum error", 0.80, False),
        Bar("bounded: SZ3", "bits of skyfold / SZ3, same maximum error", 0.90, False),
        Bar("bounded: others", "bits of skyfold / best of HCOMPRESS_1, ZFP, same", 1.0, False),
        Bar("exact: JPEG XL", "bits of skyfold / JPEG XL lossless, integers", 0.99, False),
        Bar("exact: best", "bits of skyfold / smaller of JPEG XL, pcodec, integers", 1.02, False),
        Bar("exact: entropy", "bits of skyfold / entropy of the noise", 1.02, False),
        Bar("latent: JPEG", "bits of skyfold / better JPEG, same flux error S/N 3-5", 0.70, False),
        Bar("latent: wavelet", "bits of skyfold / weighted wavelet, same error", 1.0, False),
        Bar("encode", "Mpixel/s, all levels / JPEG XL lossless", 3.0, at_least=True),
        Bar("decode", "Mpixel/s, sources / JPEG XL decoding there", 1.0, at_least=True),
    )
}


def bits_at(records: Iterable[Record], measure: str, error: float) -> float | None:
    """Bits a pixel that a codec needs for an error no larger than this; None if it cannot.

    Parameters
    ----------
    records : iterable of dict
        One codec on one image, at all its settings.
    measure : str
        Key of the error in a record.
    """
    points = [(one["bpp"], one[measure]) for one in records if one[measure] is not None]
    enough = [point for point in points if point[1] <= error]
    if not enough:
        return None
    bits, met = min(enough)
    worse = [point for point in points if point[0] < bits]
    if not worse or met <= 0:
        return float(bits)
    less, missed = max(worse)
    share = math.log(missed / error) / math.log(missed / met)
    return float(less + share * (bits - less))


def judge(records: Sequence[Record]) -> dict[str, float]:
    """Numbers of every bar that one image can tell, by the bar's name."""
    by_codec: dict[str, list[Record]] = {}
    for one in records:
        by_codec.setdefault(one["codec"], []).append(one)
    levels = {one["setting"]: one for one in by_codec.get("skyfold", [])}
    if not levels or levels["latent"]["mode"] == "direct":
        return _exact(by_codec, levels) if levels else {}
    found = _sources(by_codec, levels["sources"]) | _bounded(by_codec, levels["bounded"])
    found |= _exact(by_codec, levels) | _latent(by_codec, levels["latent"])
    return found | _speed(by_codec, levels)


def _least(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _sources(by_codec: dict[str, list[Record]], ours: Record) -> dict[str, float]:
    error = ours["flux_p90 >=5"]
    if error is None:
        return {}

    def needed(codec: str) -> float | None:
        return bits_at(by_codec.get(codec, []), "flux_p90 >=5", error)

    best = _least(map(needed, LOSSY))
    return {
        "sources: error": error,
        **_as("sources: RICE", _ratio(needed("RICE_1"), ours["bpp"])),
        **_as("sources: best", _ratio(best, ours["bpp"])),
    }


def _as(name: str, number: float | None) -> dict[str, float]:
    return {} if number is None else {name: number}


def _bounded(by_codec: dict[str, list[Record]], ours: Record) -> dict[str, float]:
    error = max(ours["max_error"], TARGET) * SLACK

    def share(*codecs: str) -> float | None:
        needed = [bits_at(by_codec.get(codec, []), "max_error", error) for codec in codecs]
        return _ratio(ours["bpp"], _least(needed))

    return {
        **_as("bounded: RICE", share("RICE_1")),
        **_as("bounded: SZ3", share("SZ3")),
        **_as("bounded: others", share(*BOUNDED)),
    }


def _exact(by_codec: dict[str, list[Record]], levels: dict[str, Record]) -> dict[str, float]:
    ours = levels["exact"]
    if not ours["integer"]:
        return {}

    def lossless(codec: str) -> float | None:
        return _least(one["bpp"] for one in by_codec.get(codec, []) if one["lossless"])

    jxl = lossless("JPEG XL")
    return {
        **_as("exact: JPEG XL", _ratio(ours["bpp"], jxl)),
        **_as("exact: best", _ratio(ours["bpp"], _least([jxl, lossless("pcodec")]))),
        **_as("exact: entropy", _ratio(ours["bpp"], ours["noise_bits"])),
    }


def _latent(by_codec: dict[str, list[Record]], ours: Record) -> dict[str, float]:
    error = ours["flux_p90 3-5"]
    if error is None:
        return {}

    def share(*codecs: str) -> float | None:
        needed = [bits_at(by_codec.get(codec, []), "flux_p90 3-5", error) for codec in codecs]
        return _ratio(ours["bpp"], _least(needed))

    return {
        **_as("latent: JPEG", share("JPEG XL", "JPEG 2000")),
        **_as("latent: wavelet", share("wavelet")),
    }


def _speed(by_codec: dict[str, list[Record]], levels: dict[str, Record]) -> dict[str, float]:
    peers = by_codec.get("JPEG XL", [])
    lossless = [one for one in peers if one["setting"] == "lossless"]
    error = levels["sources"]["flux_p90 >=5"]
    alike = [one for one in peers if _is_below(one["flux_p90 >=5"], error)]
    near = min(alike, key=lambda one: one["bpp"], default=None)
    ours = levels["exact"]["encode_mpix_s"], levels["sources"]["decode_mpix_s"]
    return {
        **_as("encode", _ratio(ours[0], lossless[0]["encode_mpix_s"] if lossless else None)),
        **_as("decode", _ratio(ours[1], near["decode_mpix_s"] if near else None)),
    }


def _is_below(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value <= limit


def middle(found: Iterable[dict[str, float]]) -> dict[str, float]:
    """Median of each bar over images that can tell it."""
    rows = list(found)
    names = [name for name in BARS if any(name in row for row in rows)]
    return {name: median(row[name] for row in rows if name in row) for name in names}
