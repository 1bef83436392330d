"""Whether a straight line of light crosses an image, as a satellite's trail does.

Knows what tells a trail from the rest. It is found by counting lit blocks along all lines (Hough
1962, US patent 3069654) of pieces of the image. What lies along rows or columns is the detector's
(a charged column, the border of an amplifier or of a chip), and so it is taken off: within a degree
or so of them a trail is not seen. The spikes of a bright star fade along their length; a trail is
as bright at one end as at the other.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_dilation, uniform_filter

if TYPE_CHECKING:
    from numpy.typing import NDArray

CROSSED = 0.6  # of a line's length that is lit; of lines in images of the sky 0.45 is at most
SIDE = 512  # [pixel] of a piece: a line across it meets few of its sources
BLOCK = 4  # [pixel], about as wide as a trail
LIT = 3.0  # [sigma] of the mean of a block
ABOVE, AROUND = 2.0, 15  # times the mean of so many blocks a side: halos of stars are no lines
LONG = 0.75  # of the side of a piece: the lines that are looked at
EVEN, SOURCES = 1.6, 0.2  # times the median that all blocks of a trail reach but for this share
ANGLES = 180


def lit_line(above: NDArray[Any], good: NDArray[np.bool_]) -> float:
    """Return the largest share of a straight line across a piece of an image that is lit.

    Parameters
    ----------
    above : ndarray, shape (ny, nx)
        Image less its sky, in units of its noise.
    good : ndarray of bool, shape (ny, nx)

    Returns
    -------
    float
        0 to 1; of lines three quarters as long as the side of a piece, 512 pixels or the image's
        smaller side. Lines whose light fades are left out.
    """
    side = min(SIDE, *above.shape) // BLOCK * BLOCK
    if side == 0:
        return 0.0
    corners = [sorted({*range(0, size - side + 1, side), size - side}) for size in above.shape]
    pieces = ((slice(y, y + side), slice(x, x + side)) for y in corners[0] for x in corners[1])
    return max(_piece(np.where(good[piece], above[piece], 0)) for piece in pieces)


def _piece(above: NDArray[Any]) -> float:
    """Largest evenly lit share of the long lines of a square piece."""
    size = len(above) // BLOCK
    means, plain = (
        plane.reshape(size, BLOCK, size, BLOCK).mean(axis=(1, 3))
        for plane in (_without_rows_and_columns(above), above)
    )
    lit = means > np.maximum(LIT / BLOCK, ABOVE * uniform_filter(means, AROUND))
    lit &= ~binary_dilation(plain < -LIT)  # networks and resampling overshoot beside dead columns
    line, length = _lines(size)
    met = np.bincount(line[:, lit.ravel()].ravel(), minlength=len(length))
    share = np.where(length >= LONG * size, met / np.maximum(length, 1), 0)
    crossed = np.flatnonzero(share >= CROSSED)
    if not len(crossed):
        return float(share.max())
    for one in crossed:
        if not _is_even(means.ravel()[(line == one).any(axis=0)]):
            share[one] = 0
    return float(share.max())


def _without_rows_and_columns(above: NDArray[Any]) -> NDArray[Any]:
    """Pixels less what half of their row, or of their column, has."""
    for axis in (0, 1):
        above = above - np.maximum(np.median(above, axis=axis, keepdims=True), 0)
    return above


def _is_even(means: NDArray[Any]) -> bool:
    """Whether most of a line is about as bright as its median: sources on it are brighter."""
    return bool(np.quantile(means, 1 - SOURCES) <= EVEN * np.median(means) + LIT / BLOCK)


@cache
def _lines(side: int) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Number of the line through each block at each angle, and the blocks on each line."""
    y, x = (plane.ravel() - (side - 1) / 2 for plane in np.indices((side, side)))
    angle = np.pi * np.arange(ANGLES)[:, None] / ANGLES
    apart = np.floor(x * np.cos(angle) + y * np.sin(angle)).astype(np.int32) + side
    line = apart + 2 * side * np.arange(ANGLES, dtype=np.int32)[:, None]
    return line, np.bincount(line.ravel(), minlength=2 * side * ANGLES)
