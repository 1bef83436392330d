"""The probability densities of a release: rows on one grid, at any level, each chunk checked.

`latent` and `bounded` are whole numbers turned into probabilities by one exact sum and two
divisions (see `skyfold.codecs.amplitude`), positive and normalised by construction, and the same
bits on every machine; where `exact` is smaller it serves them, normalised, and zeros stay zeros.
`exact` returns the stored array bit for bit, rows that are no densities included.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyfold.access.products import Products
from skyfold.access.store_errors import named_store_errors
from skyfold.access.trust import require_memory
from skyfold.catalogs.model import u_matrix
from skyfold.codecs.amplitude import Float, Int, masses
from skyfold.densities.index import FLOORS, LEVELS, DensityIndex, index_key, read_index
from skyfold.densities.rows import checksum, decode_rows, value_dtype
from skyfold.errors import (
    CorruptDataError,
    InvalidRequestError,
    LevelNotStoredError,
    MissingDependencyError,
)

if TYPE_CHECKING:
    from skyfold.release import DataRelease

_POOL_THREADS = 8  # chunks are fetched at once
Rows = slice | Sequence[int] | NDArray[Any] | None


class DensityLibrary(Products["DensitySet"]):
    """Sets of densities of a release, by name; UnknownNameError for any other.

    Examples
    --------
    >>> pdf = release.densities["pz"].read(slice(0, 100), level="latent")  # doctest: +SKIP
    """

    noun = "set of densities"

    def _open(self, name: str) -> DensitySet:
        return DensitySet(self._release.holder(f"densities/{name}"), name)


class DensitySet:
    """One set of densities; made by `DensityLibrary`.

    Attributes
    ----------
    name : str
    levels : tuple of str
        Fidelity levels, coarsest first.
    """

    levels = LEVELS

    def __init__(self, release: DataRelease, name: str) -> None:
        self._release = release
        self.name = name
        self._index: DensityIndex | None = None
        self._arrays: dict[str, Any] = {}
        self._map: NDArray[np.int32] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": {}}

    def __len__(self) -> int:
        return self.index.rows

    def __repr__(self) -> str:
        return f"<DensitySet {self.name}: {len(self)} rows on {self.index.points} points>"

    @property
    def index(self) -> DensityIndex:
        """What is stored of the set, and how."""
        if self._index is None:
            key = index_key(self.name)
            self._index = read_index(self._release.read(key), key)
        return self._index

    @property
    def grid(self) -> Float:
        """Where densities are given, shape (points,), float64."""
        return np.array(self.index.grid)

    def info(self) -> dict[str, Any]:
        """Rows, grid points (`columns`), bounds, bad rows, and bytes at each level."""
        index = self.index
        sizes = {level: index.bytes_at(level) for level in LEVELS}
        return {
            "rows": index.rows,
            "columns": index.points,
            "bounds": asdict(index.bounds),
            "bad_rows": sum(len(one.bad_rows) for one in index.shards),
            "levels": {
                level: {"bytes": size, "bytes_per_row": size / max(index.rows, 1)}
                for level, size in sizes.items()
            },
        }

    def bad_rows(self) -> dict[int, str]:
        """Rows that are no densities, with the reason; only `exact` returns them."""
        return {
            row: reason
            for one in self.index.shards
            for row, reason in zip(one.bad_rows, one.bad_reasons, strict=True)
        }

    def read(self, rows: Rows = None, level: str = "bounded") -> NDArray[Any]:
        """Densities on the grid.

        Parameters
        ----------
        rows : slice, sequence of int, or None
            Row numbers in any order, negative ones from the end; None reads all.
        level : str
            ``map``, the mean density of the row's cell of the map; ``latent`` or ``bounded``,
            which keep ``index.bounds``; or ``exact``, bit for bit.

        Returns
        -------
        ndarray, shape (n, points)
            In the stored dtype; at `latent` and `bounded` float64 where that is an integer, and
            NaN in rows that are no densities.

        Raises
        ------
        LevelNotStoredError, InvalidRequestError, CorruptDataError, StoreUnavailableError

        Examples
        --------
        >>> release.densities["pz"].read([5, 3], level="exact").shape  # doctest: +SKIP
        (2, 201)
        """
        if level not in LEVELS:
            raise LevelNotStoredError(
                f"densities {self.name!r} have no level {level!r}; ask for one of "
                f"{', '.join(LEVELS)}"
            )
        wanted = self._row_numbers(rows)
        chunk = wanted // self.index.chunk_rows
        size = np.dtype(value_dtype(self.index, level)).itemsize
        needed = len(wanted) * self.index.points * size
        require_memory(needed, self._release.max_bytes, f"reading densities {self.name!r}")
        out = np.empty((len(wanted), self.index.points), value_dtype(self.index, level))

        def fill(number: int) -> None:
            here = np.flatnonzero(chunk == number)
            values = self._read_chunk(number, level)
            out[here] = values[wanted[here] - number * self.index.chunk_rows]

        with ThreadPoolExecutor(_POOL_THREADS) as pool:
            list(pool.map(fill, np.unique(chunk).tolist()))  # raises what a thread raised
        return out

    def _row_numbers(self, rows: Rows) -> Int:
        count = self.index.rows
        if rows is None or isinstance(rows, slice):
            return np.arange(count)[rows or slice(None)]
        wanted = np.atleast_1d(np.asarray(rows))
        if wanted.dtype == bool and wanted.shape == (count,):
            return np.flatnonzero(wanted)
        if wanted.size == 0:
            return np.empty(0, np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise InvalidRequestError(
                f"rows of densities {self.name!r} were given as {wanted.dtype} of shape "
                f"{wanted.shape}; give a slice, row numbers, or one bool for each of {count} rows"
            )
        beyond = (wanted < -count) | (wanted >= count)
        if beyond.any():
            raise InvalidRequestError(
                f"row {wanted[beyond][0]} of densities {self.name!r}: there are {count}; give "
                f"numbers from 0 to {count - 1}"
            )
        return np.asarray(wanted % count, np.int64)

    def _read_chunk(self, number: int, level: str) -> NDArray[Any]:
        """Decoded rows of one chunk, compared with its checksum."""
        index = self.index
        start = number * index.chunk_rows
        stop = min(start + index.chunk_rows, index.rows)
        shard = index.shards[start // index.shard_rows]
        layers = {
            name: self._read_layer(name, slice(start, stop))
            for name in shard.layers(level)
            if name != "checksum"
        }
        prototypes = self._prototypes() if "map" in layers else None
        values, checked = decode_rows(layers, level, index, prototypes)
        checked_level = "exact" if "exact" in layers else level
        expected = int(
            self._read_layer("checksum", slice(number, number + 1))[0, LEVELS.index(checked_level)]
        )
        met = checksum(checked)
        if expected != met:
            raise CorruptDataError(
                f"rows {start} to {stop} of densities {self.name!r} at level {level} have CRC "
                f"{met:08x}, stored is {expected:08x}: layers under {index.path} are damaged; run "
                "`skyfold verify` and fetch them again"
            )
        return values

    def _prototypes(self) -> NDArray[np.int32]:
        """Amplitudes of the cells of the map, shape (cells, points)."""
        if self._map is None:
            self._map = self._read_layer("prototypes", slice(None))
        return self._map

    @property
    def som(self) -> dict[str, NDArray[Any]]:
        """The self-organizing map, axes (y, x) first; empty where there is none.

        ``density``, the mean density of each cell on the grid; ``hits``, rows in each; and
        ``u_matrix``, the mean Hellinger distance of a cell from the four beside it.
        """
        index = self.index
        if not index.cells:
            return {}
        mass = masses(self._prototypes().astype(np.int64), FLOORS["map"])
        cells = self.cells()
        hits = np.bincount(cells[cells >= 0], minlength=index.cells)
        amplitude = np.sqrt(mass / 2).reshape(*index.map_shape, -1)
        return {
            "density": (mass / index.weights()).reshape(*index.map_shape, -1),
            "hits": hits.reshape(index.map_shape),
            "u_matrix": u_matrix(amplitude.astype(np.float32)),
        }

    def cells(self) -> NDArray[np.int32]:
        """Cell of the map (``y * nx + x``) of each row; -1 where there is no density or no map."""
        if not self.index.cells:
            return np.full(len(self), -1, np.int32)
        return np.asarray(self._read_layer("map", slice(None))[:, 0], np.int32)

    def cell(self, number: int, level: str = "bounded") -> tuple[Int, NDArray[Any]]:
        """Rows of one cell of the map, and their densities; only their chunks are read.

        Parameters
        ----------
        number : int
            ``y * nx + x``.
        level : str

        Returns
        -------
        rows : ndarray, shape (n,), int64
        densities : ndarray, shape (n, points)

        Raises
        ------
        InvalidRequestError
            If there is no such cell.
        LevelNotStoredError, CorruptDataError, StoreUnavailableError
        """
        if not 0 <= number < self.index.cells:
            raise InvalidRequestError(
                f"cell {number} of densities {self.name!r}: its map has {self.index.cells} cells, "
                "from 0; give one"
            )
        rows = np.flatnonzero(self.cells() == number)
        return rows, self.read(rows, level)

    def _read_layer(self, name: str, rows: slice) -> NDArray[Any]:
        key = f"{self._release.url}/{self.index.path}/{name}"
        try:
            with named_store_errors(key, "read"):
                return np.asarray(self._array(name)[rows])
        except (ValueError, RuntimeError, IndexError, KeyError) as error:
            raise CorruptDataError(
                f"{key} rows {rows.start} to {rows.stop} cannot be decoded: {error}; run `skyfold "
                "verify` and fetch them again"
            ) from error

    def _array(self, name: str) -> Any:
        """Zarr array of a layer, found to be as the index says."""
        if name not in self._arrays:
            spec = self.index.arrays()[name]
            self._arrays[name] = self._release.array(f"{self.index.path}/{name}", spec)
        return self._arrays[name]

    def to_qp(self, level: str = "bounded", rows: Rows = None) -> Any:
        """`qp.Ensemble` of densities, interpolated on the grid; level and rows as in `read`.

        Raises
        ------
        MissingDependencyError
            If qp is not installed.
        """
        try:
            import qp  # type: ignore[import-not-found,import-untyped]
        except ImportError as error:
            raise MissingDependencyError(
                "an ensemble needs the library qp, which is not installed here; run `pip install "
                "skyfold[qp]`, or use .read() and .grid"
            ) from error
        values = self.read(rows, level)
        return qp.Ensemble(qp.interp, data={"xvals": self.grid, "yvals": values})
