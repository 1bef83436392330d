"""Where contexts of `skyfold.interlaced` part, and the table of each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs import interlaced_kernels as kernels
from skyfold.codecs.interlaced_plan import Ints, Plan
from skyfold.codecs.tables import (
    DIRECT,
    LENGTHS,
    SCALES,
    SHAPES,
    SYMBOLS,
    get_table,
    scale_of,
    split,
)
from skyfold.compiled import can_compile

CONTEXTS = 12
FEW_CONTEXTS = 8  # of fewer residuals than these: each context's table takes four bytes
MANY = 2**14
MIN_SPREAD = 1.2  # of most doubts, largest to smallest: below it one context will do
SAMPLE = 4096  # pixels that a few numbers are fitted to: they need no more
_GAUSSIAN = 6  # shape from which the search starts
_STEPS = ((-4, 0), (4, 0), (-1, 0), (1, 0), (0, -2), (0, 2), (0, -1), (0, 1), (-2, -1), (2, 1))

Passes = list[tuple[Ints, Ints]]


def quantiles(values: NDArray[Any], *shares: float) -> list[float]:
    """Quantiles of a few values: numpy's take longer to begin than to sort."""
    ordered = np.sort(values)
    return [float(ordered[int(share * (len(ordered) - 1))]) for share in shares]


def with_tables(draft: Plan, passes: Passes) -> Plan:
    """Plan with the contexts and tables that code residuals in the fewest bits.

    Parameters
    ----------
    draft : Plan
        With weights, and no tables yet.
    passes : list of (doubts, residuals)
        Of the pixels coded in each pass, the coarsest first.
    """
    doubts = np.concatenate([one for one, _ in passes[1:]])
    residuals = np.concatenate([one for _, one in passes[1:]])
    thresholds = _thresholds(doubts)
    plan = Plan(draft.offset, thresholds, (), draft.weights)
    contexts = plan.contexts(doubts)
    counts = np.bincount(contexts, minlength=len(thresholds) + 1)
    parts = np.split(residuals[np.argsort(contexts, kind="stable")], np.cumsum(counts)[:-1])
    tables = tuple(_fit_table(part) for part in [*parts, passes[0][1]])
    return Plan(draft.offset, thresholds, tables, draft.weights)


def _thresholds(doubts: Ints) -> Ints:
    """Cuts at even ratios of what most doubts are."""
    if not doubts.size:
        return np.empty(0, np.int32)
    low, high = quantiles(doubts[:: max(doubts.size // SAMPLE, 1) | 1], 0.02, 0.98)
    low = max(low, 1.0)
    if high <= MIN_SPREAD * low:
        return np.empty(0, np.int32)
    count = CONTEXTS if doubts.size >= MANY else FEW_CONTEXTS
    return np.unique(np.rint(np.geomspace(low, high, count - 1))).astype(np.int32)


def _fit_table(residuals: Ints) -> tuple[int, int]:
    """Scale and shape of the table that codes residuals in the fewest bits."""
    if not residuals.size:
        return 0, 0
    typical = 1.25 * float(np.abs(residuals).mean()) + 0.15
    guess = next((n for n in range(SCALES) if scale_of(n) >= typical), SCALES - 1)
    counts: dict[int, NDArray[np.float64]] = {}

    @cache
    def cost(scale: int, shape: int) -> float:
        table = get_table(scale, shape)
        if table.shift not in counts:
            counts[table.shift] = _symbol_counts(residuals, table.shift)
        return float(counts[table.shift] @ table.cost)

    return _descend(cost, (guess, _GAUSSIAN))


def _symbol_counts(residuals: Ints, shift: int) -> NDArray[np.float64]:
    """How often each symbol occurs."""
    if can_compile():
        return kernels.symbol_counts(residuals, shift, DIRECT, LENGTHS, SYMBOLS)
    symbols = split(residuals, shift)[0]
    return np.bincount(symbols, minlength=SYMBOLS).astype(np.float64)


def _descend(cost: Callable[[int, int], float], start: tuple[int, int]) -> tuple[int, int]:
    """Scale and shape to which no step makes the cost less."""
    best, least = start, cost(*start)
    improved = True
    while improved:
        improved = False
        for scale, shape in _STEPS:
            one = best[0] + scale, best[1] + shape
            if 0 <= one[0] < SCALES and 0 <= one[1] < SHAPES and (met := cost(*one)) < least:
                best, least, improved = one, met, True
    return best
