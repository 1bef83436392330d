"""How wide points are: the full width at half maximum of an image, told by its own sources.

- *Stars.* Twice the half-light radius of what is brighter than S/N 20; of these the 15th
  percentile, since stars are the smallest sources.
- *Cosmic rays* are smaller still. They are sharp: their light ends from one pixel to the next.
- *Faint sources* tell it where fewer than five are bright: each by the matched filter that sees it
  best, the wider the more of its noise it takes in.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from skyfold.science.matched_filter import matched_filter
from skyfold.science.sky import Plane
from skyfold.science.sources import (
    FALLBACK_FWHM,
    SIGMAS_PER_FWHM,
    circle_sum,
    find_sources,
    is_clear,
    load_sep,
)

MIN_STARS = 5
_WIDE = 7.0  # [pixel]; of wider ones the first look misses light, and a second is taken
_STAR_SNR = 20.0
_STAR_PERCENTILE = 15.0
_FWHM_RANGE = (1.2, 30.0)  # [pixel]; narrower ones are cosmic rays and hot pixels
_SHARP = 0.1  # bluntness below which a source may be a cosmic ray, whatever its width
_MORE, _ALIKE = 2, 0.25  # times the others about one width, and of themselves: they are stars
_ENOUGH = 6  # good pixels around one that is bad, of eight: at a dead column there are six
_AROUND = [(dy, dx) for dy in range(3) for dx in range(3) if (dy, dx) != (1, 1)]
_FILTERS = 1.5 * (4 / 3) ** np.arange(8)  # FWHM [pixel], to 11.2
_FAINT_SNR = 7.0  # of the filter that sees a source best
_FAINT_PERCENTILE = 30.0  # galaxies are wider, and noise widens and narrows alike

Floats = NDArray[np.float64]


def estimate_fwhm(image: Plane, noise: Plane, good: NDArray[np.bool_]) -> float:
    """Return the width of the point-spread function [pixel].

    Parameters
    ----------
    image, noise : ndarray, shape (ny, nx), float32
        Without sky; one standard deviation.
    good : ndarray, shape (ny, nx), bool
    """
    fwhm = typical_width([star_widths(image, noise, good)])
    fwhm = wider(fwhm, lambda about: [star_widths(image, noise, good, about)])
    if math.isnan(fwhm):
        fwhm = typical_faint_width([faint_widths(image, noise, good)])
    return FALLBACK_FWHM if math.isnan(fwhm) else fwhm


def star_widths(
    image: Plane, noise: Plane, good: NDArray[np.bool_], about: float = FALLBACK_FWHM
) -> Floats:
    """Return how wide and how blunt each source above S/N 20 is, shape (n, 2).

    Twice its half-light radius [pixel], which is the full width of a Gaussian at half its maximum;
    and what the darkest of the four pixels beside its brightest has of that one's light: nothing,
    where a cosmic ray ends. Arguments as of `estimate_fwhm`, and about how wide they are: light is
    gathered within three times that.
    """
    sep = load_sep()
    found = find_sources(image, noise, good, about)
    image, good = _patched(image, good)
    flux = circle_sum(image, found, 3 * about)
    error = np.sqrt(circle_sum(noise**2, found, 3 * about))
    clear = is_clear(good, found, 3 * about) & (flux > _STAR_SNR * error)
    bright = found[clear & (found["flag"] == 0)]
    reach = np.full(len(bright), 3 * about)
    radius, _ = sep.flux_radius(image, bright["x"], bright["y"], reach, 0.5, subpix=5)
    inside = (radius > _FWHM_RANGE[0] / 2) & (radius < _FWHM_RANGE[1] / 2)
    brightest, darkest = _peaks(image, bright["y"][inside], bright["x"][inside])
    return np.stack([2 * radius[inside], darkest / brightest], axis=1).astype(np.float64)


def typical_width(parts: Sequence[Floats]) -> float:
    """Return the width of points by `star_widths` of parts of an image; NaN of fewer than 5.

    Cosmic rays are of all widths: sharp sources count only where they crowd about one, and others
    do so less.
    """
    widths, blunt = np.concatenate([np.empty((0, 2)), *parts]).T
    is_sharp = blunt < np.maximum(_SHARP, _sharpest(widths))
    sharp, others = widths[is_sharp], widths[~is_sharp]
    if _crowd(sharp) <= max(_MORE * _crowd(others), _ALIKE * len(sharp)):
        widths = others
    return _percentile(widths, _STAR_PERCENTILE)


def wider(fwhm: float, look: Callable[[float], Sequence[Floats]]) -> float:
    """Return a width, or of a wide one the larger that a second look at such stars tells."""
    return float(np.fmax(fwhm, typical_width(look(fwhm)))) if fwhm > _WIDE else fwhm


def faint_widths(image: Plane, noise: Plane, good: NDArray[np.bool_]) -> Floats:
    """Return the width [pixel] of the matched filter that sees each source best, shape (n,).

    Of all above S/N 7 but what is wider than any filter; 0 of what is a cosmic ray, or narrower:
    noise is. Arguments as of `estimate_fwhm`.
    """
    image, good = _patched(image, good)
    found = find_sources(image, noise, good, FALLBACK_FWHM)
    found = found[found["flag"] == 0]
    if not len(found):
        return np.empty(0)
    seen = np.array(
        [
            _around(matched_filter(image, noise, good, one), found["y"], found["x"]).max(axis=0)
            for one in _FILTERS
        ],
        np.float64,
    )
    some = (seen.max(axis=0) > _FAINT_SNR) & (seen.argmax(axis=0) < len(_FILTERS) - 1)
    y, x, seen = found["y"][some], found["x"][some], seen[:, some]
    best, number = seen.argmax(axis=0), np.arange(seen.shape[1])
    before, top, after = (seen[np.maximum(best + step, 0), number] for step in (-1, 0, 1))
    bend = np.maximum(2 * top - before - after, 1e-6 * top)
    widths = _FILTERS[0] * (4 / 3) ** (best + np.clip((after - before) / (2 * bend), -0.5, 0.5))
    brightest, darkest = _peaks(image, y, x)
    # of faint ones it is not known to the noise of a pixel
    blunt = (darkest + 2 * _around(noise, y, x)[-1]) / brightest
    is_told = (best > 0) & (blunt > np.maximum(_SHARP, _sharpest(widths)))
    return np.asarray(np.where(is_told, widths, 0.0))


def typical_faint_width(parts: Sequence[Floats]) -> float:
    """Return the width of points by `faint_widths` of parts of an image; NaN of fewer than 5.

    And where many are 0: most are noise then, of parts shallower than is known.
    """
    width = _percentile(np.concatenate([np.empty(0), *parts]), _FAINT_PERCENTILE)
    return width if width > _FILTERS[0] else math.nan


def _percentile(widths: Floats, which: float) -> float:
    return float(np.percentile(widths, which)) if len(widths) >= MIN_STARS else math.nan


def _patched(image: Plane, good: NDArray[np.bool_]) -> tuple[Plane, NDArray[np.bool_]]:
    """Fill lone bad pixels with the mean of those around: else few stars have none near them."""
    if good.all():
        return image, good
    ny, nx = image.shape
    count, total = np.zeros((ny, nx), np.uint8), np.zeros((ny, nx), np.float32)
    some, light = np.pad(good, 1), np.pad(np.where(good, image, np.float32(0)), 1)
    for dy, dx in _AROUND:
        beside = np.s_[dy : dy + ny, dx : dx + nx]
        count += some[beside]
        total += light[beside]
    lone = ~good & (count >= _ENOUGH)
    filled = total / np.maximum(count, 1)
    return np.where(lone, filled, image).astype(np.float32), good | lone


def _around(plane: Plane, y: Floats, x: Floats) -> Plane:
    """Return the pixels of 3 x 3 about places, shape (9, n), the middle one last; 0 beyond."""
    framed = np.pad(plane, 2)
    row, column = (np.rint(one).astype(int) + 1 for one in (y, x))
    return np.array([framed[row + dy, column + dx] for dy, dx in (*_AROUND, (1, 1))])


def _peaks(image: Plane, y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return the brightest pixel about each place, and the darkest of the four beside it."""
    near = _around(image, y, x)
    steps = np.array([*_AROUND, (1, 1)]) - 1
    there = steps[near.argmax(axis=0)]
    framed = np.pad(image, 3)
    row, column = (np.rint(one).astype(int) + 3 + there[:, n] for n, one in enumerate((y, x)))
    beside = [framed[row + dy, column + dx] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    brightest = np.maximum(near.max(axis=0), 1e-30).astype(np.float64)
    return brightest, np.min(beside, axis=0).astype(np.float64)


def _sharpest(widths: Floats) -> Floats:
    """Half the least bluntness of a point of a half-light width, between two pixels.

    Of a Gaussian core 1.3 times narrower than such a width tells: a Moffat profile's of beta 2.5.
    """
    variance = (widths / (1.3 * SIGMAS_PER_FWHM)) ** 2
    return np.asarray(np.exp(-1 / variance) / 2)


def _crowd(widths: Floats) -> int:
    """Return the most of some widths that lie within a tenth of each other."""
    rising = np.sort(widths)
    ends = np.searchsorted(rising, 1.1 * rising, side="right")
    return int((ends - np.arange(len(rising))).max(initial=0))
