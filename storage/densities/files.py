"""Probability densities in one file: where its values and its grid are, read a run at a time.

Knows ``.npy`` arrays (the grid in another file, or as the last row), HDF5 data sets, vector columns
and images of FITS, columns of Parquet, and what the library qp writes as HDF5 (values, bins,
mixtures of Gaussians, quantiles), read without it, and by it where it is another kind. Rows may
hold samples or quantiles instead of values. Arrays and data sets are read run by run and
never as a whole, local or remote.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import InputError, SkyfoldError
from storage.config import is_url
from storage.images.fetching import store_failures
from storage.images.fits_input import FitsInput

if TYPE_CHECKING:
    from storage.config import DensitiesConfig, SurveyConfig

Read = Callable[[int, int], NDArray[Any]]
Convert = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
_LAST_ROW = "last-row"
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Part:
    """Rows of one file.

    Attributes
    ----------
    file : str
        As the survey's glob found it.
    rows : int
    dtype : numpy.dtype
        Of the stored values, native byte order.
    grid : ndarray, shape (points,), float64
    read : callable
        Gives rows from start to stop, shape (stop - start, points).
    """

    file: str
    rows: int
    dtype: np.dtype[Any]
    grid: NDArray[np.float64]
    read: Read


def open_part(config: SurveyConfig, densities: DensitiesConfig, file: str) -> Part:
    """Rows of one file.

    Raises
    ------
    InputError
        If it holds no densities, or its grid cannot be found.
    """
    source = _Source(config, file, densities.grid, densities.key)
    source.convert = converter(densities)
    magic = source.magic()
    try:
        if magic.startswith(b"\x93NUMPY"):
            return _npy_part(source)
        if magic == _HDF5:
            return _hdf_part(source)
        if magic.startswith(b"PAR1"):
            return _parquet_part(source)
        return _fits_part(source)
    except SkyfoldError:
        raise
    except Exception as error:  # h5py, numpy and pyarrow have trees of their own
        raise InputError(
            f"{file}: no densities can be read from it ({type(error).__name__}: {error}); fetch it "
            "again, or correct its grid and key in the configuration"
        ) from error


class _Source:
    """One file, and what the configuration says of it."""

    def __init__(self, config: SurveyConfig, file: str, grid: Any, key: str | None) -> None:
        self.config = config
        self.file = file
        self.url = config.resolve(file)
        self.grid = grid
        self.key = key
        self.convert: Convert | None = None

    @contextmanager
    def stream(self) -> Iterator[Any]:
        """Readable, seekable stream of the file."""
        import fsspec

        with store_failures(self.url):
            options = self.config.storage.options if is_url(self.url) else {}
            file = fsspec.open(self.url, "rb", **options).open()
        with file:
            yield file

    def magic(self) -> bytes:
        with self.stream() as file:
            return bytes(file.read(8))

    def outer_grid(self, inside: Callable[[str], Any] | None = None) -> NDArray[np.float64]:
        """The grid, where it is not the last row; `inside` looks a name up in the file itself."""
        if not isinstance(self.grid, str):
            return np.linspace(*self.grid)
        found = inside(self.grid) if inside else None
        if found is None:
            url = self.config.resolve(self.grid)
            if not is_url(url) and not os.path.isfile(url):
                raise InputError(
                    f"{self.file}: its grid {self.grid!r} is neither a file nor a name in it; give "
                    "a .npy file, 'last-row', a name, or [start, stop, n]"
                )
            with _Source(self.config, self.grid, None, None).stream() as file:
                found = np.load(file, allow_pickle=False)
        return np.asarray(found, np.float64).ravel()


def _part(source: _Source, rows: int, dtype: np.dtype[Any], read: Read, inside: Any = None) -> Part:
    """Part of a table of rows, whose last one may be the grid."""
    native = dtype.newbyteorder("=")

    def read_native(start: int, stop: int) -> NDArray[Any]:
        return read(start, stop).astype(native, copy=False)

    if source.convert is not None:
        return _converted(source, source.convert, rows, read, inside)
    if source.grid != _LAST_ROW:
        grid = source.outer_grid(inside)
    elif rows < 2:
        raise InputError(f"{source.file}: {rows} rows, of which the last is the grid; none is left")
    else:
        rows -= 1
        grid = read_native(rows, rows + 1)[0].astype(np.float64)
    if rows and read(0, 1).shape[1:] != (len(grid),):
        raise InputError(
            f"{source.file}: rows have {read(0, 1).shape[1:]} values and the grid {len(grid)}; "
            "correct `grid` or `key` in the configuration"
        )
    return Part(source.file, rows, native, grid, read_native)


def _converted(source: _Source, convert: Convert, rows: int, read: Read, inside: Any) -> Part:
    """Part of rows that hold no values on the grid, and become some."""
    grid = source.outer_grid(inside)

    def read_converted(start: int, stop: int) -> NDArray[np.float64]:
        return convert(read(start, stop).astype(np.float64), grid)

    return Part(source.file, rows, np.dtype(np.float64), grid, read_converted)


def converter(densities: DensitiesConfig) -> Convert | None:
    """What makes densities of the rows of a file; None if they hold values on the grid."""
    if densities.samples:
        return from_samples
    if densities.quantiles:
        levels = np.array(densities.quantiles)

        def convert(rows: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
            if rows.shape[1] != len(levels):
                raise InputError(
                    f"densities {densities.name!r}: rows hold {rows.shape[1]} values and "
                    f"`quantiles` names {len(levels)}; correct one of them"
                )
            return from_quantiles(rows, levels, grid)

        return convert
    return None


# --- kinds of files --------------------------------------------------------------------------


def _npy_part(source: _Source) -> Part:
    with source.stream() as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(file)
        offset = file.tell()
        size = file.seek(0, os.SEEK_END) - offset
    if len(shape) != 2 or dtype.hasobject:
        raise InputError(f"{source.file}: {dtype} of shape {shape}; densities are rows x grid")
    if size < shape[0] * shape[1] * dtype.itemsize:
        raise InputError(f"{source.file}: truncated: {size} bytes for {shape} of {dtype}")
    if fortran:
        with source.stream() as file:
            return _array_part(source, np.load(file, allow_pickle=False))
    each = shape[1] * dtype.itemsize

    def read(start: int, stop: int) -> NDArray[Any]:
        with source.stream() as file:
            file.seek(offset + start * each)
            data = file.read((stop - start) * each)
        return np.frombuffer(data, dtype).reshape(-1, shape[1])

    return _part(source, shape[0], dtype, read)


def _array_part(source: _Source, values: NDArray[Any], inside: Any = None) -> Part:
    if values.ndim != 2:
        raise InputError(f"{source.file}: an array of shape {values.shape}; rows x grid is needed")
    return _part(source, len(values), values.dtype, lambda a, b: values[a:b], inside)


def _parquet_part(source: _Source) -> Part:
    import pyarrow.parquet as pq

    with source.stream() as file:
        table = pq.read_table(file, columns=[source.key] if source.key else None)
    lists = [name for name in table.column_names if "list" in str(table.schema.field(name).type)]
    if not lists:
        raise InputError(f"{source.file}: no column of lists among {table.column_names}; give key")
    return _array_part(source, np.stack(table[lists[0]].to_numpy(zero_copy_only=False)))


def _fits_part(source: _Source) -> Part:
    """An image of two axes, or the vector column of a table; `key` names HDU or column."""
    from astropy.io import fits

    file = FitsInput.read(source.url, source.config.storage.options)
    hdus = file.hdus

    def find(name: str | None) -> Any:
        for hdu in hdus:
            if isinstance(hdu, fits.BinTableHDU):
                for column in hdu.columns:
                    values = hdu.data[column.name]
                    if name in (column.name, hdu.name) or (name is None and values.ndim == 2):
                        return values
            elif hdu.data is not None and (
                hdu.name == name or (name is None and hdu.data.ndim == 2)
            ):
                return hdu.data
        return None

    values = find(source.key)
    if values is None:
        raise InputError(
            f"{source.file}: no {source.key or 'vector column or image'} in it; give key"
        )
    return _array_part(source, np.asarray(values), find)


def _hdf_part(source: _Source) -> Part:
    import h5py

    with source.stream() as stream, h5py.File(stream) as file:
        tables: list[str] = []
        file.visititems(lambda name, item: tables.append(name) if _is_table(item) else None)
        key = source.key or _qp_values(file)
        if key is None and _has(file, "data", "means", "stds", "weights"):
            return _array_part(source, _mixtures(file, source.outer_grid()))
        if key is None and _has(file, "data", "locs") and _has(file, "meta", "quants"):
            levels = np.asarray(file["meta"]["quants"][...]).ravel()
            rows = np.asarray(file["data"]["locs"][...])
            return _array_part(source, from_quantiles(rows, levels, source.outer_grid()))
        if key is None and source.convert is None and _has(file, "meta", "pdf_name"):
            return _qp_part(source)
        if key is None and len(tables) == 1:
            key = tables[0]
        if key is None or key not in file or not _is_table(file[key]):
            raise InputError(
                f"{source.file}: no data set {key!r} of two axes; there are {', '.join(tables)}: "
                "give one of them as key"
            )
        shape, dtype = file[key].shape, file[key].dtype

        def inside(name: str) -> Any:
            return file[name][...] if name in file else None

        def read(start: int, stop: int) -> NDArray[Any]:
            with source.stream() as again, h5py.File(again) as data:
                return np.asarray(data[key][start:stop])

        return _part(source, shape[0], dtype, read, inside)


def _is_table(item: Any) -> bool:
    return hasattr(item, "dtype") and len(item.shape) == 2


def _has(file: Any, group: str, *names: str) -> bool:
    return group in file and all(name in file[group] for name in names)


def _qp_values(file: Any) -> str | None:
    """Data set of a qp ensemble that holds values on a grid, or probabilities of bins."""
    names = [name for name in ("yvals", "pdfs") if _has(file, "data", name)]
    return f"data/{names[0]}" if names else None


def _mixtures(file: Any, grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mixtures of Gaussians on the grid; not finite where a width is not positive."""
    means, widths, weights = (file["data"][name][...] for name in ("means", "stds", "weights"))
    out = np.zeros((len(means), len(grid)))
    with np.errstate(divide="ignore", invalid="ignore"):
        for mean, width, weight in zip(means.T, widths.T, weights.T, strict=True):
            away = (grid - mean[:, np.newaxis]) / width[:, np.newaxis]
            height = weight / (np.where(width > 0, width, np.nan) * np.sqrt(2 * np.pi))
            out += height[:, np.newaxis] * np.exp(-(away**2) / 2)
    return out


def _qp_part(source: _Source) -> Part:
    """An ensemble of another kind, evaluated on the grid by the library qp."""
    try:
        import qp
    except ImportError as error:
        raise InputError(
            f"{source.file}: a qp ensemble of a kind that only the library qp reads, which is not "
            "installed: run `pip install qp-prob`, or write values on a grid"
        ) from error
    grid = source.outer_grid()
    with tempfile.TemporaryDirectory() as folder, source.stream() as stream:
        path = os.path.join(folder, "ensemble.hdf5")
        with open(path, "wb") as copy:
            shutil.copyfileobj(stream, copy)
        ensemble = qp.read(path)
    return _array_part(source, np.asarray(ensemble.pdf(grid), np.float64))


def from_quantiles(
    rows: NDArray[np.float64], levels: NDArray[np.float64], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Densities on a grid that have the quantiles of each row, constant between two of them.

    Parameters
    ----------
    rows : ndarray, shape (n, quantiles), float64
        Rising along a row; NaN where a row is no density.
    levels : ndarray, shape (quantiles,), float64
        Of the quantiles, rising between 0 and 1.
    grid : ndarray, shape (points,), float64
    """
    edges = _edges(grid)
    cumulated = np.array([np.interp(edges, row, levels, left=0.0, right=1.0) for row in rows])
    cumulated[~(np.diff(rows, axis=1) >= 0).all(axis=1)] = np.nan
    return np.asarray(np.diff(cumulated, axis=1) / np.diff(edges))


def from_samples(rows: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Densities on a grid from samples of each row: the share that is nearest to each point.

    Parameters
    ----------
    rows : ndarray, shape (n, samples), float64
        NaN counts for nothing, and neither does what lies beyond the outer points' bins.
    grid : ndarray, shape (points,), float64
    """
    edges = _edges(grid)
    place = np.searchsorted(edges, rows, side="right") - 1
    place[~((rows >= edges[0]) & (rows < edges[-1]))] = len(grid)
    number = np.arange(len(rows))[:, np.newaxis] * (len(grid) + 1) + place
    counts = np.bincount(number.ravel(), minlength=len(rows) * (len(grid) + 1))
    counts = counts.reshape(len(rows), -1)[:, :-1].astype(np.float64)
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.asarray(counts / total / np.diff(edges))


def _edges(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bounds of the bins around the points of a grid."""
    middle = (grid[1:] + grid[:-1]) / 2
    return np.concatenate([[2 * grid[0] - middle[0]], middle, [2 * grid[-1] - middle[-1]]])
