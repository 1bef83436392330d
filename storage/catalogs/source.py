"""What every catalog file is once it is open: named columns of plain arrays, read in batches.

Each column is an array of one type whose first axis is the row, and says where there is no value at
all. A format only has to give the values of one column in a range of rows.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import InputError, SkyfoldError

BATCH_ROWS = 65536
PACKED = (".gz", ".bz2", ".fz")

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
    is_list : bool
        Each row holds an array of that type, of a length of its own: its values have the type
        object.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    unit: str | None = None
    description: str = ""
    is_list: bool = False


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


def is_archived(dtype: np.dtype[Any]) -> bool:
    """Whether columns of a type are archived: numbers of up to 8 bytes, bytes and times."""
    return dtype.kind == "S" or (dtype.kind in "biufMm" and dtype.itemsize <= 8)


def left_out(file: str, name: str, kind: object) -> str:
    """Why a column is not archived, for its type."""
    how = "divide it into its two parts" if "complex" in str(kind) else "flatten or convert it"
    return f"{file}: column {name!r} is of type {kind}, which is not archived; {how}"


def longest(values: NDArray[Any]) -> int:
    """Bytes of the longest text, or values of the longest list, at least."""
    if values.dtype.kind == "O":
        return max(map(len, values), default=0)
    return values.dtype.itemsize


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


def native(values: NDArray[Any]) -> NDArray[Any]:
    """Values in this machine's byte order, in C order."""
    return np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False))


def encoded(texts: Iterable[str | bytes]) -> NDArray[np.bytes_]:
    """Text of any length as bytes, that of `str` in UTF-8; InputError if one ends in a zero."""
    found = [one.encode() if isinstance(one, str) else one for one in texts]
    if any(one.endswith(b"\0") for one in found):
        raise InputError("text ends in a zero byte, which is not archived; take the zero away")
    return np.array(found, f"S{max(map(len, found), default=1) or 1}")


def as_lists(arrays: Iterable[NDArray[Any]]) -> NDArray[np.object_]:
    """One array a row, each with memory of its own, shape (n,)."""
    parts = [native(one).copy() for one in arrays]
    out = np.empty(len(parts), object)
    for place, part in enumerate(parts):  # all at once, lists of one length would be an axis
        out[place] = part
    return out


class MemorySource(CatalogSource):
    """Columns that are held in memory."""

    def __init__(self, file: str, columns: dict[str, tuple[InputColumn, Values]]) -> None:
        self.file = file
        self._values = {name: values for name, (_, values) in columns.items()}
        self.columns = [about for about, _ in columns.values()]
        self.rows = len(next(iter(self._values.values()))[0]) if columns else 0
        self.notices = []

    def read(self, name: str, start: int, stop: int) -> Values:
        """Values of one column in a range of rows."""
        values, nulls = self._values[name]
        return values[start:stop], None if nulls is None else nulls[start:stop]
