"""What the writer of `skyfold.kept` chooses: where contexts part, and their tables.

Costs of tables are sums over symbols, so that those of every run of contexts follow from counts.
"""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.coded import Ints
from skyfold.codecs.kept import DEEPEST, STEPS, Bits, Plan, steps_of
from skyfold.codecs.tables import SHAPES, SYMBOLS, get_table, split

_SCALES = 48  # of tables that leave off no bits
_PRICE = 16.0  # bits that a context's table takes
_MIDDLE = 6  # units that half of the doubts are below

Counts: TypeAlias = NDArray[np.float64]


def fit_kept(by_depth: tuple[Bits, Ints], by_doubt: tuple[Ints, Ints]) -> Plan:
    """Plan of some integers.

    Parameters
    ----------
    by_depth : (depths, integers)
        Of upper left pixels, shape (n,).
    by_doubt : (doubts, integers)
        Of all others, shape (m,).
    """
    doubts, rest = by_doubt
    unit = int(np.clip(np.rint(np.median(doubts) / _MIDDLE), 1, 255))
    first, tables = _part(_counts(*by_depth, DEEPEST + 1))
    second, more = _part(_counts(steps_of(doubts, unit), rest, len(STEPS) + 1))
    return Plan(unit, first, second, (*tables, *more))


def _counts(classes: Bits, integers: Ints, count: int) -> Counts:
    """How often each symbol occurs in each class, shape (count, SYMBOLS)."""
    numbers = classes.astype(np.intp) * SYMBOLS + split(integers, 0)[0]
    return np.bincount(numbers, minlength=count * SYMBOLS).reshape(count, -1).astype(np.float64)


def _part(counts: Counts) -> tuple[int, list[tuple[int, int]]]:
    """Where neighbouring classes part so that bits are fewest, and the tables of the parts."""
    below = np.zeros((len(counts) + 1, len(_costs())))
    np.cumsum(counts @ _costs().T, axis=0, out=below[1:])
    least, choice = [0.0], [(0, 0)]  # of the classes up to each: bits, last part's start and table
    for end in range(1, len(below)):
        parts = below[end] - below[:end]
        tables = parts.argmin(axis=1)
        bits = parts[np.arange(end), tables] + np.array(least) + _PRICE
        start = int(bits.argmin())
        least.append(float(bits[start]))
        choice.append((start, int(tables[start])))
    end, parted, pairs = len(counts), 0, []
    while end:
        end, table = choice[end]
        pairs.append(divmod(table, SHAPES))
        parted |= (1 << end) >> 1
    return parted, pairs[::-1]


@cache
def _costs() -> NDArray[np.float64]:
    """Bits of each symbol by each table, shape (tables, SYMBOLS)."""
    return np.stack([get_table(*divmod(n, SHAPES)).cost for n in range(_SCALES * SHAPES)])
