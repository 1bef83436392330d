"""What science cases of images are given: raw pixels, and what each level makes of them.

This module knows the products: the stored image; the image less another epoch; copies with point
sources, trails, diffuse light or sheared galaxies put in before they are encoded, as the release
would have.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from skyfold import sky
from skyfold.images.offsets import read_offsets
from skyfold.ladder import LEVELS, TILE
from skyfold.science import ImageContext, diffuse, galaxies, injection, trails
from skyfold.science.epochs import align
from skyfold.science.field import prepare_field
from skyfold.science.sources import FALLBACK_FWHM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease
    from skyfold.science import Product
    from skyfold.science.epochs import Alignment

TRAILED, DIFFUSE = 5, 16  # copies of a piece with trails, with diffuse light: few have room in one
LEAST_OVERLAP = 0.25  # of an image, that another epoch must cover
Place = tuple[slice, slice]


class TrialEncoder(Protocol):
    """Encodes pixels in the place of a piece of an image; see `skyfold.fidelity.images`."""

    def __call__(
        self, stored: NDArray[Any], rows: slice, columns: slice
    ) -> Callable[[str], NDArray[Any]]:
        """Return the function from level to decoded pixels."""


@dataclass(frozen=True, eq=False)
class View:
    """A raw image, what is known about it, and how to get what each level makes of it.

    `stored` is the raw image as it is stored, bad pixels included. From `raw` and what is `decoded`
    the `offsets` of rows and columns are taken off, as a user would before looking for sources.
    """

    raw: NDArray[np.float64]
    stored: NDArray[Any]
    context: ImageContext
    decoded: Callable[[str], NDArray[Any]]
    place: Place
    offsets: NDArray[np.float64]


def seed_of(name: str) -> int:
    """Seed of whatever is drawn for something of this name."""
    return zlib.crc32(name.encode())


def stored_view(
    release: DataRelease, entry: ImageEntry, place: Place, counted: NDArray[np.bool_]
) -> View:
    """Return a piece of the image itself, which has noise.

    Parameters
    ----------
    release : DataRelease
    entry : ImageEntry
    place : (slice, slice)
        Rows and columns.
    counted : ndarray of bool, shape of the image
        See `skyfold.fidelity.holdout.counted_pixels`.
    """
    found = release.images.read_levels(entry.id, LEVELS, *place)
    exact, bounded = found["exact"].values.astype(np.float64), found["bounded"]
    assert bounded.sigma is not None  # as of every image with noise
    mask = (bounded.flags != 0) | ~np.isfinite(exact)
    wcs = entry.celestial_wcs()
    context = ImageContext(
        sigma=bounded.sigma,
        mask=mask,
        counted=counted[place],
        seed=seed_of(entry.id),
        fwhm_pix=entry.fwhm_pix,
        scale_arcsec=None if wcs is None else _scale_arcsec(wcs),
    )

    offsets = read_offsets(release, entry, *place)

    def decoded(level: str) -> NDArray[Any]:
        return np.where(mask, 0, found[level].values - offsets)

    raw = np.where(mask, 0, exact - offsets)
    return View(raw, found["exact"].values, context, decoded, place, offsets)


def _scale_arcsec(wcs: WCS) -> float:
    """Width of a pixel on the sky: the root of its area [arcsec]."""
    from astropy.wcs.utils import proj_plane_pixel_scales

    return 3600 * float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs))))


def difference_view(release: DataRelease, view: View, entry: ImageEntry) -> View | None:
    """Return the image less another epoch, both at one level; None without one."""
    found = other_epoch(release, entry, view.place)
    if found is None:
        return None
    partner, alignment = found
    window, alignment = alignment.cropped()
    other = stored_view(release, partner, window, np.ones(partner.plane, bool))
    mask = view.context.mask | alignment.mask(other.context.mask)
    variance = view.context.sigma**2 + alignment.variance(other.context.sigma**2)
    context = replace(view.context, product="difference", mask=mask, sigma=np.sqrt(variance))

    def less(mine: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
        return np.where(mask, 0, mine - alignment.image(theirs))

    def decoded(level: str) -> NDArray[Any]:
        return less(view.decoded(level), other.decoded(level))

    raw = less(view.raw, other.raw)
    return View(raw, view.stored, context, decoded, view.place, view.offsets)


def injected_views(view: View, entry: ImageEntry, encode: TrialEncoder | None) -> Iterator[View]:
    """Yield a piece with point sources, trails or diffuse light put in before it is encoded."""
    if encode is None or entry.noise is None:
        return
    yield _injected_view(view, entry, encode, injection.inject, "injected", view.context.seed)
    for number in range(TRAILED):
        seed = seed_of(f"{entry.id}/trails/{number}")
        yield _injected_view(view, entry, encode, trails.inject_trails, "trailed", seed)
    for number in range(DIFFUSE):
        seed = seed_of(f"{entry.id}/diffuse/{number}")
        yield _injected_view(view, entry, encode, diffuse.inject_diffuse, "diffuse", seed)


def _injected_view(
    view: View,
    entry: ImageEntry,
    encode: TrialEncoder,
    inject: Callable[..., Any],
    product: Product,
    seed: int,
) -> View:
    piece, place = _tile_to_change(view)
    light = _light(view, entry)
    pixels, sigma, put_in = inject(
        view.stored[piece], view.context.sigma[piece], seed=seed, **light
    )
    mask = view.context.mask[piece]
    context = replace(
        view.context,
        product=product,
        sigma=sigma,
        mask=mask,
        counted=view.context.counted[piece],
        fwhm_pix=light["fwhm"],
        injected=put_in,
    )
    trial, offsets = encode(pixels, *place), view.offsets[piece]

    def decoded(level: str) -> NDArray[Any]:
        return np.where(mask, 0, trial(level) - offsets)

    raw = np.where(mask, 0, pixels - offsets)
    return View(raw, pixels, context, decoded, place, offsets)


def sheared_views(
    view: View,
    entry: ImageEntry,
    encode: TrialEncoder | None,
    count: int,
) -> Iterator[View]:
    """Yield pairs of copies with galaxies of opposite shear, until so many were put in.

    A pair holds what finds room away from the image's own sources; where there is none, there
    are no more pairs.
    """
    if encode is None or entry.noise is None or not count:
        return
    piece, place = _tile_to_change(view)
    free = (prepare_field(view.raw, view.context).free & view.context.counted)[piece]
    light = _light(view, entry)
    mask, counted, offsets = (
        np.concatenate([plane[piece]] * 2)
        for plane in (view.context.mask, view.context.counted, view.offsets)
    )
    number = 0
    while count > 0:
        seed = seed_of(f"{entry.id}/{number}")
        copies, sigma, pairs = galaxies.inject_sheared(
            view.stored[piece], view.context.sigma[piece], free, seed=seed, **light
        )
        if not len(pairs):
            return
        number, count = number + 1, count - len(pairs) // 2
        context = replace(
            view.context,
            product="sheared",
            sigma=sigma,
            mask=mask,
            counted=counted,
            fwhm_pix=light["fwhm"],
            injected=pairs,
        )
        trials = [encode(copy, *place) for copy in copies]

        def decoded(level: str, trials: list[Any] = trials) -> NDArray[Any]:
            both = np.concatenate([trial(level) for trial in trials])
            return np.where(mask, 0, both - offsets)

        stored = np.concatenate(copies)
        raw = np.where(mask, 0, stored - offsets)
        yield View(raw, stored, context, decoded, place, offsets)


def _tile_to_change(view: View) -> tuple[Place, Place]:
    """The tile with most sky that counts: its place in the view, and in the image."""
    piece = injection.window(view.context.counted & ~view.context.mask, TILE, TILE)
    rows, columns = (
        slice(of.start + part.start, of.start + part.stop)
        for of, part in zip(view.place, piece, strict=True)
    )
    return piece, (rows, columns)


def _light(view: View, entry: ImageEntry) -> dict[str, Any]:
    """How light falls on an image: width of a point, photon noise, step of the pixels."""
    noise = entry.noise
    slope = 0.0 if noise is None else float(np.ldexp(noise.slope, noise.grid_exponent))
    if noise is not None and entry.uneven and not noise.of_sky:  # light scatters as the sky does
        sky = np.ldexp(noise.sigma, noise.grid_exponent)
        slope *= float(np.median(view.context.sigma) / sky) ** 2
    fwhm = view.context.fwhm_pix or FALLBACK_FWHM
    return {"fwhm": fwhm, "slope": slope, "step": entry.quant_step}


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
    wcs = entry.celestial_wcs()
    for apart, number in sorted(near)[:1]:
        there = after[number].celestial_wcs()
        if wcs is None or there is None or not apart < (entry.radius_deg or 0):
            return None
        shape = place[0].stop - place[0].start, place[1].stop - place[1].start
        here = sky.shifted_wcs(wcs, place[1].start, place[0].start, shape)
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
