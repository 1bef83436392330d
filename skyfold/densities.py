"""The probability densities of a release: rows on one grid, at any level, each chunk checked.

`latent` and `bounded` are whole numbers turned into probabilities by one exact sum and two
divisions (see `skyfold.amplitude`), positive and normalised by construction, and the same bits on
every machine; `exact` returns the stored array bit for bit, rows that are no densities included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyfold import ladder
from skyfold.amplitude import Float, Int, core_amplitude, hermite_shapes, masses, step_units
from skyfold.amplitude import wavelet
from skyfold.density_index import (
    FLOORS,
    LEVELS,
    NARROW,
    SHAPES,
    DensityIndex,
    index_key,
    read_index,
)
from skyfold.errors import (
    CorruptDataError,
    InvalidRequestError,
    LevelNotStoredError,
    MissingDependencyError,
    UnknownNameError,
)
from skyfold.store import named_store_errors

if TYPE_CHECKING:
    from skyfold.release import DataRelease

Rows = slice | Sequence[int] | NDArray[Any] | None


class DensityLibrary(Mapping[str, "DensitySet"]):
    """Sets of densities of a release, by name.

    Examples
    --------
    >>> pdf = release.densities["pz"].read(slice(0, 100), level="latent")  # doctest: +SKIP
    """

    def __init__(self, release: DataRelease, names: Sequence[str]) -> None:
        self._release = release
        self._sets = {name: DensitySet(release, name) for name in names}

    def __getitem__(self, name: str) -> DensitySet:
        try:
            return self._sets[name]
        except KeyError:
            raise UnknownNameError(
                f"no densities {name!r} in {self._release.url}; there are "
                f"{', '.join(self._sets) or 'none'}; choose one of them"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)

    def __contains__(self, name: object) -> bool:
        return name in self._sets

    def __repr__(self) -> str:
        return f"<DensityLibrary: {', '.join(self) or 'empty'}>"


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
        """Rows, grid points (`columns`), bounds, rows that are no densities, bytes at each level."""
        index = self.index
        sizes = {level: index.bytes_at(level) for level in LEVELS}
        return {
            "rows": index.rows,
            "columns": index.points,
            "max_divergence": index.max_divergence,
            "max_hellinger": index.max_hellinger,
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
            ``latent`` (Kullback-Leibler divergence from the stored row at most
            ``index.max_divergence``), ``bounded`` (Hellinger distance at most
            ``index.max_hellinger``), or ``exact`` (bit for bit).

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
        out = np.empty((len(wanted), self.index.points), self._dtype(level))
        for number in np.unique(chunk).tolist():
            here = np.flatnonzero(chunk == number)
            values = self._read_chunk(number, level)
            out[here] = values[wanted[here] - number * self.index.chunk_rows]
        return out

    def _dtype(self, level: str) -> np.dtype[Any]:
        stored = np.dtype(self.index.dtype)
        return stored if level == "exact" or stored.kind == "f" else np.dtype("f8")

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
        values, checked = decode_rows(layers, level, index)
        expected = int(self._read_layer("checksum", slice(number, number + 1))[0, LEVELS.index(level)])
        met = ladder.checksum(checked)
        if expected != met:
            raise CorruptDataError(
                f"rows {start} to {stop} of densities {self.name!r} at level {level} have CRC "
                f"{met:08x}, stored is {expected:08x}: layers under {index.path} are damaged; run "
                "`skyfold verify` and fetch them again"
            )
        return values

    def _read_layer(self, name: str, rows: slice) -> NDArray[Any]:
        with named_store_errors(f"{self._release.url}/{self.index.path}/{name}", "read"):
            if name not in self._arrays:
                self._arrays[name] = self._release.group[f"{self.index.path}/{name}"]
            return np.asarray(self._arrays[name][rows])

    def to_qp(self, level: str = "bounded", rows: Rows = None) -> Any:
        """`qp.Ensemble` of densities interpolated on the grid, or as bins where values sum to 1.

        Raises
        ------
        MissingDependencyError
            If qp is not installed.
        """
        try:
            import qp
        except ImportError as error:
            raise MissingDependencyError(
                "an ensemble needs the library qp, which is not installed here; run `pip install "
                "qp-prob`, or use .read() and .grid"
            ) from error
        values = self.read(rows, level)
        return qp.Ensemble(qp.interp, data={"xvals": self.grid, "yvals": values})


def decode_rows(
    layers: Mapping[str, NDArray[Any]], level: str, index: DensityIndex
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Densities of a chunk, and what its checksum is of.

    Parameters
    ----------
    layers : mapping of ndarray
        Those that `Shard.layers` names.
    level : str
    index : DensityIndex

    Returns
    -------
    values : ndarray, shape (n, points)
    checked : ndarray, shape (n, points)
        Amplitudes; for `exact` the values.
    """
    dtype = np.dtype(index.dtype)
    if "direct" in layers:
        return layers["direct"], layers["direct"]
    amplitude = decode_amplitude(layers["latent"], layers.get("bounded"))
    used = layers["latent"][:, 0] != 0
    smooth = density_values(amplitude, used, min(level, "bounded"), index)
    smooth = smooth.astype(dtype if dtype.kind == "f" else np.float64)
    if level != "exact":
        return smooth, amplitude
    values = apply_remainder(layers["exact"], smooth, used)
    return values, values


def decode_amplitude(latent: NDArray[np.int32], bounded: NDArray[np.int32] | None) -> Int:
    """Amplitudes of rows [units], from `latent` or from both layers; 0 where the step is."""
    points = latent.shape[1] - NARROW["latent"]
    transform = wavelet(points)
    used = latent[:, 0] != 0
    out = np.zeros((len(latent), points), np.int64)
    rows = latent[used].astype(np.int64)
    core = core_amplitude(rows[:, 1 : NARROW["latent"]], hermite_shapes(SHAPES), points)
    out[used] = core + transform.on_grid(_coefficients(rows, NARROW["latent"]))
    if bounded is not None:
        out[used] += transform.on_grid(_coefficients(bounded[used].astype(np.int64), 1))
    return out


def _coefficients(rows: Int, narrow: int) -> Int:
    """Coefficients in units; a step that no encoder writes is left to the checksum."""
    return rows[:, narrow:] * step_units(np.clip(rows[:, :1], 0, 30))


def density_values(
    amplitude: Int, used: NDArray[np.bool_], level: str, index: DensityIndex
) -> Float:
    """Densities of amplitudes, float64; NaN in rows that hold none."""
    out = np.full(amplitude.shape, np.nan)
    out[used] = masses(amplitude[used], FLOORS[level]) / index.weights()
    return out


def remainder(stored: NDArray[Any], smooth: NDArray[Any], used: NDArray[np.bool_]) -> NDArray[Any]:
    """What `exact` adds: 0 for a value whose bits are all 0, else the difference of ordered bits."""
    bits = f"i{stored.dtype.itemsize}"
    rest = ladder.ordered_difference(stored, _from(smooth, used))
    rest = np.where(rest >= 0, rest + 1, rest)
    rest = np.where(np.ascontiguousarray(stored).view(bits) == 0, 0, rest)
    return rest.astype("i8" if stored.dtype.itemsize == 8 else "i4")


def apply_remainder(
    rest: NDArray[Any], smooth: NDArray[Any], used: NDArray[np.bool_]
) -> NDArray[Any]:
    """Inverse of `remainder`: the stored values, every bit of them."""
    difference = rest.astype(np.int64) - (rest > 0)
    values = ladder.add_ordered(_from(smooth, used), difference)
    return np.where(rest == 0, values.dtype.type(0), values)


def _from(smooth: NDArray[Any], used: NDArray[np.bool_]) -> NDArray[Any]:
    """What remainders start from: 0 where a row holds no density."""
    return np.where(used[:, np.newaxis], smooth, smooth.dtype.type(0))
