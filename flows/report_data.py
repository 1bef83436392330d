"""What the report's script reads: the fidelity record and the training curves, small as JSON.

This module knows the layout of that JSON, on which `report.js` relies: names stand once, rows are
places in lists of names, and for every bin it says how a need about it reads and which bins must
then hold, so that the page chooses by the rule of `skyfold.fidelity.choice`. Interval ends keep
their full precision, since a choice hangs on them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.wcs.utils import proj_plane_pixel_area

from skyfold import sky
from skyfold.errors import InvalidNeedError, UnknownNameError
from skyfold.fidelity.choice import LADDER
from skyfold.fidelity.needs import matching_bins, parse_need, value_in
from skyfold.science import get_case
from skyfold.science.bins import limits

if TYPE_CHECKING:
    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

__all__ = ["embedded_history", "embedded_record"]

HISTORY_POINTS = 400  # more cannot be told apart in a figure this wide
Row = dict[str, Any]


def embedded_record(release: DataRelease, entries: list[ImageEntry]) -> dict[str, Any]:
    """The fidelity record as the page's script reads it.

    Parameters
    ----------
    release : DataRelease
        With its fidelity record.
    entries : list of ImageEntry
        Its images: they give each set and band a pixel scale and a position.

    Returns
    -------
    dict
        ``url`` (None for a local folder, which the page finds by its own address), ``levels``,
        ``bins``, ``areas``, ``cases`` with measures and needs; ``stored``: level, area, bytes, bits
        per pixel; ``rows``: level, area, case, measure, bin, n, value, low, high.

    Raises
    ------
    CorruptDataError
        If the release has no fidelity record, or one that cannot be read.
    """
    rows = release.fidelity.rows()
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
        "areas": [_area(area, entries) | {"rows": _rows(release, *area[:2])} for area in areas],
        "bins": [_where(name)[0] for name in bins],
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
            "label": label if where else "all objects",
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
        return "all objects" if name == "all" else name, ""  # a bin of another kind, by its name
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


def _rows(release: DataRelease, kind: str, name: str) -> int | None:
    """Rows of a catalog or of densities; None for images."""
    if kind not in ("catalogs", "densities"):
        return None
    tables: Any = release.catalogs if kind == "catalogs" else release.densities
    return len(tables[name]) if name in tables else None


def embedded_history(history: list[dict[str, float]]) -> dict[str, list[list[float]]]:
    """Curves of a training history by name: pairs of step and value, thinned evenly.

    Parameters
    ----------
    history : list of dict
        Parts of the loss by name, in order; ``step`` is the place where absent.
    """
    if not history:
        return {}
    places = np.unique(np.linspace(0, len(history) - 1, HISTORY_POINTS).astype(int))
    kept = [(history[place].get("step", float(place)), history[place]) for place in places]
    names = dict.fromkeys(name for _, parts in kept for name in parts)
    return {
        name: [[step, float(f"{parts[name]:.5g}")] for step, parts in kept if name in parts]
        for name in names
        if name not in ("step", "seconds")
    }
