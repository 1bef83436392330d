"""The amplitude of a probability density, as integers: where it lies, its shape, and what is left.

A density is held as the square root of its probability masses, a vector of unit length: a square
is never negative, and Euclidean distance is Hellinger distance. One row is the sum of two parts,

::

    core      c . phi((x - mu) / sd)       position, width and a few shapes phi of the model
    residual  W k s                        coefficients k, in steps s, of a wavelet on the grid

Everything here is integers: amplitudes in units of 2**-20, positions in 1/256 of a grid bin,
widths as powers of 2**(1/8). Matrix products run in float64 on integers whose sums stay below
2**53, so that their order does not matter; densities follow by one addition, one exact sum and two
divisions. Every machine therefore decodes the same bits, and needs no network for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Float = NDArray[np.float64]

UNIT_BITS = 20
UNIT = 1 << UNIT_BITS  # an amplitude of one
BIN = 256  # positions are in 1 / BIN of a grid bin
WIDTHS = 8  # widths to a factor of two
MIN_WIDTH = -16  # a quarter of a bin; a width is 2**(width / 8) bins
MAX_WIDTH = 96
SHAPE_UNIT = 1 << 14  # a shape's value of one
SHAPE_POINTS = 241
SHAPE_DENSITY = 20  # points of a shape to one width: shapes reach six widths to either side
SHAPE_STEP = UNIT // 45  # step of a shape's coefficient, about 2**-5.5
MIN_POINTS, MAX_POINTS = 4, 2048
COARSEST = 8  # a band of the wavelet is split while it has more coefficients
_FRACTION = 256  # 2**8, of the distance between two points of a shape
_WIDTH_BITS = 16
# round(2**(16 + i/8)) for i in 0..7
_POWERS = np.array([65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194], np.int64)
# Daubechies and Sweldens (1998, J. Fourier Anal. Appl. 4, 247), section 7.7: CDF 9/7 by lifting.
_LIFTING = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
_GAIN = 1.149604398860241


def step_units(index: NDArray[Any]) -> Int:
    """Steps of residual coefficients, 2**(-index / 2) in units; index 1 to 30."""
    table = [math.isqrt(1 << (2 * UNIT_BITS - number)) for number in range(31)]
    return np.array(table, np.int64)[index]


def width_units(width: NDArray[Any]) -> Int:
    """Widths 2**(width / 8) of a bin, in 2**-16 of it."""
    shift = np.asarray(width, np.int64) // WIDTHS
    mantissa = _POWERS[np.asarray(width, np.int64) % WIDTHS]
    return np.where(shift >= 0, mantissa << np.maximum(shift, 0), mantissa >> np.maximum(-shift, 0))


def position_step(width: NDArray[Any]) -> Int:
    """Step of a core's position, about an eighth of its width [1/256 bin]."""
    return np.int64(1) << (np.asarray(width, np.int64) // WIDTHS + 5)


def positions(width: NDArray[Any], points: int) -> Int:
    """Number of positions that a core of a width may have on a grid of `points`."""
    return points * BIN // position_step(width) + 1


def core_amplitude(core: NDArray[Any], shapes: NDArray[Any], points: int) -> Int:
    """Amplitude of the cores on the grid.

    Parameters
    ----------
    core : ndarray, shape (n, 2 + m), int
        Position (in `position_step`), width, and coefficients of the m shapes (in `SHAPE_STEP`).
    shapes : ndarray, shape (m, 241), int
        Shapes against distance in widths, from -6 to 6 [1 / SHAPE_UNIT].
    points : int
        Of the grid.

    Returns
    -------
    ndarray, shape (n, points), int64
        [units]
    """
    core = np.asarray(core, np.int64)
    curve = (core[:, 2:].astype(np.float64) @ shapes.astype(np.float64)).astype(np.int64)
    return _on_grid(curve, core, *_places(core, points))


def core_responses(core: NDArray[Any], shapes: NDArray[Any], points: int) -> Float:
    """Amplitude on the grid of one step of each shape, shape (m, n, points); for encoders."""
    places = _places(np.asarray(core, np.int64), points)
    many = 1 << 12  # steps, far above the rounding
    curves = (many * shapes.astype(np.int64))[:, np.newaxis].repeat(len(core), axis=1)
    return np.array([_on_grid(curve, core, *places) / (many * UNIT) for curve in curves])


def _places(core: Int, points: int) -> tuple[Int, Int]:
    """Where each grid point lies on a shape: the point of the shape before it, and the rest."""
    away = np.arange(points) * BIN - (core[:, 0] * position_step(core[:, 1]))[:, np.newaxis]
    scale = _FRACTION * SHAPE_DENSITY * (1 << _WIDTH_BITS) // BIN
    place = away * scale // width_units(core[:, 1])[:, np.newaxis]
    place += _FRACTION * (SHAPE_POINTS // 2 + 1)
    place = np.clip(place, 0, _FRACTION * (SHAPE_POINTS + 1))
    return place >> 8, place & (_FRACTION - 1)


def _on_grid(curve: Int, core: Int, index: Int, part: Int) -> Int:
    """Curves over shape points, shape (n, 241), between their points and on the grid."""
    curve = np.pad(curve, ((0, 0), (1, 2)))
    low = np.take_along_axis(curve, index, axis=1)
    high = np.take_along_axis(curve, index + 1, axis=1)
    value = low * (_FRACTION - part) + high * part
    gain = _gains()[np.clip(core[:, 1], MIN_WIDTH, MAX_WIDTH) - MIN_WIDTH]
    return (value * gain[:, np.newaxis]) >> 22  # 14 bits of SHAPE_UNIT, 8 of the gain


@lru_cache(maxsize=1)
def _gains() -> Int:
    """SHAPE_STEP / sqrt(width) / _FRACTION in 2**-8 units, for every width."""
    widths = width_units(np.arange(MIN_WIDTH, MAX_WIDTH + 1)).tolist()
    # sqrt(2**16 / w) = 2**24 / sqrt(w * 2**32), in whole numbers
    return np.array([(SHAPE_STEP << 24) // math.isqrt(w << 32) for w in widths], np.int64)


@lru_cache(maxsize=1)
def hermite_shapes(count: int = 4) -> NDArray[np.int32]:
    """The built-in shapes, Gauss-Hermite functions: shape (count, 241), int32 [1 / SHAPE_UNIT]."""
    half = SHAPE_POINTS // 2
    # exp(-(i / 20)**2 / 4) by multiplication alone: its ratios fall by exp(-2 / 1600)
    bell, ratio = [1.0], 0.9993751952718163
    for _ in range(half):
        bell.append(bell[-1] * ratio)
        ratio *= 0.9987507809245809
    gauss = np.array([*reversed(bell[1:]), *bell]) * 0.6316187777460647  # (2 pi)**(-1/4)
    away = np.arange(-half, half + 1) / SHAPE_DENSITY
    shapes = [np.zeros_like(gauss), gauss]
    for order in range(count - 1):
        shapes.append((away * shapes[-1] - math.sqrt(order) * shapes[-2]) / math.sqrt(order + 1))
    return np.floor(np.array(shapes[1:]) * SHAPE_UNIT + 0.5).astype(np.int32)


def find_cores(mass: Float) -> tuple[Float, Int]:
    """Where the main peak of each density lies, and how wide it is; for encoders.

    Parameters
    ----------
    mass : ndarray, shape (n, points), float64

    Returns
    -------
    place : ndarray, shape (n,), float64
        Mean of the peak [bin].
    width : ndarray, shape (n,), int64
        Its standard deviation, as `width_units` counts.
    """
    column = np.arange(mass.shape[1])
    peak = mass.argmax(axis=1)[:, np.newaxis]
    low = mass < 0.05 * mass.max(axis=1, keepdims=True)
    left = np.where(low & (column <= peak), column, -1).max(axis=1)
    right = np.where(low & (column >= peak), column, len(column)).min(axis=1)
    inside = mass * ((column > left[:, np.newaxis]) & (column < right[:, np.newaxis]))
    inside /= inside.sum(axis=1, keepdims=True)
    place = inside @ column
    variance = (inside * (column - place[:, np.newaxis]) ** 2).sum(axis=1) + 1 / 12
    width = np.rint(np.log2(variance) * WIDTHS / 2).astype(np.int64)
    return place, np.clip(width, MIN_WIDTH, MAX_WIDTH)


@dataclass(frozen=True, eq=False)
class Wavelet:
    """The wavelet of a grid: coefficients by band from coarse to fine, and how they relate.

    Attributes
    ----------
    synthesis : ndarray, shape (points, points), float64
        Whole numbers: a coefficient's amplitude on the grid [2**-14].
    analysis : ndarray, shape (points, points), float64
        Its inverse, which only an encoder uses.
    level : ndarray, shape (points,), int64
        log2 of the grid bins to one coefficient of its band.
    centre : ndarray, shape (points,), int64
        Where it lies [1/256 bin].
    before, parent : ndarray, shape (points,), int64
        The coefficient before it in its band, and the one above it in the next coarser band; -1
        where there is none.
    """

    synthesis: Float
    analysis: Float
    level: Int
    centre: Int
    before: Int
    parent: Int

    def on_grid(self, coefficients: NDArray[Any]) -> Int:
        """Amplitude of coefficients (n, points) given in units, whole numbers too."""
        exact = coefficients.astype(np.float64) @ self.synthesis
        return np.floor(exact / (1 << 14) + 0.5).astype(np.int64)


@lru_cache(maxsize=8)
def wavelet(points: int) -> Wavelet:
    """The wavelet of a grid of this many points, the same on every machine."""
    bands = _bands(points)
    synthesis = np.floor(_synthesise(np.eye(points), bands) * (1 << 14) + 0.5)
    level, centre, before, parent = [], [], [], []
    start = 0
    for number, (size, depth) in enumerate(bands):
        detail = (1 << depth) // 2 if number else 0
        level += [depth] * size
        centre += [((place << depth) + detail) * BIN for place in range(size)]
        before += [-1, *range(start, start + size - 1)]
        above = 0 if number < 2 else start - bands[number - 1][0]
        wide = bands[number - 1][0] - 1 if number else 0
        shift = 0 if number < 2 else 1
        parent += [above + min(place >> shift, wide) if number else -1 for place in range(size)]
        start += size
    columns = (np.array(column, np.int64) for column in (level, centre, before, parent))
    analysis = np.asarray(np.linalg.inv(synthesis / (1 << 14)), np.float64)
    return Wavelet(synthesis, analysis, *columns)


def _bands(points: int) -> list[tuple[int, int]]:
    """Size and level of each band, the smooth one first, then details from coarse to fine."""
    bands, size, depth = [], points, 0
    while size > COARSEST:
        depth += 1
        bands.append((size // 2, depth))
        size -= size // 2
    return [(size, depth), *reversed(bands)]


def _synthesise(coefficients: Float, bands: list[tuple[int, int]]) -> Float:
    """Rows of coefficients to rows on the grid."""
    smooth, start = coefficients[:, : bands[0][0]], bands[0][0]
    for size, _ in bands[1:]:
        smooth = _join(smooth / _GAIN, coefficients[:, start : start + size] * _GAIN)
        start += size
    return smooth


def _join(even: Float, odd: Float) -> Float:
    """One inverse lifting; mirrored at both ends."""
    first, second, third, fourth = _LIFTING
    for odd_factor, even_factor in ((third, fourth), (first, second)):
        even = even - even_factor * _around_even(odd, even.shape[1])
        odd = odd - odd_factor * _around_odd(even, odd.shape[1])
    out = np.empty((len(even), even.shape[1] + odd.shape[1]))
    out[:, 0::2], out[:, 1::2] = even, odd
    return out


def _around_even(odd: Float, count: int) -> Float:
    left = np.concatenate([odd[:, :1], odd], axis=1)[:, :count]
    right = np.concatenate([odd, odd[:, -1:]], axis=1)[:, :count]
    return np.asarray(left + right)


def _around_odd(even: Float, count: int) -> Float:
    right = np.concatenate([even[:, 1:], even[:, -1:]], axis=1)[:, :count]
    return np.asarray(even[:, :count] + right)


def masses(amplitude: Int, floor: float) -> Float:
    """Probability masses of amplitudes: positive, of sum 1.

    Parameters
    ----------
    amplitude : ndarray, shape (n, points), int64
        [units]
    floor : float
        Mass that is spread evenly over the grid.
    """
    points = amplitude.shape[1]
    least = max(int(floor * UNIT * UNIT) // points, 1)
    square = amplitude.astype(np.float64) ** 2 + least
    return np.asarray(square / square.sum(axis=1, keepdims=True))


def divergence(true: Float, other: Float) -> Float:
    """Kullback-Leibler divergence of `other` from `true`, each row of masses [nats]."""
    with np.errstate(divide="ignore"):  # infinite where `other` has no mass
        ratio = np.where(true > 0, true, 1.0) / np.where(true > 0, other, 1.0)
        return np.asarray((true * np.log(ratio)).sum(axis=1))


def hellinger(true: Float, other: Float) -> Float:
    """Hellinger distance of rows of masses, from 0 to 1."""
    return np.asarray(np.sqrt(((np.sqrt(true) - np.sqrt(other)) ** 2).sum(axis=1) / 2))
