"""What notebooks show of a release: small HTML tables, every text in them escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from skyfold.ladder import LEVELS

if TYPE_CHECKING:
    from skyfold.images.library import ImageLibrary
    from skyfold.release import DataRelease


def release_html(release: DataRelease) -> str:
    """Name, state, and bytes of every kind of data at every level."""
    info = release.info()
    rows = [
        (kind, name, _count(about), level, f"{one['bytes'] / 1e6:.3g} MB", _rate(one))
        for kind in ("images", "catalogs", "densities")
        for name, about in info[kind].items()
        for level, one in about["levels"].items()
    ]
    state = "sealed" if release.sealed else "not sealed"
    title = f"<b>{escape(release.name)}</b> at {escape(release.url)}, {state}"
    names = ("kind", "name", "holds", "level", "bytes", "rate")
    return f"<div>{title}{table_html(names, rows)}</div>"


def library_html(library: ImageLibrary) -> str:
    """One row a set: how many images, in which bands, and bits per pixel at each level."""
    rows = []
    for name in library.sets:
        one = library[name]
        bands = sorted({entry.band for entry in one.entries.values()})
        rates = [f"{bits:.3g}" for bits in one.levels.values()]
        rows.append((name, len(one), ", ".join(bands), *rates))
    levels = [f"bits per pixel at {level}" for level in LEVELS]
    return table_html(("set", "images", "bands", *levels), rows)


def table_html(names: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """HTML table of plain values."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _count(about: dict[str, Any]) -> str:
    return f"{about['count']} images" if "count" in about else f"{about['rows']} rows"


def _rate(one: dict[str, Any]) -> str:
    if "bpp" in one:
        return f"{one['bpp']:.3g} bits a pixel"
    return f"{one['bytes_per_row']:.3g} bytes a row"
