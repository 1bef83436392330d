"""Measuring a release: every science case, on stored bytes decoded through the public client.

The producer's flow and a consumer who doubts the record run these same functions: raw pixels come
from `exact`, decoded ones from each level, and objects count only on sky that training never saw.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from skyfold.fidelity.holdout import FRACTION, GRAIN, counted_pixels, hold_out_of
from skyfold.fidelity.record import FidelityRecord, summarise
from skyfold.fidelity.views import (
    Place,
    TrialEncoder,
    View,
    difference_view,
    injected_views,
    seed_of,
    sheared_views,
    stored_view,
)
from skyfold.ladder import LEVELS, TILE
from skyfold.science import cases, injection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease
    from skyfold.science import Sample

MAX_IMAGES = 24  # a set and band, or as many pixels of smaller images: enough for every bin
MAX_EXTRAS = 3  # of these, into which sources are injected, or which another epoch is taken from
LEAST_PIXELS = 5 * 2**18  # of a set and band, to fill the bins: of small surveys this costs more
SHARE = 0.125  # of its pixels, if that is more: a pixel takes 2 to 3 times its encoding
SMALL = 512  # [pixel], side of the pieces that are measured
FEW = 2 * SMALL**2  # pixels of an image, for which one piece is enough
LEAST_GAIN = TILE**2 // 4  # pixels that count, for which another piece is worth its cost
OVERLAP = -4  # worth of a pixel that is measured already: one such tile outweighs three others
# looked up for every image that is measured; many small ones take a while
_CHOSEN: WeakKeyDictionary[DataRelease, list[str]] = WeakKeyDictionary()
Measured = dict[str, dict[str, "list[Sample]"]]  # level -> case -> samples


def images_to_measure(release: DataRelease) -> list[str]:
    """Image ids that the record is measured on: those with noise, spread evenly over each band.

    As many as hold the pixels to be measured, of those whose sky counts.
    """
    if release not in _CHOSEN:
        _CHOSEN[release] = _chosen(release)
    return list(_CHOSEN[release])


def _chosen(release: DataRelease) -> list[str]:
    by_band: dict[tuple[str, str], list[ImageEntry]] = defaultdict(list)
    for entry in release.images.entries.values():
        if entry.mode != "direct" and min(entry.plane) >= 2 * sky_margin(entry):
            by_band[entry.set, entry.band].append(entry)
    chosen = []
    for entries in by_band.values():
        rule = hold_out_of(release, entries[0].set)
        share = FRACTION if rule is not None and rule.threshold else 1.0
        held_out = np.mean([_yield(entry, share) for entry in entries])
        most = min(_budget(entries), MAX_IMAGES * SMALL**2) / held_out
        places = _spread(len(entries), min(len(entries), max(1, round(most))))
        found = [entries[place] for place in places]
        held = [one.id for one in found if counted_pixels(release, one).any()]
        chosen += held or [found[0].id]
    return chosen


def _yield(entry: ImageEntry, share: float) -> float:
    """Pixels that count in the piece that is measured of an image, about.

    Of large images that is a whole piece, of small ones the share that is held out of training.
    """
    ny, nx = entry.plane
    return min(float(min(ny, SMALL) * min(nx, SMALL)), share * ny * nx)


def _spread(count: int, most: int) -> list[int]:
    """Places spread evenly over a row of so many."""
    return np.unique(np.linspace(0, count - 1, most).astype(int)).tolist()  # type: ignore[no-any-return]


def _budget(entries: Sequence[ImageEntry]) -> float:
    """Pixels of a set and band to measure: enough to tell, else a share that costs little."""
    return max(LEAST_PIXELS, SHARE * sum(entry.pixels for entry in entries))


def pieces_to_measure(
    release: DataRelease, entry: ImageEntry, counted: NDArray[np.bool_]
) -> list[Place]:
    """Return the rows and columns of the pieces of an image that the record is measured on.

    The piece of 512 pixels a side, in whole tiles, that holds most of the sky which counts; where
    the set and band are small as many such pieces as they need, from each quarter in turn, for what
    a detector does differs from place to place. Each is cut down to the sky that counts and what
    apertures and sky need beside it. They do not overlap, and the one with most sky that counts
    comes first.
    """
    alike = [
        one
        for one in release.images.entries.values()
        if (one.set, one.band) == (entry.set, entry.band) and one.mode != "direct"
    ]
    share = _budget(alike) / min(len(alike), MAX_IMAGES)
    if share < FEW:
        found = [injection.window(counted, TILE, SMALL)]
    else:
        found = _spread_pieces(counted, round(share / SMALL**2))
    return [_cut_down(piece, counted[piece], 2 * sky_margin(entry)) for piece in found]


def _cut_down(piece: Place, counted: NDArray[np.bool_], margin: int) -> Place:
    """The part of a piece within a margin of sky that counts, and no narrower than a tile."""
    rows, columns = piece
    held = np.nonzero(counted)
    return _span_of(rows, held[0], margin), _span_of(columns, held[1], margin)


def _span_of(whole: slice, held: NDArray[np.intp], margin: int) -> slice:
    """The part of a row or column of pixels about those that are held, in whole grains."""
    if not held.size:
        return whole
    size = whole.stop - whole.start
    first = max(int(held.min()) - margin, 0) // GRAIN * GRAIN
    last = -(-(int(held.max()) + 1 + margin) // GRAIN) * GRAIN
    last = min(max(last, first + TILE), size)
    first = max(min(first, last - TILE), 0)
    return slice(whole.start + first, whole.start + last)


def _spread_pieces(counted: NDArray[np.bool_], most: int) -> list[Place]:
    """Pieces from each quarter of an image in turn, while they hold sky that counts."""
    worth = counted.astype(np.int8)
    found: list[tuple[int, Place]] = []
    for _ in range(-(-most // 4)):
        for quarter in _quarters(counted.shape):
            piece = _window_in(worth, quarter)
            gain = int(worth[piece].sum())
            if gain >= LEAST_GAIN or not found:
                found.append((gain, piece))
                worth[piece] = OVERLAP
    found.sort(key=lambda one: -one[0])
    return [piece for _, piece in found[:most]]


def _quarters(plane: tuple[int, ...]) -> list[Place]:
    """Quarters of an image, of whole tiles but at its edge; halves of a narrow one."""
    halves = []
    for size in plane:
        middle = TILE * round(size / 2 / TILE) if size >= 2 * SMALL else size
        halves.append(
            [slice(0, middle), slice(middle, size)] if middle < size else [slice(0, size)]
        )
    return [(rows, columns) for rows in halves[0] for columns in halves[1]]


def _window_in(worth: NDArray[Any], part: Place) -> Place:
    """The piece of a part of an image that is worth most."""
    rows, columns = (
        slice(of.start + piece.start, of.start + piece.stop)
        for of, piece in zip(part, injection.window(worth[part], TILE, SMALL), strict=True)
    )
    return rows, columns


def sky_margin(entry: ImageEntry) -> int:
    """Pixels at an edge where no aperture fits; smaller images have nothing to measure."""
    return int(np.ceil(3 * (entry.fwhm_pix or 4.0)))


def measure_image(
    release: DataRelease,
    image_id: str,
    encode: TrialEncoder | None = None,
    *,
    galaxies: int = 0,
) -> Measured:
    """Samples of every science case at every level, on one image.

    Parameters
    ----------
    release : DataRelease
    image_id : str
    encode : callable, optional
        Encodes other pixels in the place of a piece of the image, given as rows and columns, by
        the release's model and steps, and returns a function from level to decoded pixels. With
        it point sources and trails are injected into some of the images; it takes the producer's
        encoder.
    galaxies : int
        Galaxies of known shear to put into copies of the images of a set and band; with `encode`,
        and shared by all that are measured.

    Returns
    -------
    dict
        By level, then by science case.
    """
    entry = release.images.entry(image_id)
    counted = counted_pixels(release, entry)
    if entry.mode == "direct":
        return {}
    measured: Measured = {level: {} for level in LEVELS}
    for number, place in enumerate(pieces_to_measure(release, entry, counted)):
        view = stored_view(release, entry, place, counted)
        more = _more_views(release, view, entry, encode, galaxies) if number == 0 else ()
        for one in chain([view], more):
            for level, name, samples in _measure(one):
                measured[level].setdefault(name, []).extend(samples)
    return measured


def _more_views(
    release: DataRelease,
    view: View,
    entry: ImageEntry,
    encode: TrialEncoder | None,
    galaxies: int,
) -> Iterator[View]:
    """What else is made of a stored image."""
    alike = _measured_alike(release, entry)
    if entry.id in alike[:MAX_EXTRAS]:
        difference = difference_view(release, view, entry)
        if difference is not None:
            yield difference
        yield from injected_views(view, entry, encode)
    yield from sheared_views(view, entry, encode, -(-galaxies // len(alike)))


def _measure(view: View) -> Iterator[tuple[str, str, Sequence[Sample]]]:
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


def _measured_alike(release: DataRelease, entry: ImageEntry) -> list[str]:
    """The images of a set and band that are measured."""
    every = release.images.entries
    return [
        one
        for one in images_to_measure(release)
        if (every[one].set, every[one].band) == (entry.set, entry.band)
    ]


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
    seed = seed_of(f"{name}/{band}/{level}")
    found = summarise(samples, seed=seed, lossless=level == "exact")
    return [about | row for row in found]
