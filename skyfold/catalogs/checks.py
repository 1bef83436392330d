"""What a catalog's description must hold before anything is decoded by it.

A release may come from anywhere: sizes are bounded, kinds known, elements in their places, and no
column is decoded from itself by way of others.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from skyfold.catalogs.index import CatalogInfo, Column

KINDS = ("scaled", "error", "fixed", "plain", "whole", "text", "list")
MAX_CHUNK_ROWS = 2**17
MAX_ELEMENTS = 2**14
MAX_ROWS = 2**40
MAX_LIST_CHUNK_BYTES = 2**26  # of the longest list, times rows of a chunk
_DTYPE = re.compile(r"str|[<>|=]?[A-Za-z]{1,10}[0-9]{0,7}(\[[0-9]{0,9}[A-Za-zμ]{1,3}\])?")


def check_info(info: CatalogInfo) -> None:
    """What decoding relies on: sizes within bounds, kinds known, elements in their places.

    Raises
    ------
    ValueError, KeyError
        If one of these does not hold.
    """
    if not (0 < info.chunk_rows <= MAX_CHUNK_ROWS and info.rows > 0):
        raise ValueError(f"{info.rows} rows in chunks of {info.chunk_rows}")
    if not (info.rows <= MAX_ROWS and 0 < info.shard_rows <= MAX_ROWS and info.channels <= 2**16):
        raise ValueError(f"{info.rows} rows in shards of {info.shard_rows}")
    if info.shard_rows % info.chunk_rows:
        raise ValueError(f"shards of {info.shard_rows} rows in chunks of {info.chunk_rows}")
    counts = {"real": 0, "whole": 0, "text": 0, "list": 0}
    for column in info.columns:
        sort = "real" if column.is_real else column.kind
        known = _DTYPE.fullmatch(column.dtype) and (
            column.dtype == "str" or np.dtype(column.dtype).kind in "fiubMmSU"
        )
        if not known or column.elements > MAX_ELEMENTS:
            raise ValueError(f"column {column.name!r} is of type {column.dtype[:20]!r}")
        if (
            column.kind not in KINDS
            or column.first != counts[sort]
            or min(column.shape, default=1) < 1
        ):
            raise ValueError(f"column {column.name!r} of kind {column.kind!r} is out of place")
        counts[sort] += column.elements
        if column.is_real and column.native.kind != "f":
            raise ValueError(f"column {column.name!r} of type {column.dtype!r} is not of floats")
        if column.kind == "list":
            _check_list(column, info)
        _check_relation(column, info)
        _check_bounded(column, info)
    if sum(counts.values()) > MAX_ELEMENTS:
        raise ValueError(f"{sum(counts.values())} elements; {MAX_ELEMENTS} are allowed")


def _check_list(column: Column, info: CatalogInfo) -> None:
    """A list is of numbers, one a row, and a chunk of the longest ones is not too large."""
    if column.shape or column.dtype == "str" or column.native.kind not in "fiubMm":
        raise ValueError(f"column {column.name!r} holds lists of {column.dtype!r}")
    size = column.row_bytes * info.chunk_rows
    if column.width < 0 or size > MAX_LIST_CHUNK_BYTES:
        raise ValueError(f"column {column.name!r} has chunks of lists of {size} bytes")


def _check_relation(column: Column, info: CatalogInfo) -> None:
    """A column is told from others that stand by themselves, and are stored where it is read."""
    if column.relation is None:
        return
    named = {one.name: one for one in info.columns}
    for name in column.relation.columns:
        other = named[name]
        fits = other.is_real and other.relation is None and not other.is_refined
        fits &= other.elements in (1, column.elements)
        fits &= other.kind == "plain" or column.kind != "plain"
        if not (fits and column.is_real and not column.is_refined):
            raise ValueError(f"column {column.name!r} cannot be told from {name!r}")


def _check_bounded(column: Column, info: CatalogInfo) -> None:
    """Errors have none; cells are told from columns whose cells, and errors' cells, are not."""
    named = {one.name: one for one in info.columns}
    if column.partner and named[column.partner].kind not in ("error", "fixed", "plain"):
        raise ValueError(f"column {column.partner!r} cannot hold errors of {column.name!r}")
    for name in column.centre.columns if column.centre else ():
        other = named[name]
        partner = named[other.partner] if other.partner else other
        fits = other.is_real and other.centre is None and partner.centre is None
        fits &= other.elements in (1, column.elements)
        fits &= "plain" not in (column.kind, other.kind) and not column.is_position
        if not fits or not column.is_real:
            raise ValueError(f"the cells of column {column.name!r} cannot be told from {name!r}")
