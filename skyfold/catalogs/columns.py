"""The ladder's arithmetic for table columns: noise units, cells, and the integers that are stored.

A float value v is stored by how well it is known::

    error     e  -> its bits rounded to 5 of the mantissa           |e' - e| <= e / 64
    scaled    v  -> k = rint((v - M) / w),  w = c e'                |v' - v| <= fraction e
    fixed     v  -> the same with one w for the column              |v' - v| <= precision / 2
    plain     v  -> its bits: nothing is known about its error

M is the prediction of the table's model (0 without one). Only + - * / sqrt in float64 and
integers take part, which IEEE 754 rounds exactly, so every machine finds the same v'. What cannot
be met so (not finite, an error that is not positive, a value beyond 2**50 cells) keeps all of its
bits: *flags* say which, and which values are one of the column's few *fills* (NaN, 99).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = ("map", "latent", "bounded", "exact")
ERROR_BITS = 5  # of an error's mantissa are kept
CELL_LIMIT = 2**50
FLAG_RAW = 1  # all bits are kept
FLAG_NOT_FINITE = 2  # likewise, and no number
FLAG_FILL = 3  # flags from here on: place in the column's fills, plus 3
MAX_FILLS = 200
_MANTISSA = {2: 10, 4: 23, 8: 52}
_ROOM = 1 - 1 / 32  # of a cell's width: for the rounding of the error and of the cast

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def interpolate(x: Floats, knots_x: Floats, knots_y: Floats) -> Floats:
    """Piecewise linear function through knots, straight on beyond the outer ones.

    Parameters
    ----------
    x : ndarray, any shape, float64
    knots_x, knots_y : ndarray, shape (n >= 2,), float64
        `knots_x` rising.

    Notes
    -----
    Not `numpy.interp`: its compiled loop may fuse a product and a sum, which rounds differently
    from machine to machine.
    """
    place = np.clip(np.searchsorted(knots_x, x, side="right") - 1, 0, len(knots_x) - 2)
    slope = np.diff(knots_y) / np.diff(knots_x)
    steep = (x - knots_x[place]) * slope[place]
    return np.asarray(knots_y[place] + steep)


def bits_of(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Bits of floats of 2, 4 or 8 bytes, as uint64."""
    values = np.ascontiguousarray(values)
    return values.view(f"u{values.dtype.itemsize}").astype(np.uint64)


def from_bits(bits: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Inverse of `bits_of`."""
    return bits.astype(f"u{dtype.itemsize}").view(dtype.newbyteorder("="))


def error_cells(errors: NDArray[Any]) -> Ints:
    """Positive floats, their bits rounded to `ERROR_BITS` of the mantissa: about log2 times 32."""
    shift = _MANTISSA[errors.dtype.itemsize] - ERROR_BITS
    return (bits_of(errors).astype(np.int64) + (1 << (shift - 1))) >> shift


def from_error_cells(cells: Ints, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Floats of `error_cells`; cells beyond what the dtype holds are clipped."""
    shift = _MANTISSA[dtype.itemsize] - ERROR_BITS
    top = (1 << (8 * dtype.itemsize - 1 - shift)) - 1
    return from_bits((np.clip(cells, 0, top) << shift).astype(np.uint64), dtype)


def scaled_width(errors: NDArray[Any], fraction: float, factor: float, *, inverse: bool) -> Floats:
    """Width of cells from the stored errors of their values; NaN where there is none.

    Parameters
    ----------
    errors : ndarray, shape (n,), float
        As decoded at `bounded`.
    fraction : float
        Of the error, which the value may differ by.
    factor : float
        Units of the value in one unit of the error.
    inverse : bool
        The errors are inverse variances.
    """
    wide = errors.astype(np.float64)
    good = np.isfinite(wide) & (wide > 0)
    wide = np.where(good, wide, 1.0)
    sigma = 1 / np.sqrt(wide) if inverse else wide
    width = sigma * (2 * fraction * _ROOM * factor)
    return np.where(good & np.isfinite(width) & (width > 0), width, np.nan)


def fixed_width(precision: float) -> float:
    """Width of cells that keeps values within half of the precision, cast included."""
    return precision * _ROOM


def to_cells(values: Floats, prediction: Floats, width: Floats) -> tuple[Ints, NDArray[np.bool_]]:
    """Cell numbers, and where there is one."""
    with np.errstate(invalid="ignore", over="ignore"):
        cells = np.rint((values - prediction) / width)
        good = np.isfinite(cells) & (np.abs(cells) < CELL_LIMIT)
    return np.where(good, cells, 0).astype(np.int64), good


def from_cells(
    cells: Ints, prediction: Floats, width: Floats, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Values ``M + k w`` in their dtype, native byte order; 0 where there is no width."""
    with np.errstate(over="ignore", invalid="ignore"):
        offset = cells.astype(np.float64) * width
        values = np.where(np.isfinite(width), prediction + offset, 0.0)
        return values.astype(dtype.newbyteorder("="))


def held_out(
    cells: NDArray[np.integer[Any]], seed: int, fraction: float = 0.25
) -> NDArray[np.bool_]:
    """Rows that training must not see, from the cell of sky (or the number) of each.

    Parameters
    ----------
    cells : ndarray, shape (n,), integer
        HEALPix cells, or row numbers.
    seed : int
        Of the release's training.

    Notes
    -----
    The hash is splitmix64 (Steele, Lea & Flood 2014).
    """
    with np.errstate(over="ignore"):
        z = cells.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return z < np.uint64(int(fraction * 2**64))
