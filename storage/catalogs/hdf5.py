"""Catalogs in HDF5: a group of columns, or one data set of records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skyfold.errors import InputError
from storage.catalogs.source import (
    CatalogSource,
    InputColumn,
    Values,
    as_lists,
    encoded,
    is_archived,
    left_out,
    native,
)


class Hdf5Source(CatalogSource):
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
        here = [one for one in self._file.values() if isinstance(one, h5py.Dataset)]
        if any(not one.dtype.names for one in here):
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
        lists = None if text else h5py.check_vlen_dtype(dtype)
        dtype = np.dtype(lists) if lists is not None and len(dataset.shape) == 1 else dtype
        if not dataset.shape or dataset.shape[0] != self.rows:
            self.notices.append(
                f"{self.file}: {name!r} has shape {dataset.shape} where the columns have "
                f"{self.rows} "
                "rows, and is left out"
            )
        elif not text and not is_archived(dtype):
            self.notices.append(left_out(self.file, name, dtype))
        else:
            code = "str" if text and dtype.kind == "O" else dtype.str
            unit = _attribute(dataset, ("units", "unit"))
            about = _attribute(dataset, ("description", "TITLE")) or ""
            is_list = lists is not None
            self.columns.append(InputColumn(name, code, shape, unit, about, is_list))

    def read(self, name: str, start: int, stop: int) -> Values:
        """Values of one column in a range of rows."""
        import h5py

        dataset, part = self._named[name]
        values = dataset[start:stop][part] if part else dataset[start:stop]
        if h5py.check_string_dtype(values.dtype) and values.dtype.kind == "O":
            return encoded(values.ravel().tolist()).reshape(values.shape), None
        if h5py.check_vlen_dtype(values.dtype) is not None:
            return as_lists(values), None
        return native(values), None


def _attribute(dataset: Any, names: Sequence[str]) -> str | None:
    for name in names:
        value = dataset.attrs.get(name)
        if value is not None:
            return value.decode() if isinstance(value, bytes) else str(value)
    return None
