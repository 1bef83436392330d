"""A mask of leaves of 2 x 2 pixels, told from squares of 16 pixels down to the leaves.

Each step halves the squares that hold a leaf. Of their quarters, all upper left ones are told
first, then all lower right ones, upper right ones and lower left ones, each by what is known
around it: the squares beside its own, and quarters told before. A sum of that names one of 512
frozen probabilities; `STYLES` has several sets of these, since masks of single leaves and of large
sources are unlike, and a mask names its own. A last quarter is not told where the other three hold
nothing.

What is told, in C order of the squares, are symbols 0 and 1 of a range coder's stream: first
whether each square of 16 holds a leaf, with probability (s + 1/2) / 256 for all, then the quarters,
with (t + 1/2) / 256 where t is the entry of the style. With U the squares, A, D, B the quarters
told before, and N, S, E, W, and two of these, for the square that lies there (nothing lies beyond
the edge)::

    A  upper left         U_N + 2 U_W + 4 U_NW + 8 U_S + 16 U_E + 32 (U_NE + U_SW)
    D  lower right   96 + A + 2 A_E + 4 A_S + 8 A_SE + 16 (U_N + U_W) + 48 U_E + 96 U_S
    B  upper right  288 + A + 2 A_E + 4 D + 8 D_N
                        + 16 (A_N + A_NE + A_S + A_SE + D_W + D_E + D_NW + D_NE)
    C  lower left   432 + A + 2 A_S + 4 D + 8 D_W + 16 (B + B_W + B_S + B_SW)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.leaf_styles import STYLES
from skyfold.codecs.words import decode_booleans, encode_booleans

ROOT = 16  # pixels
_DEPTH = 3
_ONE = 1 << 24  # a range coder's probability of 1
_FAMILY = constriction.stream.model.Categorical(perfect=False)
_FIRST = (0, 96, 288, 432)  # entry of a style from which those of each quarter follow
_TOLD = ((0, 0), (1, 1), (0, 1), (1, 0))  # row and column of A, D, B, C

Mask = NDArray[np.bool_]
Bits = NDArray[np.uint8]
# Of the quarters asked for: which they are, a boolean plane of their squares, entries of the style.
Tell = Callable[[int, Mask, NDArray[np.intp]], Any]


def encode_leaves(coder: Any, leaves: Mask) -> tuple[int, int]:
    """Tell a mask to a range coder.

    Parameters
    ----------
    coder : constriction RangeEncoder
    leaves : ndarray of bool, shape (ny / 2, nx / 2)
        Sides multiples of 8.

    Returns
    -------
    share, style : int
        What a reader has to know beside the words.
    """
    levels = [leaves]
    for _ in range(_DEPTH):
        rows = levels[-1][::2] | levels[-1][1::2]
        levels.append(rows[:, ::2] | rows[:, 1::2])
    told: list[tuple[Bits, NDArray[np.intp]]] = []
    for used, quarters in zip(levels[:0:-1], levels[-2::-1], strict=True):
        _walk(used.view(np.uint8), _as_they_are(quarters.view(np.uint8), told))
    bits = np.concatenate([some for some, _ in told])
    entries = np.concatenate([some for _, some in told])
    share = encode_booleans(coder, levels[-1])
    style = int(np.argmin([cost[bits, entries].sum() for cost in _costs()]))
    coder.encode(bits.astype(np.int32), _FAMILY, _models(style)[entries])
    return share, style


def decode_leaves(coder: Any, shape: tuple[int, int], share: int, style: int) -> Mask:
    """Mask of the leaves of a plane of ny x nx pixels, from a range decoder."""
    models = _models(style)

    def decoded(_: int, __: Mask, entries: NDArray[np.intp]) -> Any:
        return coder.decode(_FAMILY, models[entries])

    squares = (shape[0] // ROOT, shape[1] // ROOT)
    used = decode_booleans(coder, squares, share).astype(np.uint8)
    for _ in range(_DEPTH):
        used = _walk(used, decoded)
    return used.view(np.bool_)


def _as_they_are(quarters: Bits, told: list[tuple[Bits, NDArray[np.intp]]]) -> Tell:
    """Tells what quarters are, and notes it."""

    def tell(number: int, asked: Mask, entries: NDArray[np.intp]) -> Bits:
        y, x = _TOLD[number]
        bits = quarters[y::2, x::2][asked]
        told.append((bits, entries))
        return bits

    return tell


def _walk(used: Bits, tell: Tell) -> Bits:
    """Quarters of the squares that are used, as they are told."""
    around = _Around(used)
    quarters = np.zeros((2 * used.shape[0], 2 * used.shape[1]), np.uint8)
    known: list[_Around] = []
    for number, (y, x) in enumerate(_TOLD):
        entries = _ENTRIES[number](around, *known)
        asked, plane = used.view(np.bool_), np.zeros_like(used)
        if number == len(_TOLD) - 1:
            others = known[0].here | known[1].here | known[2].here
            plane, asked = used & ~others, asked & others.view(np.bool_)
        plane[asked] = tell(number, asked, entries[asked] + np.intp(_FIRST[number]))
        quarters[y::2, x::2] = plane
        known.append(_Around(plane))
    return quarters


class _Around:
    """A plane of bits, and what lies a step away from each."""

    def __init__(self, plane: Bits) -> None:
        self.here = plane
        self._framed = np.zeros((plane.shape[0] + 2, plane.shape[1] + 2), np.uint8)
        self._framed[1:-1, 1:-1] = plane

    def __getitem__(self, place: str) -> Bits:
        dy, dx = ("S" in place) - ("N" in place), ("E" in place) - ("W" in place)
        ny, nx = self.here.shape
        return self._framed[1 + dy : 1 + dy + ny, 1 + dx : 1 + dx + nx]


def _upper_left(u: _Around) -> Bits:
    near = u["N"] + 2 * u["W"] + 4 * u["NW"] + 8 * u["S"] + 16 * u["E"]
    return near + 32 * (u["NE"] + u["SW"])


def _lower_right(u: _Around, a: _Around) -> Bits:
    near = a.here + 2 * a["E"] + 4 * a["S"] + 8 * a["SE"]
    return near + 16 * (u["N"] + u["W"]) + 48 * u["E"] + 96 * u["S"]


def _upper_right(_: _Around, a: _Around, d: _Around) -> Bits:
    near = a.here + 2 * a["E"] + 4 * d.here + 8 * d["N"]
    far = a["N"] + a["NE"] + a["S"] + a["SE"] + d["W"] + d["E"] + d["NW"] + d["NE"]
    return near + 16 * far


def _lower_left(_: _Around, a: _Around, d: _Around, b: _Around) -> Bits:
    near = a.here + 2 * a["S"] + 4 * d.here + 8 * d["W"]
    return near + 16 * (b.here + b["W"] + b["S"] + b["SW"])


_ENTRIES: tuple[Callable[..., Bits], ...] = (_upper_left, _lower_right, _upper_right, _lower_left)


@cache
def _models(style: int) -> NDArray[np.float64]:
    return _probabilities(np.frombuffer(STYLES[style], np.uint8).astype(np.intp))


@cache
def _costs() -> list[NDArray[np.float64]]:
    """For each style, the bits of a 0 and of a 1 at each entry."""
    return [24 - np.log2(_models(style).T + 1) for style in range(len(STYLES))]


def _probabilities(numbers: NDArray[np.intp]) -> NDArray[np.float64]:
    """Exact models of a 1 with probability (number + 1/2) / 256: constriction adds 1 to each."""
    ones = (2 * numbers + 1) * (_ONE // 512)
    return np.stack([_ONE - ones, ones], axis=1).astype(np.float64) - 1
