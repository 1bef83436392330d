"""Bright single-precision pixels, whose own steps are no longer small beside a cell.

A reader casts the centre of a cell to the stored dtype. Up to 2**24 grid units a float32 is a whole
number, and nothing is lost; farther out, some 4000 times the noise, half a step of the float comes
on top of half a cell, and the sum may be beyond the bound. The guard can move a prediction by some
steps of rounding, and with it the cells of that pixel, until a centre is near enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold import ladder
from skyfold.ladder import MODULUS
from storage.images.prepared import NotLadderableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.noise import Factor, NoiseModel
    from storage.images.strip_layers import Tile

WHOLE = 1 << 24  # grid units up to which every whole number is a float32
FARTHEST = MODULUS // 2 - 1 - ladder.FARTHEST  # steps of a move: a residue tells the others
_MOVES = [sign * steps for steps in range(1, FARTHEST + 1) for sign in (1, -1)]


@dataclass(frozen=True, eq=False)
class Cells:
    """How cells follow from predictions.

    Attributes
    ----------
    noise : NoiseModel
    step : float
        Cell width in noise units.
    dithered : bool
    background : ndarray, shape (ny, nx), float64
        [grid units]
    factor : ndarray, shape (ny, nx), float64, or None
        Of the noise.
    """

    noise: NoiseModel
    step: float
    dithered: bool
    background: NDArray[np.float64]
    factor: Factor = None

    def of(
        self, predicted: NDArray[np.int64], grid: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Widths w, shifts d and numbers k of the cells of a tile, as the writer counts them."""
        sigma = self.noise.pixel_sigma(predicted - self.background, self.factor)
        width = ladder.cell_width(predicted, sigma, self.step, np.dtype("f4"))
        shift = ladder.dither(width) if self.dithered else np.zeros_like(width)
        return width, shift, ladder.to_cells(grid, predicted + shift, width)

    def are_off(
        self, stored: NDArray[np.float32], predicted: NDArray[np.int64], centres: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Pixels that a reader of `bounded` would find farther off than half a cell."""
        sigma = self.noise.pixel_sigma(predicted - self.background, self.factor)
        bound = self.step / 2 * sigma
        found = ladder.from_grid(centres, self.noise, np.dtype("f4")).astype(np.float64)
        unit = math.ldexp(1.0, self.noise.grid_exponent)
        off: NDArray[np.bool_] = np.abs(found - stored) > bound * unit
        return off


def keep_bound(
    how: Cells,
    stored: NDArray[Any],
    coded: NDArray[np.bool_],
    tile: Tile,
    guard: NDArray[np.uint8],
) -> None:
    """Move predictions of a tile where a pixel would be off by more than the bound.

    Parameters
    ----------
    how : Cells
    stored : ndarray, shape (ny, nx)
    coded : ndarray of bool, shape (ny, nx)
        Pixels that are measurements.
    tile : Tile
    guard : ndarray, shape (ny, nx), uint8
        Of the tile. Both are changed.

    Raises
    ------
    NotLadderableError
        If no move helps.
    """
    far = coded & (np.abs(tile.grid) >= WHOLE)
    first = tile.predicted.copy()
    for move in [*_MOVES, None]:
        centres = ladder.from_cells(tile.cells, tile.predicted + tile.shift, tile.width)
        off = far & how.are_off(stored, tile.predicted, centres)
        if not off.any():
            return
        if move is None:
            raise NotLadderableError
        tile.predicted[off] = first[off] + move * how.noise.round_step
        guard[off] = tile.predicted[off] // how.noise.round_step % MODULUS + 3
        for its, new in zip(
            (tile.width, tile.shift, tile.cells), how.of(tile.predicted, tile.grid), strict=True
        ):
            its[off] = new[off]
