"""Measuring an image's background, noise and gain slope.

Without any fixed scale: floats are measured in a power of two of about their spread, so that
squares of them neither vanish nor overflow. The noise is that of the quietest quarter of small
cells, corrected for picking it, so that neither sources nor depth variations inflate the bound;
it is the full scatter of pixels, so that correlated noise does not deflate it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.noise import MESH
from storage.images.fills import slices
from storage.images.gain import gain_slope
from storage.images.mapped import part_of
from storage.images.mesh import stretched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from storage.images.fills import Fills
    from storage.survey import SurveyImage

CELL = 32  # pixels a side of a noise cell: smaller than the structure of most backgrounds
ENOUGH_CELLS = 1024  # or half as many: their quietest quarter tells the noise to 0.3 %
TOGETHER = 256  # mesh cells: fewer leave the processor waiting for Python, more for memory
CLIP = 3.0
CLIPPED_STD = 0.98658  # standard deviation of a unit Gaussian cut at 3 sigma
# noise of a mesh cell over the image's: above the first, what is kept holds its sources of S/N 5
DEEPER, DEEPEST = 0.7, 0.1
ENOUGH = 128  # pixels whose scatter is known to 6 %
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
    depth : ndarray, shape of `background`, float32
        Noise of cells that are clearly quieter than `sigma`, over it; 1 of all others.
    """

    sigma: float
    slope: float
    background: NDArray[np.float64]
    is_measured: NDArray[np.bool_]
    depth: NDArray[np.float32]


def fit_noise(image: SurveyImage, fills: Fills) -> NoiseFit:
    """Background, noise and gain slope of an image.

    Parameters
    ----------
    image : SurveyImage
    fills : Fills
        From `find_fills`.
    """
    background, is_measured, scatter = _background(image, fills)
    sky = Sky(image, fills, background)
    sigma = _with_variance(_quiet_sigma(sky), sky)
    if image.stored.dtype.kind != "f" and sigma < MIN_INTEGER_SIGMA:
        sigma = 0.0
    slope = gain_slope(sky, sigma) if sigma > 0 else 0.0
    is_summed = image.variance is not None or image.stored.dtype.kind == "f"
    depth = _depth(scatter, sigma) if is_summed else np.ones(scatter.shape, np.float32)
    sigma, slope = (math.ldexp(one, fills.exponent) for one in (sigma, slope))
    return NoiseFit(sigma, slope, np.ldexp(background, fills.exponent), is_measured, depth)


@dataclass(frozen=True, eq=False)
class Sky:
    """An image above its background, in strips of mesh cells; values in units of 2**exponent."""

    image: SurveyImage
    fills: Fills
    background: NDArray[np.float64]

    @property
    def size(self) -> int:
        """Pixels of the image."""
        return self.image.stored.size

    def strips(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows, and their pixels less the background; NaN of those unfit."""
        for rows, level in stretched(self.background, self.image.stored.shape):
            yield rows, (_values(self.image, self.fills, rows) - level).astype(np.float32)

    def variance(self, rows: slice) -> NDArray[np.float64]:
        """The survey's own, of an image that has it."""
        assert self.image.variance is not None
        unit = self.image.bscale**2
        return np.ldexp(self.image.variance[rows] / unit, -2 * self.fills.exponent)


def _values(image: SurveyImage, fills: Fills, rows: slice) -> NDArray[np.float64]:
    """Pixels that noise is measured from; NaN for others."""
    with np.errstate(over="ignore"):  # of what is not used
        values = np.ldexp(part_of(image.stored, rows).astype(np.float64), -fills.exponent)
    return np.where(fills.usable(rows), values, np.nan)


def _cells(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Values of cells of side x side pixels, NaN beyond the edge; shape (cy, cx, side**2)."""
    beyond = [(0, -length % side) for length in values.shape]
    if np.any(beyond):
        values = np.pad(values, beyond, constant_values=np.nan)
    ny, nx = (length // side for length in values.shape)
    cut = values.reshape(ny, side, nx, side).transpose(0, 2, 1, 3)
    return cut.reshape(*cut.shape[:2], side * side)


def _clipped(cells: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median and standard deviation of the last axis, cut at 3 sigma; NaN where all is NaN.

    Values are sorted once: what a cut leaves is then a range between two places.
    """
    ordered = np.sort(cells.reshape(-1, cells.shape[-1]), axis=-1)
    first = np.zeros(len(ordered), int)
    last = _places(ordered, np.full(len(ordered), np.inf), after=True)
    above = ordered - _middle(ordered, first, last)  # NaN come last, and count in no range
    sums = [_running(above), _running(above * above)]
    for _ in range(5):
        centre = _middle(ordered, first, last)[:, 0]
        spread = _spread(sums, first, last)
        low = _places(ordered, centre - CLIP * spread)
        high = _places(ordered, centre + CLIP * spread, after=True)
        if (low == first).all() and (high == last).all():
            break
        first, last = np.maximum(first, low), np.minimum(last, high)
    shape = cells.shape[:-1]
    return centre.reshape(shape), (spread / CLIPPED_STD).reshape(shape)


def _places(
    ordered: NDArray[Any], limits: NDArray[np.float64], *, after: bool = False
) -> NDArray[np.intp]:
    """How many values of each sorted row lie below its limit, or up to it; NaN lie beyond all."""
    row, width = np.arange(len(ordered)), ordered.shape[1]
    low, high = np.zeros(len(ordered), int), np.full(len(ordered), width)
    for _ in range(width.bit_length()):
        middle = (low + high) // 2
        met = ordered[row, np.minimum(middle, width - 1)]
        below = ((met <= limits) if after else (met < limits)) & (middle < high)
        low, high = np.where(below, middle + 1, low), np.where(below, high, middle)
    return low


def _middle(
    ordered: NDArray[Any], first: NDArray[np.intp], last: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Median of each sorted row between two places; a column."""
    row = np.arange(len(ordered))
    low = np.clip((first + last - 1) // 2, 0, ordered.shape[1] - 1)
    high = np.clip((first + last) // 2, 0, ordered.shape[1] - 1)
    middle = (ordered[row, low] + ordered[row, high]) / 2
    middle[last <= first] = np.nan
    return middle[:, np.newaxis]


def _running(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    sums = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values.astype(np.float64), axis=-1, out=sums[:, 1:])
    return sums


def _spread(
    sums: list[NDArray[np.float64]], first: NDArray[np.intp], last: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Standard deviation of each row between two places."""
    row, count = np.arange(len(first)), np.maximum(last - first, 1)
    mean, square = ((total[row, last] - total[row, first]) / count for total in sums)
    spread: NDArray[np.float64] = np.sqrt(np.maximum(square - mean**2, 0))
    spread[last <= first] = np.nan
    return spread


def _background(
    image: SurveyImage, fills: Fills
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Clipped median of every mesh cell, which of them have pixels, and how these scatter.

    Others take the median of these. Of few pixels the scatter is NaN.
    """
    height = MESH * max(MESH * TOGETHER // image.stored.shape[1], 1)
    cells = (
        _cells(_values(image, fills, rows), MESH) for rows in slices(len(image.stored), height)
    )
    # a third of the pixels: the mesh need not be finer
    found, counts = [], []
    for one in cells:
        found.append(_clipped(one[..., ::3]))
        counts.append(np.isfinite(one[..., ::3]).sum(axis=-1))
    centre, scatter = (np.concatenate(parts) for parts in zip(*found, strict=True))
    scatter[np.concatenate(counts) < ENOUGH] = np.nan
    is_measured = np.isfinite(centre)
    known = centre[is_measured] if is_measured.any() else _all_values(image, fills)
    centre[~is_measured] = np.median(known)
    return centre, is_measured, scatter


def _depth(scatter: NDArray[np.float64], sigma: float) -> NDArray[np.float32]:
    """Noise of quiet mesh cells over that of the image: of deeper parts of a coadd.

    Whatever else there is in a cell lifts its scatter. What is quieter still is no sky: it was
    made, or is dead. Of counts without a variance plane quiet cells are overscan.
    """
    is_deep = (scatter > DEEPEST * sigma) & (scatter < DEEPER * sigma)
    depth = np.divide(scatter, sigma, out=np.ones(scatter.shape), where=is_deep)
    return depth.astype(np.float32)


def _all_values(image: SurveyImage, fills: Fills) -> NDArray[np.float64]:
    """Those of an image so small or so empty that no cell of its mesh has any to itself."""
    return _values(image, fills, slice(None))[fills.usable(slice(None))]


def _quiet_sigma(sky: Sky) -> float:
    """Noise of the quietest quarter of cells, freed from the bias of picking it."""
    # odd, so as not to fall in with the outputs of a detector
    every = math.isqrt(sky.size // (CELL * CELL * ENOUGH_CELLS)) | 1
    found = []
    for rows, signal in sky.strips():
        first = -(rows.start // CELL) % every
        cells = _cells(signal, CELL)[first::every, ::every]
        found.append(cells.reshape(-1, CELL * CELL).copy())  # a view would keep all of the strip
    cells = np.concatenate(found)
    counts = np.isfinite(cells).sum(axis=-1)
    enough = counts >= min(cells.shape[-1] // 4, int(counts.max()))
    _, spread = _clipped(cells[enough])
    if len(spread) < 8:
        return float(np.median(spread))
    expected = 0.6745 / math.sqrt(2 * float(np.median(counts[enough])))
    return float(np.percentile(spread, 25) / (1 - expected))


def _with_variance(sigma: float, sky: Sky) -> float:
    """The smaller of the measured noise and the survey's own, where the two can be compared."""
    if sky.image.variance is None:
        return sigma
    variance = sky.variance(slice(None))
    good = np.isfinite(variance) & (variance > 0)
    if not good.any():
        return sigma
    stated = math.sqrt(float(np.median(variance[good])))
    return stated if 0.3 * sigma < stated < sigma else sigma
