"""The matched filter by which sources are found, and its peaks.

This module knows the filter: a Gaussian of the point-spread function's width, weighted by the
noise, which gives the significance of a point source centred on each pixel. A *peak* is a pixel
above the threshold that none of its eight neighbours exceeds, placed between pixels by parabolas,
as finders of stars do (DAOFIND; Stetson 1987, PASP 99, 191).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science.filters import convolve
from skyfold.science.sky import Plane

THRESHOLD = 4.0  # [sigma]: about one false source per megapixel


def matched_filter(
    image: Plane,
    noise: Plane,
    good: NDArray[np.bool_],
    fwhm: float,
    spread: Plane | None = None,
) -> Plane:
    """Return the significance [sigma] of a point source centred on each pixel.

    Parameters
    ----------
    image, noise : ndarray, shape (ny, nx), float32
        Without sky; one standard deviation.
    good : ndarray, shape (ny, nx), bool
    fwhm : float
        Of the point-spread function [pixel].
    spread : ndarray, shape (ny, nx), float32, optional
        As of `filter_spread`, where it is known already.
    """
    if spread is None:
        spread = filter_spread(noise, good, fwhm)
    signal = convolve(image * _weight(noise, good), _profile(fwhm))
    return np.where(good, signal / spread, np.float32(0))


def filter_spread(noise: Plane, good: NDArray[np.bool_], fwhm: float) -> Plane:
    """Return the standard deviation of the matched filter's sums: the same for every image."""
    weight, profile = _weight(noise, good), _profile(fwhm) ** 2
    if weight.min() == weight.max():  # what a profile sums along an axis is the same everywhere
        radius = len(profile) // 2
        y, x = (np.convolve(np.ones(side), profile)[radius:-radius] for side in weight.shape)
        variance = (weight[0, 0] * y[:, np.newaxis] * x).astype(np.float32)
    else:
        variance = convolve(weight, profile)
    return np.asarray(np.sqrt(np.maximum(variance, 1e-30)))


def peaks_of(significance: Plane) -> NDArray[Any]:
    """Return every peak above the threshold, one for each top of a blend.

    Parameters
    ----------
    significance : ndarray, shape (ny, nx), float32

    Returns
    -------
    ndarray, shape (n,), structured
        ``x``, ``y`` [pixel, 0-based]. The outermost pixels hold none.
    """
    inner = significance[1:-1, 1:-1]
    row, column = (at + 1 for at in np.nonzero(inner > THRESHOLD))
    top = significance[row, column]
    is_peak = np.ones(len(row), bool)
    for dy, dx in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        beside = significance[row + dy, column + dx]
        # of equal neighbours the first is the peak
        is_peak &= (top > beside) if (dy, dx) < (0, 0) else (top >= beside)
    row, column, top = row[is_peak], column[is_peak], top[is_peak]
    peaks = np.zeros(len(row), [("x", "f8"), ("y", "f8")])
    peaks["x"] = column + _vertex(significance[row, column - 1], top, significance[row, column + 1])
    peaks["y"] = row + _vertex(significance[row - 1, column], top, significance[row + 1, column])
    return peaks


def _vertex(before: Plane, top: Plane, after: Plane) -> NDArray[np.float64]:
    """Place of a parabola's top from the middle of three points, within half a pixel."""
    bend = 2 * top.astype(np.float64) - before - after
    slope = (after - before).astype(np.float64)
    return np.clip(np.divide(slope, 2 * bend, out=np.zeros(len(top)), where=bend > 0), -0.5, 0.5)


def _weight(noise: Plane, good: NDArray[np.bool_]) -> Plane:
    return np.where(good, 1 / noise**2, np.float32(0))


def _profile(fwhm: float) -> NDArray[np.float64]:
    radius = int(np.ceil(1.5 * fwhm))
    profile = np.exp(-4 * np.log(2) * (np.arange(-radius, radius + 1) / fwhm) ** 2)
    return np.asarray(profile)
