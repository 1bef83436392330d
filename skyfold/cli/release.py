"""Commands about whole releases: what there is, what it was made of, and whether it is intact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from skyfold.access.folder import whole_file
from skyfold.cli.arguments import CORRUPT, Json, Level, Url, open_url, options_of
from skyfold.cli.terminal import print_json, print_table, progress, rate, say, size


def info(url: Url, as_json: Json = False) -> None:
    """What is in a release: sets, levels, bits per pixel."""
    release = open_url(url)
    found = release.info()
    if as_json:
        print_json(found)
        return
    say(repr(release))
    rows = [
        (kind, name, level, size(one["bytes"]), rate(one))
        for kind in ("images", "catalogs", "densities")
        for name, about in found[kind].items()
        for level, one in about["levels"].items()
    ]
    print_table(("kind", "name", "level", "bytes", "rate"), rows)
    for name, about in found["images"].items():
        line = f"{name}: {about['count']} images, bounded within {about['bound']:g} sigma"
        if about["stored"] > about["levels"]["exact"]["bytes"]:
            line += (
                f"; {size(about['stored'])} stored, for some hold `exact` beside the other levels"
            )
        say(line)
    for one in found["set_aside"]:
        reason = one["reason"].removeprefix(f"{one['file']}: ")
        say(f"set aside or noted: {one['file']}: {reason}")


def card(
    url: Url,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write; printed unless given.")
    ] = None,
) -> None:
    """Data sheet of a release, and cards of its models, as Markdown."""
    from skyfold.card import release_card

    text = release_card(open_url(url))
    if output is None:
        say(text)
        return
    with whole_file(output) as partial:
        partial.write_text(text, encoding="utf-8")
    say(f"{output}: the card of {url}")


def releases(
    url: Annotated[str, typer.Argument(metavar="URL", help="Of a product: its releases' folder.")],
    as_json: Json = False,
) -> None:
    """List the sealed releases of a product, oldest first."""
    from skyfold.releases import list_releases

    found = list_releases(url, options=options_of(url))
    if as_json:
        print_json(found)
        return
    names = ("name", "published", "images", "bytes", "base", "digest")
    rows = [
        tuple(size(one[name]) if name == "bytes" else one[name] or "-" for name in names)
        for one in found
    ]
    print_table(names, rows)


def provenance(url: Url, image_id: str, as_json: Json = False) -> None:
    """What one image was made of and by: input, settings, model, code, run."""
    from skyfold.releases import image_provenance

    found = image_provenance(open_url(url), image_id)
    if as_json:
        print_json(found)
    else:
        print_table(("what", "value"), [(name, _told(value)) for name, value in found.items()])


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {one}" for name, one in value.items())
    return "-" if value in (None, "") else str(value)


def export(
    url: Url,
    folder: Annotated[Path, typer.Argument(help="Gets images/, catalogs/, densities/.")],
    level: Level = "exact",
    image: Annotated[list[str] | None, typer.Option(help="This image alone; repeatable.")] = None,
    name: Annotated[str | None, typer.Option("--catalog", help="This catalog alone.")] = None,
) -> None:
    """Write tile-compressed FITS and HATS partitions, which DS9 and LSDB read."""
    from skyfold.export import export_catalog, export_image, export_release

    release = open_url(url)
    if image or name:
        for one in image or ():
            release.images.entry(one)
            export_image(release, one, folder / "images" / f"{one}.fits.fz", level)
        if name:
            export_catalog(release.catalogs[name], folder / "catalogs" / name, level)
        say(f"{folder}: {', '.join([*(image or ()), *([name] if name else ())])} at {level}")
        return
    with progress("exporting") as told:
        written = export_release(release, folder, level, told)
    say(f"{folder}: {len(written)} files at {level}")


def verify(
    url: Url,
    as_json: Json = False,
    sample: Annotated[
        float, typer.Option(help="Share of the layers' objects to read; keys and sizes of all.")
    ] = 1.0,
    threads: Annotated[int, typer.Option(min=1, help="Objects read at once.")] = 8,
) -> None:
    """Compare every object of a release with its manifest, or a sample of them."""
    release = open_url(url)
    with progress("verifying") as told:
        problems = release.verify(told, sample=sample, threads=threads)
    if as_json:
        print_json({"ok": not problems, "problems": problems})
    elif problems:
        print_table(("key", "problem"), list(problems.items()))
    else:
        read = "every object" if sample == 1 else f"a sample of {sample:.0%} of the objects"
        say(f"{release.url}: {read} is as it was sealed")
    if problems:
        raise typer.Exit(CORRUPT)
