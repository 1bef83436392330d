"""What lies where in a set of densities: its arrays, and the index that says how to decode them.

::

    densities/<name>/index.parquet     one row a shard; the grid and the bounds in its metadata
    densities/<name>/prototypes        (cells, points) int32: amplitude of each cell of the map
    densities/<name>/map               (rows, 1) int32: cell of each row, -1 without a density
    densities/<name>/latent            (rows, 3 + shapes + points) int32, `skyfold.density`
    densities/<name>/bounded           (rows, 1 + points) int32, `skyfold.density`
    densities/<name>/exact             (rows, points) the stored values, `skyfold.nonzero`
    densities/<name>/checksum          (chunks, levels) uint32: CRC-32 of each decoded chunk

Rows keep the order of the input. `exact` is coded by itself: to refine `bounded` was measured to
take more bytes in every kind of densities tried, because what is left are the last digits of
floats. Where `exact` is no larger than the layers below it (counts of samples, rounded values),
they are not stored and it serves their levels too. The index also lists the rows that are no
densities, with the reason: `exact` alone returns them.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from skyfold.access.parquet import read_metadata, read_rows
from skyfold.access.trust import reading
from skyfold.codecs.amplitude import MAX_POINTS, MIN_POINTS, Float, divergence, hellinger
from skyfold.codecs.columns import NumbersCodec
from skyfold.codecs.density import DensityCodec
from skyfold.codecs.nonzero import NonzeroCodec
from skyfold.codecs.zarr_codec import ZarrCodec

LEVELS = ("map", "latent", "bounded", "exact")
LAYERS = ("map", "latent", "bounded", "exact", "checksum")
NORMALISATIONS = ("trapezoid", "sum", "rectangle")
FLOORS = {
    "map": 1e-5,
    "latent": 1e-5,
    "bounded": 1e-7,
}  # mass spread over the grid, so that none is zero
CHUNK_ROWS = 4096
SHARD_CHUNKS = 16
SHAPES = 4
MAX_CELLS = 2**16
NARROW = {"latent": 3 + SHAPES, "bounded": 1}
_META = b"skyfold.densities"


@dataclass(frozen=True)
class Shard:
    """A run of rows that one task writes, each layer as one object.

    Attributes
    ----------
    start, stop : int
        Rows.
    bytes : dict
        Stored bytes by layer; a layer that is not named is not stored.
    bad_rows, bad_reasons : tuple
        Rows that are no densities, and why.
    digest : str
        Of the input and of all that the bytes depend on.
    """

    start: int
    stop: int
    bytes: dict[str, int] = field(default_factory=dict)
    bad_rows: tuple[int, ...] = ()
    bad_reasons: tuple[str, ...] = ()
    digest: str = ""

    def layers(self, level: str) -> tuple[str, ...]:
        """Layers that decoding at a level reads."""
        if level == "map" and "map" in self.bytes:
            return ("map", "checksum")
        coarse = {"map": ("latent",), "latent": ("latent",), "bounded": ("latent", "bounded")}
        wanted = coarse.get(level, ("exact",))
        stored = all(layer in self.bytes for layer in wanted)
        return (*(wanted if stored else ("exact",)), "checksum")

    def to_row(self) -> dict[str, Any]:
        """Plain values, ready for Parquet or JSON."""
        row = asdict(self)
        return row | {"bad_rows": list(self.bad_rows), "bad_reasons": list(self.bad_reasons)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Shard:
        """Inverse of `to_row`."""
        several = {name: tuple(row[name]) for name in ("bad_rows", "bad_reasons")}
        return cls(**row | several | {"bytes": dict(row["bytes"])})


@dataclass(frozen=True)
class Bounds:
    """How far a decoded row may be from the stored one, at most.

    Attributes
    ----------
    divergence : float
        Kullback-Leibler divergence of `latent` from the row [nats].
    mean_shift : float
        Shift of a row's mean at `latent`, as a share of the grid's points. A writer sees to it
        that such shifts do not add up in a stack.
    hellinger : float
        Hellinger distance of `bounded` from the row.
    """

    divergence: float = 1e-3
    mean_shift: float = 1 / 256
    hellinger: float = 1 / 256

    def used(self, level: str, mass: Float, decoded: Float) -> Float:
        """Share of its bound that each row takes: at most 1 if the bound is kept.

        Parameters
        ----------
        level : {"latent", "bounded"}
        mass, decoded : ndarray, shape (n, points), float64
            Probability masses, stored and decoded.
        """
        if level == "bounded":
            return hellinger(mass, decoded) / self.hellinger
        place = np.arange(mass.shape[1]) / mass.shape[1]
        shift = np.abs((decoded - mass) @ place) / self.mean_shift
        return np.maximum(divergence(mass, decoded) / self.divergence, shift)


@dataclass(frozen=True)
class DensityIndex:
    """A set of densities.

    Attributes
    ----------
    name : str
    grid : tuple of float
        Where densities are given, rising.
    rows : int
    dtype : str
        Of the stored values.
    normalisation : {"trapezoid", "sum", "rectangle"}
        What is 1 of a row: its integral by the trapezoidal rule, the sum of its values, or that
        sum times the grid's steps. Decoded densities keep it.
    bounds : Bounds
        That every row keeps.
    files : tuple of str
        Input, as the survey's globs found it.
    shards : tuple of Shard
    map_shape : tuple of int
        Cells of the map along y and x; empty where there is none, and `latent` serves its level.
    map_bytes : int
        Stored bytes of its prototypes.
    map_digest : str
        SHA-256 of its prototypes.
    """

    name: str
    grid: tuple[float, ...]
    rows: int
    dtype: str
    normalisation: str
    bounds: Bounds
    files: tuple[str, ...]
    shards: tuple[Shard, ...] = ()
    map_shape: tuple[int, ...] = ()
    map_bytes: int = 0
    map_digest: str = ""

    @property
    def cells(self) -> int:
        """Cells of the map."""
        return int(np.prod(self.map_shape)) if self.map_shape else 0

    @property
    def points(self) -> int:
        """Points of the grid."""
        return len(self.grid)

    @property
    def chunk_rows(self) -> int:
        """Rows of a chunk."""
        return min(CHUNK_ROWS, max(self.rows, 1))

    @property
    def shard_rows(self) -> int:
        """Rows of a shard."""
        return self.chunk_rows * min(SHARD_CHUNKS, -(-self.rows // self.chunk_rows))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First and last row (excluded) of each shard."""
        each = self.shard_rows
        return [(at, min(at + each, self.rows)) for at in range(0, self.rows, each)]

    def weights(self) -> Float:
        """Probability mass of each point to one unit of its value."""
        return quadrature(np.array(self.grid), self.normalisation)

    def bytes_at(self, level: str) -> int:
        """Stored bytes of all layers that decoding at a level reads."""
        shared = self.map_bytes if level == "map" else 0
        return shared + sum(
            one.bytes.get(layer, 0) for one in self.shards for layer in one.layers(level)
        )

    @property
    def path(self) -> str:
        """Key of the set's group."""
        return f"densities/{self.name}"

    def shard_key(self, layer: str, number: int) -> str:
        """Key of the one object that holds a layer of a shard."""
        return f"{self.path}/{layer}/c/{number}/0"

    def arrays(self) -> dict[str, dict[str, Any]]:
        """Arguments of `zarr.create_array` for every layer."""
        specs: dict[str, dict[str, Any]] = {
            "latent": self._sharded(NARROW["latent"], "int32", DensityCodec(NARROW["latent"])),
            "bounded": self._sharded(NARROW["bounded"], "int32", DensityCodec(NARROW["bounded"])),
            "exact": self._sharded(0, self.dtype, NonzeroCodec()),
        }
        chunks = -(-self.rows // self.chunk_rows)
        specs["checksum"] = {
            "shape": (chunks, len(LEVELS)),
            "chunks": (self.shard_rows // self.chunk_rows, len(LEVELS)),
            "dtype": "uint32",
            "compressors": None,
        }
        if self.cells:
            shape = (self.cells, self.points)
            specs["map"] = self._sharded(0, "int32", NumbersCodec())
            specs["map"] |= {
                name: (specs["map"][name][0], 1) for name in ("shape", "chunks", "shards")
            }
            specs["prototypes"] = {"shape": shape, "chunks": shape, "dtype": "int32"}
            specs["prototypes"] |= {"serializer": ZarrCodec(NumbersCodec()), "compressors": None}
        return specs

    def _sharded(self, narrow: int, dtype: str, serializer: Any) -> dict[str, Any]:
        width = narrow + self.points
        return {
            "shape": (self.rows, width),
            "chunks": (self.chunk_rows, width),
            "shards": (self.shard_rows, width),
            "dtype": dtype,
            "serializer": ZarrCodec(serializer),
            "compressors": None,
        }

    def create(self, store: Any) -> None:
        """Create the arrays of every layer, without data."""
        for layer, spec in self.arrays().items():
            name = f"{self.path}/{layer}"
            zarr.create_array(store, name=name, overwrite=True, fill_value=0, **spec)


def quadrature(grid: Float, normalisation: str) -> Float:
    """Weights w by which values p of a set have ``sum(p * w) = 1``, shape (points,)."""
    if normalisation == "sum":
        return np.ones(len(grid))
    steps = np.diff(grid)
    left, right = np.append(steps[:1], steps), np.append(steps, steps[-1:])
    weights = (left + right) / 2
    if normalisation == "trapezoid":
        weights[0], weights[-1] = steps[0] / 2, steps[-1] / 2
    return np.asarray(weights)


def index_key(name: str) -> str:
    """Key of the index of a set of densities."""
    return f"densities/{name}/index.parquet"


def about(index: DensityIndex) -> dict[str, Any]:
    """All of an index but its shards, as JSON; floats keep every bit."""
    return {name: value for name, value in asdict(index).items() if name != "shards"}


def write_index(index: DensityIndex) -> bytes:
    """Parquet file of a set; the same set always gives the same bytes."""
    meta = {_META: json.dumps(about(index), sort_keys=True).encode()}
    rows = [one.to_row() | {"bytes": sorted(one.bytes.items())} for one in index.shards]
    import pyarrow as pa  # the writing side has it; readers need it not
    import pyarrow.parquet as pq

    schema = [
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("bytes", pa.map_(pa.string(), pa.int64())),
        ("bad_rows", pa.list_(pa.int64())),
        ("bad_reasons", pa.list_(pa.string())),
        ("digest", pa.string()),
    ]
    table = pa.Table.from_pylist(rows, schema=pa.schema(schema, metadata=meta))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_index(data: bytes, key: str) -> DensityIndex:
    """Index of a set.

    Raises
    ------
    CorruptDataError
        If the bytes are not an index.
    """
    with reading(key, "an index of densities"):
        shards = tuple(Shard.from_row(row) for row in read_rows(data))
        index = index_of(json.loads(read_metadata(data)[_META]), shards)
        _check(index)
    return index


def index_of(content: dict[str, Any], shards: tuple[Shard, ...] = ()) -> DensityIndex:
    """Inverse of `about`."""
    several = {name: tuple(content[name]) for name in ("grid", "files", "map_shape")}
    bounds = Bounds(**content["bounds"])
    return DensityIndex(**content | several | {"bounds": bounds}, shards=shards)


def _check(index: DensityIndex) -> None:
    """What decoding relies on."""
    grid: NDArray[np.float64] = np.array(index.grid, np.float64)
    if not MIN_POINTS <= len(grid) <= MAX_POINTS or not (np.diff(grid) > 0).all():
        raise ValueError(f"its grid has {len(grid)} points, or does not rise")
    if index.normalisation not in NORMALISATIONS:
        raise ValueError(f"its normalisation is {index.normalisation!r}")
    count = -(-index.rows // index.shard_rows) if index.rows > 0 else -1
    covered = [(one.start, one.stop) for one in index.shards]
    if len(covered) != count or covered != index.spans:
        raise ValueError(f"its shards do not cover its {index.rows} rows")
    if not 0 <= index.cells <= MAX_CELLS or (index.map_shape and len(index.map_shape) != 2):
        raise ValueError(f"its map has the shape {index.map_shape}")
    if not index.cells and any("map" in one.bytes for one in index.shards):
        raise ValueError("a shard has a layer `map`, and there is no map")
    if any("exact" not in one.bytes for one in index.shards):
        raise ValueError("a shard has no layer `exact`")
