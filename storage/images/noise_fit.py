"""Measuring an image's background, noise and gain slope, and which pixels are no measurement.

All in stored units, without any fixed scale. The noise is that of the quietest quarter of small
cells, corrected for picking it, so that neither sources nor depth variations inflate the bound;
it is the full scatter of pixels, so that correlated noise does not deflate it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.images.index import FLAG_FILL, FLAG_MASKED, MAX_FILLS
from skyfold.ladder import SAFE_INTEGER
from skyfold.noise import FLOAT_GRID_BITS, MESH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from storage.survey import SurveyImage

CELL = 32  # pixels a side of a noise cell: smaller than the structure of most backgrounds
ENOUGH_CELLS = 1024  # or half as many: their quietest quarter tells the noise to 0.3 %
TOGETHER = 256  # mesh cells: fewer leave the processor waiting for Python, more for memory
CLIP = 3.0
CLIPPED_STD = 0.98658  # standard deviation of a unit Gaussian cut at 3 sigma
PADDING_FRACTION = 0.005  # exact zeros rarer than this are pixels like any other
MIN_INTEGER_SIGMA = 0.3  # below it an integer image holds no noise to speak of
BRIGHT = 5.0
CORRECTIONS = 3  # rounds of the mesh's correction
FEW_BLANK = MESH * MESH // 32  # pixels of a cell: a mean of more is good to 0.09 of the noise
NEAR_ZERO = 0.2533  # a fifth of a unit Gaussian lies within it


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
    """

    sigma: float
    slope: float
    background: NDArray[np.float64]


def find_fills(image: SurveyImage) -> tuple[NDArray[np.uint8], NDArray[Any]] | None:
    """Pixels that are no measurement, and the values that stand for it.

    Returns
    -------
    flags : ndarray, shape (ny, nx), uint8
        0 good, 1 masked by the survey, 2 and up index + 2 into the values.
    values : ndarray, shape (n,), stored dtype
        Not-a-number, infinities, blank, zero padding, and numbers too large for the grid.
    None
        If there are more such values than flags can name.
    """
    stored = image.stored
    is_fill = _not_finite(stored) | _padding(stored)
    if image.blank is not None and stored.dtype.kind != "f":
        is_fill |= stored == image.blank
    is_fill |= _beyond_grid(stored, is_fill)
    flags = np.zeros(stored.shape, np.uint8)
    if image.mask is not None:
        flags[image.mask] = FLAG_MASKED
    values, number = _distinct(stored[is_fill])
    if len(values) > MAX_FILLS:
        return None
    flags[is_fill] = number + FLAG_FILL
    return flags, values


def _not_finite(stored: NDArray[Any]) -> NDArray[np.bool_]:
    return ~np.isfinite(stored)


def _padding(stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Exact zeros where they are far more common than any other value of a float image."""
    zero = stored == 0
    share = zero.mean()
    if stored.dtype.kind != "f" or share < PADDING_FRACTION:
        return np.zeros(stored.shape, bool)
    others = stored[~zero & np.isfinite(stored)]
    if not others.size:
        return zero
    sample = others[:: max(others.size // 100_000, 1)]
    common = np.unique(sample, return_counts=True)[1].max() / sample.size
    return zero if share > 3 * common else np.zeros(stored.shape, bool)


def _beyond_grid(stored: NDArray[Any], is_fill: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Values whose place on the grid would not be an exact integer."""
    none = np.zeros(stored.shape, bool)
    good = stored[~is_fill]
    if not good.size:
        return none
    if stored.dtype.kind != "f":
        return none
    wide = good.astype(np.float64)
    centre = np.median(wide)
    spread = 1.4826 * np.median(np.abs(wide - centre))
    reach = math.ldexp(spread or 1.0, 49 - FLOAT_GRID_BITS) if spread else np.inf
    with np.errstate(invalid="ignore"):
        return ~is_fill & (np.abs(stored.astype(np.float64)) > reach)


def _distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Distinct values, all NaN being one, and which of them each is."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), values.dtype.type(np.nan), values)
    found, number = np.unique(values, return_inverse=True)
    return found, number.ravel()


def is_safe_integer(stored: NDArray[Any]) -> bool:
    """Whether every stored integer is exact in float64 with room for a cell."""
    if stored.dtype.kind == "f":
        return True
    return int(stored.min()) > -SAFE_INTEGER and int(stored.max()) < SAFE_INTEGER


def fit_noise(image: SurveyImage, flags: NDArray[np.uint8]) -> NoiseFit:
    """Background, noise and gain slope of an image.

    Parameters
    ----------
    image : SurveyImage
    flags : ndarray, shape (ny, nx), uint8
        From `find_fills`; only zeros are used, or all that is coded if nothing is left.
    """
    good = flags == 0
    if not good.any():
        good = flags < FLAG_FILL
    background = _background(image.stored, good)
    signal = np.empty(good.shape, np.float32)
    for rows, level in _stretched(background, good.shape):
        signal[rows] = _values(image.stored[rows], good[rows]) - level
    sigma = _quiet_sigma(signal)
    sigma = _with_variance(sigma, image)
    if image.stored.dtype.kind != "f" and sigma < MIN_INTEGER_SIGMA:
        sigma = 0.0
    slope = _slope(image, signal, sigma) if sigma > 0 else 0.0
    return NoiseFit(sigma, slope, background)


def _values(stored: NDArray[Any], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixels that are good; NaN for others."""
    return np.where(good, stored.astype(np.float64), np.nan)


def _cells(values: NDArray[Any], side: int, every: int = 1) -> NDArray[Any]:
    """Values of cells of side x side pixels, NaN beyond the edge; shape (cy, cx, side**2).

    Of one row and column of cells in `every`, if asked.
    """
    beyond = [(0, -length % side) for length in values.shape]
    if np.any(beyond):
        values = np.pad(values, beyond, constant_values=np.nan)
    ny, nx = (length // side for length in values.shape)
    cut = values.reshape(ny, side, nx, side).transpose(0, 2, 1, 3)[::every, ::every]
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


def _background(stored: NDArray[Any], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Clipped median of every mesh cell; cells without pixels take the median of the others."""
    height = MESH * max(MESH * TOGETHER // stored.shape[1], 1)
    rows = [slice(y, y + height) for y in range(0, len(stored), height)]
    cells = (_cells(_values(stored[one], good[one]), MESH) for one in rows)
    # a third of the pixels: the mesh need not be finer
    centre = np.concatenate([_clipped(one[..., ::3])[0] for one in cells])
    known = centre[np.isfinite(centre)]
    other = np.median(known if known.size else stored[good].astype(np.float64))
    centre[~np.isfinite(centre)] = other
    return centre


def _stretched(
    mesh: NDArray[np.float64], shape: tuple[int, ...], kind: type[np.floating[Any]] = np.float64
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Mesh at every pixel, bilinear, of one row of cells after the other.

    Floats suffice where only noise is measured, and few rows at once stay near the processor.
    """
    down = (_between(mesh.shape[0], shape[0]) @ mesh).astype(kind)
    across = _between(mesh.shape[1], shape[1]).T.astype(kind)
    for y in range(0, shape[0], MESH):
        rows = slice(y, y + MESH)
        yield rows, down[rows] @ across


def _between(nodes: int, pixels: int) -> NDArray[np.float64]:
    """Weights of the nodes of an axis for each of its pixels, shape (pixels, nodes)."""
    place = np.clip((np.arange(pixels) + 0.5) / MESH - 0.5, 0, nodes - 1)
    return np.maximum(1 - np.abs(place[:, np.newaxis] - np.arange(nodes)), 0)


def _quiet_sigma(signal: NDArray[np.float32]) -> float:
    """Noise of the quietest quarter of cells, freed from the bias of picking it."""
    # odd, so as not to fall in with the outputs of a detector
    every = math.isqrt(signal.size // (CELL * CELL * ENOUGH_CELLS)) | 1
    cells = _cells(signal, CELL, every)
    counts = np.isfinite(cells).sum(axis=-1)
    enough = counts >= min(cells.shape[-1] // 4, int(counts.max()))
    _, spread = _clipped(cells[enough])
    if len(spread) < 8:
        return float(np.median(spread))
    expected = 0.6745 / math.sqrt(2 * float(np.median(counts[enough])))
    return float(np.percentile(spread, 25) / (1 - expected))


def _with_variance(sigma: float, image: SurveyImage) -> float:
    """The smaller of the measured noise and the survey's own, where the two can be compared."""
    if image.variance is None:
        return sigma
    good = np.isfinite(image.variance) & (image.variance > 0)
    if not good.any():
        return sigma
    stated = math.sqrt(float(np.median(image.variance[good]))) / abs(image.bscale)
    return stated if 0.3 * sigma < stated < sigma else sigma


def _slope(image: SurveyImage, signal: NDArray[np.float32], sigma: float) -> float:
    """Gain slope from the survey's variance or gain, at most what bright pixels show."""
    bright = np.isfinite(signal) & (signal > BRIGHT * sigma)
    if bright.sum() < 30:
        return 0.0
    claimed = _claimed_slope(image, signal, sigma, bright)
    return min(claimed, _seen_slope(signal, sigma)) if claimed > 0 else 0.0


def _claimed_slope(
    image: SurveyImage,
    signal: NDArray[np.float32],
    sigma: float,
    bright: NDArray[np.bool_],
) -> float:
    if image.variance is not None:
        excess = image.variance[bright] / image.bscale**2 - sigma**2
        found = float(np.median(excess / signal[bright]))
        return found if math.isfinite(found) and found > 0 else 0.0
    if image.gain and math.isfinite(image.gain) and image.gain > 0:
        return 1 / (image.gain * abs(image.bscale))
    return 0.0


def _seen_slope(signal: NDArray[np.float32], sigma: float) -> float:
    """Upper limit on the slope: scatter between neighbours holds the noise and more.

    The smallest over bins of brightness of the variance of second differences along x, less the
    sky's. It is read off the smallest fifth, where the profile of a source bends least; structure
    only adds to it, so a gain that does not belong to the data can loosen the bound by little.
    """
    before, middle, after = _bright_triples(signal, 3 * BRIGHT * sigma)
    second = (before - 2 * middle + after) / math.sqrt(6)
    level = (before + middle + after) / 3
    limits = []
    edges = sigma * BRIGHT * 4.0 ** np.arange(12)
    for low, high in pairwise(edges):
        inside = (level > low) & (level <= high)
        if inside.sum() < 100:
            continue
        spread = float(np.percentile(np.abs(second[inside]), 20)) / NEAR_ZERO
        limits.append(max(spread**2 - sigma**2, 0.0) / float(np.median(level[inside])))
    return min(limits) if limits else 0.0


def _bright_triples(signal: NDArray[np.float32], least: float) -> NDArray[np.float64]:
    """Three neighbours along x whose sum is more than this, shape (3, n)."""
    found = []
    for y in range(0, len(signal), MESH):
        rows = signal[y : y + MESH]
        three = rows[:, :-2], rows[:, 1:-1], rows[:, 2:]
        bright = sum(three) > least
        found.append(np.stack([one[bright] for one in three]))
    return np.concatenate(found, axis=1).astype(np.float64)


def mesh_correction(
    residual: NDArray[np.float32], blank: NDArray[np.bool_], limit: float
) -> NDArray[np.float64]:
    """What to add to the background mesh so that no cell's sky is off on average.

    Parameters
    ----------
    residual : ndarray, shape (ny, nx), float32
        Pixels less their prediction, whole mesh cells; NaN where there is no measurement.
    blank : ndarray of bool, shape (ny, nx)
        Away from sources. Cells that hold few such pixels are judged by all that they have, and
        cells without any measurement by those nearest to them.
    limit : float
        Residuals beyond it are sources that were not expected, and do not count.

    Notes
    -----
    A mesh that is bilinear between nodes blurs what its nodes are given, so what is left after
    one round is given to the next (van Cittert's iteration).
    """
    few = _cell_sums(blank & np.isfinite(residual)) < FEW_BLANK
    judged = blank | np.repeat(np.repeat(few, MESH, axis=0), MESH, axis=1)
    left = np.where(judged, residual, np.float32(np.nan))
    total = step = np.zeros(few.shape)
    for _ in range(CORRECTIONS):
        means = []
        for rows, change in _stretched(step, left.shape, np.float32):
            left[rows] -= change
            means.append(_near_mean(left[rows], limit))
        step = _nearest(np.concatenate(means))
        total = total + step
    return total


def _near_mean(plane: NDArray[np.float32], limit: float) -> NDArray[np.float64]:
    """Mean over each mesh cell of what is at most `limit` in size; NaN where nothing is."""
    near = np.abs(plane) <= limit
    count, total = _cell_sums(near), _cell_sums(np.where(near, plane, np.float32(0)))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _cell_sums(plane: NDArray[Any]) -> NDArray[np.float64]:
    """Sums over mesh cells, of which the plane has whole ones."""
    ny, nx = plane.shape
    kind = np.uint8 if plane.dtype == bool else np.float32  # at most 64 of a column are True
    rows = plane.reshape(ny // MESH, MESH, nx).sum(axis=1, dtype=kind)
    sums: NDArray[np.float64] = rows.reshape(ny // MESH, -1, MESH).sum(axis=2, dtype=np.float64)
    return sums


def _nearest(mesh: NDArray[np.float64]) -> NDArray[np.float64]:
    """Nodes that are NaN replaced by the nearest that is not; zeros where all are."""
    from scipy.ndimage import distance_transform_edt

    missing = np.isnan(mesh)
    if missing.all():
        return np.zeros_like(mesh)
    place = distance_transform_edt(missing, return_distances=False, return_indices=True)
    return mesh[tuple(place)]


def mesh_in_steps(
    background: NDArray[np.float64],
    grid_exponent: int,
    step: float,
    nodes: tuple[int, int],
) -> NDArray[np.int32]:
    """Background mesh as stored: in units of `step` on the grid, padded to whole tiles."""
    whole = np.rint(np.ldexp(background, -grid_exponent) / step)
    limits = np.iinfo(np.int32)
    mesh = np.clip(whole, limits.min, limits.max).astype(np.int32)
    padding = [(0, want - have) for want, have in zip(nodes, mesh.shape, strict=True)]
    return np.pad(mesh, padding, mode="edge")
