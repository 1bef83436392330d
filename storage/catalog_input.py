"""How a catalog file becomes columns of plain arrays: formats, masks, damage.

Every format ends in the same thing: named columns, each an array of one type whose first axis is
the row, and where there is no value at all. FITS, Parquet and HDF5 are read in batches of rows and
never whole; text formats and VOTables are held in memory. What cannot be archived as an array (a
list of changing length, a nested record) is left out and listed.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from skyfold.errors import InputError, SkyfoldError
from storage.config import is_url
from storage.fits_input import store_failures

BATCH_ROWS = 65536
_FITS = (".fits", ".fit", ".fts", ".ldac")
_PARQUET = (".parquet", ".pq", ".parq")
_HDF5 = (".hdf5", ".h5", ".hdf")
_VOTABLE = (".xml", ".vot", ".votable")
_PACKED = (".gz", ".bz2", ".fz")

Values = tuple[NDArray[Any], NDArray[np.bool_] | None]  # values, and where there is none
Batch = dict[str, Values]


@dataclass(frozen=True)
class InputColumn:
    """One column of a file.

    Attributes
    ----------
    name, unit, description : str
    dtype : str
        Of numpy, byte order included; ``str`` for text of any length.
    shape : tuple of int
        Of one row's value.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    unit: str | None = None
    description: str = ""


class CatalogSource(ABC):
    """One catalog file, open for reading.

    Attributes
    ----------
    file : str
        As the configuration's pattern found it.
    columns : list of InputColumn
    rows : int
    notices : list of str
        What was left out, and why.
    """

    file: str
    columns: list[InputColumn]
    rows: int
    notices: list[str]

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Number of the first row and columns, in runs of at most `BATCH_ROWS` rows."""
        for start in range(0, self.rows, BATCH_ROWS):
            stop = min(start + BATCH_ROWS, self.rows)
            with reading(self.file):
                yield start, {one.name: self.read(one.name, start, stop) for one in self.columns}

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """Columns of some rows, in rising order of their numbers."""
        found: list[Batch] = []
        for start, stop in _spans(rows):
            inside = rows[(rows >= start) & (rows < stop)] - start
            with reading(self.file):
                batch = {one.name: self.read(one.name, start, stop) for one in self.columns}
            found.append({name: _rows_of(values, inside) for name, values in batch.items()})
        return join(found)

    @abstractmethod
    def read(self, name: str, start: int, stop: int) -> Values:
        """Values of one column in a range of rows."""


def _spans(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Batches of adjoining rows that hold all of the rows."""
    for number in np.unique(rows // BATCH_ROWS).tolist():
        inside = rows[rows // BATCH_ROWS == number]
        yield int(inside[0]), int(inside[-1]) + 1


def _rows_of(values: Values, rows: NDArray[np.int64]) -> Values:
    return values[0][rows], None if values[1] is None else values[1][rows]


def join(batches: Sequence[Batch]) -> Batch:
    """Batches one after another."""
    if len(batches) == 1:
        return batches[0]
    out: Batch = {}
    for name in batches[0]:
        parts = [batch[name] for batch in batches]
        values = np.concatenate([part[0] for part in parts])
        nulls = None
        if any(part[1] is not None for part in parts):
            nulls = np.concatenate(
                [np.zeros(v.shape, bool) if mask is None else mask for v, mask in parts]
            )
        out[name] = values, nulls
    return out


@contextmanager
def reading(file: str) -> Iterator[None]:
    """Turn whatever a library raises on a damaged catalog into `InputError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters among them is checked and raised here
        try:
            yield
        except SkyfoldError:
            raise
        except Exception as error:  # each library has its own tree
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise InputError(
                f"{file}: not a readable catalog ({reason}); allowed are FITS, Parquet, HDF5, CSV, "
                "ECSV, VOTable and text tables: fetch the file again or correct it"
            ) from error


def open_catalog(file: str, url: str, key: str | None, options: Mapping[str, Any]) -> CatalogSource:
    """Open one catalog file.

    Parameters
    ----------
    file : str
        Name for messages.
    url : str
        Absolute path, or URL.
    key : str or None
        HDU of a FITS file (number or name), group of an HDF5 file, table of a VOTable.
    options : mapping
        Of the file system behind URLs.

    Raises
    ------
    InputError
        If it cannot be read, has no rows, no usable columns, or no such key.
    StoreUnavailableError
        If an object store refuses or breaks off.
    """
    suffix = _suffix(url)
    with reading(file):
        source = _READERS.get(suffix, _open_text)(file, _local(url, options), key)
    if not source.rows:
        raise InputError(f"{file}: the catalog has no rows; take it out of the configuration")
    if not source.columns:
        raise InputError(
            f"{file}: the catalog has no column that can be archived: {'; '.join(source.notices)}"
        )
    names = [column.name for column in source.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{file}: columns {twice} are named twice; give each its own name")
    return source


def _suffix(url: str) -> str:
    path = url.lower()
    for packed in _PACKED:
        path = path.removesuffix(packed)
    return os.path.splitext(path)[1]


class _Scratch:
    """A local copy of a remote file, removed with the object."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        import fsspec

        self._folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self._folder.name, url.rsplit("/", 1)[-1])
        with store_failures(url):
            system, path = fsspec.core.url_to_fs(url, **options)
            system.get_file(path, self.path)


class _Local:
    """A file that is there already."""

    def __init__(self, path: str) -> None:
        self.path = path
        if not os.path.isfile(path):
            raise InputError(f"{path}: there is no such file; check the path")


def _local(url: str, options: Mapping[str, Any]) -> Any:
    return _Scratch(url, options) if is_url(url) else _Local(url)


class _FitsSource(CatalogSource):
    """A FITS binary or ASCII table; memory-mapped where the file is not packed."""

    def __init__(self, file: str, place: Any, key: str | None) -> None:
        from astropy.io import fits

        self.file = file
        self._place = place
        # The table stays mapped when its file is closed.
        with fits.open(place.path, memmap=True) as self._hdus:
            self._take(self._choose(key))

    def _take(self, hdu: Any) -> None:
        """Rows and columns of the table."""
        self.rows = hdu.header["NAXIS2"]
        self._check_size(hdu)
        self._data = hdu.data
        self._nulls: dict[str, int] = {}
        self.columns, self.notices = [], []
        for number, column in enumerate(hdu.columns, 1):
            self._describe(column, str(hdu.header.get(f"TCOMM{number}", "")))

    def _choose(self, key: str | None) -> Any:
        from astropy.io import fits

        tables = [hdu for hdu in self._hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if key is not None:
            named = [hdu for hdu in tables if key in (hdu.name, str(self._hdus.index(hdu)))]
        else:
            named = [hdu for hdu in tables if hdu.name == "LDAC_OBJECTS"] or tables
        if not named:
            there = ", ".join(f"{self._hdus.index(hdu)} {hdu.name}".strip() for hdu in tables)
            raise InputError(
                f"{self.file}: no table {'' if key is None else repr(key)}; there are: "
                f"{there or 'none'}; give one of them as key"
            )
        return named[0]

    def _check_size(self, hdu: Any) -> None:
        """Refuse a truncated file, which astropy would pad."""
        end = hdu._data_offset + hdu.header["NAXIS1"] * self.rows
        met = os.path.getsize(self._place.path)
        if met < end and not self._place.path.lower().endswith(_PACKED):
            raise InputError(
                f"{self.file}: truncated: its table ends at byte {end}, the file at {met}; "
                "fetch it again"
            )

    def _describe(self, column: Any, comment: str) -> None:
        values = np.asarray(self._data.field(column.name)[:1])
        if values.dtype.kind == "O" or column.format.lstrip("0123456789")[:1] in "PQ":
            self.notices.append(
                f"{self.file}: column {column.name!r} holds lists of changing length, which is not "
                "archived; flatten it"
            )
            return
        if values.dtype.kind == "U":
            values = np.asarray(values, "S")
        dtype = values.dtype.str if values.dtype.kind != "S" else f"S{_text_width(column.format)}"
        if column.null is not None and values.dtype.kind in "iu":
            self._nulls[column.name] = int(column.null)
        self.columns.append(InputColumn(column.name, dtype, values.shape[1:], column.unit, comment))

    def read(self, name: str, start: int, stop: int) -> Values:
        field = self._data.field(name)[start:stop]
        values = np.asarray(field)
        if values.dtype.kind in "SU":
            # Blanks that fill a field mean nothing (FITS 4.0, section 7.3.3.1).
            return np.strings.rstrip(np.asarray(values, "S"), b" "), None
        null = self._nulls.get(name)
        return _native(values), None if null is None else values == null


def _text_width(format_: str) -> int:
    found = re.match(r"(\d*)A(\d*)", format_.strip()) or re.match(r"A(\d+)()", format_.strip())
    width = (found[2] or found[1]) if found else ""
    return max(int(width or 1), 1)


def _native(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))


class _ParquetSource(CatalogSource):
    """A Parquet file, read by row group."""

    def __init__(self, file: str, place: Any, _key: str | None) -> None:
        self.file = file
        self._place = place
        self._file = pq.ParquetFile(place.path)
        self.rows = self._file.metadata.num_rows
        self.columns, self.notices = [], []
        for field in self._file.schema_arrow:
            found = _arrow_column(field)
            if isinstance(found, str):
                self.notices.append(f"{file}: column {field.name!r} {found}")
            else:
                self.columns.append(found)

    def batches(self) -> Iterator[tuple[int, Batch]]:
        """Number of the first row and columns, batch by batch."""
        start = 0
        names = [column.name for column in self.columns]
        with reading(self.file):
            for batch in self._file.iter_batches(BATCH_ROWS, columns=names):
                yield (
                    start,
                    {one.name: _from_arrow(batch.column(one.name), one) for one in self.columns},
                )
                start += len(batch)

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """Columns of some rows: only the row groups that hold them are read."""
        sizes = [
            self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)
        ]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        groups = np.searchsorted(starts, rows, side="right") - 1
        names = [column.name for column in self.columns]
        found = []
        for group in np.unique(groups).tolist():
            inside = pa.array(rows[groups == group] - starts[group])
            with reading(self.file):
                table = self._file.read_row_group(group, columns=names).take(inside)
            found.append(
                {one.name: _from_arrow(table.column(one.name), one) for one in self.columns}
            )
        return join(found)

    def read(self, name: str, start: int, stop: int) -> Values:
        return self.take(np.arange(start, stop))[name]


def _arrow_column(field: Any) -> InputColumn | str:
    """Description of an Arrow field, or why it cannot be archived."""
    about = {k.decode(): v.decode("utf-8", "replace") for k, v in (field.metadata or {}).items()}
    extra = {"unit": about.get("unit") or None, "description": about.get("description", "")}
    kind = field.type
    shape: tuple[int, ...] = ()
    while pa.types.is_fixed_size_list(kind):
        shape, kind = (*shape, kind.list_size), kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return InputColumn(field.name, "str", shape, **extra)
    if pa.types.is_null(kind):  # nothing but nulls, in a text format: a number fits as well as any
        return InputColumn(field.name, "<f8", shape, **extra)
    try:
        dtype = np.dtype(kind.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        dtype = np.dtype(object)
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        dtype = np.dtype(f"{'M' if pa.types.is_timestamp(kind) else 'm'}8[{kind.unit}]")
    if dtype.kind not in "biufMm":
        return f"is of type {field.type}, which is not archived; flatten or convert it"
    return InputColumn(field.name, dtype.str, shape, **extra)


def _from_arrow(column: Any, about: InputColumn) -> Values:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    nulls = np.asarray(column.is_null()) if column.null_count else None
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if about.shape:
        size = int(np.prod(about.shape))
        rows = len(column)
        filled = column if nulls is None else column.fill_null([0] * size)
        while pa.types.is_fixed_size_list(filled.type):
            filled = filled.flatten()
        inner = replace(about, shape=())
        values, inside = _from_arrow(filled, inner)
        mask = np.zeros((rows, size), bool) if inside is None else inside.reshape(rows, size)
        if nulls is not None:
            mask = mask | nulls[:, None]
        shape = (rows, *about.shape)
        return values.reshape(shape), mask.reshape(shape) if mask.any() else None
    if about.dtype == "str":
        texts = column.fill_null("").to_pylist() if nulls is not None else column.to_pylist()
        return _encoded(texts), nulls
    dtype = np.dtype(about.dtype)
    if dtype.kind in "Mm":
        column = column.cast(pa.int64()).fill_null(0)
        return np.asarray(column).view(dtype), nulls
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype), np.ones(len(column), bool)
    if nulls is not None:
        column = column.fill_null(False if dtype.kind == "b" else pa.scalar(0, column.type))
    return np.asarray(column.to_numpy(zero_copy_only=False)).astype(dtype, copy=False), nulls


def _encoded(texts: list[str]) -> NDArray[np.bytes_]:
    encoded = [text.encode() for text in texts]
    if any(text.endswith(b"\0") for text in encoded):
        raise InputError("text ends in a zero byte, which is not archived; take the zero away")
    return np.array(encoded, f"S{max(map(len, encoded), default=1) or 1}")


class _Hdf5Source(CatalogSource):
    """Datasets of one HDF5 group, or one dataset of records."""

    def __init__(self, file: str, place: Any, key: str | None) -> None:
        import h5py

        self.file = file
        self._place = place
        self._file = h5py.File(place.path, "r")
        found = self._find(key)
        if isinstance(found, h5py.Dataset):
            named = {name: (found, name) for name in found.dtype.names or ()}
        else:
            named = {
                name: (one, None) for name, one in found.items() if isinstance(one, h5py.Dataset)
            }
        lengths = [one.shape[0] if one.shape else 0 for one, _ in named.values()]
        self.rows = max(set(lengths), key=lengths.count) if lengths else 0
        self._named, self.columns, self.notices = named, [], []
        for name, (dataset, part) in named.items():
            self._describe(name, dataset, part)

    def _find(self, key: str | None) -> Any:
        import h5py

        if key is not None:
            if key not in self._file:
                raise InputError(
                    f"{self.file}: no key {key!r}; there are "
                    f"{', '.join(self._groups()) or 'none'}; "
                    "give one of them"
                )
            return self._file[key]
        if any(isinstance(one, h5py.Dataset) for one in self._file.values()):
            return self._file
        groups = self._groups()
        if len(groups) != 1:
            raise InputError(
                f"{self.file}: holds the groups {', '.join(groups) or 'none'}; name one as key"
            )
        return self._file[groups[0]]

    def _groups(self) -> list[str]:
        """Groups that hold datasets, and datasets of records."""
        import h5py

        found: list[str] = []

        def visit(name: str, one: Any) -> None:
            if isinstance(one, h5py.Group):
                inside = [inner for inner in one.values() if isinstance(inner, h5py.Dataset)]
                has_columns = any(not inner.dtype.names for inner in inside)
            else:
                has_columns = bool(one.dtype.names)
            if has_columns:
                found.append(name)

        self._file.visititems(visit)
        return found

    def _describe(self, name: str, dataset: Any, part: str | None) -> None:
        import h5py

        inner = dataset.dtype[part] if part else dataset.dtype
        dtype, shape = inner.base, (*dataset.shape[1:], *inner.shape)
        text = h5py.check_string_dtype(dtype)
        if not dataset.shape or dataset.shape[0] != self.rows:
            self.notices.append(
                f"{self.file}: {name!r} has shape {dataset.shape} where the columns have "
                f"{self.rows} "
                "rows, and is left out"
            )
        elif dtype.kind not in "biufS" and not text:
            self.notices.append(
                f"{self.file}: column {name!r} is of type {dtype}, which is not archived"
            )
        else:
            code = "str" if text and dtype.kind == "O" else dtype.str
            unit = _attribute(dataset, ("units", "unit"))
            about = _attribute(dataset, ("description", "TITLE")) or ""
            self.columns.append(InputColumn(name, code, shape, unit, about))

    def read(self, name: str, start: int, stop: int) -> Values:
        dataset, part = self._named[name]
        values = dataset[start:stop][part] if part else dataset[start:stop]
        if values.dtype.kind == "O":
            texts = [one if isinstance(one, bytes) else str(one).encode() for one in values.ravel()]
            return np.array(texts, "S").reshape(values.shape), None
        return _native(values), None


def _attribute(dataset: Any, names: Sequence[str]) -> str | None:
    for name in names:
        value = dataset.attrs.get(name)
        if value is not None:
            return value.decode() if isinstance(value, bytes) else str(value)
    return None


class _MemorySource(CatalogSource):
    """Columns that are held in memory."""

    def __init__(self, file: str, columns: dict[str, tuple[InputColumn, Values]]) -> None:
        self.file = file
        self._values = {name: values for name, (_, values) in columns.items()}
        self.columns = [about for about, _ in columns.values()]
        self.rows = len(next(iter(self._values.values()))[0]) if columns else 0
        self.notices = []

    def read(self, name: str, start: int, stop: int) -> Values:
        values, nulls = self._values[name]
        return values[start:stop], None if nulls is None else nulls[start:stop]


def _from_table(file: str, table: Any) -> CatalogSource:
    """Source of an astropy table."""
    columns: dict[str, tuple[InputColumn, Values]] = {}
    notices = []
    for name in table.colnames:
        column = table[name]
        nulls = np.ma.getmaskarray(column) if hasattr(column, "mask") else None
        values = np.asarray(np.ma.getdata(column))
        dtype = values.dtype.str
        if values.dtype.kind == "O" and all(
            isinstance(one, str) for one in values.ravel().tolist()
        ):
            values = values.astype(str)
        if values.dtype.kind == "U":
            values, dtype = np.strings.encode(values, "utf-8"), "str"
        if values.dtype.kind not in "biufSMm":
            notices.append(
                f"{file}: column {name!r} is of type {values.dtype}, which is not archived"
            )
            continue
        unit = str(column.unit) if getattr(column, "unit", None) is not None else None
        about = InputColumn(name, dtype, values.shape[1:], unit, column.info.description or "")
        mask = nulls if nulls is not None and nulls.any() else None
        columns[name] = about, (_native(values) if values.dtype.kind != "S" else values, mask)
    source = _MemorySource(file, columns)
    source.notices = notices
    return source


def _open_votable(file: str, place: Any, key: str | None) -> CatalogSource:
    from astropy.table import Table

    chosen = {} if key is None else {"table_id": int(key) if key.isdigit() else key}
    return _from_table(file, Table.read(place.path, format="votable", **chosen))


def _open_ecsv(file: str, place: Any, _key: str | None) -> CatalogSource:
    from astropy.table import Table

    return _from_table(file, Table.read(place.path, format="ascii.ecsv"))


def _open_csv(file: str, place: Any, key: str | None) -> CatalogSource:
    with open(place.path, "rb") as stream:
        if stream.read(8).startswith(b"# %ECSV"):
            return _open_ecsv(file, place, key)
    table = pa.csv.read_csv(place.path)
    return _from_arrow_table(file, table)


def _from_arrow_table(file: str, table: Any) -> CatalogSource:
    columns, notices = {}, []
    names = table.schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{file}: columns {twice} are named twice; give each its own name")
    for field in table.schema:
        about = _arrow_column(field)
        if isinstance(about, str):
            notices.append(f"{file}: column {field.name!r} {about}")
        else:
            columns[field.name] = about, _from_arrow(table.column(field.name), about)
    source = _MemorySource(file, columns)
    source.notices = notices
    return source


def _open_text(file: str, place: Any, _key: str | None) -> CatalogSource:
    """Columns divided by blanks, below a line of names that may begin with ``#``."""
    with open(place.path, encoding="utf-8") as stream:
        if stream.readline().startswith("# %ECSV"):
            return _open_ecsv(file, place, None)
        stream.seek(0)
        lines = [line for line in stream if line.strip()]
    if not lines:
        raise InputError(f"{file}: the catalog has no rows; take it out of the configuration")
    heads = [line for line in lines if line.lstrip().startswith("#")]
    rows = [line for line in lines if not line.lstrip().startswith("#")]
    names = heads[-1].lstrip("# \t").split() if heads else rows.pop(0).split()
    for number, line in enumerate(rows, 1):
        met = len(line.split())
        if met != len(names):
            raise InputError(
                f"{file}: the header names {len(names)} columns, and row {number} has {met}; "
                "correct "
                "the header, or the row"
            )
    text = "".join(",".join(line.split()) + "\n" for line in [" ".join(names), *rows])
    return _from_arrow_table(file, pa.csv.read_csv(io.BytesIO(text.encode())))


_READERS: dict[str, Any] = {
    **dict.fromkeys(_FITS, _FitsSource),
    **dict.fromkeys(_PARQUET, _ParquetSource),
    **dict.fromkeys(_HDF5, _Hdf5Source),
    **dict.fromkeys(_VOTABLE, _open_votable),
    ".csv": _open_csv,
    ".ecsv": _open_ecsv,
}
