"""How a catalog file becomes columns of plain arrays: which reader opens it, local or remote.

FITS, Parquet and HDF5 are read in batches of rows and never whole; text formats and VOTables are
held in memory. What cannot be archived as an array (a list of lists or of text, a nested record) is
left out and listed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from typing import Any

from skyfold.errors import InputError
from storage.catalogs.arrow import ParquetSource
from storage.catalogs.fits import FitsSource
from storage.catalogs.hdf5 import Hdf5Source
from storage.catalogs.source import (
    PACKED,
    Batch,
    CatalogSource,
    InputColumn,
    Values,
    join,
    longest,
    reading,
)
from storage.catalogs.text import open_csv, open_ecsv, open_text, open_votable
from storage.config import is_url
from storage.images.fetching import store_failures

__all__ = ["Batch", "CatalogSource", "InputColumn", "Values", "join", "longest", "open_catalog"]

_FITS = (".fits", ".fit", ".fts", ".ldac")
_PARQUET = (".parquet", ".pq", ".parq")
_HDF5 = (".hdf5", ".h5", ".hdf")
_VOTABLE = (".xml", ".vot", ".votable")


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
        source = _READERS.get(suffix, open_text)(file, _local(url, options), key)
    if not source.rows:
        raise InputError(f"{file}: the catalog has no rows; take it out of the configuration")
    if not source.columns:
        raise InputError(
            f"{file}: the catalog has no column that can be archived: {'; '.join(source.notices)}"
        )
    names = [column.name for column in source.columns]
    if "" in names:
        raise InputError(
            f"{file}: column {names.index('') + 1} of {len(names)} has no name (as an index of "
            "pandas that is written along); name it, or take it out"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{file}: columns {twice} are named twice; give each its own name")
    return source


def _suffix(url: str) -> str:
    path = url.lower()
    for packed in PACKED:
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


_READERS: dict[str, Any] = {
    **dict.fromkeys(_FITS, FitsSource),
    **dict.fromkeys(_PARQUET, ParquetSource),
    **dict.fromkeys(_HDF5, Hdf5Source),
    **dict.fromkeys(_VOTABLE, open_votable),
    ".csv": open_csv,
    ".ecsv": open_ecsv,
}
