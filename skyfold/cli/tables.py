"""Commands about rows: catalogs, the objects of the images, and densities."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skyfold.access.folder import whole_file
from skyfold.cli.arguments import (
    Columns,
    Cone,
    Json,
    Output,
    TableLevel,
    Url,
    cone_of,
    names_of,
    numbers,
    open_url,
    position_of,
)
from skyfold.cli.terminal import print_json, say

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.table import QTable

SHOWN = (
    "object",
    "image",
    "ra",
    "dec",
    "x",
    "y",
    "snr",
    "half_light_radius",
    "novelty",
    "cell",
    "latent_distance",
)
_ROWS = 40  # printed, at most


def catalog(
    url: Url,
    name: str,
    output: Output,
    level: TableLevel = "bounded",
    columns: Columns = None,
    cone: Cone = None,
    where: Annotated[str | None, typer.Option(help="Such as 'mag_r < 22 and z > 0.1'.")] = None,
) -> None:
    """Write a catalog, a cone of it, or the rows that meet a condition, as Parquet."""
    if cone is not None and where is not None:
        raise typer.BadParameter("give --cone or --where, not both")
    _require_parquet(output)
    found = open_url(url).catalogs[name]
    asked: dict[str, Any] = {"level": level, "columns": names_of(columns)}
    if where is not None:
        _write(found.where(where, **asked), output)
    elif cone is not None:
        _write(found.cone(*cone_of(cone), **asked), output)
    else:
        with whole_file(output) as partial:
            found.to_parquet(partial, **asked)
    say(f"{output}: {name} at {level}")


def objects(
    url: Url,
    cone: Cone = None,
    similar: Annotated[str | None, typer.Option(metavar="NUMBER or RA,DEC")] = None,
    novel: Annotated[int | None, typer.Option(help="How many of the most novel.")] = None,
    cell: Annotated[int | None, typer.Option(help="Cell of the map, y * nx + x.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Of --similar.")] = 10,
    level: TableLevel = "exact",
    columns: Columns = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Parquet.")] = None,
    as_json: Json = False,
) -> None:
    """Objects of the images: all, in a cone, like another, the most novel, or of a cell."""
    if sum(one is not None for one in (cone, similar, novel, cell)) > 1:
        raise typer.BadParameter("give one of --cone, --similar, --novel and --cell")
    if output is not None:
        _require_parquet(output)
    library = open_url(url).objects
    asked: dict[str, Any] = {"level": level, "columns": names_of(columns)}
    if cone is not None:
        found = library.cone(*cone_of(cone), **asked)
    elif similar is not None:
        found = library.similar(_like(similar), count, **asked)
    elif novel is not None:
        found = library.novel(novel, **asked)
    elif cell is not None:
        found = library.cell(cell, **asked)
    else:
        found = library.table(**asked)
    if output is not None:
        _write(found, output)
        say(f"{output}: {len(found)} objects")
    elif as_json:
        print_json([_plain(found, place) for place in range(len(found))])
    else:
        names = [name for name in found.colnames if name in SHOWN]
        say("\n".join(found[names].pformat(max_lines=_ROWS, max_width=-1)))
        say(f"{len(found)} objects")


def _like(text: str) -> int | SkyCoord:
    allowed = "the number of an object, or RA,DEC in degrees"
    if "," not in text:
        return int(numbers(text, 1, "--similar", allowed)[0])
    return position_of(*numbers(text, 2, "--similar", allowed))


def _plain(found: QTable, place: int) -> dict[str, Any]:
    """One row as JSON has it; None for what is missing."""
    from skyfold.catalogs.tables import plain_values

    row = {name: plain_values(found[name][place : place + 1])[0].item() for name in found.colnames}
    return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in row.items()}


def _require_parquet(output: Path) -> None:
    if output.suffix not in ("", ".parquet", ".pq"):
        raise typer.BadParameter(
            f"{output}: rows are written as Parquet, and {output.suffix} is the name of something "
            "else; call the file .parquet, and convert it with astropy's Table.read and write"
        )


def _write(found: QTable, output: Path) -> None:
    from skyfold.catalogs.tables import write_parquet

    with whole_file(output) as partial:
        write_parquet(found, partial)


def densities(
    url: Url,
    name: str,
    output: Output,
    level: TableLevel = "bounded",
) -> None:
    """Write probability densities as a NumPy file with `grid` and `pdf`."""
    import numpy as np

    found = open_url(url).densities[name]
    with whole_file(output) as partial, partial.open("wb") as file:
        np.savez_compressed(file, grid=found.grid, pdf=found.read(level=level))
    say(f"{output}: {name} at {level}")
