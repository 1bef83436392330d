"""What the commands share: arguments, options, exit codes, and the release that they open."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.units import Quantity

    from skyfold.release import DataRelease

FAILED, NOT_MET, CORRUPT, OUTSIDE = 1, 3, 4, 5

Url = Annotated[str, typer.Argument(metavar="URL", help="Folder, s3://..., https://...")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Level = Annotated[str, typer.Option(help="latent, sources, bounded or exact.")]
TableLevel = Annotated[str, typer.Option(help="map, latent, bounded or exact.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="File to write.")]
Columns = Annotated[str | None, typer.Option(help="Names, with commas between.")]
Cone = Annotated[str | None, typer.Option(metavar="RA,DEC,RADIUS_DEG")]

settings: dict[str, Any] = {"debug": False, "anonymous": False, "endpoint": None}


def open_url(url: str) -> DataRelease:
    """The release at a URL, with the options of the command line."""
    from skyfold.release import open_release

    return open_release(url, options=options_of(url))


def options_of(url: str) -> dict[str, Any]:
    """Options of the file system of a URL."""
    options: dict[str, Any] = {}
    if url.startswith("s3://"):
        options = {"anon": True} if settings["anonymous"] else {}
        if settings["endpoint"]:
            options["endpoint_url"] = settings["endpoint"]
    return options


def names_of(columns: str | None) -> list[str] | None:
    """Names of columns; None for all."""
    return columns.split(",") if columns else None


def cone_of(text: str) -> tuple[SkyCoord, Quantity]:
    """Position and radius of ``RA,DEC,RADIUS_DEG``."""
    from astropy import units as u

    ra, dec, radius = numbers(text, 3, "--cone", "RA,DEC,RADIUS in degrees")
    return position_of(ra, dec), radius * u.deg


def position_of(ra: float, dec: float) -> SkyCoord:
    """Position of two numbers [deg, ICRS]."""
    from astropy.coordinates import SkyCoord

    if not math.isfinite(ra) or not abs(dec) <= 90:
        raise typer.BadParameter(
            f"position {ra:g}, {dec:g}: give RA and Dec in degrees, Dec from -90 to 90"
        )
    return SkyCoord(ra, dec, unit="deg")


def numbers(text: str, count: int, option: str, allowed: str) -> list[float]:
    """Finite numbers with commas between, the second of them a declination."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    is_finite = len(found) == count and all(map(math.isfinite, found))
    if not is_finite or (count > 1 and abs(found[1]) > 90):
        raise typer.BadParameter(f"{option} {text!r}: give {allowed}")
    return found
