"""How the noise of an image differs from part to part: the mesh of its factors.

A coadd has parts of several times the exposure of others, a mosaic detectors and amplifiers of
different noise, and a corrected image grows noisy towards its edge. What the survey states of it
is believed as far as the pixels do not scatter less. Where it states nothing, a part is taken for
deeper if its pixels scatter clearly less than the image's quiet sky, and for shallower only where
nothing but noise can be why they scatter more: more between neighbours too, to both sides alike,
and all around. Between parts the smaller noise counts: a source too many is kept rather than one
too few.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_opening, minimum_filter

from skyfold.noise import MESH
from storage.images.cells import cells_of, clipped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.images.noise_fit import Sky

# noise of a mesh cell over the image's: what lies between the first two is stored as the same
DEEPER, SHALLOWER = 0.7, 1.25
STATED = 0.1  # of a survey's own noise: by how much it may differ and be stored as the same
DEEPEST, SHALLOWEST = 1 / 16, 16.0  # what is quieter is dead, or was made
NOISY = 1.15  # times the noise: the most that a stated noise may be above what pixels scatter
LOPSIDED = 1.15  # ratio of both sides' scatter, from which there are sources in it
QUIETEST = 5  # percent of a cell's pixels: it may be of two depths
SIDES = 15.87, 84.13  # percentiles, one standard deviation to either side of a Gaussian's middle
STEPS = 32  # of a factor's logarithm, to the base e: finer differences are luck


def noise_factors(
    sky: Sky, sigma: float, scatter: NDArray[np.float64], stated: float | None
) -> NDArray[np.float64]:
    """Noise of every mesh cell over that of the image, 1 wherever it is about that.

    Parameters
    ----------
    sky : Sky
        The image above its background.
    sigma : float
        Noise of the image, in the units of `sky`.
    scatter : ndarray, shape (nodes_y, nodes_x), float64
        Of the pixels of each cell, in those units, with what else is in them; NaN of few pixels.
    stated : float or None
        The survey's own typical noise, if `sigma` is that, in those units.
    """
    ratio = scatter / sigma
    if sky.image.variance is not None:
        factor = _stated(sky, sigma, ratio, stated)
    else:
        factor = np.where(np.isnan(ratio), np.nan, 1)
        if sky.image.stored.dtype.kind == "f":  # of counts a quiet cell is overscan
            factor = np.where((ratio > DEEPEST) & (ratio < DEEPER), ratio, factor)
        if _opened(ratio > SHALLOWER, np.isnan(ratio)).any():
            factor = np.fmax(factor, _shallower(sky, ratio))
        factor = _least_around(factor)
    whole: NDArray[np.float64] = np.exp(np.rint(np.log(factor) * STEPS) / STEPS)
    return np.nan_to_num(whole, nan=1.0)


def _stated(
    sky: Sky, sigma: float, ratio: NDArray[np.float64], stated: float | None
) -> NDArray[np.float64]:
    """By the survey's own noise, where pixels do not scatter less; NaN where it says nothing."""
    least, usual = np.stack([_own_noise(sky.variance(rows)) for rows, _ in sky.strips()], axis=1)
    known = np.isfinite(ratio) & np.isfinite(usual)
    if not known.any():
        return np.ones(ratio.shape)
    unit = 1 / np.percentile(ratio[known] / usual[known], 25) if stated is None else stated
    factor = np.fmin(least / unit, NOISY * ratio)
    factor[(factor < DEEPEST) | (np.abs(factor - 1) < STATED)] = 1
    return np.minimum(factor, SHALLOWEST)


def _own_noise(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The survey's least and usual noise of each cell of a row of them; NaN of none."""
    good = np.where(np.isfinite(variance) & (variance > 0), variance, np.nan)
    return np.sqrt(_percentiles(cells_of(good, MESH)[0], (QUIETEST, 50)))


def _shallower(sky: Sky, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """By pixels that scatter as noise does, more than elsewhere; 1 of others."""
    rough, lean = np.full((2, *ratio.shape), np.nan)
    for number, (_, signal) in enumerate(sky.strips()):
        bend = np.full(signal.shape, np.nan, np.float32)
        bend[:, 1:-1] = signal[:, :-2] - 2 * signal[:, 1:-1] + signal[:, 2:]
        rough[number] = clipped(cells_of(bend, MESH)[0])[1]
        some = np.flatnonzero(ratio[number] > SHALLOWER)
        if some.size:
            cells = cells_of(signal, MESH)[0, some]
            low, middle, high = _percentiles(cells, (SIDES[0], 50, SIDES[1]))
            lean[number, some] = np.abs(np.log((high - middle) / (middle - low)))
    quiet = rough[(ratio > 1 / NOISY) & (ratio < NOISY)]
    if not np.isfinite(quiet).any():
        return np.ones(ratio.shape)
    factor = np.minimum(rough / np.nanmedian(quiet), ratio)
    is_noise = (factor > SHALLOWER) & (lean < math.log(LOPSIDED))
    is_one = _opened(is_noise, np.isnan(ratio))
    return np.where(is_one, np.minimum(factor, SHALLOWEST), 1)


def _least_around(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smallest of each cell and those around it: a cell of two depths scatters like neither."""
    least: NDArray[np.float64] = minimum_filter(np.nan_to_num(factor, nan=np.inf), 3)
    return np.where(np.isnan(factor), np.nan, least)


def _opened(some: NDArray[np.bool_], unknown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells that lie in a square of 3 x 3 of these; what is unknown or beyond the edge may be."""
    wide = np.pad(some | unknown, 1, constant_values=True)
    inside = binary_opening(wide, np.ones((3, 3)))[1:-1, 1:-1]
    return inside & some


def _percentiles(cells: NDArray[Any], which: float | tuple[float, ...]) -> NDArray[np.float64]:
    """Of each cell; NaN of those that hold none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of these
        found: NDArray[np.float64] = np.nanpercentile(cells.astype(np.float64), which, axis=-1)
    return found
