"""Measuring a release: every science case, on stored bytes decoded through the public client.

The producer's flow and a consumer who doubts the record run these same functions: raw pixels come
from `exact`, decoded ones from each level, and objects count only on sky that training never saw.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from skyfold import sky
from skyfold.fidelity.holdout import HoldOut, in_pixels
from skyfold.fidelity.record import FidelityRecord, summarise
from skyfold.ladder import LEVELS, TILE
from skyfold.science import ImageContext, cases, injection
from skyfold.science.epochs import align
from skyfold.science.sources import FALLBACK_FWHM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease
    from skyfold.science import Sample
    from skyfold.science.epochs import Alignment

MAX_IMAGES = 24  # a set and band: enough objects for every bin of a survey image
MAX_EXTRAS = 4  # of these, into which sources are injected, or which another epoch is taken from
LEAST_PIXELS = 2**21  # of a set and band, to fill the bins: of small surveys this costs more
SHARE = 0.125  # of its pixels, if that is more: measuring a pixel costs twice its encoding
LARGE, SMALL = 1024, 512  # [pixel], sides of the pieces that are measured
LEAST_OVERLAP = 0.25  # of an image, that another epoch must cover
Measured = dict[str, dict[str, "list[Sample]"]]  # level -> case -> samples


class TrialEncoder(Protocol):
    """Encodes pixels in the place of a piece of an image; see `measure_image`."""

    def __call__(
        self, stored: NDArray[Any], rows: slice, columns: slice
    ) -> Callable[[str], NDArray[Any]]:
        """Return the function from level to decoded pixels."""


def images_to_measure(release: DataRelease) -> list[str]:
    """Image ids that the record is measured on: those with noise, spread evenly over each band."""
    by_band: dict[tuple[str, str], list[ImageEntry]] = defaultdict(list)
    for entry in release.images.entries.values():
        if entry.mode != "direct" and min(entry.plane) >= 2 * sky_margin(entry):
            by_band[entry.set, entry.band].append(entry)
    chosen = []
    for entries in by_band.values():
        most = min(len(entries), MAX_IMAGES, max(1, round(_budget(entries) / SMALL**2)))
        chosen += [entries[place].id for place in _spread(len(entries), most)]
    return chosen


def _spread(count: int, most: int) -> list[int]:
    """Places spread evenly over a row of so many."""
    return np.unique(np.linspace(0, count - 1, most).astype(int)).tolist()  # type: ignore[no-any-return]


def _budget(entries: Sequence[ImageEntry]) -> float:
    """Pixels of a set and band to measure: enough to tell, else a share that costs little."""
    return max(LEAST_PIXELS, SHARE * sum(entry.pixels for entry in entries))


def piece_to_measure(
    release: DataRelease, entry: ImageEntry, counted: NDArray[np.bool_]
) -> tuple[slice, slice]:
    """Return the rows and columns of an image that the record is measured on.

    The whole image where its set and band are small; else the piece of 1024 or 512 pixels a side,
    in whole tiles, that holds most of the sky which counts.
    """
    alike = [
        one
        for one in release.images.entries.values()
        if (one.set, one.band) == (entry.set, entry.band) and one.mode != "direct"
    ]
    share = _budget(alike) / min(len(alike), MAX_IMAGES)
    return injection.window(counted, TILE, LARGE if share >= (LARGE**2) / 2 else SMALL)


def sky_margin(entry: ImageEntry) -> int:
    """Pixels at an edge where no aperture fits; smaller images have nothing to measure."""
    return int(np.ceil(3 * (entry.fwhm_pix or 4.0)))


def measure_image(
    release: DataRelease, image_id: str, encode: TrialEncoder | None = None
) -> Measured:
    """Samples of every science case at every level, on one image.

    Parameters
    ----------
    release : DataRelease
    image_id : str
    encode : callable, optional
        Encodes other pixels in the place of a piece of the image, given as rows and columns, by
        the release's model and steps, and returns a function from level to decoded pixels. With
        it point sources are injected into some of the images; it takes the producer's encoder.

    Returns
    -------
    dict
        By level, then by science case.
    """
    entry = release.images.entry(image_id)
    view = _stored(release, entry)
    if view is None:
        return {}
    views: list[_View | None] = [view]
    if image_id in images_for_extras(release, entry):
        views += [_difference(release, view, entry), _injected(release, view, entry, encode)]
    measured: Measured = {level: {} for level in LEVELS}
    for one in views:
        for level, name, samples in _measure(one) if one is not None else ():
            measured[level].setdefault(name, []).extend(samples)
    return measured


@dataclass(frozen=True, eq=False)
class _View:
    """A raw image, what is known about it, and how to get what each level makes of it."""

    raw: NDArray[np.float64]
    context: ImageContext
    decoded: Callable[[str], NDArray[Any]]
    place: tuple[slice, slice]


def _measure(view: _View) -> Iterator[tuple[str, str, Sequence[Sample]]]:
    """Level, case and samples of every case for this product; each level is decoded once."""
    chosen = [case for case in cases("images") if view.context.product in case.products]
    states = [case.prepare(view.raw, view.context) for case in chosen]
    samples: Sequence[Sample] = ()
    for level in LEVELS[:-1]:
        decoded = view.decoded(level)
        for case, state in zip(chosen, states, strict=True):
            samples = case.compare(state, view.raw, decoded, view.context)
            yield level, case.name, samples
            if level == LEVELS[-2]:
                yield LEVELS[-1], case.name, [_lossless(sample) for sample in samples]


def _lossless(sample: Sample) -> Sample:
    """The same objects without loss: raw pixels are those of `exact`."""
    return replace(sample, values=np.zeros(len(sample.values)))


def _stored(
    release: DataRelease, entry: ImageEntry, place: tuple[slice, slice] | None = None
) -> _View | None:
    """A piece of the image itself, the one to measure unless told; None if it has no noise."""
    counted = counted_pixels(release, entry)
    place = place or piece_to_measure(release, entry, counted)
    exact = release.images.read(entry.id, "exact", *place).values.astype(np.float64)
    bounded = release.images.read(entry.id, "bounded", *place)
    if bounded.sigma is None:
        return None
    mask = (bounded.flags != 0) | ~np.isfinite(exact)
    wcs = sky.read_wcs(entry.fits_header())
    context = ImageContext(
        sigma=bounded.sigma,
        mask=mask,
        counted=counted[place],
        seed=_seed(entry.id),
        fwhm_pix=entry.fwhm_pix,
        scale_arcsec=None if wcs is None else _scale_arcsec(wcs),
    )
    kept = {"bounded": bounded.values}

    def decoded(level: str) -> NDArray[Any]:
        values = kept.get(level)
        if values is None:
            values = release.images.read(entry.id, level, *place).values
        return np.where(mask, 0, values.astype(np.float64))

    return _View(np.where(mask, 0, exact), context, decoded, place)


def _scale_arcsec(wcs: WCS) -> float:
    """Width of a pixel on the sky: the root of its area [arcsec]."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    return 3600 * float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs))))


def _difference(release: DataRelease, view: _View, entry: ImageEntry) -> _View | None:
    """The image less another epoch, both at one level; None without one."""
    found = other_epoch(release, entry, view.place)
    if found is None:
        return None
    partner, alignment = found
    other = _stored(release, partner, (slice(0, partner.plane[0]), slice(0, partner.plane[1])))
    if other is None:
        return None
    mask = view.context.mask | alignment.mask(other.context.mask)
    variance = view.context.sigma**2 + alignment.variance(other.context.sigma**2)
    context = replace(view.context, product="difference", mask=mask, sigma=np.sqrt(variance))

    def less(mine: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
        return np.where(mask, 0, mine - alignment.image(theirs))

    def decoded(level: str) -> NDArray[Any]:
        return less(view.decoded(level), other.decoded(level))

    return _View(less(view.raw, other.raw), context, decoded, view.place)


def _injected(
    release: DataRelease, view: _View, entry: ImageEntry, encode: TrialEncoder | None
) -> _View | None:
    """A piece of the image with point sources put in before it is encoded."""
    noise, whole = entry.noise, view.context
    if encode is None or noise is None:
        return None
    piece = injection.window(whole.counted & ~whole.mask, TILE, TILE)
    rows, columns = (
        slice(of.start + part.start, of.start + part.stop)
        for of, part in zip(view.place, piece, strict=True)
    )
    place = rows, columns
    stored = release.images.read(entry.id, "exact", *place).values
    pixels, sigma, sources = injection.inject(
        stored,
        whole.sigma[piece],
        fwhm=whole.fwhm_pix or FALLBACK_FWHM,
        slope=float(np.ldexp(noise.slope, noise.grid_exponent)),
        step=entry.quant_step,
        seed=whole.seed,
    )
    mask = whole.mask[piece]
    context = replace(
        whole,
        product="injected",
        sigma=sigma,
        mask=mask,
        counted=whole.counted[piece],
        injected=sources,
    )
    trial = encode(pixels, *place)

    def decoded(level: str) -> NDArray[Any]:
        return np.where(mask, 0, trial(level).astype(np.float64))

    return _View(np.where(mask, 0, pixels.astype(np.float64)), context, decoded, place)


def images_for_extras(release: DataRelease, entry: ImageEntry) -> list[str]:
    """The few images of a set and band that injections and differences are made of."""
    every = release.images.entries
    alike = [
        one
        for one in images_to_measure(release)
        if (every[one].set, every[one].band) == (entry.set, entry.band)
    ]
    return alike[:MAX_EXTRAS]


def other_epoch(
    release: DataRelease, entry: ImageEntry, place: tuple[slice, slice]
) -> tuple[ImageEntry, Alignment] | None:
    """The nearest later image of the same set, band and sky, and how it lies on a piece of this.

    Returns
    -------
    (ImageEntry, Alignment) or None
        None if no other image covers a quarter of the piece.
    """
    after = [
        one
        for one in release.images.entries.values()
        if (one.set, one.band) == (entry.set, entry.band) and one.mode != "direct"
    ]
    after = after[[one.id for one in after].index(entry.id) + 1 :]
    near = [(_apart_deg(entry, one), number) for number, one in enumerate(after)]
    wcs = sky.read_wcs(entry.fits_header())
    for apart, number in sorted(near)[:1]:
        there = sky.read_wcs(after[number].fits_header())
        if wcs is None or there is None or not apart < (entry.radius_deg or 0):
            return None
        here = sky.shifted_wcs(wcs, place[1].start, place[0].start)
        shape = place[0].stop - place[0].start, place[1].stop - place[1].start
        found = align(here, shape, there, after[number].plane)
        if found.inside.mean() >= LEAST_OVERLAP:
            return after[number], found
    return None


def _apart_deg(entry: ImageEntry, other: ImageEntry) -> float:
    """Angle between two images' centres [deg]; infinite where one has none."""
    places = (entry.ra, entry.dec, other.ra, other.dec)
    if any(place is None for place in places):
        return float("inf")
    ra, dec, other_ra, other_dec = np.radians(np.array(places, float))
    half = np.sin((other_dec - dec) / 2) ** 2
    half += np.cos(dec) * np.cos(other_dec) * np.sin((other_ra - ra) / 2) ** 2
    return float(np.degrees(2 * np.arcsin(np.sqrt(min(half, 1.0)))))


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
