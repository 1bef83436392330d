"""The report page of a release: what a producer publishes for people who only have a browser.

This module knows what the page says and how it stays one file that needs nothing else: styles,
script, numbers and pictures are inside, its own policy forbids it to fetch anything, and whatever
a survey named (sets, bands, files, reasons) is text and never markup. The choice that the page
offers is that of `skyfold.choice`: bins come from `skyfold.needs`, and the record's interval ends
are embedded in full precision.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.wcs.utils import proj_plane_pixel_area
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flows.gallery import gallery
from skyfold import layout, sky
from skyfold.choice import LADDER
from skyfold.errors import CorruptDataError, InvalidNeedError, UnknownNameError
from skyfold.needs import matching_bins, parse_need, value_in
from skyfold.science import get_case
from skyfold.science.bins import limits

if TYPE_CHECKING:
    from skyfold.index import ImageEntry
    from skyfold.release import DataRelease

__all__ = ["render_report"]

_FOLDER = Path(__file__).parent
_ADVICE = {
    "latent": "look, search, sort: shapes and structure without the noise",
    "sources": "measure what is detected: its pixels are kept, blank sky is modelled",
    "bounded": "measure anything, anywhere: every pixel within a stated bound",
    "exact": "everything: the stored array bit for bit",
}
_HISTORY_POINTS = 400  # more cannot be told apart in a figure this wide
_CARD_ITEMS = 12  # of a list in the model card; longer ones are summed up
Row = dict[str, Any]


def render_report(release: DataRelease, history: list[dict[str, float]]) -> str:
    """The report of a release as one HTML page that needs no other file and no network.

    Parameters
    ----------
    release : DataRelease
        With its fidelity record; sealed or about to be.
    history : list of dict
        Parts of the training loss by name, in order, with ``step`` where there is one; may be
        empty.

    Returns
    -------
    str
        HTML 5, UTF-8.

    Raises
    ------
    CorruptDataError
        If the release lacks its fidelity record, or stored bytes are damaged.
    MissingDependencyError
        If sep, which finds the objects of the gallery, is not installed.

    Examples
    --------
    >>> page = render_report(skyfold.open_release("archive/demo/dr1"), [])  # doctest: +SKIP
    """
    script = (_FOLDER / "report.js").read_text(encoding="utf-8")
    record = release.fidelity.rows()
    entries = list(release.images.entries.values())
    content = _record(release, record, entries) | {"history": _history(history)}
    template = _environment().get_template("report.html.j2")
    return template.render(
        name=release.name,
        provenance=_provenance(release),
        totals=_totals(entries),
        sets=_sets(release, entries),
        objects=gallery(release),
        models=_models(release, entries),
        about=release.about,
        has_history=bool(content["history"]),
        data=_embedded(content),
        script=Markup(script),
        style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        keys=layout,
    )


def _environment() -> Environment:
    """Everything is escaped, and a name that the page asks for must be there."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"size": _size, "count": _count, "bpp": _bpp}
    return environment


def _embedded(content: Any) -> Markup:
    """JSON that can stand inside a script element, whatever its strings hold."""
    text = json.dumps(_finite(content), separators=(",", ":"), allow_nan=False)
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return Markup(text)


def _finite(value: Any) -> Any:
    """Value with None in place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# The fidelity record.


def _record(release: DataRelease, rows: list[Row], entries: list[ImageEntry]) -> dict[str, Any]:
    """The record as the page's script reads it: names once, rows as places in lists of names."""
    areas = list(dict.fromkeys((row["kind"], row["set"], row["band"]) for row in rows))
    levels = sorted(dict.fromkeys(row["level"] for row in rows), key=_step)
    bins = list(dict.fromkeys(row["bin"] for row in rows))
    cases = [_case(name, rows, bins) for name in dict.fromkeys(row["case"] for row in rows)]
    places = {
        (case["name"], measure["name"]): (i, j)
        for i, case in enumerate(cases)
        for j, measure in enumerate(case["measures"])
    }
    stored, numbers = {}, []
    for row in rows:
        at = levels.index(row["level"]), areas.index((row["kind"], row["set"], row["band"]))
        stored[at] = [*at, row["bytes"], row["bpp"]]
        what = (*places[row["case"], row["measure"]], bins.index(row["bin"]))
        numbers.append([*at, *what, row["n"], _value(row), row["low"], row["high"]])
    return {
        "url": release.url if "://" in release.url else None,
        "levels": levels,
        "areas": [_area(area, entries) for area in areas],
        "bins": bins,
        "cases": cases,
        "stored": list(stored.values()),
        "rows": numbers,
    }


def _step(level: str) -> int:
    return LADDER.index(level) if level in LADDER else len(LADDER)


def _value(row: Row) -> float | None:
    """The row's statistic, which its interval is about."""
    value = row["p90"] if row["statistic"] == "p90" else row["bias"]
    return None if value is None else float(f"{value:.5g}")


def _case(name: str, rows: list[Row], bins: list[str]) -> dict[str, Any]:
    """Measures of a case, and the needs that can be stated about each."""
    of_case = [row for row in rows if row["case"] == name]
    first = {row["measure"]: row for row in reversed(of_case)}
    names = list(dict.fromkeys(row["measure"] for row in of_case))
    measures = []
    for measure in names:
        own = list(dict.fromkeys(row["bin"] for row in of_case if row["measure"] == measure))
        unit, statistic = first[measure]["unit"], first[measure]["statistic"]
        measures.append(
            {
                "name": measure,
                "unit": unit,
                "statistic": statistic,
                "needs": _needs(name, measure, unit, own, bins),
            }
        )
    try:
        default = names.index(get_case(name).default_measure)
    except (UnknownNameError, ValueError):
        default = 0
    return {"name": name, "default": default, "measures": measures}


def _needs(
    case: str, measure: str, unit: str, own: list[str], bins: list[str]
) -> list[dict[str, Any]]:
    """For each bin: how a need about it reads, and which bins must then hold."""
    suffix = "%" if unit == "fraction" else f" {unit.replace(' ', '')}".rstrip()
    found: dict[str, dict[str, Any]] = {}
    for name in own:
        label, where = _where(name)
        try:
            need = parse_need(f"|{measure}| <= 1{suffix}{where}")
            value_in(need, unit, f"{case} {measure}")
            required, checked = matching_bins(need, own, f"{case} {measure}")
        except InvalidNeedError:
            continue
        found[where] = {
            "label": label,
            "before": f"|{measure}| <= ",
            "after": f"{suffix}{where}",
            "required": [bins.index(one) for one in required],
            "checked": [bins.index(one) for one in checked],
        }
    return list(found.values())


def _where(name: str) -> tuple[str, str]:
    """How a bin reads, and how a need says it."""
    span = limits(name)
    if span is None:
        return "all objects", ""
    if math.isinf(span[1]):
        return f"S/N from {span[0]:g}", f" at S/N >= {span[0]:g}"
    return f"S/N {span[0]:g} to {span[1]:g}", f" at S/N {span[0]:g}-{span[1]:g}"


def _area(area: tuple[str, str, str], entries: list[ImageEntry]) -> dict[str, Any]:
    """A set and band, with the solid angle of a pixel and a position if there is a WCS."""
    kind, name, band = area
    members = [entry for entry in entries if (entry.set, entry.band) == (name, band)]
    placed = next((entry for entry in members if entry.ra is not None), None)
    wcs = sky.read_wcs(placed.fits_header()) if placed is not None else None
    return {
        "kind": kind,
        "set": name,
        "band": band,
        "label": f"{name}, band {band}" if band else name,
        "image": members[0].id if members else None,
        "pixel_deg2": float(proj_plane_pixel_area(wcs)) if wcs is not None else None,
        "position": [round(placed.ra or 0.0, 5), round(placed.dec or 0.0, 5)] if placed else None,
    }


def _history(history: list[dict[str, float]]) -> dict[str, list[list[float]]]:
    """Curves by name: steps and values, thinned evenly."""
    if not history:
        return {}
    places = np.unique(np.linspace(0, len(history) - 1, _HISTORY_POINTS).astype(int))
    kept = [(history[place].get("step", float(place)), history[place]) for place in places]
    names = dict.fromkeys(name for _, parts in kept for name in parts)
    return {
        name: [[step, float(f"{parts[name]:.5g}")] for step, parts in kept if name in parts]
        for name in names
        if name not in ("step", "seconds")
    }


# What is in the release.


def _totals(entries: list[ImageEntry]) -> Row:
    """Images, pixels, stored and raw bytes of some images, by level."""
    pixels = sum(entry.pixels for entry in entries)
    raw = sum(entry.pixels * np.dtype(entry.dtype).itemsize for entry in entries)
    levels = []
    for level, advice in _ADVICE.items():
        stored = sum(entry.bytes_at(level) for entry in entries)
        levels.append(
            {
                "name": level,
                "advice": advice,
                "bytes": stored,
                "bpp": 8 * stored / max(pixels, 1),
                "times": raw / stored if stored else math.inf,
            }
        )
    return {
        "images": len(entries),
        "pixels": pixels,
        "raw": raw,
        "raw_bpp": 8 * raw / max(pixels, 1),
        "levels": levels,
        "bound": max((entry.bound for entry in entries), default=0.0),
    }


def _sets(release: DataRelease, entries: list[ImageEntry]) -> list[Row]:
    """The same for each set, with its bands and dtypes."""
    found = []
    for name in release.images.sets:
        members = [entry for entry in entries if entry.set == name]
        bands = sorted({entry.band for entry in members})
        dtypes = sorted({entry.dtype for entry in members})
        found.append(_totals(members) | {"name": name, "bands": bands, "dtypes": dtypes})
    return found


def _models(release: DataRelease, entries: list[ImageEntry]) -> list[Row]:
    """Cards of the models that images were coded with."""
    digests = sorted({entry.model for entry in entries if entry.model})
    return [
        {"digest": digest, "card": list(_flat(release.network(digest).card))} for digest in digests
    ]


def _flat(card: Any, name: str = "") -> list[tuple[str, str]]:
    """Lines of a nested card: dotted name and value."""
    if isinstance(card, dict) and card:
        inner = [(f"{name}.{key}" if name else str(key), value) for key, value in card.items()]
        return [line for key, value in inner for line in _flat(value, key)]
    if isinstance(card, list) and len(card) > _CARD_ITEMS:
        return [(name, f"{len(card)} values")]
    if isinstance(card, float):
        return [(name, f"{card:.6g}")]
    if isinstance(card, list):
        return [(name, ", ".join(str(one) for one in card))]
    return [(name, str(card))]


def _provenance(release: DataRelease) -> Row:
    """What provenance.json says, as far as it is there."""
    try:
        found = json.loads(release.read(layout.PROVENANCE_KEY))
    except (CorruptDataError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _size(number: float) -> str:
    """Bytes, to three digits."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


def _count(number: float) -> str:
    """Number in groups of three digits, in words of millions from a million."""
    return f"{number / 1e6:,.4g} million" if number >= 1e6 else f"{number:,}"


def _bpp(number: float) -> str:
    return f"{number:.2f}" if number >= 0.995 else f"{number:.3f}"
