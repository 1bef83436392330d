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
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening

from skyfold.noise import MESH
from storage.images.cells import cells_of, clipped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from storage.images.noise_fit import Sky

# noise of a mesh cell over the image's: what lies between the first two is stored as the same
DEEPER, SHALLOWER = 0.7, 1.25
STATED = 0.1  # of a survey's own noise: by how much it may differ and be stored as the same
DEEPEST, SHALLOWEST = 1 / 16, 16.0  # what is quieter is dead, or was made
NOISY = 1.15  # times the noise: the most that a stated noise may be above what pixels scatter
LOPSIDED = 1.2  # ratio of both sides' scatter, from which there are sources in it
QUIETEST = 5  # percent of a cell's pixels: it may be of two depths
SIDES = 15.87, 84.13  # percentiles, one standard deviation to either side of a Gaussian's middle
ENOUGH = 128  # pixels whose scatter is known to 6 %
EVERY = 3  # of a cell's pixels: what is stated hardly differs from one to the next
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
    image = sky.image
    is_told = image.variance is not None or image.relative_variance is not None
    factor = _by_plane(sky, ratio, stated) if is_told else _by_pixels(sky, sigma, ratio)
    whole: NDArray[np.float64] = np.exp(np.rint(np.log(factor) * STEPS) / STEPS)
    return np.nan_to_num(whole, nan=1.0)


def _by_plane(sky: Sky, ratio: NDArray[np.float64], stated: float | None) -> NDArray[np.float64]:
    """By the survey's own noise, where pixels do not scatter less; NaN where it says nothing."""
    least, usual = np.stack([_own_noise(sky.told(rows)) for rows, _ in sky.strips()], axis=1)
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
    return np.sqrt(_percentiles(cells_of(good, MESH)[0, :, ::EVERY], QUIETEST, 50))


def _by_pixels(sky: Sky, sigma: float, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how pixels scatter."""
    unknown = np.isnan(ratio)
    deeper = (ratio > DEEPEST) & (ratio < DEEPER)
    if sky.image.stored.dtype.kind != "f":  # of counts a quiet cell is overscan
        deeper[:] = False
    if not deeper.any() and not _opened(ratio > SHALLOWER, unknown).any():
        return np.ones(ratio.shape)
    quarter, rough, lean = (np.stack(one) for one in zip(*_looks(sky, sigma, ratio), strict=True))
    quiet = rough[(ratio > 1 / NOISY) & (ratio < NOISY)]
    rougher = rough / np.nanmedian(quiet) if np.isfinite(quiet).any() else np.ones(ratio.shape)
    shallower = (np.minimum(ratio, rougher) > SHALLOWER) & (lean < math.log(LOPSIDED))
    shallower = _opened(shallower, unknown)
    beside = binary_dilation(deeper, np.ones((3, 3))) & (quarter < DEEPER)
    factor = np.where(beside, quarter, 1.0)
    by_noise = np.clip(np.minimum(quarter, rougher), 1, SHALLOWEST)
    return np.where(shallower & ~beside, by_noise, factor)


def _looks(
    sky: Sky, sigma: float, ratio: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.float64], ...]]:
    """Of every row of cells, what pixels say of each.

    Scatter of the quietest quarter over the image's noise, as a cell may be of two depths; scatter
    between neighbours; how unlike both sides' scatter is, for cells that may be shallower.
    """
    for row, (_, signal) in zip(ratio, sky.strips(), strict=True):
        parts = cells_of(signal, MESH // 2)
        own = clipped(parts)[1] / sigma
        own[np.isfinite(parts).sum(axis=-1) < ENOUGH] = np.nan
        own = np.pad(own, ((0, -len(own) % 2), (0, 0)), constant_values=np.nan)
        own = np.pad(own, ((0, 0), (0, -own.shape[1] % 2)), constant_values=np.nan)
        own[~(own > DEEPEST)] = np.inf
        quarter = own.reshape(2, -1, 2).min(axis=(0, 2))
        bend = np.full(signal.shape, np.nan, np.float32)
        bend[:, 1:-1] = signal[:, :-2] - 2 * signal[:, 1:-1] + signal[:, 2:]
        lean, some = np.full(row.shape, np.nan), row > SHALLOWER
        if some.any():
            cells = cells_of(signal, MESH)[0, some]
            low, middle, high = _percentiles(cells, SIDES[0], 50, SIDES[1])
            lean[some] = np.abs(np.log((high - middle) / (middle - low)))
        yield quarter, clipped(cells_of(bend, MESH)[0])[1], lean


def _opened(some: NDArray[np.bool_], unknown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells that lie in a square of 3 x 3 of these; what is unknown or beyond the edge may be."""
    wide = np.pad(some | unknown, 1, constant_values=True)
    inside = binary_opening(wide, np.ones((3, 3)))[1:-1, 1:-1]
    return inside & some


def _percentiles(cells: NDArray[Any], *which: float) -> NDArray[np.float64]:
    """Of the values of each cell, or near them, shape (which, cells); NaN of those without any."""
    ordered = np.sort(cells, axis=-1)  # NaN come last
    last = np.maximum(np.isfinite(ordered).sum(axis=-1) - 1, 0)
    places = [np.rint(last * (one / 100)).astype(int) for one in which]
    return np.stack([ordered[np.arange(len(ordered)), one] for one in places]).astype(np.float64)
