"""Coarse cells of the pixels that `sources` keeps, with errors that sums hardly see.

What is measured of a source is a sum over its pixels. If cells of several times the width were
chosen one by one, the error of a sum would grow with their width; chosen so that each pixel takes
over what its neighbours were rounded by (error diffusion, as for printing: Floyd & Steinberg 1976,
Proc. SID 17, 75), errors cancel within a pixel or two, and sums over a few pixels and more keep
errors as small as with fine cells. An error is at most the width of a coarse cell.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.ladder import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

FINE, WIDEST = 4, 16  # quarters of a cell: the same cells as of `bounded`; more would save little
_BY_ROOT = 1.4  # cells for the root of a FWHM: sums of more pixels bear wider cells
_NARROW, _SLOPE = 1.5, 2.2  # FWHM [pixel] up to which cells are fine, and cells for each beyond
_CROWDED = (0.25, 0.4)  # share kept from which cells are narrower, and from which they are fine
# Shares of a pixel's error that the next ones take over: to the right, and in the row below to
# the left, straight down and to the right.
_RIGHT, _LEFT, _DOWN, _ACROSS = 7 / 16, 3 / 16, 5 / 16, 1 / 16


def coarseness(fwhm_pix: float, share: float) -> int:
    """Width of a cell of `sources` in quarters of one of `bounded`.

    The width at which a flux within one FWHM keeps the error that it has in fine cells. It has no
    steps, so that the losses of a night hardly depend on its seeing.

    Parameters
    ----------
    fwhm_pix : float
        Of point sources [pixel].
    share : float
        Of pixels that `sources` keeps, 0 to 1. Of crowded fields `bounded` would pay more than
        `sources` saves.

    Notes
    -----
    Measured in `docs/decisions/shaped_errors.md`.
    """
    cells = min(_BY_ROOT * math.sqrt(fwhm_pix), 1 + _SLOPE * max(fwhm_pix - _NARROW, 0))
    free = np.interp(share, _CROWDED, (1, 0))
    return round(FINE * min(max(1 + (cells - 1) * free, 1), WIDEST / FINE))


def shaped_cells(
    residuals: NDArray[np.float64], kept: NDArray[np.bool_], coarse: int
) -> NDArray[np.int32]:
    """Coarse cells of tiles.

    Parameters
    ----------
    residuals : ndarray, shape (n, 256, 256), float64
        Pixels less the centre of their cell 0, in widths of fine cells.
    kept : ndarray of bool, shape of `residuals`
        Pixels that have a cell; the others take over no error.
    coarse : int
        Width of a coarse cell in quarters of a fine one.

    Returns
    -------
    ndarray, shape of `residuals`, int32
        0 where not kept.

    Notes
    -----
    A pixel waits for the four before it, so that those with one value of column + 2 row are chosen
    together, of all tiles: 766 steps in place of 65,536.
    """
    wanted = residuals * (FINE / coarse)
    nearest = np.rint(wanted)
    nearest[~kept] = 0
    wanted -= nearest  # at most half a cell is left, so single precision will do
    turned = _diffused(_slanted(wanted.astype(np.float32)), _slanted(kept))
    nearest += _upright(turned)
    return nearest.astype(np.int32)


def _diffused(wanted: NDArray[np.float32], used: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Cells beyond the nearest, as errors of earlier pixels call for; shape (steps, 256, n)."""
    chosen = np.empty(wanted.shape, np.int8)
    # errors of the last three steps; row 0 stands for the row above the tile
    before = np.zeros((3, TILE + 1, wanted.shape[2]), np.float32)
    cells, share = np.empty((2, *wanted.shape[1:]), np.float32)
    for step in range(len(wanted)):
        first, second, third = (before[(step - back) % 3] for back in (1, 2, 3))
        want = np.multiply(third[:-1], _ACROSS)
        for one, weight in ((first[1:], _RIGHT), (first[:-1], _LEFT), (second[:-1], _DOWN)):
            want += np.multiply(one, weight, out=share)
        want += wanted[step]
        np.rint(want, out=cells)
        cells *= used[step]
        chosen[step] = cells
        want -= cells
        np.multiply(want, used[step], out=third[1:])  # takes the place of the oldest
    return chosen


def _slanted(tiles: NDArray[Any]) -> NDArray[Any]:
    """Pixels by column + 2 row: shape (steps, 256, n); zero where there is none."""
    out = np.zeros((len(tiles), TILE, 3 * TILE - 2), tiles.dtype)
    _diagonal(out)[...] = tiles
    return np.ascontiguousarray(out.transpose(2, 1, 0))


def _upright(slanted: NDArray[np.int8]) -> NDArray[np.int8]:
    """Inverse of `_slanted`."""
    return _diagonal(np.ascontiguousarray(slanted.transpose(2, 1, 0))).copy()


def _diagonal(slanted: NDArray[Any]) -> NDArray[Any]:
    """View of shape (n, 256, 256) of an array of shape (n, 256, steps): row y begins at 2 y."""
    tile, row, column = slanted.strides
    return np.lib.stride_tricks.as_strided(
        slanted, (len(slanted), TILE, TILE), (tile, row + 2 * column, column)
    )
