"""Noise units: the exact map between stored pixels and multiples of their noise.

Everything after the network is integer arithmetic in *grid units*: a stored value x is ``X =
rint(x / 2**grid_exponent)`` (the exponent is 0 for integers and near ``log2(sigma / 4096)`` for
floats). In grid units, with the background ``b`` and ``v = X - b``::

    sigma(v)^2 = sigma^2 + slope * max(v, 0)         noise of a pixel
    v = sigma * (y + stretch / 4 * y * max(y, 0))    noise-unit value y of the network to data
    y = 2 / stretch * (sqrt(1 + stretch * v / sigma) - 1)   for v >= 0;  v / sigma below

Where an image is not equally deep all over, its noise is ``f sigma(v)`` with a mesh of factors f,
and its noise units are y / f. Where the sky itself is of unequal light, the factors are of the
sky's noise alone: ``sigma(v)^2 = (f sigma)^2 + slope * max(v, 0)``. The background is a mesh;
offsets of whole rows and columns, where a detector has them, are added to it.

Only + - * / sqrt in float64 take part, which IEEE 754 rounds exactly: every machine finds the
same cells. The stretch is Anscombe's (1948, Biometrika 35, 246) where it equals ``slope / sigma``;
images without a known gain keep a small one, so that a bright star does not swamp the network.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import CorruptDataError

# f of pixels: float64, positive, of their shape; None where it is 1 all over
Factor: TypeAlias = NDArray[np.float64] | None

MESH = 64  # pixels a side of one node of the background mesh; a power of two
FLOAT_GRID_BITS = 12  # a float's grid unit is 2**-12 of its noise, rounded to a power of two
MIN_STRETCH = 0.25
NOISE_CELL = 32  # pixels a side of a cell of the mesh of noise
NOISE_STEP = 2.0**-8  # of its numbers
STRIPE_STEP = 8  # steps of the background mesh: unit of the offsets of rows and columns
GLOW_CELL = 8  # pixels a side of a cell of the glow; a power of two
GLOW_STEP = 64  # steps of the background mesh: unit of the glow
PREDICTION_LIMIT = 2048.0  # noise units; brighter pixels are left to the residual
_ALONE = 2**18  # products of a matrix product that OpenBLAS leaves to the thread that asks


@dataclass(frozen=True)
class NoiseModel:
    """Noise of one image, in grid units.

    Attributes
    ----------
    grid_exponent : int
        log2 of the grid unit, in stored units; 0 for integer images.
    sigma : float
        Standard deviation of the sky noise [grid units]; positive.
    slope : float
        Gain slope: variance per grid unit of signal above the background; 0 where unknown.
    stretch : float
        Curvature of the network's units; positive.
    background_step : float
        Unit of the stored background mesh: a power of two, whole or not [grid units].
    round_step : int
        Unit of the prediction: a power of two [grid units].
    of_sky : bool
        Whether factors of the noise are of the sky's alone, and not of that of light above it.
    origin : int
        What the background mesh is counted from [grid units]: not 0 where 32 bits do not reach it.
    """

    grid_exponent: int
    sigma: float
    slope: float
    stretch: float
    background_step: float
    round_step: int
    of_sky: bool = False
    origin: int = 0

    @classmethod
    def from_stored_units(
        cls, sigma: float, slope: float, *, integer: bool, of_sky: bool = False
    ) -> NoiseModel:
        """Noise model from sky noise and gain slope in stored units.

        Parameters
        ----------
        sigma : float
            Sky noise [stored unit].
        slope : float
            Variance per unit of signal [stored unit]; 0 where unknown.
        integer : bool
            True where the stored pixels are integers.
        of_sky : bool
            As the attribute.

        Raises
        ------
        ValueError
            If `sigma` is not positive and finite or `slope` is negative.
        """
        if not (math.isfinite(sigma) and sigma > 0 and math.isfinite(slope) and slope >= 0):
            raise ValueError(
                f"noise model with sigma {sigma} and slope {slope}: sigma must be positive and "
                "finite, slope at least 0; store a noiseless image directly instead"
            )
        exponent = 0 if integer else math.floor(math.log2(sigma)) - FLOAT_GRID_BITS
        sigma_grid = math.ldexp(sigma, -exponent)
        slope_grid = math.ldexp(slope, -exponent)
        near = math.floor(math.log2(sigma_grid))
        return cls(
            grid_exponent=exponent,
            sigma=sigma_grid,
            slope=slope_grid,
            stretch=max(slope_grid / sigma_grid, MIN_STRETCH),
            background_step=math.ldexp(1.0, near - 7),
            round_step=2 ** max(near - 2, 0),
            of_sky=of_sky,
        )

    @property
    def numbers(self) -> tuple[float, float, float, int, bool]:
        """Sigma, slope, stretch, step of rounding, and `of_sky`, as compiled loops take them."""
        return self.sigma, self.slope, self.stretch, self.round_step, self.of_sky

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for the image index."""
        return asdict(self)

    def background(
        self, mesh: NDArray[np.integer[Any]], rows: slice, columns: slice
    ) -> NDArray[np.float64]:
        """Background of a window [grid units]: origin, and the mesh as of `background_at`."""
        return background_at(mesh, self.background_step, rows, columns) + float(self.origin)

    def glow(
        self, nodes: NDArray[np.integer[Any]], rows: slice, columns: slice
    ) -> NDArray[np.float64]:
        """Smooth light in a window [grid units], as `background_at` has it, of finer cells.

        `nodes` lie at the centres of cells of 8 x 8 pixels, in units of
        ``GLOW_STEP * background_step``.
        """
        return background_at(nodes, GLOW_STEP * self.background_step, rows, columns, GLOW_CELL)

    def to_noise_units(self, signal: NDArray[Any], factor: Factor = None) -> NDArray[np.float32]:
        """Noise-unit values y, float32, within +-2048, of values above background [grid units].

        Parameters
        ----------
        signal : ndarray, any shape
            [grid units]
        factor : ndarray, shape of `signal`, optional
            f, see `noise_at`; here and in the other methods 1 if not given.
        """
        u = signal / self.sigma
        bright = (2 / self.stretch) * (np.sqrt(1 + self.stretch * np.maximum(u, 0)) - 1)
        y = np.where(u >= 0, bright, u)
        y = np.clip(y, -PREDICTION_LIMIT, PREDICTION_LIMIT)
        if factor is not None:  # neither y nor y f is farther than the guard reaches
            y = np.clip(y / factor, -PREDICTION_LIMIT, PREDICTION_LIMIT)
        return y.astype(np.float32)

    def to_signal(self, y: NDArray[np.float32], factor: Factor = None) -> NDArray[np.float64]:
        """Background-subtracted values in grid units, float64, of noise-unit values."""
        wide = np.clip(_scaled(y, factor), -PREDICTION_LIMIT, PREDICTION_LIMIT).astype(np.float64)
        if np.isnan(wide.sum()):
            wide[np.isnan(wide)] = 0
        signal = np.maximum(wide, 0)
        signal *= self.stretch / 4
        signal *= wide
        signal += wide
        signal *= self.sigma
        return signal

    def signal_slope(self, y: NDArray[np.float32], factor: Factor = None) -> NDArray[np.float64]:
        """d(signal)/dy in grid units: how far an error of the network moves the prediction."""
        wide = np.clip(_scaled(y, factor).astype(np.float64), 0, PREDICTION_LIMIT)
        return _scaled(self.sigma * (1 + (self.stretch / 2) * wide), factor)

    def pixel_sigma(self, signal: NDArray[Any], factor: Factor = None) -> NDArray[np.float64]:
        """Noise of a pixel [grid units] whose background-subtracted value is `signal`."""
        if not self.slope:
            return _scaled(np.full(np.shape(signal), self.sigma), factor)
        variance = np.asarray(np.maximum(signal, 0.0))
        variance *= self.slope
        if self.of_sky and factor is not None:
            own = self.sigma * factor
            variance += own * own
            return np.sqrt(variance, out=variance)
        variance += self.sigma * self.sigma
        return _scaled(np.sqrt(variance, out=variance), factor)  # of no slope sigma, bit for bit


def _scaled(values: NDArray[Any], factor: Factor) -> NDArray[Any]:
    return values if factor is None else values * factor


def noise_at(mesh: NDArray[np.integer[Any]], rows: slice, columns: slice) -> NDArray[np.float64]:
    """Factors f of the noise in a window: of each pixel that of its mesh cell, exact in float64.

    Parameters
    ----------
    mesh : ndarray, shape (nodes_y, nodes_x), integer
        f - 1 of cells of `NOISE_CELL` pixels a side, in units of `NOISE_STEP`.
    rows, columns : slice
        Window in pixels of the image; start and stop given.

    Raises
    ------
    CorruptDataError
        If a factor is not above 0.
    """
    y, x = (np.arange(one.start, one.stop) // NOISE_CELL for one in (rows, columns))
    factors: NDArray[np.float64] = 1 + mesh * np.float64(NOISE_STEP)
    if not factors.min(initial=1) > 0:
        raise CorruptDataError(f"the layer noise has a factor of {factors.min()}; it is above 0")
    return factors[y[:, np.newaxis], x]


def background_nodes(pixels: int) -> int:
    """Nodes of the background mesh along an axis of so many pixels."""
    return -(-pixels // MESH)


def background_at(
    mesh: NDArray[np.integer[Any]], step: float, rows: slice, columns: slice, cell: int = MESH
) -> NDArray[np.float64]:
    """Background [grid units] of a window, bilinear between mesh nodes, exact in float64.

    Parameters
    ----------
    mesh : ndarray, shape (nodes_y, nodes_x), integer
        Background at the centres of cells, in units of `step`.
    step : float
        Power of two [grid units].
    rows, columns : slice
        Window in pixels of the image; start and stop given.
    cell : int
        Pixels a side of a cell; a power of two.

    Notes
    -----
    Weights are integers over two cells on each axis, so all sums are integers below 2**53, and
    come out the same in whatever order a matrix product takes them.
    """
    first_y, weights_y = _weights(mesh.shape[0], rows.start, rows.stop, cell)
    first_x, weights_x = _weights(mesh.shape[1], columns.start, columns.stop, cell)
    near = mesh[first_y : first_y + weights_y.shape[1], first_x : first_x + weights_x.shape[1]] * (
        step / (2 * cell) ** 2
    )  # a power of two: to scale the few nodes changes no digit
    return _product(_product(weights_y, near), weights_x.T)


def _product(one: NDArray[np.float64], other: NDArray[Any]) -> NDArray[np.float64]:
    """A matrix product by this thread alone, some rows after others.

    Of more than 2**18 products OpenBLAS wakes other threads, which then spin: a reader that decodes
    in a thread a core would wait for them at every tile.
    """
    out = np.empty((len(one), other.shape[1]))
    rows = max(_ALONE // max(other.size, 1), 1)
    for start in range(0, len(one), rows):
        np.matmul(one[start : start + rows], other, out=out[start : start + rows])
    return out


def stripes_at(
    offsets: NDArray[np.integer[Any]], step: float, rows: slice, columns: slice
) -> NDArray[np.float64]:
    """Offsets of the rows and columns of a window [grid units], exact in float64.

    Parameters
    ----------
    offsets : ndarray, shape (2, n), integer
        Of each row of the image, and of each column, in units of ``STRIPE_STEP * step``.
    step : float
        Of the background mesh [grid units].
    rows, columns : slice
        Window in pixels of the image; start and stop given.
    """
    unit = np.float64(STRIPE_STEP * step)
    return offsets[0, rows, np.newaxis] * unit + offsets[1, columns] * unit


@lru_cache(256)  # tiles of a row share those of y, tiles of a column those of x
def _weights(nodes: int, start: int, stop: int, cell: int) -> tuple[int, NDArray[np.float64]]:
    """First node that counts, and the weights of it and the next for each pixel.

    They are integers, that sum to two cells.
    """
    place = 2 * np.arange(start, stop) + 1 - cell
    below, part = np.divmod(place, 2 * cell)
    low, high = np.clip(below, 0, nodes - 1), np.clip(below + 1, 0, nodes - 1)
    first, pixel = int(low[0]), np.arange(len(place))
    weights = np.zeros((len(place), int(high[-1]) - first + 1))
    weights[pixel, low - first] = 2 * cell - part
    weights[pixel, high - first] += part  # beyond the outer nodes both are one
    return first, weights
