"""How others store a table: bytes of the same values, and values within the same bounds.

This module knows the peers and their settings. A table here is a mapping from column name to an
array whose first axis is the row, in native byte order; text is an array of byte strings.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

from storage.catalogs.source import as_lists

Columns = Mapping[str, NDArray[Any]]
ZSTD_LEVEL = 19  # as small as it gets, short of "ultra"


def parquet(columns: Columns) -> int:
    """Bytes of a Parquet file: zstd and, by column, the smaller of dictionaries and none."""
    return len(_parquet(columns, use_dictionary=True))


def byte_stream_split(columns: Columns) -> int:
    """Bytes of a Parquet file: zstd of floats whose bytes are split into streams."""
    split = [name for name, values in columns.items() if values.dtype.kind == "f"]
    others = [name for name, values in columns.items() if values.dtype.kind != "f"]
    return len(_parquet(columns, use_dictionary=others, use_byte_stream_split=split))


def _parquet(columns: Columns, **options: Any) -> bytes:
    table = pa.table({name: arrow(values) for name, values in columns.items()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=ZSTD_LEVEL, **options)
    return sink.getvalue()


def arrow(values: NDArray[Any]) -> Any:
    """Arrow array of a column; vectors as lists of one size."""
    if values.ndim > 1:
        size = int(np.prod(values.shape[1:]))
        return pa.FixedSizeListArray.from_arrays(arrow(values.reshape(-1)), size)
    if values.dtype.kind == "S":
        return pa.array(values.tolist(), pa.binary())
    return pa.array(values)


def fits_gzip(columns: Columns) -> int:
    """Bytes of a FITS binary table, through gzip."""
    sink = io.BytesIO()
    table = Table({name: _signed(values) for name, values in columns.items()})
    fits.table_to_hdu(table).writeto(sink)
    return len(gzip.compress(sink.getvalue(), 9))


def _signed(values: NDArray[Any]) -> NDArray[Any]:
    """Lists of unsigned integers as wider signed ones: astropy writes no others."""
    if values.dtype.kind != "O" or not len(values) or values[0].dtype.kind != "u":
        return values
    return as_lists(one.astype(f"i{min(2 * one.itemsize, 8)}") for one in values)


def pcodec_columns(columns: Columns) -> int:
    """Bytes of every column by itself through pcodec; text and booleans as Parquet has them."""
    return sum(column_sizes(columns, pcodec_column).values())


def pcodec_column(values: NDArray[Any]) -> int:
    """Bytes of one column through pcodec at its highest level."""
    if values.dtype.kind not in "iuf":
        return parquet_column(values)
    if values.dtype.itemsize == 1:
        values = values.astype(f"{values.dtype.kind}2")
    flat = np.ascontiguousarray(values).reshape(-1)
    return len(standalone.simple_compress(flat, ChunkConfig(compression_level=12)))


def parquet_column(values: NDArray[Any]) -> int:
    """Bytes of one column inside a Parquet file, whose header and footer are left out."""
    sizes = []
    for split in (False, True) if values.dtype.kind == "f" else (False,):
        data = _parquet({"x": values}, use_dictionary=not split, use_byte_stream_split=split)
        about = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
        sizes.append(sum(about.column(i).total_compressed_size for i in range(about.num_columns)))
    return min(sizes)


def column_sizes(columns: Columns, size_of: Any) -> dict[str, int]:
    """Bytes of each column."""
    return {name: size_of(values) for name, values in columns.items()}


def best_of_each_column(columns: Columns) -> int:
    """Sum over columns of the smaller of Parquet and pcodec, without any header: no file has it."""
    one, other = (column_sizes(columns, size) for size in (parquet_column, pcodec_column))
    return sum(min(one[name], other[name]) for name in columns)


EXACT = {
    "Parquet zstd": parquet,
    "Parquet zstd, byte-stream split": byte_stream_split,
    "pcodec per column": pcodec_columns,
    "best of each column": best_of_each_column,
    "FITS + gzip": fits_gzip,
}


def rounded(columns: Columns, bounds: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[Any]]:
    """Columns whose last bits are zero, as many as each value's bound lets be rounded away.

    Bit rounding (Kloewer et al. 2021, Nat. Comput. Sci. 1, 713), with the bits of each value
    rather than of the column.
    """
    return {
        name: _round_bits(values, bounds[name]) if name in bounds else values
        for name, values in columns.items()
    }


def _round_bits(values: NDArray[Any], bound: NDArray[np.float64]) -> NDArray[Any]:
    """The multiple of a power of two at most twice the bound that is nearest to each value."""
    wide = values.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        step = np.exp2(np.floor(np.log2(2 * bound)))
        near = (np.rint(wide / step) * step).astype(values.dtype)
        good = np.isfinite(near) & (np.abs(near.astype(np.float64) - wide) <= bound)
    return np.where(good, near, values)
