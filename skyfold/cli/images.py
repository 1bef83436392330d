"""Commands about images: their list, cutouts, and whole ones."""

from __future__ import annotations

from typing import Annotated

import typer

from skyfold.access.folder import whole_file
from skyfold.cli.arguments import Json, Level, Output, Url, open_url, position_of
from skyfold.cli.terminal import print_json, print_table, say


def images(url: Url, as_json: Json = False) -> None:
    """List the images of a release."""
    entries = open_url(url).images.entries.values()
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
        print_json(rows)
    else:
        shown = [(r["id"], r["band"], "x".join(map(str, r["shape"])), r["dtype"]) for r in rows]  # type: ignore[call-overload]
        print_table(("id", "band", "shape", "dtype"), shown)


def cutout(
    url: Url,
    ra: Annotated[float, typer.Option(help="[deg, ICRS]")],
    dec: Annotated[float, typer.Option(help="[deg, ICRS]")],
    size: Annotated[float, typer.Option(help="[arcsec]")],
    output: Output,
    band: Annotated[str | None, typer.Option(help="Such as `skyfold images` lists.")] = None,
    level: Level = "sources",
) -> None:
    """Write a box around a position as FITS: image, mask, uncertainty."""
    from astropy import units as u

    position = position_of(ra, dec)
    found = open_url(url).images.cutout(position, size * u.arcsec, band=band, level=level)
    with whole_file(output) as partial:
        found.to_hdu().writeto(partial, overwrite=True, output_verify="silentfix")
    say(f"{output}: {found.shape[1]} x {found.shape[0]} pixels of {found.meta['image']}")


def decode(url: Url, image_id: str, output: Output, level: Level = "exact") -> None:
    """Write a whole image as FITS; `exact` is the stored array, bit for bit, with its header."""
    open_url(url).images.write_fits(image_id, output, level)
    say(f"{output}: {image_id} at {level}")
