"""The order in which rows are stored: along the sky, cut into chunks; and which may train."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.checks import MAX_LIST_CHUNK_BYTES
from skyfold.catalogs.columns import held_out
from skyfold.catalogs.index import CHUNK_ROWS, CatalogInfo
from skyfold.catalogs.positions import HEALPIX_ORDER
from storage.catalogs.scan import Scan

SHARD_BYTES = 2**25  # of raw rows: what one task holds, several times over
MAX_SHARD_CHUNKS = 64
MIN_TRAINING_ROWS = 32
NO_HOLD_OUT = -2
_HELD_CELLS = 64  # of sky, at least, so that a quarter of them is a fair part


@dataclass(frozen=True)
class RowOrder:
    """How the rows of a catalog are stored.

    Attributes
    ----------
    rows : ndarray, shape (rows,), int64
        Row of the input at each stored place.
    chunk_rows, shard_rows : int
    low, high : ndarray, shape (chunks,), int64
        Range of sky cells of each chunk; -1 without positions.
    hold_out : int
        HEALPix order of the cells that are held out, or -1 for rows, or `NO_HOLD_OUT`.
    training : ndarray, shape (sampled rows,), bool
        Sampled rows that may train.
    """

    rows: NDArray[np.int64]
    chunk_rows: int
    shard_rows: int
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    hold_out: int
    training: NDArray[np.bool_]


def order_rows(info: CatalogInfo, scan: Scan, kept: NDArray[np.int64]) -> RowOrder:
    """Rows that are kept, cut into chunks along the sky, each chunk in the order of the input."""
    keys = scan.keys if len(kept) == len(scan.keys) else scan.keys[kept]
    rows = np.argsort(keys, kind="stable") if scan.positions else np.arange(len(kept))
    chunk, shard = _sizes(info, len(kept))
    low, high = np.empty((2, -(-len(kept) // chunk)), np.int64)
    for number, start in enumerate(range(0, len(kept), chunk)):
        part = rows[start : start + chunk]  # of rows that are kept; in place of them, of the input
        low[number], high[number] = keys[part].min(), keys[part].max()
        part[:] = np.sort(kept[part])
    return RowOrder(rows, chunk, shard, low, high, *_hold_out(scan, kept, info.seed))


def _sizes(info: CatalogInfo, rows: int) -> tuple[int, int]:
    """Rows of a chunk and of a shard."""
    lists = [column.row_bytes for column in info.columns if column.kind == "list"]
    chunk = min(CHUNK_ROWS, rows, MAX_LIST_CHUNK_BYTES // max(lists, default=1))
    row_bytes = sum(column.row_bytes for column in info.columns)
    chunks = int(np.clip(SHARD_BYTES // max(row_bytes * chunk, 1), 1, MAX_SHARD_CHUNKS))
    return chunk, chunk * min(chunks, -(-rows // chunk))


def _hold_out(scan: Scan, kept: NDArray[np.int64], seed: int) -> tuple[int, NDArray[np.bool_]]:
    """HEALPix order of the cells that are held out, and which sampled rows may train."""
    place = np.searchsorted(kept, scan.chosen)
    inside = kept[np.minimum(place, len(kept) - 1)] == scan.chosen
    keys = scan.keys[scan.chosen]
    order = -1
    if scan.positions:
        for order in range(2, 20):
            if len(np.unique(keys >> 2 * (HEALPIX_ORDER - order))) >= _HELD_CELLS:
                break
    deciding = scan.chosen if order < 0 else keys >> 2 * (HEALPIX_ORDER - order)
    training = inside & ~held_out(deciding, seed)
    if training.sum() < MIN_TRAINING_ROWS:
        return NO_HOLD_OUT, inside
    return order, training
