"""The data sheet of a release and the cards of its models, as one page of Markdown.

This module knows what a reader who has never seen the survey must be told, and in which order:
the questions of data sheets (Gebru et al. 2021, arXiv:1803.09010) and of model cards (Mitchell et
al. 2019, arXiv:1810.03993) that a release can answer by itself. Every number is read from the
release; what the release does not know is not on the page.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold import layout
from skyfold.errors import CorruptDataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence, Sized

    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

_LISTED = 10  # bands, inputs set aside, columns: more are counted
_SUMMARY = (("photometry", "flux_1fwhm", ">=5"), ("detection", "lost", "5-10"))
_LIMITS = (
    "Losses in this record hold for this release; another depth, seeing or survey has another.",
    "`latent`, and the sky between sources at `sources`, are a model's expectation without noise: "
    "not for stacking, and not for searches below the noise.",
    "Losses are against the stored arrays, whatever the survey did to them before.",
)


def release_card(release: DataRelease, *, sealed: bool | None = None) -> str:
    """Data sheet and model cards of a release, Markdown.

    Parameters
    ----------
    release : DataRelease
        Sealed or about to be, with its fidelity record.
    sealed : bool, optional
        What the page says of that; by default what is so. The card that is stored in a release is
        written before the seal and read after it.

    Returns
    -------
    str
        A page that says what the release holds, at which levels and losses, how it was made, what
        was left out, which models it uses, and what it is not for.

    Raises
    ------
    CorruptDataError
        If the fidelity record or a model is missing or damaged.
    StoreUnavailableError
        If the store refuses or breaks off.

    Examples
    --------
    >>> print(release_card(skyfold.open_release("archive/demo/dr1")))  # doctest: +SKIP
    """
    parts = (
        _head(release, release.sealed if sealed is None else sealed),
        *_images(release),
        *_tables(release, "catalogs"),
        *_tables(release, "densities"),
        _losses(release),
        _making(release),
        _left_out(release),
        *_models(release),
        "## What it is not for\n\n" + "".join(f"- {one}\n" for one in _LIMITS),
    )
    return "\n".join(part for part in parts if part)


def _head(release: DataRelease, sealed: bool) -> str:
    kinds: dict[str, Sized] = {
        "image": release.images,
        "catalog": release.catalogs,
        "set of densities": release.densities,
    }
    counts = [_count(len(found), name) for name, found in kinds.items() if len(found)]
    state = "sealed and immutable" if sealed else "not sealed yet"
    about = f"{', '.join(counts) or 'nothing'}; {state}; format {release.about['format']}."
    return f"# {_text(release.name)}\n\n{about}\n"


# What is in it.


def _images(release: DataRelease) -> Iterator[str]:
    every = release.info()["images"]
    for name in release.images.sets:
        members = [one for one in release.images.entries.values() if one.set == name]
        if not members:
            continue
        facts = [
            ("images", len(members)),
            ("pixels", f"{sum(one.pixels for one in members):,}"),
            ("data types", _some({one.dtype for one in members})),
            ("bands", _some({one.band for one in members})),
            ("observed", _span(one.time for one in members)),
            ("sky", _sky(members)),
            ("seeing, median FWHM [pixel]", _median(one.fwhm_pix for one in members)),
            ("bound of `bounded` [noise units]", f"{max(one.bound for one in members):g}"),
            ("stored as they are", sum(one.mode == "direct" for one in members)),
        ]
        yield f"## Images: {_text(name)}\n\n{_facts(facts)}\n{_levels(every[name], 'bpp')}"


def _tables(release: DataRelease, kind: str) -> Iterator[str]:
    for name, about in release.info()[kind].items():
        columns = about["columns"]
        listed = columns if isinstance(columns, int) else f"{len(columns)}: {_some(columns)}"
        facts = [
            ("rows", f"{about['rows']:,}"),
            ("columns" if kind == "catalogs" else "points of the grid", listed),
            *((f"map: {key}", value) for key, value in _flat(about.get("som", {}))),
            ("left out", "; ".join(about.get("notices", []))),
        ]
        title = kind.capitalize()
        yield f"## {title}: {_text(name)}\n\n{_facts(facts)}\n{_levels(about, 'bytes_per_row')}"


def _levels(about: dict[str, Any], rate: str) -> str:
    name = {"bpp": "bits a pixel", "bytes_per_row": "bytes a row"}[rate]
    rows = [
        (f"`{level}`", f"{one['bytes']:,}", f"{one[rate]:.3g}")
        for level, one in about["levels"].items()
    ]
    return _table(("level", "bytes", name), rows)


def _span(times: Iterable[str | None]) -> str:
    known = sorted(time for time in times if time)
    return f"{known[0]} to {known[-1]}" if known else ""


def _sky(entries: Sequence[ImageEntry]) -> str:
    """Area of the cells that images touch, and the first image's centre."""
    placed = [one for one in entries if one.ra is not None and one.dec is not None]
    if not placed:
        return "no celestial WCS"
    cells = {cell for one in placed for cell in one.healpix}
    square_deg = len(cells) * 41252.96 / (12 * 4**8)  # of the sphere, in cells of order 8
    first = placed[0]
    return (
        f"within {square_deg:.3g} deg² of HEALPix cells; first image at RA {first.ra:.4f}, "
        f"Dec {first.dec:.4f} deg (ICRS); {len(placed)} of {len(entries)} images have a WCS"
    )


def _median(values: Iterable[float | None]) -> str:
    known = [value for value in values if value]
    return f"{np.median(known):.2f}" if known else ""


# What it costs, how it was made, what is not in it.


def _losses(release: DataRelease) -> str:
    rows = [
        (
            _text(f"{row['set']} {row['band']}"),
            f"`{row['level']}`",
            f"{row['case']} {row['measure']}, S/N {_text(row['bin'])}",
            str(row["n"]),
            _loss(row),
            row["unit"],
        )
        for row in release.fidelity.rows()
        if row["kind"] == "images" and (row["case"], row["measure"], row["bin"]) in _SUMMARY
    ]
    if not rows:
        return ""
    names = ("set and band", "level", "measure", "objects", "loss, upper end", "unit")
    where = "on sky that training never saw" if release.about.get("hold_out") else ""
    return (
        f"## Losses\n\nMeasured by decoding the stored bytes {where}: the 90th percentile of "
        "absolute losses, or a rate, with the upper end of its 95 % interval. The whole record is "
        f"in `{layout.FIDELITY_KEY}`.\n\n{_table(names, rows)}"
    )


def _loss(row: dict[str, Any]) -> str:
    value = row["bias"] if row["statistic"] == "mean" else row["p90"]
    if value is None:
        return _text(row["note"]) or "too few"
    upper = "none" if row["high"] is None else f"{row['high']:.3g}"
    return f"{value:.3g}, {upper}"


def _making(release: DataRelease) -> str:
    try:
        found = json.loads(release.read(layout.PROVENANCE_KEY))
    except (CorruptDataError, ValueError):
        return ""
    if not isinstance(found, dict):
        return ""
    environment = found.get("environment", {})
    libraries = environment.get("libraries", {})
    facts = [
        ("made with", f"skyfold {found['skyfold']}" if "skyfold" in found else ""),
        ("published", found.get("published", "")),
        ("inputs", f"{len(found['inputs'])}, each with its SHA-256" if "inputs" in found else ""),
        ("seed", found.get("config", {}).get("training", {}).get("seed", "")),
        ("Python", environment.get("python", "")),
        ("libraries", ", ".join(f"{name} {number}" for name, number in libraries.items())),
    ]
    rest = f"All of it is in `{layout.PROVENANCE_KEY}`.\n"
    return f"## How it was made\n\n{_facts(facts)}\n{rest}"


def _left_out(release: DataRelease) -> str:
    out = ""
    for title, name in (("Set aside", "set_aside"), ("Quarantined", "quarantined")):
        rows = [
            (_text(one.get("file", "")), _text(one.get("reason", "")))
            if isinstance(one, dict)
            else (_text(one), "")
            for one in release.about.get(name, [])
        ]
        if rows:
            more = f"\nand {len(rows) - _LISTED} more\n" if len(rows) > _LISTED else ""
            listed = _table(("file", "reason"), rows[:_LISTED])
            out += f"## {title}: {len(rows)}\n\n{listed}{more}"
    return out


def _models(release: DataRelease) -> Iterator[str]:
    """Cards of the image models; those of tables are with their catalogs."""
    users: dict[str, list[str]] = {}
    for entry in release.images.entries.values():
        if entry.model:
            users.setdefault(entry.model, []).append(entry.id)
    for digest, images in sorted(users.items()):
        network = release.network(digest)
        facts = [
            ("digest", digest),
            ("codes", f"{len(images)} images"),
            ("files", f"{', '.join(layout.MODEL_FILES)}; data only"),
            *_flat(network.card),
        ]
        yield f"## Model {digest[:12]}\n\n{_facts(facts)}"


def _flat(card: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Lines of a nested card: dotted name and value."""
    if isinstance(card, dict):
        for key, value in card.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif isinstance(card, list) and len(card) > _LISTED:
        yield name, f"{len(card)} values"
    elif isinstance(card, list):
        yield name, ", ".join(str(one) for one in card)
    elif isinstance(card, float):
        yield name, f"{card:.6g}"
    else:
        yield name, card


# Markdown.


def _facts(facts: Iterable[tuple[str, Any]]) -> str:
    shown = [(name, _text(value)) for name, value in facts if value not in ("", None)]
    return _table(("", ""), shown)


def _table(names: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [names, ("---",) * len(names), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _count(number: int, name: str) -> str:
    first, *rest = name.split()
    return " ".join([str(number), first + ("" if number == 1 else "s"), *rest])


def _some(values: Iterable[Any]) -> str:
    listed = list(values) if isinstance(values, list) else sorted(values)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(str(one) for one in listed[:_LISTED]) + more


def _text(value: Any) -> str:
    """Value as text that neither ends a cell nor is markup: names come from survey files."""
    text = " ".join(str(value).split())
    for mark in "\\`|<>[]*":
        text = text.replace(mark, f"\\{mark}")
    return text
