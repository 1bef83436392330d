"""What a look at a night's images tells that no number of their index does.

Knows what is looked at: of each band a sample of the images, as `sources` has them. Trails change
no median of the night and cost no recorded loss, for `sources` keeps them; but objects on them are
not those that the record is about. The width of points is that of an image's smallest sources,
which are few: of all images together, it tells a blurred night where those of one cannot. Where a
stretch of the detector is dead no source is found, whatever its noise is: an index's numbers, which
are of whole images, need not show it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.science.sky import sky
from skyfold.science.sources import FALLBACK_FWHM, find_sources, is_clear, load_sep
from storage.drift import ERRORS, outside
from storage.trails import CROSSED, lit_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

SAMPLE = 64  # images of a band: trails on a tenth of a long night are missed once in a hundred
RARE = 0.005  # share of images of a survey that may be crossed though none of a base is
UNLIKELY = 0.05  # probability below which there are too many
POINTS = 0.25  # share of the round sources, smallest first, at which points are met
FEWEST = 30  # of them that tell a width
MANY = 10  # of one image, that tell by how much images differ
CLEAR, ROUND = 15.0, 1.3  # significance, and ratio of axes: most cosmic rays are longer
STRIPS = 8  # of columns, and of rows, in which sources are counted
HOLE = 0.25  # share of the sources to be expected in a strip, below which it may be dead
SURE = 4.0  # standard errors by which a strip must be off as well
REACH_PIX = 9.0  # of the light that is counted to a source


@dataclass
class Look:
    """What is seen on the images of one band.

    Attributes
    ----------
    crossed : list of bool
        Whether a straight line of light crosses each image.
    radii : list of ndarray, shape (n,)
        Half-light radii of round sources of each image [pixel].
    sources : ndarray, shape (2, STRIPS), int
        Sources of all images in each strip of columns, and of rows.
    """

    crossed: list[bool] = field(default_factory=list)
    radii: list[NDArray[np.float64]] = field(default_factory=list)
    sources: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, STRIPS), np.int64))


def look_at(release: DataRelease, entries: Iterable[ImageEntry]) -> dict[str, Look]:
    """Decode a sample of the images of each band at `sources`, and look at them."""
    by_band: dict[str, list[ImageEntry]] = defaultdict(list)
    for entry in entries:
        if entry.noise is not None and entry.mode != "direct":
            by_band[entry.band].append(entry)
    out: dict[str, Look] = defaultdict(Look)
    for band, alike in by_band.items():
        places = np.unique(np.linspace(0, len(alike) - 1, min(len(alike), SAMPLE)).astype(int))
        for place in places:
            above, good = _above(release, alike[place])
            out[band].crossed.append(lit_line(above, good) >= CROSSED)
            image, found = _search(above, good)
            out[band].radii.append(_radii(image, found, good))
            out[band].sources += strips(found, good.shape)
    return dict(out)


def point_radii(above: NDArray[Any], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Half-light radii [pixel] of sources that are clear, alone and round: points and the like.

    Parameters
    ----------
    above : ndarray, shape (ny, nx), float32
        Image less its sky, in units of its noise.
    good : ndarray of bool, shape (ny, nx)
    """
    return _radii(*_search(above, good), good)


def _search(above: NDArray[Any], good: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The image with 0 for what is bad, and its sources."""
    image = np.where(good, above, 0).astype(np.float32)
    return image, find_sources(image, np.ones_like(image), good, FALLBACK_FWHM)


def _radii(
    image: NDArray[Any], found: NDArray[Any], good: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Half-light radii of what is clear, alone and round; see `point_radii`."""
    chosen = (found["peak"] > CLEAR) & (found["flag"] == 0) & is_clear(good, found, REACH_PIX)
    some = found[chosen & (found["a"] < ROUND * found["b"])]
    reach = np.full(len(some), REACH_PIX)
    radii, _ = load_sep().flux_radius(image, some["x"], some["y"], reach, 0.5, subpix=5)
    return np.asarray(radii[radii > 0], np.float64)


def strips(found: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return how many sources lie in each strip of columns, and of rows, shape (2, STRIPS)."""
    places = [
        np.clip(((found[axis] + 0.5) * STRIPS / size).astype(int), 0, STRIPS - 1)
        for axis, size in (("x", shape[1]), ("y", shape[0]))
    ]
    return np.stack([np.bincount(place, minlength=STRIPS) for place in places])


def strange_looks(night: Mapping[str, Look], base: Mapping[str, Look]) -> list[dict[str, Any]]:
    """What a night's images show that those of a base do not.

    Parameters
    ----------
    night, base : mapping of str to Look
        By band, as of `look_at`; bands that the base lacks are not compared.

    Returns
    -------
    list of dict
        ``band number value low high``, alike `storage.drift.strange_numbers`: ``width``, of
        points [pixel], ``crossed``, the share of images that trails cross, and ``strip``, the
        sources in a strip of the detector over those to be expected by the other strips.
    """
    bands = sorted(night.keys() & base.keys())
    found = [
        told
        for band in bands
        for told in (
            _other_width(band, night[band].radii, base[band].radii),
            _more_crossed(band, night[band].crossed, base[band].crossed),
            _odd_strip(band, night[band].sources, base[band].sources),
        )
    ]
    return [one for one in found if one is not None]


def _other_width(
    band: str, radii: list[NDArray[np.float64]], usual: list[NDArray[np.float64]]
) -> dict[str, Any] | None:
    """Points that are wider or narrower than a base's by several errors, and by `REACH`."""
    if min(sum(map(len, some)) for some in (radii, usual)) < FEWEST:
        return None
    (value, error), (middle, other) = (_width(one) for one in (radii, usual))
    return outside(band, "width", value, middle, ERRORS * math.hypot(error, other))


def _width(radii: list[NDArray[np.float64]]) -> tuple[float, float]:
    """Logarithm of the width of points, and its error.

    Of points drawn one by one: half of what ranks one error apart span. Points of an image are as
    wide as its seeing, so it is what images left out one at a time tell (the jackknife; Tukey 1958,
    Ann. Math. Stat. 29, 614), if that is more.
    """
    every = np.log(np.concatenate(radii))
    apart = math.sqrt(POINTS * (1 - POINTS) / len(every))
    low, middle, high = np.quantile(every, (POINTS - apart, POINTS, POINTS + apart))
    alone = float(high - low) / 2
    images = [np.log(some) for some in radii if len(some) >= MANY]
    if len(images) < 2:
        return math.log(2) + float(middle), alone
    left = [np.concatenate(images[:n] + images[n + 1 :]) for n in range(len(images))]
    without = np.array([np.quantile(some, POINTS) for some in left])
    together = math.sqrt((len(images) - 1) * float(without.var()))
    return math.log(2) + float(middle), max(alone, together)


def _more_crossed(band: str, crossed: list[bool], usual: list[bool]) -> dict[str, Any] | None:
    """Too many images that are crossed, for the share of a base's that are."""
    share = max(sum(usual) / len(usual), RARE)
    most = _most(len(crossed), share)
    if sum(crossed) <= most:
        return None
    shares = {"value": sum(crossed) / len(crossed), "low": 0.0, "high": most / len(crossed)}
    return {"band": band, "number": "crossed", **shares}


def _odd_strip(
    band: str, sources: NDArray[np.int64], usual: NDArray[np.int64]
) -> dict[str, Any] | None:
    """The strip with least of the sources that a base and the other strips let expect, if few."""
    if not sources.any() or not usual.any():
        return None
    # by the median strip, which a dead quarter does not lower
    scale = np.median(sources / np.maximum(usual, 1), axis=1, keepdims=True)
    expected = scale * usual
    # the root of a count has an error of a half; the base's own counts are added to it
    errors = 2 * (np.sqrt(expected) - np.sqrt(sources)) / np.sqrt(1 + scale)
    share = np.where(errors > SURE, sources / np.maximum(expected, 1e-9), 1.0)
    if share.min() >= HOLE:
        return None
    return {"band": band, "number": "strip", "value": float(share.min()), "low": HOLE, "high": 1.0}


def _most(count: int, share: float) -> int:
    """The largest number of so many that is not unlikely to be met."""
    chance = 1.0
    for number in range(count + 1):
        chance -= math.comb(count, number) * share**number * (1 - share) ** (count - number)
        if chance < UNLIKELY:  # to meet more
            return number
    return count


def _above(release: DataRelease, entry: ImageEntry) -> tuple[NDArray[Any], NDArray[Any]]:
    """An image less its sky in units of its noise, and which pixels are good."""
    window = release.images.read(entry.id, "sources")
    assert window.sigma is not None  # asked of images that have noise
    good = (window.flags == 0) & np.isfinite(window.values)
    if not good.any():
        return np.zeros(good.shape, np.float32), good
    centre, unit = np.median(window.values[good]), np.median(window.sigma[good])
    flat = np.where(good, (window.values - centre) / unit, 0).astype(np.float32)
    noise = (window.sigma / unit).astype(np.float32)
    return (flat - sky(flat, noise, good)) / noise, good
