"""How a plane is walked from coarse to fine, and what its known pixels say of the next ones.

The arithmetic of `skyfold.interlaced`: integers only, below 2**31, computed for all pixels of a
pass at once. Its bytes are described there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.interlaced_plan import Ints, Weights

COARSEST = 16
SMALLEST = 64  # side of a plane: its mirror images must not overlap
DISTANCES = (8, 4, 2, 1)
PASSES = ((1, 1), (0, 1), (1, 0))  # odd row, odd column: in units of the distance
PAD = 3  # reach of a pass's neighbours
CLIP = 1 << 15  # of what neighbours add to a context
# Steps to neighbours that a pass knows, one of each opposite pair.
NEAR = (((-1, -1), (-1, 1)), ((0, -1), (-1, 0)), ((0, -1), (-1, 0)))
_KNIGHTS = ((-1, -2), (-1, 2), (-2, -1), (-2, 1))
FAR = (
    ((-3, -3), (-3, 3), (-1, -3), (-1, 3), (-3, -1), (-3, 1)),
    (*_KNIGHTS, (0, -3), (-3, 0)),
    (*_KNIGHTS, (-1, -1), (-1, 1)),
)


class Known:
    """Values and sizes of residuals at one distance, padded by their mirror image.

    Parameters
    ----------
    values, sizes : ndarray, shape (ny, nx), int32
        Every pixel at this distance; those not yet known are not looked at.
    """

    def __init__(self, values: Ints, sizes: Ints) -> None:
        self.values, self.sizes = _padded(values), _padded(sizes)
        self._some: NDArray[np.intp] | None = None

    def narrow(self, number: int, coded: NDArray[np.bool_] | None) -> None:
        """From here on, give and take the coded pixels of a pass alone, as one row of them."""
        self._some = None if coded is None else _places(self.values.shape, number)[coded]

    def know_sizes(self, sizes: Ints) -> None:
        """Take in the sizes of all residuals at once, as a writer does."""
        self.sizes = _padded(sizes)

    def learn(self, number: int, values: Ints, residuals: Ints) -> None:
        """Take in what a pass decoded."""
        self._put(self.values, values, number)
        self._put(self.sizes, np.minimum(np.abs(residuals), CLIP), number)

    def pixels(self, number: int) -> NDArray[np.intp]:
        """Where the pixels of a pass lie in the flat padded planes, shape (n,)."""
        numbers = _places(self.values.shape, number).ravel() if self._some is None else self._some
        return numbers + _start(self.values.shape, (0, 0))

    def steps(self, number: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Steps to near and far neighbours in the flat padded planes, one of each pair."""
        across = self.values.shape[1]
        near, far = (
            np.array([y * across + x for y, x in one]) for one in (NEAR[number], FAR[number])
        )
        return near, far

    @property
    def inside(self) -> tuple[Ints, Ints]:
        """Values and sizes without the padding."""
        inside = slice(PAD, -PAD)
        return self.values[inside, inside], self.sizes[inside, inside]

    def target(self, number: int) -> Ints:
        """Values of the pass itself."""
        return self._at(self.values, (0, 0), number)

    def features(self, number: int) -> Iterator[Ints]:
        """What weights of values are of: see `predict`."""
        one, other = (self._pair(self.values, at, number) for at in NEAR[number])
        yield one + other
        yield one - other
        for at in FAR[number]:
            yield 2 * self._pair(self.values, at, number) - (one + other)

    def predict(self, number: int, weights: Weights) -> Ints:
        """Predicted values of a pass.

        With the sums s of four near values, d of one near pair less the other and f of each far
        pair, ``(w0 s + w1 d + w2 (2 f - s) + ... + w7 (2 f - s) + 256) >> 9``.
        """
        if not any(one.any() for one in weights.value):
            return np.zeros_like(self.target(number))
        one, other = (self._pair(self.values, at, number) for at in NEAR[number])
        near, across = one + other, one - other
        far = [self._pair(self.values, at, number) for at in FAR[number]]
        calm = _weighed(near, across, far, weights.value[0])
        if not weights.steep:
            return calm
        steep = self.apart(number) >= weights.steep
        return np.where(steep, _weighed(near, across, far, weights.value[1]), calm)

    def doubts(self, number: int) -> Iterator[Ints]:
        """What weights of contexts are of: see `expect`."""
        yield self._sizes(NEAR[number], number)
        yield self.apart(number)
        yield self._sizes(FAR[number][-2:], number)

    def expect(self, number: int, weights: Ints) -> Ints:
        """Doubt of a pass: about 8 times the size that its residuals will have.

        With the sums r of four near and q of four far sizes of residuals, and e of the two
        differences within near pairs, ``(w0 + w1 r + w2 e + w3 q) >> 4``, and at most 65535.
        """
        total = np.full(self._at(self.values, (0, 0), number).shape, weights[0])
        if weights[1:].any():
            for weight, doubt in zip(weights[1:], self.doubts(number), strict=True):
                total += weight * doubt
        return np.minimum(total >> 4, 65535)

    def apart(self, number: int) -> Ints:
        """Sum of the differences within near pairs, at most `CLIP`."""
        one, other = (self._apart(at, number) for at in NEAR[number])
        return np.minimum(one + other, CLIP)

    def _at(self, plane: Ints, step: tuple[int, int], number: int) -> Ints:
        if self._some is None:
            return plane[_window(plane.shape, step, number)]
        return plane.reshape(-1)[_start(plane.shape, step) :].take(self._some)

    def _put(self, plane: Ints, values: Ints, number: int) -> None:
        if self._some is None:
            plane[_window(plane.shape, (0, 0), number)] = values
        else:
            plane.reshape(-1)[_start(plane.shape, (0, 0)) :][self._some] = values
        _mirror(plane)

    def _pair(self, plane: Ints, step: tuple[int, int], number: int) -> Ints:
        """Sum of the values at a step and at its opposite."""
        opposite = (-step[0], -step[1])
        return self._at(plane, step, number) + self._at(plane, opposite, number)

    def _apart(self, step: tuple[int, int], number: int) -> Ints:
        opposite = (-step[0], -step[1])
        apart = self._at(self.values, step, number) - self._at(self.values, opposite, number)
        return np.abs(apart, out=apart)

    def _sizes(self, steps: Any, number: int) -> Ints:
        one, other = (self._pair(self.sizes, step, number) for step in steps)
        return one + other


@lru_cache(1024)  # of a few shapes: a tile's at each distance
def _window(shape: tuple[int, ...], step: tuple[int, int], number: int) -> tuple[slice, ...]:
    """Pixels of a padded plane that lie a step away from those of a pass."""
    first = [PAD + place + one for place, one in zip(PASSES[number], step, strict=True)]
    ends = [at + side - 2 * PAD - 1 for at, side in zip(first, shape, strict=True)]
    return tuple(slice(at, end, 2) for at, end in zip(first, ends, strict=True))


@lru_cache(64)
def _places(shape: tuple[int, ...], number: int) -> NDArray[np.intp]:
    """Numbers of the pixels of a pass, counted from the first that is not padding."""
    numbers = np.arange(shape[0] * shape[1]).reshape(shape)
    y, x = PASSES[number]
    return np.ascontiguousarray(numbers[y : -2 * PAD : 2, x : -2 * PAD : 2])


def _start(shape: tuple[int, ...], step: tuple[int, int]) -> int:
    """Number of the pixel that lies a step away from the first that is not padding."""
    return (PAD + step[0]) * shape[1] + PAD + step[1]


def _weighed(near: Ints, across: Ints, far: list[Ints], weights: Ints) -> Ints:
    total = near * (weights[0] - weights[2:].sum(dtype=np.int32))
    total += 256
    if weights[1]:
        total += across * weights[1]
    for pair, weight in zip(far, weights[2:], strict=True):
        if weight:
            total += pair * (2 * weight)
    total >>= 9
    return total


def _padded(plane: Ints) -> Ints:
    out = np.empty((plane.shape[0] + 2 * PAD, plane.shape[1] + 2 * PAD), np.int32)
    out[PAD:-PAD, PAD:-PAD] = plane
    _mirror(out)
    return out


def _mirror(plane: Ints) -> None:
    """Fill the padding with the mirror image about the outermost pixels: parities stay."""
    for one in (plane, plane.T):
        one[:PAD] = one[2 * PAD : PAD : -1]
        one[-PAD:] = one[-PAD - 2 : -2 * PAD - 2 : -1]


class Walk:
    """The passes over a plane of values, from coarse to fine."""

    def __init__(self, shape: tuple[int, int], used: NDArray[np.bool_] | None) -> None:
        self.values = np.zeros(shape, np.int32)
        self.sizes = np.zeros(shape, np.int32)
        self.used = used

    def passes(self) -> Iterator[tuple[Known, int, int]]:
        """Known plane, narrowed to what is coded, distance and number of the pass."""
        for distance in DISTANCES:
            here = slice(None, None, distance)
            known = Known(self.values[here, here], self.sizes[here, here])
            for number, (y, x) in enumerate(PASSES):
                at = (
                    slice(y * distance, None, 2 * distance),
                    slice(x * distance, None, 2 * distance),
                )
                known.narrow(number, None if self.used is None else self.used[at])
                yield known, distance, number
            self.values[here, here], self.sizes[here, here] = known.inside
