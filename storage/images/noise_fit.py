"""Measuring an image's background, noise and gain slope.

Without any fixed scale: floats are measured in a power of two of about their spread, so that
squares of them neither vanish nor overflow. The noise is that of the quietest quarter of small
cells, corrected for picking it, so that neither sources nor depth variations inflate the bound;
it is the full scatter of pixels, so that correlated noise does not deflate it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_dilation

from skyfold.noise import MESH
from storage.images.bends import ALIKE, APART, HIDDEN, LESS, bends, beneath_light, noise_beneath
from storage.images.cells import cells_of, clipped
from storage.images.depth import noise_factors, sky_factors
from storage.images.fills import slices
from storage.images.gain import gain_slope
from storage.images.mapped import part_of
from storage.images.mesh import stretched
from storage.images.stripes import find_stripes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from storage.images.fills import Fills
    from storage.images.stripes import Axes
    from storage.survey import SurveyImage

CELL = 32  # pixels a side of a noise cell: smaller than the structure of most backgrounds
ENOUGH_CELLS = 1024  # or half as many: their quietest quarter tells the noise to 0.3 %
FEW_CELLS = 128  # whose bends tell it to 1 %
ROUNDED = 0.5  # of their step: what numbers scatter by that were rounded to it, 0.29, is no noise
TOGETHER = 256  # mesh cells: fewer leave the processor waiting for Python, more for memory
UNLIKE = 1.5  # factor of noise: where it is more, peaks of noise pass for light
FINE = 4.0  # of their step: what percentiles of stored numbers tell the scatter of
MIN_INTEGER_SIGMA = 0.3  # below it an integer image holds no noise to speak of


@dataclass(frozen=True)
class NoiseFit:
    """What was measured of one image.

    Attributes
    ----------
    sigma : float
        Sky noise [stored unit]; 0 where there is none.
    slope : float
        Variance per unit of signal [stored unit].
    background : ndarray, shape (nodes_y, nodes_x), float64
        At the centres of cells of 64 x 64 pixels [stored unit].
    is_measured : ndarray of bool, shape of `background`
        Cells with pixels of their own; others have the median of these.
    factor : ndarray, shape (2 nodes_y, 2 nodes_x), float64
        Noise of cells of half the side over `sigma`; 1 where it is about that.
    stripes : (ndarray, ndarray) or None
        Offsets of every row, and of every column, beside `background` [stored unit].
    of_sky : bool
        Whether `factor` is of the noise of a sky of unequal light.
    """

    sigma: float
    slope: float
    background: NDArray[np.float64]
    is_measured: NDArray[np.bool_]
    factor: NDArray[np.float64]
    stripes: Axes | None
    of_sky: bool


def fit_noise(image: SurveyImage, fills: Fills) -> NoiseFit:
    """Background, noise and gain slope of an image.

    Parameters
    ----------
    image : SurveyImage
    fills : Fills
        From `find_fills`.
    """
    background, is_measured = _background(image, fills)
    sky = Sky(image, fills, background)
    quiet, structure = _quiet_sigma(sky)
    stripes = find_stripes(sky, quiet) if 0 < quiet < math.inf else None
    if stripes is not None:
        sky = sky.without(stripes)
        quiet, structure = _quiet_sigma(sky)
    stated = _stated_sigma(quiet, sky)
    sigma = quiet if stated is None else stated
    if image.stored.dtype.kind != "f" and sigma < MIN_INTEGER_SIGMA:
        sigma = 0.0
    slope, of_sky, factor = 0.0, False, np.ones((2 * background.shape[0], 2 * background.shape[1]))
    if sigma > 0 and math.isfinite(sigma):
        factor = noise_factors(sky, sigma, 0.0, stated, structure)
        other = cells_of(np.abs(np.log(factor)) > math.log(UNLIKE), 2).any(axis=-1)
        beside = binary_dilation(other, np.ones((3, 3)))  # which may be of two depths
        slope = gain_slope(replace(sky, even=~beside), sigma)
        lit = sky_factors(sky, sigma, slope, structure) if slope > 0 else None
        of_sky = lit is not None
        if lit is not None:
            factor = lit
        elif slope > 0 and (factor != 1).any():
            factor = noise_factors(sky, sigma, slope, stated, structure)
    sigma, slope = (math.ldexp(one, fills.exponent) for one in (sigma, slope))
    if stripes is not None:
        rows, columns = (np.ldexp(one, fills.exponent) for one in stripes)
        stripes = rows, columns
    background = np.ldexp(background, fills.exponent)
    return NoiseFit(sigma, slope, background, is_measured, factor, stripes, of_sky)


@dataclass(frozen=True, eq=False)
class Sky:
    """An image above its background, in strips of mesh cells; values in units of 2**exponent.

    Where cells are not `even`, if that is given, there are none. Stripes are taken off, if they are
    given.
    """

    image: SurveyImage
    fills: Fills
    background: NDArray[np.float64]
    even: NDArray[np.bool_] | None = None
    stripes: Axes | None = None

    def without(self, stripes: Axes) -> Sky:
        """With offsets of rows and columns taken off."""
        return replace(self, stripes=stripes)

    @property
    def size(self) -> int:
        """Pixels of the image."""
        return self.image.stored.size

    def strips(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows, and their pixels less the background; NaN of those unfit."""
        for rows, level in stretched(self.background, self.image.stored.shape):
            values = _values(self.image, self.fills, rows)
            if self.even is not None:
                used = np.repeat(self.even[rows.start // MESH], MESH)[: values.shape[1]]
                values = np.where(used, values, np.nan)
            if self.stripes is not None:
                level = level + self.stripes[0][rows, np.newaxis] + self.stripes[1]
            yield rows, (values - level).astype(np.float32)

    def variance(self, rows: slice) -> NDArray[np.float64]:
        """The survey's own, of an image that has it."""
        assert self.image.variance is not None
        unit = self.image.bscale**2
        with np.errstate(over="ignore"):  # infinite then: told nothing
            return np.ldexp(self.image.variance[rows] / unit, -2 * self.fills.exponent)

    def told(self, rows: slice) -> NDArray[np.float64]:
        """The survey's variance, in whatever unit."""
        relative = self.image.relative_variance
        return self.variance(rows) if relative is None else relative[rows]


def _values(image: SurveyImage, fills: Fills, rows: slice) -> NDArray[np.float64]:
    """Pixels that noise is measured from; NaN for others."""
    with np.errstate(over="ignore"):  # of what is not used
        values = np.ldexp(part_of(image.stored, rows).astype(np.float64), -fills.exponent)
    return np.where(fills.usable(rows), values, np.nan)


def _background(image: SurveyImage, fills: Fills) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Clipped median of every mesh cell, and which of them have pixels.

    Others take the median of these.
    """
    height = MESH * max(MESH * TOGETHER // image.stored.shape[1], 1)
    cells = (
        cells_of(_values(image, fills, rows), MESH) for rows in slices(len(image.stored), height)
    )
    # a third of the pixels: the mesh need not be finer
    centre = np.concatenate([clipped(one[..., ::3])[0] for one in cells])
    is_measured = np.isfinite(centre)
    known = centre[is_measured] if is_measured.any() else _all_values(image, fills)
    centre[~is_measured] = np.median(known)
    return centre, is_measured


def _all_values(image: SurveyImage, fills: Fills) -> NDArray[np.float64]:
    """Those of an image so small or so empty that no cell of its mesh has any to itself."""
    return _values(image, fills, slice(None))[fills.usable(slice(None))]


def _quiet_sigma(sky: Sky) -> tuple[float, bool]:
    """Noise of the quietest quarter of cells, freed from the bias of picking it.

    And whether there is structure finer than these, beneath which it was found.
    """
    # odd, so as not to fall in with the outputs of a detector
    every = math.isqrt(sky.size // (CELL * CELL * ENOUGH_CELLS)) | 1
    found = []
    for rows, signal in sky.strips():
        first = -(rows.start // CELL) % every
        cells = cells_of(signal, CELL)[first::every, ::every]
        found.append(cells.reshape(-1, CELL * CELL).copy())  # a view would keep all of the strip
    cells = np.concatenate(found)
    scatter = _quiet(cells)
    planes = list(bends(cells[:: len(cells) // FEW_CELLS | 1]))
    most = beneath_light(cells)
    if most < FINE * _step(sky):
        most = math.inf
    nearest = [_quiet(one, ALIKE) for one in planes[:: len(APART)]]
    if max(nearest) >= LESS * scatter and min(nearest) >= HIDDEN * scatter:
        # bends of neighbours scatter as pixels do: no structure hides in it
        return min(scatter, most), False
    noise = float(noise_beneath(np.array(scatter), np.array([_quiet(p, ALIKE) for p in planes])))
    noise = min(scatter if noise < ROUNDED * _step(sky) else noise, most)
    return noise, noise < scatter


def _step(sky: Sky) -> float:
    """What stored numbers of about the background are apart."""
    dtype = sky.image.stored.dtype
    if dtype.kind != "f":
        return math.ldexp(1.0, -sky.fills.exponent)
    return float(np.spacing(np.abs(np.median(sky.background)).astype(dtype)))


def _quiet(cells: NDArray[np.float32], alike: float = 1) -> float:
    """Scatter of the quietest quarter of cells, of whose values so many count as one."""
    counts = np.isfinite(cells).sum(axis=-1)
    if not counts.any():
        return math.nan
    enough = counts >= min(cells.shape[-1] // 4, int(counts.max()))
    _, spread = clipped(cells[enough])
    if len(spread) < 8:
        return float(np.median(spread))
    expected = 0.6745 / math.sqrt(2 * float(np.median(counts[enough])) / alike)
    return float(np.percentile(spread, 25) / (1 - expected))


def _stated_sigma(sigma: float, sky: Sky) -> float | None:
    """The survey's own noise, where it can be compared with what was measured, and is smaller."""
    if sky.image.variance is None:
        return None
    variance = sky.variance(slice(None))
    good = np.isfinite(variance) & (variance > 0)
    if not good.any():
        return None
    stated = math.sqrt(float(np.median(variance[good])))
    return stated if 0.3 * sigma < stated < sigma else None
