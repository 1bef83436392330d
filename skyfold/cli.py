"""The consumer's command line: one function a command, tables for people, `--json` for scripts.

Exit codes: 0 done, 1 a failure named on standard error, 2 wrong usage, 3 no level meets the need,
4 corruption found. Tracebacks only with `--debug`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skyfold.errors import CorruptDataError, NeedNotMetError, SkyfoldError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skyfold.release import DataRelease

FAILED, NOT_MET, CORRUPT = 1, 3, 4

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Look into a data release, and decode the part that you need.",
)

Url = Annotated[str, typer.Argument(metavar="URL", help="Folder, s3://..., https://...")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Level = Annotated[str, typer.Option(help="latent, sources, bounded or exact.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="File to write.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
    anonymous: Annotated[bool, typer.Option(help="Read s3:// without credentials.")] = False,
    endpoint: Annotated[str | None, typer.Option(help="URL of the S3 server.")] = None,
) -> None:
    """Options of every command."""
    _settings.update(debug=debug, anonymous=anonymous, endpoint=endpoint)


_settings: dict[str, Any] = {"debug": False, "anonymous": False, "endpoint": None}


@app.command()
def info(url: Url, as_json: Json = False) -> None:
    """What is in a release: sets, levels, bits per pixel."""
    release = _open(url)
    found = release.info()
    if as_json:
        _print_json(found)
        return
    print(repr(release))
    rows = [
        (kind, name, level, _size(one["bytes"]), _rate(one))
        for kind in ("images", "catalogs", "densities")
        for name, about in found[kind].items()
        for level, one in about["levels"].items()
    ]
    _print_table(("kind", "name", "level", "bytes", "rate"), rows)
    for name, about in found["images"].items():
        print(f"{name}: {about['count']} images, bounded within {about['bound']:g} sigma")
    for one in found["set_aside"]:
        print(f"set aside: {one['file']}: {one['reason']}")


@app.command()
def images(url: Url, as_json: Json = False) -> None:
    """List the images of a release."""
    entries = _open(url).images.entries.values()
    rows = [
        {
            "id": entry.id,
            "set": entry.set,
            "band": entry.band,
            "file": entry.file,
            "hdu": entry.hdu,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
        }
        for entry in entries
    ]
    if as_json:
        _print_json(rows)
    else:
        shown = [(r["id"], r["band"], "x".join(map(str, r["shape"])), r["dtype"]) for r in rows]  # type: ignore[call-overload]
        _print_table(("id", "band", "shape", "dtype"), shown)


@app.command()
def fidelity(url: Url, as_json: Json = False) -> None:
    """Measured loss of every science case at every level."""
    record = _open(url).fidelity
    if as_json:
        _print_json(record.rows())
    else:
        _print_record(record.rows())


@app.command()
def choose(url: Url, case: str, need: list[str], as_json: Json = False) -> None:
    """Cheapest level that is recorded to meet a need, such as "0.1 sigma at S/N 10"."""
    choice = _open(url).choice(case, need)
    if as_json:
        _print_json(
            {
                "level": choice.level,
                "bytes": choice.bytes,
                "bpp": choice.bpp,
                "row": choice.row,
            }
        )
    else:
        print(f"{choice.level}: {choice.bpp:.3f} bits per pixel, {_size(choice.bytes)} in all")


@app.command()
def cutout(
    url: Url,
    ra: Annotated[float, typer.Option(help="[deg, ICRS]")],
    dec: Annotated[float, typer.Option(help="[deg, ICRS]")],
    size: Annotated[float, typer.Option(help="[arcsec]")],
    output: Output,
    band: Annotated[str | None, typer.Option()] = None,
    level: Level = "sources",
) -> None:
    """Write a box around a position as FITS: image, mask, uncertainty."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    position = SkyCoord(ra, dec, unit="deg")
    found = _open(url).images.cutout(position, size * u.arcsec, band=band, level=level)
    meta = {f"HIERARCH SKYFOLD {key}": value for key, value in found.meta.items()}
    bound = meta.pop("HIERARCH SKYFOLD bound")
    found.meta = meta | {"HIERARCH SKYFOLD bound": f"{bound:g}" if bound < float("inf") else "none"}
    with _atomic(output) as partial:
        found.to_hdu().writeto(partial, overwrite=True, output_verify="silentfix")
    print(
        f"{output}: {found.shape[1]} x {found.shape[0]} pixels of {meta['HIERARCH SKYFOLD image']}"
    )


@app.command()
def decode(url: Url, image_id: str, output: Output, level: Level = "exact") -> None:
    """Write a whole image as FITS; `exact` is the stored array, bit for bit, with its header."""
    hdu = _open(url).images.hdu(image_id, level)
    with _atomic(output) as partial:
        hdu.writeto(partial, overwrite=True, output_verify="silentfix")
    print(f"{output}: {image_id} at {level}")


@app.command()
def catalog(
    url: Url,
    name: str,
    output: Output,
    level: Annotated[str, typer.Option(help="map, latent, bounded or exact.")] = "bounded",
    columns: Annotated[str | None, typer.Option(help="Names, with commas between.")] = None,
    cone: Annotated[str | None, typer.Option(metavar="RA,DEC,RADIUS_DEG")] = None,
) -> None:
    """Write a catalog, or a cone of it, as Parquet."""
    from skyfold.catalogs import write_parquet

    found = _open(url).catalogs[name]
    chosen = columns.split(",") if columns else None
    with _atomic(output) as partial:
        if cone is None:
            found.to_parquet(partial, level=level, columns=chosen)
        else:
            position, radius = _cone(cone)
            table = found.cone(position, radius, level=level, columns=chosen)
            write_parquet(table, partial)
    print(f"{output}: {name} at {level}")


def _cone(text: str) -> tuple[Any, Any]:
    """Position and radius of ``RA,DEC,RADIUS_DEG``."""
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    try:
        ra, dec, radius = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--cone {text!r}: give RA,DEC,RADIUS in degrees") from None
    return SkyCoord(ra, dec, unit="deg"), radius * u.deg


@app.command()
def densities(
    url: Url,
    name: str,
    output: Output,
    level: Annotated[str, typer.Option(help="latent, bounded or exact.")] = "bounded",
) -> None:
    """Write probability densities as a NumPy file with `grid` and `pdf`."""
    import numpy as np

    found = _open(url).densities[name]
    with _atomic(output) as partial, partial.open("wb") as file:
        np.savez_compressed(file, grid=found.grid, pdf=found.read(level=level))
    print(f"{output}: {name} at {level}")


@app.command()
def verify(url: Url, as_json: Json = False) -> None:
    """Compare every object of a release with its manifest."""
    release = _open(url)
    with _progress("verifying") as progress:
        problems = release.verify(progress)
    if as_json:
        _print_json({"ok": not problems, "problems": problems})
    elif problems:
        _print_table(("key", "problem"), list(problems.items()))
    else:
        print(f"{release.url}: every object is as it was sealed")
    if problems:
        raise typer.Exit(CORRUPT)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the command `skyfold`."""
    run(app, argv)


def run(commands: typer.Typer, argv: Sequence[str] | None = None) -> None:
    """Run a command line; named errors become one or two lines and an exit code."""
    try:
        commands(args=argv)
    except NeedNotMetError as error:
        _fail(error)
        rows = [] if error.table is None else _rows_of(error.table)
        _print_record(rows)
        sys.exit(NOT_MET)
    except CorruptDataError as error:
        _fail(error)
        sys.exit(CORRUPT)
    except (SkyfoldError, OSError, MemoryError) as error:
        _fail(error)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(FAILED)


def _fail(error: BaseException) -> None:
    if _settings["debug"] or "--debug" in sys.argv:
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"{type(error).__name__}: {text}", file=sys.stderr)


def _open(url: str) -> DataRelease:
    from skyfold.release import open_release

    options: dict[str, Any] = {}
    if url.startswith("s3://"):
        options = {"anon": True} if _settings["anonymous"] else {}
        if _settings["endpoint"]:
            options["endpoint_url"] = _settings["endpoint"]
    return open_release(url, options=options)


def _rows_of(table: Any) -> list[dict[str, Any]]:
    from skyfold.fidelity import FidelityRecord

    return FidelityRecord(table).rows()


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str, allow_nan=False))


def _print_record(rows: list[dict[str, Any]]) -> None:
    names = ("set", "band", "level", "case", "measure", "bin", "n", "p50", "p90", "high", "unit")
    shown = [tuple(_short(row.get(name)) for name in (*names, "bpp")) for row in rows]
    _print_table((*names, "bpp"), shown)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _print_table(names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*names)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # Text: names are not markup
    width = None if sys.stdout.isatty() else 160
    Console(width=width).print(table)


def _size(count: float) -> str:
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while count >= 999.5 and unit != "TB":
        count, unit = count / 1000, next(units)
    return f"{count:.3g} {unit}"


def _rate(one: dict[str, Any]) -> str:
    if "bpp" in one:
        return f"{one['bpp']:.3f} bits a pixel"
    return f"{one['bytes_per_row']:.2f} bytes a row"


class _atomic:
    """A file that is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

    def __enter__(self) -> Path:
        return self.partial

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.partial.replace(self.path)
        else:
            self.partial.unlink(missing_ok=True)


class _progress:
    """A progress bar on standard error, where that is a terminal."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
        self.title = title

    def __enter__(self) -> Callable[[int, int], None]:
        self.bar.start()
        task = self.bar.add_task(self.title)
        return lambda done, total: self.bar.update(task, completed=done, total=total)

    def __exit__(self, *_: Any) -> None:
        self.bar.stop()
