"""Floats that were integers before: the quantisation of tile-compressed FITS, undone and redone.

A tile-compressed float image holds, for each of its tiles, integers q, a scale and a zero; with
dithering, a random number r in 0..1 is added to each pixel before rounding and taken off after.
The floats that a reader of such a file meets are ``(q - r + 1/2) scale + zero``, in float64, cast.
Knowing scale and zero, the integer of a pixel says all of its bits. Sources: FITS standard 4.0,
section 10.2 and appendix I (Pence, Chiappetti et al.), for the random numbers and their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS = 10_000  # random numbers of the standard
ZERO = -(2**31)  # remainder of a pixel that is exactly 0.0
PARAMETERS = 2  # of a tile: scale, zero


@dataclass(frozen=True)
class Quantum:
    """How an image was quantised.

    Attributes
    ----------
    rows, columns : int
        Of one of its compressed tiles.
    is_dithered : bool
    seed : int
        ZDITHER0.
    """

    rows: int
    columns: int
    is_dithered: bool
    seed: int

    def grid(self, plane: tuple[int, int]) -> tuple[int, int]:
        """Compressed tiles along y and x of an image of shape (ny, nx)."""
        return -(-plane[0] // self.rows), -(-plane[1] // self.columns)

    def window(
        self, parameters: NDArray[np.float64], plane: tuple[int, int], rows: slice, columns: slice
    ) -> QuantumWindow:
        """Scale, zero and dither of the pixels of a window that may reach beyond the image.

        Parameters
        ----------
        parameters : ndarray, shape (2, at least the number of compressed tiles), float64
            Scales and zeros, of the tiles in C order; scale 0 where a tile is not quantised.
        """
        ny, nx = rows.stop - rows.start, columns.stop - columns.start
        scale, zero = np.zeros((ny, nx)), np.zeros((ny, nx))
        offset = np.zeros((ny, nx))
        across = self.grid(plane)[1]
        for ty in range(rows.start // self.rows, -(-min(rows.stop, plane[0]) // self.rows)):
            for tx in range(
                columns.start // self.columns, -(-min(columns.stop, plane[1]) // self.columns)
            ):
                number = ty * across + tx
                tile_y, inside_y = _overlap(ty, self.rows, plane[0], rows)
                tile_x, inside_x = _overlap(tx, self.columns, plane[1], columns)
                scale[inside_y, inside_x], zero[inside_y, inside_x] = parameters[:, number]
                if self.is_dithered and parameters[0, number]:
                    height = min(self.rows, plane[0] - ty * self.rows)
                    width = min(self.columns, plane[1] - tx * self.columns)
                    dither = _dither(number + self.seed, height * width).reshape(height, width)
                    offset[inside_y, inside_x] = dither[tile_y, tile_x].astype(np.float64) - 0.5
        return QuantumWindow(scale, zero, offset)


@dataclass(frozen=True, eq=False)
class QuantumWindow:
    """Scale, zero and dither of some pixels; scale 0 where they were not quantised."""

    scale: NDArray[np.float64]
    zero: NDArray[np.float64]
    offset: NDArray[np.float64]

    @property
    def is_quantised(self) -> NDArray[np.bool_]:
        """Where there are integers."""
        return self.scale != 0

    def integers(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Integers nearest to finite values; 0 where there are none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.rint((values.astype(np.float64) - self.zero) / self.scale + self.offset)
        usable = self.is_quantised & (np.abs(found) < 2**52)
        return np.where(usable, found, 0).astype(np.int64)

    def values(self, integers: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Floats of integers, as a reader of the compressed file finds them."""
        with np.errstate(over="ignore"):
            return ((integers - self.offset) * self.scale + self.zero).astype(dtype)

    def remainder(self, stored: NDArray[Any], bounded: NDArray[Any]) -> NDArray[np.int64]:
        """What `exact` adds to `bounded` where pixels are quantised."""
        rest = self.integers(stored) - self.integers(bounded)
        return np.where(stored == 0, ZERO, rest)

    def apply(self, rest: NDArray[np.integer[Any]], bounded: NDArray[Any]) -> NDArray[Any]:
        """Inverse of `remainder`."""
        values = self.values(self.integers(bounded) + rest.astype(np.int64), bounded.dtype)
        return np.where(rest == ZERO, bounded.dtype.type(0), values)


def _overlap(number: int, side: int, length: int, window: slice) -> tuple[slice, slice]:
    """Where a tile and a window overlap: as a slice of the tile, and of the window."""
    start, stop = number * side, min((number + 1) * side, length)
    low, high = max(start, window.start), min(stop, window.stop)
    return slice(low - start, high - start), slice(low - window.start, high - window.start)


@cache
def _numbers() -> NDArray[np.float32]:
    """The random numbers of the standard (Park and Miller 1988, CACM 31, 1192)."""
    found, seed = np.empty(NUMBERS, np.float32), 1
    for place in range(NUMBERS):
        seed = 16807 * seed % 2147483647
        found[place] = seed / 2147483647
    return found


def _dither(tile: int, size: int) -> NDArray[np.float32]:
    """Random numbers of the pixels of a tile; `tile` is its number from 0, plus the seed."""
    numbers = _numbers()
    at, parts, count = (tile - 1) % NUMBERS, [], 0
    while count < size:
        parts.append(numbers[int(numbers[at] * np.float32(500)) :])
        count += len(parts[-1])
        at = (at + 1) % NUMBERS
    return np.concatenate(parts)[:size]
