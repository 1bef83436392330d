"""The ladder's arithmetic: prediction, guard, cells, remainders and checksums of one tile.

One tile is refined level by level, each from the one before::

    latent   p = D(latent)                   prediction, rounded to M (multiples of round_step)
    sources  S         in selected leaves    S = M + d + K w q / 4, |X - S| <= w q / 4, q = 4 to 16
    bounded  C         everywhere            C = M + d + k w, k = floor((X - M - d + h) / w)
                                             |X - C| <= w / 2, h about w / 2, d the dither
    exact    X, and for floats every bit     remainder inside the cell

M, d, k, K, q, w and X are integers, in grid units where they have any (see `skyfold.noise`), held
in int64 and below 2**53, so no step depends on the machine. The one step that does, the network,
is caught by the *guard*: the list of pixels whose prediction lies so near a rounding tie that
another machine could round it the other way, with the side that the encoder took.
"""

from __future__ import annotations

import math
import zlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.noise import Factor, NoiseModel

LEVELS = ("latent", "sources", "bounded", "exact")
TILE = 256  # pixels a side
LEAF = 2  # pixels a side of what `sources` keeps or leaves
BLOCK = 8  # pixels a side around a kept leaf in which `sources` is M + k w throughout
SAFE_INTEGER = 2**52
MODULUS = 253  # of guard codes from 3 on
FARTHEST = 100  # steps: a residue tells 126, of which the writer may move bright pixels by 25
WIDE = 0.25  # steps: a reach beyond it may cross an integer, so two candidates are not enough
ROUND_UP = 0.515625  # not 1/2: a flat sky's background / round_step is a multiple of 1/32

Int = NDArray[np.int64]


def predict(
    y: NDArray[np.float32],
    background: NDArray[np.float64],
    noise: NoiseModel,
    guard: NDArray[np.uint8],
    factor: Factor = None,
) -> Int:
    """Rounded prediction M of a tile, the same on every machine.

    Parameters
    ----------
    y : ndarray, shape (ny, nx), float32
        Output of the decoder network [noise units].
    background : ndarray, shape (ny, nx), float64
        From `skyfold.noise.background_at` [grid units].
    noise : NoiseModel
    guard : ndarray, shape (ny, nx), uint8
        0: round as computed; 1 or 2: the lower or the upper of the two candidates; from 3 on, M in
        steps modulo 253, plus 3: the candidate of this residue that is nearest.
    factor : ndarray, shape (ny, nx), float64, optional
        Of the noise, from `skyfold.noise.noise_at`; 1 if not given.

    Returns
    -------
    ndarray, shape (ny, nx), int64
        Multiples of ``noise.round_step`` [grid units].
    """
    return round_prediction(background + noise.to_signal(y, factor), noise, guard)


def round_prediction(
    smooth: NDArray[np.float64], noise: NoiseModel, guard: NDArray[np.uint8]
) -> Int:
    """As `predict`, of the sum of background and signal, float64 [grid units]."""
    steps = smooth * (1 / noise.round_step)  # a power of two: exact, and faster than to divide
    guarded = np.flatnonzero(guard != 0)  # of booleans several times faster than of integers
    asked = _follow(guard.ravel()[guarded], steps.ravel()[guarded])
    steps += ROUND_UP
    rounded = np.floor(steps, out=steps).astype(np.int64)
    rounded.reshape(-1)[guarded] = asked
    rounded *= noise.round_step
    return rounded


def _follow(codes: NDArray[np.uint8], steps: NDArray[np.float64]) -> Int:
    """M in steps, of pixels whose guard code is not 0."""
    rounded = np.floor(steps + ROUND_UP).astype(np.int64)
    apart = (codes.astype(np.int64) - 3 - rounded) % MODULUS
    nearest = rounded + np.where(apart > MODULUS // 2, apart - MODULUS, apart)
    return np.where(codes > 2, nearest, np.floor(steps).astype(np.int64) + (codes == 2))


def find_guard(
    y: NDArray[np.float32],
    smooth: NDArray[np.float64],
    noise: NoiseModel,
    tolerance: float,
    factor: Factor = None,
) -> NDArray[np.uint8]:
    """Guard codes of a tile: pixels that another machine might round otherwise.

    Parameters
    ----------
    y : ndarray, shape (ny, nx), float32
        Output of the decoder network [noise units].
    smooth : ndarray, shape (ny, nx), float64
        Sum of background and signal, as `round_prediction` takes it.
    noise : NoiseModel
    tolerance : float
        Largest difference of two machines' networks, relative to 1 + the largest ``|y|`` of the
        block of 8 x 8 pixels; measured when the model was exported.
    factor : ndarray, shape (ny, nx), float64, optional
        As `predict` takes it.

    Returns
    -------
    ndarray, shape (ny, nx), uint8
        As `predict` takes it.

    Raises
    ------
    OverflowError
        If two machines could be farther apart than codes can tell.
    """
    steps = smooth * (1 / noise.round_step)
    from_tie = steps - np.floor(steps)
    from_tie -= 1 - ROUND_UP
    # Few pixels are so near a tie; most are told by how far the largest of their block may be off.
    scale = tolerance * (1 + _block_maximum(np.abs(y)))
    highest = _block_maximum(y if factor is None else y * factor)
    most = scale * noise.signal_slope(highest) / noise.round_step
    most *= 1 if factor is None else _block_maximum(factor)
    most[most > WIDE] = 1  # all of the block
    few = np.flatnonzero(np.abs(from_tie) <= _to_pixels(most))
    at_block = few // y.shape[1] // BLOCK, few % y.shape[1] // BLOCK
    steps, from_tie = steps.ravel()[few], from_tie.ravel()[few]
    its = None if factor is None else factor.ravel()[few]
    reach = scale[at_block] * noise.signal_slope(y.ravel()[few], its) / noise.round_step
    if reach.max(initial=0) > FARTHEST:
        raise OverflowError(
            f"predictions may be {reach.max():g} steps apart; {FARTHEST} can be told"
        )
    found = np.where(np.abs(from_tie) <= reach, 1 + (from_tie >= 0), 0)
    whole = np.floor(steps + ROUND_UP).astype(np.int64)
    codes = np.zeros(y.shape, np.uint8)
    codes.ravel()[few] = np.where(reach > WIDE, whole % MODULUS + 3, found)
    return codes


def cell_width(
    prediction: Int,
    sigma: NDArray[np.float64],
    step: float,
    dtype: np.dtype[Any],
    *,
    odd: bool = False,
) -> Int:
    """Width w of each pixel's cell [grid units], so that half of it is within the bound.

    Parameters
    ----------
    prediction : ndarray, shape (ny, nx), int64
        M [grid units].
    sigma : ndarray, shape (ny, nx), float64
        ``NoiseModel.pixel_sigma`` of M less the background [grid units].
    step : float
        Width in noise units; the bound is half of it.
    dtype : numpy.dtype
        Of the stored pixels. Floats give up one grid unit for their rounding onto the grid, and
        what the cast of the decoded value back to single precision may cost.
    odd : bool
        Whether an even width of integers is one more: its largest error stays what it was.

    Returns
    -------
    ndarray, shape (ny, nx), int64
        At least 1.
    """
    scaled = step * sigma
    width = np.floor(scaled, out=scaled).astype(np.int64)
    if dtype.kind != "f" and odd:
        width |= 1
        return width
    if dtype.kind == "f":
        width -= 1 + (np.abs(prediction) >> 22 if dtype.itemsize == 4 else 0)
    return np.maximum(width, 1, out=width)


def dither(width: Int) -> Int:
    """Shift d of each pixel's cell [grid units], in ``-(w // 2) .. w - 1 - w // 2``.

    Where the prediction is level, cells of one place would round the sky of every pixel to the
    same few values, and a median to one of them; shifted from pixel to pixel it is free of that
    (subtractive dithering). Shifts of neighbours are spread evenly over a cell, by the additive
    recurrence R2 in 1/65536 of a cell (Roberts 2018, "The unreasonable effectiveness of
    quasirandom sequences").

    Parameters
    ----------
    width : ndarray, shape (ny, nx), int64
        Below 2**46, of a tile.
    """
    return (_phases()[: width.shape[0], : width.shape[1]] * width >> 16) - (width >> 1)


@cache
def _phases() -> Int:
    rows, columns = np.ogrid[:TILE, :TILE]
    phases: Int = (49471 * columns + 37345 * rows).astype(np.int64) % 2**16
    return phases


def used_squares(cells: NDArray[np.integer[Any]], side: int) -> NDArray[np.bool_]:
    """Whether each pixel lies in a square of 2, 4 or 8 pixels a side with a cell that is not 0."""
    rows = (cells != 0).reshape(-1, side, cells.shape[1]).any(axis=1)
    together = np.dtype(f"u{side}")  # the pixels of a square's row as one number
    used = rows.view(together) != 0
    wide = used * np.frombuffer(b"\1" * side, together)
    return np.repeat(wide.view(np.bool_), side, axis=0)


def to_cells(grid: Int, prediction: Int, width: Int) -> Int:
    """Cell numbers ``k = floor((X - M + h) / w)``, with the half width h of `half_width`."""
    # Below 2**52 a quotient just short of a whole number does not round up to it in float64.
    return np.floor((grid - prediction + half_width(width)) / width).astype(np.int64)


def half_width(width: Int) -> Int:
    """What lies below a cell's centre: ``(w - parity) // 2``, with the parity of row + column.

    A cell of an even number of integers has no integer at its middle: neighbours lean to different
    sides, so that no sum of pixels is biased. A tile's sides are even, so tiles agree.
    """
    half = width - _parities()[: width.shape[0], : width.shape[1]]
    half >>= 1
    return half


@cache
def _parities() -> Int:
    rows, columns = np.ogrid[:TILE, :TILE]
    parities: Int = ((rows + columns) & 1).astype(np.int64)
    return parities


def from_cells(cells: NDArray[np.integer[Any]], prediction: Int, width: Int) -> Int:
    """Centres ``M + k w`` of cells [grid units]."""
    return prediction + cells.astype(np.int64) * width


def coarse_centres(
    cells: NDArray[np.integer[Any]], prediction: Int, width: Int, coarse: int
) -> Int:
    """Centres S of coarse cells [quarters of a grid unit], ``4 M + K w q``: none is rounded."""
    return 4 * prediction + cells.astype(np.int64) * width * coarse


def to_quarters(glow: NDArray[np.float64]) -> Int:
    """Glow as S has it, to the nearest quarter of a grid unit."""
    return np.rint(4 * glow).astype(np.int64)


def fine_cells(cells: NDArray[Any], coarse: int) -> NDArray[Any]:
    """Cell k that lies at the centre of coarse cell K: ``floor((K q + 2) / 4)``."""
    return (cells * cells.dtype.type(coarse) + 2) >> 2


def joined_cells(
    sources: NDArray[np.int32], bounded: NDArray[np.int32], coarse: int | None
) -> NDArray[np.int32]:
    """Cells k of both layers.

    Parameters
    ----------
    sources : ndarray, shape (ny, nx), int32
        Coarse cells K.
    bounded : ndarray, shape of `sources`, int32
        2 (k - `fine_cells` of K), plus 1 in leaves that `sources` keeps.
    coarse : int or None
        q. None, in releases before it: both layers hold k, each in its own leaves.

    Returns
    -------
    ndarray, shape of `sources`, int32
    """
    if coarse is None:
        return sources + bounded
    cells = fine_cells(sources, coarse)
    cells += bounded >> 1
    return cells


def to_grid(stored: NDArray[Any], noise: NoiseModel) -> Int:
    """Stored pixels on the grid; finite values below 2**52 grid units only."""
    if stored.dtype.kind != "f":
        return stored.astype(np.int64)
    return np.rint(np.ldexp(stored.astype(np.float64), -noise.grid_exponent)).astype(np.int64)


def from_quarters(lattice: Int, noise: NoiseModel, dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Values in quarters of a grid unit in the stored unit, within the range of integers."""
    values: NDArray[np.float64] = lattice * np.float64(math.ldexp(1.0, noise.grid_exponent - 2))
    return values if dtype.kind == "f" else np.clip(values, *limits(dtype))


def limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Least and largest of integers of a dtype."""
    its = np.iinfo(dtype)
    return int(its.min), int(its.max)


def from_grid(lattice: Int, noise: NoiseModel, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Grid values in the stored dtype; integers beyond its range are clipped to it."""
    if dtype.kind != "f":
        return np.clip(lattice, *limits(dtype)).astype(dtype)
    return (lattice * math.ldexp(1.0, noise.grid_exponent)).astype(dtype)


def remainder(stored: NDArray[Any], centres: Int, width: Int, bounded: NDArray[Any]) -> Int:
    """What `exact` adds to `bounded`.

    Parameters
    ----------
    stored : ndarray, any shape, integer or float
    centres, width : ndarray, shape of `stored`, int64
        ``M + k w`` and w [grid units].
    bounded : ndarray, shape and dtype of `stored`
        The tile as decoded at `bounded`.

    Returns
    -------
    ndarray, shape of `stored`, int64
        Integers: place inside the cell, in 0..w-1. Floats: difference of the ordered bits.
    """
    if stored.dtype.kind != "f":
        return stored.astype(np.int64) - centres + half_width(width)
    return _ordered_difference(stored, bounded)


def apply_remainder(
    rest: NDArray[np.integer[Any]], centres: Int, width: Int, bounded: NDArray[Any]
) -> NDArray[Any]:
    """Inverse of `remainder`: the stored pixels, every bit of them."""
    if bounded.dtype.kind != "f":
        return (centres - half_width(width) + rest).astype(bounded.dtype)
    unsigned = _unsigned(bounded.dtype)
    bits = _ordered(bounded) + rest.astype(unsigned)
    return _from_ordered(bits, bounded.dtype)


def _unsigned(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.itemsize}")


def _ordered_difference(stored: NDArray[Any], bounded: NDArray[Any]) -> Int:
    """Signed difference of ordered bits, modulo 2**n of the dtype's n bits."""
    difference = _ordered(stored) - _ordered(bounded)
    return difference.view(f"i{stored.dtype.itemsize}").astype(np.int64)


def _ordered(values: NDArray[Any]) -> NDArray[Any]:
    """Bits of floats as unsigned integers that rise with the value: a bijection."""
    unsigned = _unsigned(values.dtype)
    bits = np.ascontiguousarray(values).view(unsigned)
    sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    return np.where(bits & sign, ~bits, bits | sign)


def _from_ordered(bits: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    sign = bits.dtype.type(1 << (8 * bits.dtype.itemsize - 1))
    return np.where(bits & sign, bits ^ sign, ~bits).view(dtype)


def checksum(values: NDArray[Any], ny: int = TILE, nx: int = TILE) -> int:
    """CRC-32 of a tile's little-endian bytes in C order, zeros beyond its ``[:ny, :nx]``."""
    if ny < TILE or nx < TILE:
        inside, values = values[:ny, :nx], np.zeros((TILE, TILE), values.dtype)
        values[: inside.shape[0], : inside.shape[1]] = inside
    little = values.astype(values.dtype.newbyteorder("<"), order="C", copy=False)
    return zlib.crc32(little.data)


def _block_maximum(values: NDArray[Any]) -> NDArray[Any]:
    """Largest value of each block."""
    ny, nx = values.shape
    highest = values.reshape(ny // BLOCK, BLOCK, nx).max(axis=1)
    while highest.shape[1] > nx // BLOCK:  # pairs: faster than a maximum over few neighbours
        highest = np.maximum(highest[:, ::2], highest[:, 1::2])
    return highest


def _to_pixels(blocks: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(np.repeat(blocks, BLOCK, axis=0), BLOCK, axis=1)
