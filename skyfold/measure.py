"""Measuring a release: every science case, on stored bytes decoded through the public client.

The producer's flow and a consumer who doubts the record run these same functions: raw pixels come
from `exact`, decoded ones from each level, and objects count only on sky that training never saw.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold import sky
from skyfold.fidelity import FidelityRecord, summarise
from skyfold.holdout import HoldOut, in_pixels
from skyfold.ladder import LEVELS
from skyfold.science import ImageContext, cases

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skyfold.index import ImageEntry
    from skyfold.release import DataRelease
    from skyfold.science import Sample

MAX_IMAGES = 24  # a set and band: enough objects for every bin of a survey image
Measured = dict[str, dict[str, "Sequence[Sample]"]]  # level -> case -> samples


def images_to_measure(release: DataRelease) -> list[str]:
    """Image ids that the record is measured on: those with noise, spread evenly over each band."""
    by_band: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in release.images.entries.values():
        if entry.mode != "direct" and min(entry.plane) >= 2 * sky_margin(entry):
            by_band[entry.set, entry.band].append(entry.id)
    return [
        ids[place]
        for ids in by_band.values()
        for place in np.unique(np.linspace(0, len(ids) - 1, min(len(ids), MAX_IMAGES)).astype(int))
    ]


def sky_margin(entry: ImageEntry) -> int:
    """Pixels at an edge where no aperture fits; smaller images have nothing to measure."""
    return int(np.ceil(3 * (entry.fwhm_pix or 4.0)))


def measure_image(release: DataRelease, image_id: str) -> Measured:
    """Samples of every science case at every level, on one image.

    Parameters
    ----------
    release : DataRelease
    image_id : str

    Returns
    -------
    dict
        By level, then by science case.
    """
    entry = release.images.entry(image_id)
    exact = release.images.read(image_id, "exact")
    bounded = release.images.read(image_id, "bounded")
    if bounded.sigma is None:
        return {}
    raw = exact.values.astype(np.float64)
    mask = (bounded.flags != 0) | ~np.isfinite(raw)
    context = ImageContext(
        sigma=bounded.sigma,
        mask=mask,
        counted=counted_pixels(release, entry),
        seed=_seed(entry.id),
        fwhm_pix=entry.fwhm_pix,
    )
    raw = np.where(mask, 0, raw)
    measured: Measured = {level: {} for level in LEVELS}
    decoded = {
        level: raw
        if level == "exact"
        else np.where(mask, 0, _values(release, image_id, level, bounded))
        for level in LEVELS
    }
    for case in cases("images"):
        state = case.prepare(raw, context)
        for level in LEVELS:
            measured[level][case.name] = case.compare(state, raw, decoded[level], context)
    return measured


def _values(release: DataRelease, image_id: str, level: str, bounded: Any) -> Any:
    if level == "bounded":
        return bounded.values.astype(np.float64)
    return release.images.read(image_id, level).values.astype(np.float64)


def counted_pixels(release: DataRelease, entry: ImageEntry) -> Any:
    """Pixels whose objects enter the record; all of them where nothing could be held out."""
    rule = hold_out_of(release, entry.set)
    if rule is None or rule.threshold == 0:
        return np.ones(entry.plane, bool)
    wcs = sky.read_wcs(entry.fits_header())
    grains = rule.is_held_out(entry.set, entry.plane, wcs)
    return in_pixels(grains, entry.plane)


def hold_out_of(release: DataRelease, image_set: str) -> HoldOut | None:
    """Rule by which a set's sky was held out of training."""
    rule = release.about.get("hold_out", {}).get(image_set)
    return HoldOut(**rule) if rule else None


def record_of(
    release: DataRelease,
    measured: Iterable[tuple[str, Mapping[str, Any]]],
    tables: Iterable[Mapping[str, Any]] = (),
) -> FidelityRecord:
    """The fidelity record of images measured with `measure_image`, and of tables.

    Parameters
    ----------
    release : DataRelease
    measured : iterable of (str, dict)
        Image id and what `measure_image` gave.
    tables : iterable of dict
        Rows of catalogs and densities.
    """
    pooled: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for image_id, levels in measured:
        entry = release.images.entry(image_id)
        if levels:
            pooled[entry.set, entry.band].append(levels)
    rows = [
        row
        for (name, band), images in sorted(pooled.items())
        for level in LEVELS
        for row in _rows(release, name, band, level, [image[level] for image in images])
    ]
    return FidelityRecord.from_rows([*rows, *tables])


def _rows(
    release: DataRelease, name: str, band: str, level: str, samples: list[Any]
) -> list[dict[str, Any]]:
    members = [e for e in release.images.entries.values() if (e.set, e.band) == (name, band)]
    stored = sum(entry.bytes_at(level) for entry in members)
    rule = hold_out_of(release, name)
    about = {
        "kind": "images",
        "set": name,
        "band": band,
        "level": level,
        "bytes": stored,
        "bpp": 8 * stored / sum(entry.pixels for entry in members),
        "held_out": rule is not None and rule.threshold > 0,
    }
    seed = _seed(f"{name}/{band}/{level}")
    found = summarise(samples, seed=seed, lossless=level == "exact")
    return [about | row for row in found]


def _seed(name: str) -> int:
    import zlib

    return zlib.crc32(name.encode())
