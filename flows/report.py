"""The report page of a release: what a producer publishes for people who only have a browser.

This module knows what the page says and how it stays one file that needs nothing else: styles,
script, numbers and pictures are inside, its own policy forbids it to fetch anything, and whatever
a survey named (sets, bands, files, reasons) is text and never markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flows.gallery import gallery
from flows.report_data import embedded_history, embedded_record
from flows.report_maps import explanations, maps, scatters
from skyfold import layout
from skyfold.errors import CorruptDataError

if TYPE_CHECKING:
    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

__all__ = ["render_report"]

_SCRIPTS = ("report.js", "report_figures.js", "report_maps.js")
_FOLDER = Path(__file__).parent
_ADVICE = {
    "latent": "look, search, sort: shapes and structure without the noise",
    "sources": "measure what is detected: its pixels are kept, blank sky is modelled",
    "bounded": "measure anything, anywhere: every pixel within a stated bound",
    "exact": "everything: the stored array bit for bit",
}
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
    script = "".join(_own(name) for name in _SCRIPTS)
    entries = list(release.images.entries.values())
    content = embedded_record(release, entries) | {"history": embedded_history(history)}
    content["scatters"] = scatters(release)
    template = _environment().get_template("report.html.j2")
    return template.render(
        name=release.name,
        provenance=_provenance(release),
        totals=_totals(entries),
        sets=_sets(release, entries),
        tables=_tables(release),
        objects=gallery(release),
        maps=maps(release),
        why=explanations(release),
        has_scatters=bool(content["scatters"]),
        models=_models(release, entries),
        about=release.about,
        has_history=bool(content["history"]),
        data=_embedded(content),
        script=Markup(script),
        style=Markup(_own("report.css")),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        keys=layout,
    )


def _own(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


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


def _tables(release: DataRelease) -> list[Row]:
    """Catalogs and densities: rows, columns, and bytes of a row at each level."""
    found, about = [], release.info()
    for kind in ("catalogs", "densities"):
        for name, one in about[kind].items():
            columns = one["columns"]
            levels = {level: size["bytes_per_row"] for level, size in one["levels"].items()}
            row = {"name": name, "kind": kind, "rows": one["rows"], "levels": levels}
            found.append(row | {"columns": columns if isinstance(columns, int) else len(columns)})
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
