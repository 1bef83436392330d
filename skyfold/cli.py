"""The consumer's command line: one function a command, tables for people, `--json` for scripts.

Exit codes: 0 done, 1 a failure named on standard error, 2 wrong usage, 3 no level meets the need,
4 corruption found, 5 losses measured again lie outside the recorded intervals. Tracebacks only
with `--debug`.
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

FAILED, NOT_MET, CORRUPT, OUTSIDE = 1, 3, 4, 5

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
    _say(repr(release))
    rows = [
        (kind, name, level, _size(one["bytes"]), _rate(one))
        for kind in ("images", "catalogs", "densities")
        for name, about in found[kind].items()
        for level, one in about["levels"].items()
    ]
    _print_table(("kind", "name", "level", "bytes", "rate"), rows)
    for name, about in found["images"].items():
        _say(f"{name}: {about['count']} images, bounded within {about['bound']:g} sigma")
    for one in found["set_aside"]:
        _say(f"set aside: {one['file']}: {one['reason']}")


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
def measure(
    url: Url,
    raw: Annotated[
        list[Path] | None,
        typer.Option(help="Survey file to compare `exact` with first, bit for bit; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the fidelity record again, and hold it against the one that was recorded."""
    from skyfold.fidelity.remeasure import compare_records, measure_release, require_same_raw

    release = _open(url)
    compared = require_same_raw(release, raw or [])
    with _progress("measuring") as progress:
        measured = measure_release(release, progress)
    table = compare_records(release.fidelity, measured)
    verdicts = [str(one) for one in table["verdict"]]
    if as_json:
        rows = [dict(zip(table.colnames, row, strict=True)) for row in _plain_rows(table)]
        _print_json({"rows": rows, "raw": compared})
    else:
        _print_table(tuple(table.colnames), [tuple(map(_short, row)) for row in _plain_rows(table)])
        _say(", ".join(f"{verdicts.count(one)} {one}" for one in dict.fromkeys(verdicts)))
        for image_id in compared:
            _say(f"{image_id}: exact is the survey file, bit for bit")
    if "outside" in verdicts:
        raise typer.Exit(OUTSIDE)


def _plain_rows(table: Any) -> list[list[Any]]:
    """Rows of a table as JSON can hold them; NaN becomes None."""
    columns = [table[name].tolist() for name in table.colnames]
    return [[None if one != one else one for one in row] for row in zip(*columns, strict=True)]


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
        _say(f"{choice.level}: {choice.bpp:.3f} bits per pixel, {_size(choice.bytes)} in all")


@app.command()
def card(
    url: Url,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; printed unless given.")
    ] = None,
) -> None:
    """Data sheet of a release, and cards of its models, as Markdown."""
    from skyfold.card import release_card

    text = release_card(_open(url))
    if output is None:
        _say(text)
        return
    with _atomic(output) as partial:
        partial.write_text(text, encoding="utf-8")
    _say(f"{output}: the card of {url}")


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
    with _atomic(output) as partial:
        found.to_hdu().writeto(partial, overwrite=True, output_verify="silentfix")
    _say(f"{output}: {found.shape[1]} x {found.shape[0]} pixels of {found.meta['image']}")


@app.command()
def decode(url: Url, image_id: str, output: Output, level: Level = "exact") -> None:
    """Write a whole image as FITS; `exact` is the stored array, bit for bit, with its header."""
    hdu = _open(url).images.hdu(image_id, level)
    with _atomic(output) as partial:
        hdu.writeto(partial, overwrite=True, output_verify="silentfix")
    _say(f"{output}: {image_id} at {level}")


@app.command()
def catalog(
    url: Url,
    name: str,
    output: Output,
    level: Annotated[str, typer.Option(help="map, latent, bounded or exact.")] = "bounded",
    columns: Annotated[str | None, typer.Option(help="Names, with commas between.")] = None,
    cone: Annotated[str | None, typer.Option(metavar="RA,DEC,RADIUS_DEG")] = None,
    where: Annotated[str | None, typer.Option(help="Such as 'mag_r < 22 and z > 0.1'.")] = None,
) -> None:
    """Write a catalog, a cone of it, or the rows that meet a condition, as Parquet."""
    from skyfold.catalogs.library import write_parquet

    found = _open(url).catalogs[name]
    chosen = columns.split(",") if columns else None
    if cone is not None and where is not None:
        raise typer.BadParameter("give --cone or --where, not both")
    with _atomic(output) as partial:
        if where is not None:
            write_parquet(found.where(where, level=level, columns=chosen), partial)
        elif cone is None:
            found.to_parquet(partial, level=level, columns=chosen)
        else:
            position, radius = _cone(cone)
            table = found.cone(position, radius, level=level, columns=chosen)
            write_parquet(table, partial)
    _say(f"{output}: {name} at {level}")


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
def objects(
    url: Url,
    cone: Annotated[str | None, typer.Option(metavar="RA,DEC,RADIUS_DEG")] = None,
    similar: Annotated[str | None, typer.Option(metavar="NUMBER or RA,DEC")] = None,
    novel: Annotated[int | None, typer.Option(help="How many of the most novel.")] = None,
    cell: Annotated[int | None, typer.Option(help="Cell of the map, y * nx + x.")] = None,
    count: Annotated[int, typer.Option("-n", "--count", help="Of --similar.")] = 10,
    level: Annotated[str, typer.Option(help="map, latent, bounded or exact.")] = "exact",
    columns: Annotated[str | None, typer.Option(help="Names, with commas between.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Parquet.")] = None,
    as_json: Json = False,
) -> None:
    """Objects of the images: all, in a cone, like another, the most novel, or of a cell."""
    from skyfold.objects.command import print_objects, select_objects

    if sum(one is not None for one in (cone, similar, novel, cell)) > 1:
        raise typer.BadParameter("give one of --cone, --similar, --novel and --cell")
    asked = {"level": level, "columns": columns.split(",") if columns else None}
    found = select_objects(_open(url).objects, cone, similar, novel, cell, count, asked)
    if output is not None:
        from skyfold.catalogs.library import write_parquet

        with _atomic(output) as partial:
            write_parquet(found, partial)
        _say(f"{output}: {len(found)} objects")
    else:
        print_objects(found, as_json=as_json)


@app.command()
def densities(
    url: Url,
    name: str,
    output: Output,
    level: Annotated[str, typer.Option(help="map, latent, bounded or exact.")] = "bounded",
) -> None:
    """Write probability densities as a NumPy file with `grid` and `pdf`."""
    import numpy as np

    found = _open(url).densities[name]
    with _atomic(output) as partial, partial.open("wb") as file:
        np.savez_compressed(file, grid=found.grid, pdf=found.read(level=level))
    _say(f"{output}: {name} at {level}")


@app.command()
def releases(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of a product: its releases' folder.")],
    as_json: Json = False,
) -> None:
    """List the sealed releases of a product, oldest first."""
    from skyfold.releases import list_releases

    found = list_releases(url, options=_options_of(url))
    if as_json:
        _print_json(found)
        return
    names = ("name", "published", "images", "bytes", "base", "digest")
    rows = [
        tuple(_size(one[name]) if name == "bytes" else one[name] or "-" for name in names)
        for one in found
    ]
    _print_table(names, rows)


@app.command()
def provenance(url: Url, image_id: str, as_json: Json = False) -> None:
    """What one image was made of and by: input, settings, model, code, run."""
    from skyfold.releases import image_provenance

    found = image_provenance(_open(url), image_id)
    if as_json:
        _print_json(found)
    else:
        _print_table(("what", "value"), [(name, _told(value)) for name, value in found.items()])


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {one}" for name, one in value.items())
    return "-" if value in (None, "") else str(value)


@app.command()
def export(
    url: Url,
    folder: Annotated[Path, typer.Argument(help="Gets images/, catalogs/, densities/.")],
    level: Level = "exact",
    image: Annotated[list[str] | None, typer.Option(help="This image alone; repeatable.")] = None,
    name: Annotated[str | None, typer.Option("--catalog", help="This catalog alone.")] = None,
) -> None:
    """Write tile-compressed FITS and HATS partitions, which DS9 and LSDB read."""
    from skyfold.export import export_catalog, export_image, export_release

    release = _open(url)
    if image or name:
        for one in image or ():
            release.images.entry(one)
            export_image(release, one, folder / "images" / f"{one}.fits.fz", level)
        if name:
            export_catalog(release.catalogs[name], folder / "catalogs" / name, level)
        _say(f"{folder}: {', '.join([*(image or ()), *([name] if name else ())])} at {level}")
        return
    with _progress("exporting") as progress:
        written = export_release(release, folder, level, progress)
    _say(f"{folder}: {len(written)} files at {level}")


@app.command()
def verify(
    url: Url,
    as_json: Json = False,
    sample: Annotated[
        float, typer.Option(help="Share of the layers' objects to read; keys and sizes of all.")
    ] = 1.0,
    threads: Annotated[int, typer.Option(min=1, help="Objects read at once.")] = 8,
) -> None:
    """Compare every object of a release with its manifest, or a sample of them."""
    release = _open(url)
    with _progress("verifying") as progress:
        problems = release.verify(progress, sample=sample, threads=threads)
    if as_json:
        _print_json({"ok": not problems, "problems": problems})
    elif problems:
        _print_table(("key", "problem"), list(problems.items()))
    else:
        read = "every object" if sample == 1 else f"a sample of {sample:.0%} of the objects"
        _say(f"{release.url}: {read} is as it was sealed")
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
    _say(f"{type(error).__name__}: {text}", file=sys.stderr)


def _open(url: str) -> DataRelease:
    from skyfold.release import open_release

    return open_release(url, options=_options_of(url))


def _options_of(url: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if url.startswith("s3://"):
        options = {"anon": True} if _settings["anonymous"] else {}
        if _settings["endpoint"]:
            options["endpoint_url"] = _settings["endpoint"]
    return options


def _rows_of(table: Any) -> list[dict[str, Any]]:
    from skyfold.fidelity.record import FidelityRecord

    return FidelityRecord(table).rows()


def _say(text: str, file: Any = None) -> None:
    print(_printable(text), file=file)


def _printable(text: str) -> str:
    """Text without what a terminal obeys: names come from the release, which may be anybody's."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\ufffd" for one in text)


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
        table.add_row(*(Text(_printable(str(cell))) for cell in row))  # Text: names are not markup
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
