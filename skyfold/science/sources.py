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
FALLBACK_FWHM = 3.0  # [pixel], of points where too few sources can tell
SIGMAS_PER_FWHM = 2.3548200450309493  # of a Gaussian: 2 sqrt(2 ln 2)
FINDERS = ("", PEAKS)  # definitions of a source, as of `skyfold.science.Sample`
_RIGHT_ANGLE = 1.570796  # [rad], just below
_AREA = 64  # [pixel], side of a piece of sky whose objects may err together: the sky's mesh


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
