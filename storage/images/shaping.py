"""Coarse cells of the pixels that `sources` keeps, with errors that sums hardly see.

What is measured of a source is a sum over its pixels. If cells of several times the width were
chosen one by one, the error of a sum would grow with their width; chosen so that each pixel takes
over what its neighbours were rounded by (error diffusion, as for printing: Floyd & Steinberg 1976,
Proc. SID 17, 75), errors cancel within a pixel or two, and sums over a few pixels and more keep
errors as small as with fine cells. An error is at most the width of a coarse cell.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

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
_SHARES = np.array([7, 3, 5, 1], np.float32) / 16
_FROM = np.array([(0, -1), (-1, 1), (-1, 0), (-1, -1)])  # where each of them comes from


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
    residuals: NDArray[np.float64], place: tuple[NDArray[np.intp], ...], coarse: int
) -> NDArray[np.int32]:
    """Coarse cells of the kept pixels of some tiles; others take over no error.

    Parameters
    ----------
    residuals : ndarray, shape (n,), float64
        Pixels less the centre of their cell 0, in widths of fine cells.
    place : tuple of three ndarrays, shape (n,)
        Tile, row and column of each.
    coarse : int
        Width of a coarse cell in quarters of a fine one.

    Returns
    -------
    ndarray, shape (n,), int32

    Notes
    -----
    A pixel waits for the four before it, so that those with one value of column + 2 row are chosen
    together, of all tiles: at most 766 steps in place of 65,536.
    """
    wanted = residuals * (FINE / coarse)
    nearest = np.rint(wanted)
    wanted -= nearest  # at most half a cell is left, so single precision will do
    turns = place[2] + 2 * place[1]
    order = np.argsort(turns, kind="stable")
    by_turn = tuple(one[order] for one in place)
    nearest[order] += _diffused(wanted[order].astype(np.float32), by_turn, np.bincount(turns))
    return nearest.astype(np.int32)


def _diffused(
    wanted: NDArray[np.float32], place: tuple[NDArray[np.intp], ...], counts: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Cells beyond the nearest that errors of earlier pixels call for.

    Parameters
    ----------
    wanted : ndarray, shape (n,), float32
        Parts of a cell, of pixels by turn.
    place : tuple of three ndarrays, shape (n,)
        Their tile, row and column.
    counts : ndarray, shape (turns,)
        Pixels of each turn.
    """
    shape = (int(place[0].max(initial=0)) + 1, TILE + 1, TILE + 2)  # with a frame of no errors
    tile, row, column = place
    here = np.ravel_multi_index((tile, row + 1, column + 1), shape)
    before = here + (_FROM @ (shape[2], 1))[:, np.newaxis]
    errors = np.zeros(shape, np.float32).reshape(-1)
    chosen = np.empty_like(wanted)
    ends = np.cumsum(counts)
    for start, end in zip(ends - counts, ends, strict=True):
        want = _SHARES @ errors[before[:, start:end]]
        want += wanted[start:end]
        np.rint(want, out=chosen[start:end])
        errors[here[start:end]] = want - chosen[start:end]
    return chosen
