"""How sources are found, and apertures about them summed.

- *Detection.* A matched filter (`skyfold.science.matched_filter`) gives each pixel's significance;
  islands above 4 sigma, deblended by sep, are sources. There is one threshold, and no second chance
  below it.
- *Blends.* How many sources a blend holds is a finder's opinion. Beside sep's there is that of the
  finder that takes every peak for a source, and the record's intervals hold both (`FINDERS`).
"""

from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import MissingDependencyError
from skyfold.science.matched_filter import THRESHOLD, matched_filter
from skyfold.science.sky import Plane

PEAKS = "peaks"
FINDERS = ("", PEAKS)  # definitions of a source, as of `skyfold.science.Sample`
FALLBACK_FWHM = 3.0  # [pixel], where fewer than MIN_STARS sources can tell
MIN_STARS = 5
SIGMAS_PER_FWHM = 2.3548200450309493  # of a Gaussian: 2 sqrt(2 ln 2)
_RIGHT_ANGLE = 1.570796  # [rad], just below
_AREA = 64  # [pixel], side of a piece of sky whose objects may err together: the sky's mesh
_STAR_SNR = 20.0
_STAR_PERCENTILE = 15.0
_FWHM_RANGE = (1.2, 30.0)  # [pixel]; narrower ones are cosmic rays and hot pixels
_SHARP = 0.1  # bluntness below which a source may be a cosmic ray, whatever its width
_MORE, _ALIKE = 2, 0.25  # times the others about one width, and of themselves: they are stars
_ENOUGH = 6  # good pixels around one that is bad, of eight: at a dead column there are six
_AROUND = [(dy, dx) for dy in range(3) for dx in range(3) if (dy, dx) != (1, 1)]


def estimate_fwhm(image: Plane, noise: Plane, good: NDArray[np.bool_]) -> float:
    """Return the width of the point-spread function [pixel]: `typical_width` of `star_widths`."""
    return typical_width(star_widths(image, noise, good))


def star_widths(image: Plane, noise: Plane, good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how wide and how blunt each source above S/N 20 is, shape (n, 2).

    Twice its half-light radius [pixel], which is the full width of a Gaussian at half its maximum;
    and what the darkest of the four pixels beside its brightest has of that one's light: nothing,
    where a cosmic ray ends.
    """
    sep = load_sep()
    found = find_sources(image, noise, good, FALLBACK_FWHM)
    image, good = _patched(image, good)
    flux = circle_sum(image, found, 3 * FALLBACK_FWHM)
    error = np.sqrt(circle_sum(noise**2, found, 3 * FALLBACK_FWHM))
    clear = is_clear(good, found, 3 * FALLBACK_FWHM) & (flux > _STAR_SNR * error)
    bright = found[clear & (found["flag"] == 0)]
    reach = np.full(len(bright), 3 * FALLBACK_FWHM)
    radius, _ = sep.flux_radius(image, bright["x"], bright["y"], reach, 0.5, subpix=5)
    inside = (radius > _FWHM_RANGE[0] / 2) & (radius < _FWHM_RANGE[1] / 2)
    blunt = _bluntness(image, bright[inside])
    return np.stack([2 * radius[inside], blunt], axis=1).astype(np.float64)


def typical_width(stars: NDArray[np.float64]) -> float:
    """Return the 15th percentile of widths of `star_widths`: stars are the smallest sources.

    Cosmic rays are smaller still, and of all widths: sharp sources count only where they crowd
    about one width, and others do so less. Of fewer than 5 sources it is `FALLBACK_FWHM`.
    """
    widths, blunt = stars.T
    is_sharp = blunt < np.maximum(_SHARP, _sharpest(widths))
    sharp, others = widths[is_sharp], widths[~is_sharp]
    if _crowd(sharp) <= max(_MORE * _crowd(others), _ALIKE * len(sharp)):
        widths = others
    if len(widths) < MIN_STARS:
        return FALLBACK_FWHM
    return float(np.percentile(widths, _STAR_PERCENTILE))


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


def _bluntness(image: Plane, sources: NDArray[Any]) -> NDArray[np.float64]:
    """What the darkest of the four pixels beside the brightest of 3 x 3 has of its light."""
    framed = np.pad(image, 2)
    row, column = (np.rint(sources[axis]).astype(int) + 2 for axis in ("y", "x"))
    steps = [(dy - 1, dx - 1) for dy, dx in (*_AROUND, (1, 1))]
    near = np.array([framed[row + dy, column + dx] for dy, dx in steps])
    brightest = np.array(steps)[near.argmax(axis=0)]
    row, column = row + brightest[:, 0], column + brightest[:, 1]
    beside = [framed[row + dy, column + dx] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    return np.asarray(np.min(beside, axis=0) / np.maximum(near.max(axis=0), 1e-30), np.float64)


def _sharpest(widths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the least bluntness of a point of a half-light width, between two pixels.

    Of a Gaussian core 1.3 times narrower than such a width tells: a Moffat profile's of beta 2.5.
    """
    variance = (widths / (1.3 * SIGMAS_PER_FWHM)) ** 2
    return np.asarray(np.exp(-1 / variance) / 2)


def _crowd(widths: NDArray[np.float64]) -> int:
    """Return the most of some widths that lie within a tenth of each other."""
    rising = np.sort(widths)
    ends = np.searchsorted(rising, 1.1 * rising, side="right")
    return int((ends - np.arange(len(rising))).max(initial=0))


def find_sources(
    image: Plane,
    noise: Plane,
    good: NDArray[np.bool_],
    fwhm: float,
    spread: Plane | None = None,
) -> NDArray[Any]:
    """Return the sources of an image without sky, as sep's structured array.

    Parameters
    ----------
    image, noise, good : ndarray, shape (ny, nx)
    fwhm : float
        Width of the matched filter [pixel].
    spread : ndarray, shape (ny, nx), float32, optional
        As of `filter_spread`, where it is known already.
    """
    return islands(matched_filter(image, noise, good, fwhm, spread))


def islands(significance: Plane) -> NDArray[Any]:
    """Return islands of significance above the threshold, blends taken apart by sep."""
    sep = load_sep()
    above = int(np.count_nonzero(significance > THRESHOLD))
    # sep stops with an error where its fixed buffers are too small for a crowded image
    sep.set_extract_pixstack(max(min(300_000, significance.size), 2 * above))
    sep.set_sub_object_limit(16_384)
    found = np.asarray(sep.extract(significance, THRESHOLD, minarea=1, filter_kernel=None))
    # rounding can lift an angle past the right angle, which sep's own apertures then refuse
    found["theta"] = np.clip(found["theta"], -_RIGHT_ANGLE, _RIGHT_ANGLE)
    return found


def circle_sum(image: Plane, sources: NDArray[Any], radius: float) -> NDArray[np.float64]:
    """Return the sum of an image inside circles about the sources, exact at their edges."""
    total, _, _ = load_sep().sum_circle(image, sources["x"], sources["y"], radius, subpix=0)
    return np.asarray(total, np.float64)


def is_clear(
    good: NDArray[np.bool_], sources: NDArray[Any], radius: float | NDArray[Any]
) -> NDArray[np.bool_]:
    """Tell which circles about sources touch neither a bad pixel nor the edge."""
    x, y, (ny, nx) = sources["x"], sources["y"], good.shape
    inside = (np.minimum(x, y) - radius >= -0.5) & (x + radius <= nx - 0.5)
    inside &= y + radius <= ny - 0.5
    bad, _, _ = load_sep().sum_circle((~good).astype(np.float32), x, y, radius, subpix=0)
    return np.asarray(inside & (bad == 0))


def areas(sources: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of the piece of sky, 64 pixels a side, that holds each source."""
    row, column = (np.floor(sources[axis] / _AREA).astype(np.int64) for axis in ("y", "x"))
    return np.asarray(row * 2**20 + column)


def a_few(count: int, most: int, seed: int) -> NDArray[np.intp]:
    """Return places of at most so many of `count` objects, drawn alike by the seed, in order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def at_centre(plane: NDArray[Any], sources: NDArray[Any]) -> NDArray[Any]:
    """Return the value of a plane at the pixel that holds each source's centre."""
    row, column = (np.rint(sources[axis]).astype(int) for axis in ("y", "x"))
    picked: NDArray[Any] = plane[row, column]
    return picked


def load_sep() -> ModuleType:
    """Return the sep library; see `load_measuring`."""
    return load_measuring("sep")


def load_measuring(library: str) -> ModuleType:
    """Return a library that only measuring needs.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        return import_module(library)
    except ImportError as missing:
        raise MissingDependencyError(
            f"measuring images needs the library {library}, which is not installed; it comes with "
            "the extra 'measure': pip install skyfold[measure]"
        ) from missing
