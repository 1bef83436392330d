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

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening, minimum_filter, uniform_filter

from skyfold.noise import MESH, NOISE_CELL
from storage.images.bends import bends, noise_beneath
from storage.images.cells import cells_of, clipped
from storage.images.mesh import stretched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from storage.images.noise_fit import Sky

# noise of a mesh cell over the image's: what lies between the first two is stored as the same
DEEPER, SHALLOWER = 0.7, 1.25
STATED = 0.1  # of a survey's own noise: by how much it may differ and be stored as the same
DEEPEST, SHALLOWEST = 1 / 16, 16.0  # what is quieter is dead, or was made
QUARTER = 25  # percent of cells, whose scatter is the image's noise
LIT = 1.05  # times what pixels scatter: at most so much noise is told by light
NOISY = 1.15  # times the noise: the most that a stated noise may be above what pixels scatter
LOPSIDED = 1.15  # ratio of both sides' scatter, from which there are sources in it
QUIETEST = 5  # percent of a cell's pixels: it may be of two depths
ALIKE = 90  # percent of cells, beyond which the rest are of one depth in any plane
LESS = 0.8  # of a cell's scatter: about a plane, where there is a slope
SIDES = 15.87, 84.13  # percentiles, one standard deviation to either side of a Gaussian's middle
ONE_DEPTH = 0.95  # of the image's noise, from which a cell is all of its depth
SMOOTHED = 0.5  # of the roughness that such noise would have: what is smoother was made
DARK = 5.0  # times the noise below the typical level: there is no sky
ENOUGH = 128  # pixels whose scatter is known to 6 %
EVERY = 5  # of a cell's pixels: 819 of them tell their scatter to 2.5 %
SMOOTH = 5  # pixels a side
SQUARE = np.ones((3, 3))  # cells
TINY = 1e-30  # in units of about the noise
STEPS = 32  # of a factor's logarithm, to the base e: finer differences are luck


def noise_factors(
    sky: Sky, sigma: float, slope: float, stated: float | None, structure: bool = False
) -> NDArray[np.float64]:
    """Noise of cells of 32 pixels a side over that of the image, 1 wherever it is about that.

    Noise that grows with light, as far as `slope` says so, is not counted again.

    Parameters
    ----------
    sky : Sky
        The image above its background.
    sigma, slope : float
        Noise of the image, and variance per unit of signal, in the units of `sky`.
    stated : float or None
        The survey's own typical noise, if `sigma` is that, in those units.
    structure : bool
        Whether pixels scatter by more than noise all over the image.

    Returns
    -------
    ndarray, shape (2 nodes_y, 2 nodes_x), float64
        Of four cells for each of the mesh of the background.
    """
    image = sky.image
    flat = _Flat(sky, slope / sigma**2)
    ratio = _ratio(flat, sigma, structure)
    if image.variance is None and image.relative_variance is None:
        factor = _by_pixels(flat, sigma, ratio)
    else:
        factor = _by_plane(flat, ratio, stated)
    return np.nan_to_num(_in_steps(factor), nan=1.0)


def sky_factors(
    sky: Sky, sigma: float, slope: float, structure: bool = False
) -> NDArray[np.float64] | None:
    """Noise of cells of a sky of unequal light, over that of the image; None of any other.

    As its light and the slope tell, as far as pixels show it, of an image without a plane of noise
    whose pixels scatter by that alone. Arguments and shape as of `noise_factors`.
    """
    image, growth = sky.image, slope / sigma**2
    if image.variance is not None or image.relative_variance is not None:
        return None
    ny, nx = sky.background.shape
    levels = (one for _, one in stretched(sky.background, (ny * MESH, nx * MESH)))
    light = np.concatenate([cells_of(one, NOISE_CELL).mean(axis=-1) for one in levels])
    light -= np.percentile(sky.background, QUARTER)  # where the noise is the image's
    told = np.sqrt(np.maximum(1 + growth * light, DEEPEST**2))
    claimed = np.abs(told - 1) >= STATED
    if not claimed.any():
        return None
    ratio = _in_four(_ratio(_Flat(sky, growth), sigma, structure))
    shown = claimed & (ratio > 0)
    if not shown.any() or np.median(told[shown] / ratio[shown]) > NOISY:
        return None  # steps of electronics are no light
    told = np.clip(told, np.fmin(ratio, 1), LIT * np.fmax(ratio, 1))
    told[~(np.abs(told - 1) >= STATED)] = 1
    factor = np.minimum(_in_steps(told), SHALLOWEST)
    if (factor == 1).all():
        return None
    flat = _Flat(sky, growth, factor)
    rest = _by_pixels(flat, sigma, _ratio(flat, sigma, structure))
    return factor if (rest == 1).all() else None


def _in_steps(factor: NDArray[np.float64]) -> NDArray[np.float64]:
    whole: NDArray[np.float64] = np.exp(np.rint(np.log(factor) * STEPS) / STEPS)
    return whole


def _ratio(flat: _Flat, sigma: float, structure: bool) -> NDArray[np.float64]:
    """Scatter of the pixels of each cell of the mesh over the image's noise; NaN of few."""
    scatter = _beneath if structure else _of_some
    return np.stack([scatter(cells_of(one, MESH)[0]) for one in flat.strips()]) / sigma


class _Flat:
    """Pixels above their background in units in which their noise does not grow with light.

    Nor, if they are given, with factors of the noise of the sky.
    """

    def __init__(self, sky: Sky, growth: float, factor: NDArray[np.float64] | None = None) -> None:
        self.sky, self.growth, self.factor = sky, growth, factor

    def strips(self) -> Iterator[NDArray[np.float32]]:
        """Rows of mesh cells; NaN of pixels unfit."""
        for rows, signal in self.sky.strips():
            yield (signal / np.sqrt(self._grown(signal, rows))).astype(np.float32)

    def variances(self) -> Iterator[NDArray[np.float64]]:
        """By the survey, of rows of mesh cells, in its unit."""
        for rows, signal in self.sky.strips():
            yield self.sky.told(rows) / self._grown(signal, rows)

    def _grown(self, signal: NDArray[np.float32], rows: slice) -> NDArray[np.float32] | float:
        if not self.growth:
            return 1.0
        light = uniform_filter(np.nan_to_num(signal), SMOOTH)  # of a pixel alone it is noise too
        grown: NDArray[np.float32] = np.maximum(light, 0) * np.float32(self.growth)
        if self.factor is None:
            return 1 + grown
        own = self.factor[rows.start // NOISE_CELL : rows.start // NOISE_CELL + 2] ** 2
        wide = np.repeat(np.repeat(own, NOISE_CELL, axis=0), NOISE_CELL, axis=1)
        return grown + wide[: signal.shape[0], : signal.shape[1]].astype(np.float32)


def _by_plane(flat: _Flat, ratio: NDArray[np.float64], stated: float | None) -> NDArray[np.float64]:
    """By the survey's own noise, where pixels do not scatter less; NaN where it says nothing."""
    own = [_own_noise(one) for one in flat.variances()]
    least, usual = np.concatenate(own, axis=1)
    ratio = _in_four(ratio)
    known = np.isfinite(usual) & (ratio > 0)
    if not known.any():
        return np.ones(ratio.shape)
    unit = 1 / np.percentile(ratio[known] / usual[known], 25) if stated is None else stated
    alike = np.percentile(least[known] / usual[known], ALIKE)  # less than 1 if all cells are wild
    factor = np.fmin(least / (unit * alike), NOISY * ratio)
    factor[(factor < DEEPEST) | (np.abs(factor - 1) < STATED)] = 1
    return np.minimum(factor, SHALLOWEST)


def _own_noise(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The survey's least and usual noise of each cell of two rows of them; NaN of none."""
    good = np.where(np.isfinite(variance) & (variance > 0), variance, np.nan)
    cells = _small_cells(good)
    found = _percentiles(cells.reshape(-1, cells.shape[-1]), QUIETEST, 50)
    return np.sqrt(found).reshape(2, *cells.shape[:2])


def _small_cells(pixels: NDArray[Any]) -> NDArray[Any]:
    """Two rows of cells of a row of the mesh, four for each of its own; NaN beyond the edge."""
    beyond = [(0, -side % MESH) for side in pixels.shape]
    return cells_of(np.pad(pixels, beyond, constant_values=np.nan), NOISE_CELL)


def _in_four(cells: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(np.repeat(cells, 2, axis=0), 2, axis=1)


def _by_pixels(flat: _Flat, sigma: float, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how pixels scatter."""
    unknown, shape = np.isnan(ratio), (2 * ratio.shape[0], 2 * ratio.shape[1])
    deeper = (ratio > DEEPEST) & (ratio < DEEPER)
    if flat.sky.image.stored.dtype.kind != "f":  # of counts a quiet strip without sky is overscan
        level = flat.sky.background
        dark = level < np.median(level) - DARK * sigma
        deeper = np.where(dark, binary_opening(deeper, SQUARE), deeper)
    if not deeper.any() and not _opened(ratio > SHALLOWER, unknown).any():
        return np.ones(shape)
    looks = zip(*_looks(flat, sigma, ratio), strict=True)
    own, rough, lean = (np.concatenate(one) for one in looks)
    quiet = rough[(ratio > 1 / NOISY) & (ratio < NOISY) & (rough > 0)]
    rougher = rough / np.median(quiet) if quiet.size else np.ones(ratio.shape)
    deeper &= rougher > SMOOTHED * ratio
    shallower = (np.minimum(ratio, rougher) > SHALLOWER) & (lean < LOPSIDED)
    shallower = _opened(shallower, unknown)
    least = minimum_filter(own, 3, mode="nearest")  # a cell of two depths scatters like neither
    beside = _in_four(binary_dilation(deeper, SQUARE)) & (least < DEEPER) & (own < ONE_DEPTH)
    by_noise = np.clip(np.minimum(least, _in_four(rougher)), 1, SHALLOWEST)
    return np.where(beside, least, np.where(_in_four(shallower), by_noise, 1))


def _looks(
    flat: _Flat, sigma: float, ratio: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.float64], ...]]:
    """Of every row of the mesh, what pixels say of its cells.

    Scatter of the small cells over the image's noise; scatter between neighbours; how unlike both
    sides' scatter is, for cells that may be shallower.
    """
    for row, pixels in zip(ratio, flat.strips(), strict=True):
        small = _small_cells(pixels)
        own, level = _scatter(small) / sigma, _scatter(_level(small)) / sigma
        own = np.where(level < LESS * own, level, own)
        own[~(own > DEEPEST)] = np.inf
        lean, some = np.full(row.shape, np.inf), row > SHALLOWER
        low, middle, high = _percentiles(cells_of(pixels, MESH)[0, some], SIDES[0], 50, SIDES[1])
        above, below = high - middle, middle - low
        lean[some] = np.where(above > below, above, below) / np.maximum(np.fmin(above, below), TINY)
        rough = np.fmin(_rough(pixels), _rough(pixels.T))
        yield own, rough[np.newaxis], lean[np.newaxis]


def _rough(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scatter of second differences down the columns of each cell of a row, or column, of them."""
    bend = np.full(pixels.shape, np.nan, np.float32)
    bend[1:-1] = pixels[:-2] - 2 * pixels[1:-1] + pixels[2:]
    rough: NDArray[np.float64] = clipped(cells_of(bend, MESH))[1].ravel()
    return rough


def _level(cells: NDArray[Any]) -> NDArray[Any]:
    """Pixels of square cells less a plane, about; NaN of none.

    Beside a step of the electronics the background, which is bilinear, leaves a slope.
    """
    square = cells.reshape(*cells.shape[:-1], NOISE_CELL, NOISE_CELL)
    ramp = np.arange(NOISE_CELL) - (NOISE_CELL - 1) / 2
    apart = square - np.nan_to_num(square).mean(axis=(-2, -1), keepdims=True)
    known = np.nan_to_num(apart) / (NOISE_CELL * np.sum(ramp**2))
    down = (known * ramp[:, np.newaxis]).sum(axis=(-2, -1), keepdims=True)
    across = (known * ramp).sum(axis=(-2, -1), keepdims=True)
    flat: NDArray[Any] = apart - down * ramp[:, np.newaxis] - across * ramp
    return flat.reshape(cells.shape)


def _scatter(cells: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the pixels of each cell; NaN of few."""
    scatter = clipped(cells)[1]
    scatter[np.isfinite(cells).sum(axis=-1) < ENOUGH] = np.nan
    return scatter


def _of_some(cells: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scatter of some of the pixels of each cell."""
    return _scatter(cells[:, ::EVERY])


def _beneath(cells: NDArray[np.float32]) -> NDArray[np.float64]:
    """Scatter without structure that is much of it."""
    of_bends = np.stack([_scatter(one) for one in bends(cells)])
    return noise_beneath(_of_some(cells), of_bends)


def _opened(some: NDArray[np.bool_], unknown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells that lie in a square of 3 x 3 of these; what is unknown or beyond the edge may be."""
    wide = np.pad(some | unknown, 1, constant_values=True)
    inside = binary_opening(wide, SQUARE)[1:-1, 1:-1]
    return inside & some


def _percentiles(cells: NDArray[Any], *which: float) -> NDArray[np.float64]:
    """Of the values of each cell, or near them, shape (which, cells); NaN of those without any."""
    ordered = np.sort(cells, axis=-1)  # NaN come last
    last = np.maximum(np.isfinite(ordered).sum(axis=-1) - 1, 0)
    places = [np.rint(last * (one / 100)).astype(int) for one in which]
    return np.stack([ordered[np.arange(len(ordered)), one] for one in places]).astype(np.float64)
