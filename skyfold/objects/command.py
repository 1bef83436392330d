"""What the command ``skyfold objects`` asks for, and how it shows what it finds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import typer
from astropy import units as u
from astropy.coordinates import SkyCoord

from skyfold.catalogs.library import plain_values

if TYPE_CHECKING:
    from astropy.table import QTable

    from skyfold.objects.library import ObjectLibrary

SHOWN = ("object", "image", "ra", "dec", "x", "y", "snr", "half_light_radius", "novelty", "cell")
_ROWS = 40  # printed, at most


def select_objects(
    objects: ObjectLibrary,
    cone: str | None,
    similar: str | None,
    novel: int | None,
    cell: int | None,
    count: int,
    asked: dict[str, Any],
) -> QTable:
    """Table of the objects that the options ask for; all of them without any."""
    if cone is not None:
        ra, dec, radius = _numbers(cone, 3, "--cone", "RA,DEC,RADIUS in degrees")
        return objects.cone(SkyCoord(ra, dec, unit="deg"), radius * u.deg, **asked)
    if similar is not None:
        return objects.similar(_like(similar), count, **asked)
    if novel is not None:
        return objects.novel(novel, **asked)
    if cell is not None:
        return objects.cell(cell, **asked)
    return objects.table(**asked)


def _like(text: str) -> int | SkyCoord:
    if "," not in text:
        return int(
            _numbers(text, 1, "--similar", "the number of an object, or RA,DEC in degrees")[0]
        )
    ra, dec = _numbers(text, 2, "--similar", "the number of an object, or RA,DEC in degrees")
    return SkyCoord(ra, dec, unit="deg")


def _numbers(text: str, count: int, option: str, allowed: str) -> list[float]:
    """Finite numbers with commas between, the second of them a declination."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != count or not np.isfinite(found).all() or (count > 1 and abs(found[1]) > 90):
        raise typer.BadParameter(f"{option} {text!r}: give {allowed}")
    return found


def print_objects(found: QTable, *, as_json: bool) -> None:
    """Print a table of objects: all of it as JSON, or the start of it for people."""
    if as_json:
        print(json.dumps([_plain(found, place) for place in range(len(found))], indent=1))
        return
    names = [name for name in found.colnames if name in (*SHOWN, "latent_distance")]
    print("\n".join(found[names].pformat(max_lines=_ROWS, max_width=-1)))
    print(f"{len(found)} objects")


def _plain(found: QTable, place: int) -> dict[str, Any]:
    """One row as JSON has it; None for what is missing."""
    row = {name: plain_values(found[name][place : place + 1])[0].item() for name in found.colnames}
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
