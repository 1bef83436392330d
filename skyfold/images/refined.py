"""One tile of an image at a level: its lattice, by numpy or by compiled loops, and its values.

Both ways give the same bits; `skyfold.ladder` has the arithmetic, and where it comes from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyfold import ladder
from skyfold import ladder_kernels as kernels
from skyfold.compiled import reads_compiled
from skyfold.ladder import BLOCK, LEAF, LEVELS

if TYPE_CHECKING:
    from skyfold.images.index import ImageEntry
    from skyfold.noise import Factor, NoiseModel


@dataclass(frozen=True)
class Given:
    """What is known of a tile before its cells: arrays of its shape, sides multiples of 8.

    Attributes
    ----------
    y : ndarray, shape (ny, nx), float32
        What the network predicts [noise units].
    background : ndarray, shape (ny, nx), float64
        [grid units]
    factor : ndarray, shape (ny, nx), float64, or None
        Of the noise.
    guard : ndarray, shape (ny, nx), uint8
    glow : ndarray, shape (ny, nx), float64, or None
        What `sources` adds [grid units], with coarse cells.
    """

    y: NDArray[np.float32]
    background: NDArray[np.float64]
    factor: Factor
    guard: NDArray[np.uint8]
    glow: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Refined:
    """A tile at a level, in grid units.

    Attributes
    ----------
    smooth : ndarray, shape (ny, nx), float64
        The network's own values.
    sigma : ndarray, shape (ny, nx), float64
        Noise of each pixel.
    width : ndarray, shape (ny, nx), int64
        Of cells; set at `bounded`.
    centres : ndarray, shape (ny, nx), int64
        What the tile's checksum is of: the rounded prediction at `latent`, centres of cells above
        it; those at `sources` in quarters of a grid unit, unless the image has no coarse cells.
    used : ndarray of bool, shape (ny, nx)
        Where `sources` is not the network's own; not set at other levels.
    """

    smooth: NDArray[np.float64]
    sigma: NDArray[np.float64]
    width: NDArray[np.int64]
    centres: NDArray[np.int64]
    used: NDArray[np.bool_]


_NO_INTEGERS = np.empty(0, np.int64)
_NO_BOOLEANS = np.empty(0, np.bool_)
_NO_GLOW = np.empty((0, 0))


def refine(
    entry: ImageEntry, noise: NoiseModel, level: str, given: Given, cells: NDArray[np.int32]
) -> Refined:
    """Refine a tile.

    Parameters
    ----------
    entry : ImageEntry
    noise : NoiseModel
        Of the image.
    level : str
        One of latent, sources, bounded; `exact` is refined as `bounded`.
    given : Given
    cells : ndarray, shape (ny, nx), int32
        K at `sources`, k of both layers at `bounded`; any at `latent`.
    """
    if reads_compiled():
        return _compiled(entry, noise, level, given, cells)
    smooth = noise.to_signal(given.y, given.factor)
    smooth += given.background
    predicted = ladder.round_prediction(smooth, noise, given.guard)
    sigma = noise.pixel_sigma(predicted - given.background, given.factor)
    if level == "latent":
        return Refined(smooth, sigma, _NO_INTEGERS, predicted, _NO_BOOLEANS)
    dtype = np.dtype(entry.dtype)
    width = ladder.cell_width(predicted, sigma, entry.step, dtype, odd=entry.odd_cells)
    shift = ladder.dither(width) if entry.dithered else np.zeros_like(width)
    if level != "sources":
        centres = ladder.from_cells(cells, predicted + shift, width)
        return Refined(smooth, sigma, width, centres, _NO_BOOLEANS)
    predicted += shift * ladder.used_squares(cells, LEAF)
    if entry.coarse is None:
        centres = ladder.from_cells(cells, predicted, width)
    else:
        centres = ladder.coarse_centres(cells, predicted, width, entry.coarse)
    if given.glow is not None:
        smooth += given.glow
        centres += ladder.to_quarters(given.glow)
    return Refined(smooth, sigma, width, centres, ladder.used_squares(cells, BLOCK))


def _compiled(
    entry: ImageEntry, noise: NoiseModel, level: str, given: Given, cells: NDArray[np.int32]
) -> Refined:
    shape, dtype = (given.y.shape[0], given.y.shape[1]), np.dtype(entry.dtype)
    refined = Refined(
        np.empty(shape),
        np.empty(shape),
        np.empty(shape, np.int64),
        np.empty(shape, np.int64),
        np.empty(shape, np.bool_),
    )
    kernels.refine(
        min(LEVELS.index(level), kernels.BOUNDED),
        np.ascontiguousarray(given.y),
        given.background,
        kernels.evenly(given.factor, shape),
        np.ascontiguousarray(given.guard),
        np.ascontiguousarray(cells),
        _NO_GLOW if given.glow is None else given.glow,
        noise.numbers,
        entry.step,
        kernels.narrower(dtype),
        entry.odd_cells,
        entry.dithered,
        entry.coarse or 0,
        refined.smooth,
        refined.sigma,
        refined.width,
        refined.centres,
        refined.used,
    )
    return refined


def smooth_values(refined: Refined, noise: NoiseModel, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The network's own values [stored unit], of a floating dtype."""
    smooth = refined.smooth
    smooth *= math.ldexp(1.0, noise.grid_exponent)
    return smooth.astype(dtype)


def sources_values(
    entry: ImageEntry, noise: NoiseModel, refined: Refined, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Values of a tile at `sources` [stored unit], of a floating dtype."""
    stored = np.dtype(entry.dtype)
    if reads_compiled():
        values = np.empty(refined.smooth.shape, dtype)
        least, most = ladder.limits(stored) if stored.kind != "f" else (-math.inf, math.inf)
        unit = math.ldexp(1.0, noise.grid_exponent)
        lattice = unit if entry.coarse is None else unit / 4
        kernels.sources_values(
            refined.smooth, unit, refined.centres, lattice, least, most, refined.used, values
        )
        return values
    values = smooth_values(refined, noise, dtype)
    to_stored = ladder.from_grid if entry.coarse is None else ladder.from_quarters
    kept = to_stored(refined.centres, noise, stored)
    np.copyto(values, kept, where=refined.used, casting="unsafe")
    return values
