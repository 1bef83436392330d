"""The index of a catalog's chunks: where on the sky each lies, and between which values."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.access.parquet import read_columns
from skyfold.access.trust import reading
from skyfold.errors import CorruptDataError

if TYPE_CHECKING:
    from skyfold.catalogs.index import CatalogInfo


@dataclass(frozen=True)
class Chunks:
    """The index of a catalog's chunks.

    Attributes
    ----------
    low, high : ndarray, shape (chunks,), int64
        Lowest and highest HEALPix cell of order 29, nested; -1 without positions.
    least, most : ndarray, shape (chunks, elements), float64
        Of each real, then each whole element, exact values that are not missing; NaN without any.
    cells : ndarray, shape (chunks, cells of the map), bool
        Whether a cell of the map has rows there.
    """

    low: np.ndarray[Any, Any]
    high: np.ndarray[Any, Any]
    least: np.ndarray[Any, Any]
    most: np.ndarray[Any, Any]
    cells: np.ndarray[Any, Any]

    def to_parquet(self) -> bytes:
        """The index as Parquet; the same index always gives the same bytes."""
        import pyarrow as pa  # the writing side has it; readers need it not
        import pyarrow.parquet as pq

        def rows_of(values: np.ndarray[Any, Any]) -> Any:
            return pa.array(list(values), pa.list_(pa.float64()))

        table = pa.table(
            {
                "healpix_low": self.low,
                "healpix_high": self.high,
                "least": rows_of(self.least),
                "most": rows_of(self.most),
                "cells": [np.packbits(row).tobytes() for row in self.cells],
            }
        )
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes, info: CatalogInfo, key: str) -> Chunks:
        """Inverse of `to_parquet`; CorruptDataError if it is not the index of this catalog."""
        count = int(np.prod(info.som.get("shape", (0,))))
        with reading(key, "an index of chunks"):
            columns = read_columns(data)
            bits = [np.frombuffer(one, np.uint8) for one in columns["cells"]]
            chunks = cls(
                np.array(columns["healpix_low"], np.int64),
                np.array(columns["healpix_high"], np.int64),
                np.array(columns["least"], float).reshape(len(bits), -1),
                np.array(columns["most"], float).reshape(len(bits), -1),
                np.array([np.unpackbits(one, count=count) for one in bits], bool),
            )
        if len(chunks.low) != info.chunks:
            raise CorruptDataError(f"{key} lists {len(chunks.low)} chunks; there are {info.chunks}")
        return chunks
