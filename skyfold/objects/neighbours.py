"""Nearest neighbours by exact search, block by block, in bounded memory.

Vectors of at most 16 whole numbers within 127 have squared distances below 2**24, so single
precision holds them exactly and the same query always gives the same neighbours. At the million
objects of a survey's release, reading every vector costs less than an index would: 16 bytes each.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "nearest"]

BLOCK = 2**16  # vectors that are in single precision at once


def nearest(
    query: NDArray[np.int8], blocks: Iterable[NDArray[np.int8]], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers and distances of the vectors nearest to one, nearest first.

    Parameters
    ----------
    query : ndarray, shape (d,), int8
    blocks : iterable of ndarray, shape (m, d), int8
        All vectors, in order of their numbers from 0, some at a time.
    count : int
        How many, at most.

    Returns
    -------
    numbers : ndarray, shape (k,), int64
        Equal distances in order of their numbers.
    distances : ndarray, shape (k,), float64
        Euclidean.
    """
    kept = np.empty(0, np.int64)
    square = np.empty(0, np.float32)
    first = 0
    for block in blocks:
        found = _squares(block, query)
        near = (
            np.flatnonzero(found <= square[-1]) if len(square) == count else _lowest(found, count)
        )
        kept = np.concatenate([kept, near + first])
        square = np.concatenate([square, found[near]])
        order = np.lexsort((kept, square))[:count]
        kept, square = kept[order], square[order]
        first += len(block)
    return kept, np.sqrt(square.astype(np.float64))


def _squares(block: NDArray[np.int8], query: NDArray[np.int8]) -> NDArray[np.float32]:
    """Squared distance of each vector of a block, exact."""
    out = np.empty(len(block), np.float32)
    for start in range(0, len(block), BLOCK):
        apart = block[start : start + BLOCK].astype(np.float32)
        apart -= query.astype(np.float32)
        np.einsum("ij,ij->i", apart, apart, out=out[start : start + len(apart)])
    return out


def _lowest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Places of the lowest values, ties with the last of them included."""
    if len(values) <= count:
        return np.arange(len(values))
    limit = np.partition(values, count - 1)[count - 1]
    return np.flatnonzero(values <= limit)
