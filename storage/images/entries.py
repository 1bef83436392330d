"""Index rows of images that are not encoded yet, and as notes between the steps of a build.

A row says what an image is made of: an image whose input, model and step are those of a row that
was written is not encoded again.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold import sky
from skyfold.images.index import ImageEntry
from skyfold.ladder import TILE
from skyfold.layout import ImageGroup

if TYPE_CHECKING:
    from storage.survey import SurveyImage

WRITER = 23  # changes when the same image would be written as other bytes
_BINARY = ("fills", "places")


def plan_groups(
    entries: list[ImageEntry], channels: int, tables: str
) -> tuple[list[ImageEntry], dict[str, ImageGroup]]:
    """Entries with their group and row, and the groups by path; the same input, the same plan."""
    counts: dict[str, int] = {}
    placed, groups = [], {}
    for entry in entries:
        ny, nx = entry.plane
        group = ImageGroup(0, (-(-ny // TILE), -(-nx // TILE)), entry.dtype, channels, tables)
        path = f"images/{entry.set}/{group.name}"
        row = counts.get(path, 0)
        counts[path] = row + 1
        placed.append(replace(entry, group=group.name, row=row))
        groups[path] = replace(group, count=row + 1)
    return placed, groups


def describe_image(
    image: SurveyImage, *, model: str, step: float, smallest: str = "reads"
) -> ImageEntry:
    """Index entry of an image that was read and not yet encoded.

    Parameters
    ----------
    image : SurveyImage
    model : str
        Digest of the model that will encode it.
    step : float
        Cell width in noise units.
    smallest : {"reads", "storage"}
        As `storage.images.shards.make_shards` takes it.
    """
    wcs = sky.read_wcs(image.header)
    plane = image.stored.shape
    place = sky.footprint(wcs, (plane[0], plane[1])) if wcs is not None else None
    ref = image.ref
    return ImageEntry(
        id=ref.id,
        set=ref.set,
        band=ref.band,
        file=ref.file,
        hdu=ref.hdu,
        group="",
        row=0,
        shape=tuple(int(side) for side in image.shape),
        dtype=image.stored.dtype.name,
        mode="direct",
        model=model,
        step=step,
        bscale=image.bscale,
        bzero=image.bzero,
        blank=image.blank,
        fills=b"",
        noise=None,
        quant_step=image.quant_step,
        fwhm_pix=None,
        time=image.time,
        ra=place[0] if place else None,
        dec=place[1] if place else None,
        radius_deg=place[2] if place else None,
        healpix=place[3] if place else (),
        digest=image.digest,
        unit=str(image.header.get("BUNIT", "")).strip(),
        wcs=sky.wcs_cards(image.header),
        header=image.header.tostring(sep="\n", padding=False),
        recipe=_recipe(image, step, smallest),
    )


def _recipe(image: SurveyImage, step: float, smallest: str) -> str:
    """Digest of all input that the layers depend on; the model comes on top."""
    facts = [WRITER, image.digest, image.ref.hdu, step, image.gain, image.quant_step, image.time]
    facts += [] if smallest == "reads" else [smallest]
    found = hashlib.sha256(json.dumps([*facts, image.ref.band]).encode())
    for plane in (image.mask, image.variance, image.relative_variance):
        found.update(b"-" if plane is None else np.ascontiguousarray(plane).data)
    return found.hexdigest()


def note_name(image_id: str) -> str:
    """Name of the note about an image: its id may hold slashes."""
    return hashlib.sha256(image_id.encode()).hexdigest()[:24]


def note_of(entry: ImageEntry) -> dict[str, Any]:
    """Entry as JSON."""
    row = entry.to_row()
    return row | {name: base64.b64encode(row[name]).decode() for name in _BINARY}


def entry_from_note(note: dict[str, Any]) -> ImageEntry:
    """Inverse of `note_of`."""
    binary = {name: base64.b64decode(note[name]) for name in _BINARY}
    return ImageEntry.from_row(note | binary)
