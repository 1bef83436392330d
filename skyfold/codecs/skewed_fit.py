"""What the writer of `skyfold.skewed` chooses: which tables have two sides, and which these are."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.coded import Ints
from skyfold.codecs.interlaced_plan import Plan
from skyfold.codecs.tables import (
    SCALES,
    SHAPES,
    SYMBOLS,
    plain_bits,
    shift_of,
    sides,
    split,
    table_of,
    weights_of,
)

MIN_SKEW = 1.2  # ratio of mean sizes on both sides below which one table does nearly as well
MOST_ALIKE = 1.3  # the same of all residuals, below which no table is worth the reader's time
_REACH = 24  # steps of scale around that of both sides
_MIN_SIDE = 16  # residuals of a side

Passes = list[tuple[Ints, Ints]]


def with_sides(plan: Plan, passes: Passes) -> Plan | None:
    """Plan whose tables have two sides where that takes fewer bits; None if that is nowhere.

    Parameters
    ----------
    plan : Plan
    passes : list of (doubts, residuals)
        As `fit_plane` gives both.
    """
    residuals = np.concatenate([one for _, one in passes[1:]])
    if _skew(residuals) < MOST_ALIKE:
        return None
    contexts = plan.contexts(np.concatenate([one for one, _ in passes[1:]]))
    ordered = residuals[np.argsort(contexts, kind="stable")]
    ends = np.cumsum(np.bincount(contexts, minlength=len(plan.tables) - 1))[:-1]
    parts = [*np.split(ordered, ends), passes[0][1]]
    tables = tuple(_sided(*both) for both in zip(plan.tables, parts, strict=True))
    return replace(plan, tables=tables) if tables != plan.tables else None


def _sided(pair: tuple[int, ...], residuals: Ints) -> tuple[int, ...]:
    """Table of a context, with two sides if these differ and it pays."""
    if _skew(residuals) < MIN_SKEW:
        return pair
    share = min(256 * int(np.count_nonzero(residuals >= 0)) // len(residuals), 255)
    found = [pair, *_candidates(pair[0], residuals, share)]
    return min(found, key=lambda one: _bits(residuals, one))


def _skew(residuals: Ints) -> float:
    """Ratio of the mean sizes on both sides, the larger over the smaller; 1 of few."""
    below = residuals < 0
    if not _MIN_SIDE <= int(np.count_nonzero(below)) <= len(residuals) - _MIN_SIDE:
        return 1.0
    sizes = [float(np.abs(residuals[one]).mean()) + 0.5 for one in (below, ~below)]
    return max(sizes) / min(sizes)


def _candidates(scale: int, residuals: Ints, share: int) -> list[tuple[int, ...]]:
    """The best table of either side for each number of bits left off that is likely."""
    found = []
    for shift in range(max(shift_of(scale) - 2, 0), shift_of(scale) + 1):
        counts = np.bincount(split(residuals, shift)[0], minlength=SYMBOLS).astype(np.float64)
        names, costs = _side_costs(shift, max(scale - _REACH, 0))
        below, rest = (
            names[int((cost @ counts[its]).argmin())]
            for cost, its in zip(costs, sides(), strict=True)
        )
        if shift_of(min(below[0], rest[0])) == shift:
            found.append((*below, *rest, share))
    return [one for one in found if one[2:] != (0, 0, 0)]


@lru_cache(64)
def _side_costs(
    shift: int, first: int
) -> tuple[list[tuple[int, int]], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Scales and shapes from a scale on, and the bits of the symbols of either side by each."""
    least = 8 * (shift + 5) if shift else 0
    scales = range(max(first, least), min(max(first, least) + 2 * _REACH, SCALES), 2)
    names = [(scale, shape) for scale in scales for shape in range(SHAPES)]
    weights = np.stack([weights_of(*name, shift) for name in names])
    below, rest = (_bits_of(weights[:, its]) + plain_bits()[its] for its in sides())
    return names, (below, rest)


def _bits_of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    probable = weights / weights.sum(axis=1, keepdims=True)
    return -np.log2(np.maximum(probable, 2.0**-23))


def _bits(residuals: Ints, name: tuple[int, ...]) -> float:
    """Bits of residuals by a table."""
    table = table_of(name)
    return float(table.cost[split(residuals, table.shift)[0]].sum())
