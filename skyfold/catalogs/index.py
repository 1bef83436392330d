"""What a catalog of a release consists of: its columns, its arrays, its chunks of rows.

::

    catalogs/<name>/catalog.json       columns, how each is stored, bytes of each level
    catalogs/<name>/index.parquet      one row a chunk: HEALPix range, lowest and highest values
    catalogs/<name>/<layer>            Zarr arrays (elements, rows); a chunk is one element's rows,
                                       or several elements' where the catalog is short
    catalogs/<name>/text/<number>      Zarr arrays (rows, bytes) of strings
    catalogs/<name>/list/<number>      Zarr arrays (rows, 1 + longest): number, values, zeros
    catalogs/<name>/checksum           CRC-32 of decoded values (columns of floats, chunks, levels
                                       from `latent` on); 0 where nothing is computed
    catalogs/<name>/som/<array>        the self-organizing map and what its cells hold
    models/<digest>/table.npz          the table's model

A column of vectors is several *elements*: real elements (floats), whole ones (integers, booleans,
times), text. Lists of changing length are kept as they are at every level, bits of floats or
integers. Rows are cut into chunks along the HEALPix curve; inside a chunk they keep the order of
the input, so that their numbers cost little and neighbours in the file stay neighbours.

The layers `direct2`, `direct4` and `direct8` hold bits of floats; of a column that names a
*relation*, how far its bits are from what other columns say (`skyfold.catalogs.relations`).
Likewise the cells of a column that names a *centre* are counted from what other columns say at
`bounded`, and not from the table's model. Those others have no centre themselves, nor have their
errors.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import zarr

from skyfold.access.trust import load_json, reading
from skyfold.catalogs.checks import KINDS, check_info
from skyfold.catalogs.columns import LEVELS
from skyfold.catalogs.relations import Relation
from skyfold.codecs.columns import ListsCodec, NumbersCodec, TextCodec
from skyfold.codecs.zarr_codec import ZarrCodec
from skyfold.errors import LevelNotStoredError, UnknownNameError

CHUNK_ROWS = 16384
MAX_PACK = 32
# A chunk of a short catalog holds several elements, up to so many values; of a long one, one.
PACKED_VALUES = 2 * CHUNK_ROWS - 1
REAL_KINDS = KINDS[:4]
ROW_MAJOR = KINDS[5:]  # kinds with an array of their own for each element, rows first
_LAYER_TYPES = {
    "rows": "int64",
    "map": "int32",
    "latent": "int32",
    "nulls": "uint8",
    "flags": "uint8",
    "whole": "int64",
    "bounded": "int64",
    "raw": "uint64",
    "exact": "int64",
    "direct2": "uint16",
    "direct4": "uint32",
    "direct8": "uint64",
}


@dataclass(frozen=True)
class Column:
    """One column, as it came and as it is stored.

    Attributes
    ----------
    name, unit, description : str
    dtype : str
        Such as ``>f4`` or ``S17``; ``str`` for text of any length; of a list, that of its values.
    shape : tuple of int
        Of one row's value; ``()`` for a number.
    kind : {"scaled", "error", "fixed", "plain", "whole", "text", "list"}
    first : int
        Number of its first element among those of its sort (real, whole, text, list).
    direct : int
        Likewise in the array of its size, ``direct2``, ``direct4`` or ``direct8``.
    is_position : bool
        Right ascension or declination: the same at every level below `exact`.
    is_refined : bool
        `exact` is stored as a refinement of `bounded`, and not directly.
    partner : str or None
        Column of the errors.
    factor : float
        Units of this column in one unit of its errors.
    is_inverse : bool
        The errors are inverse variances.
    precision : float or None
        Declared, in the column's unit; the bound is half of it.
    fills : tuple of str
        Values in place of a measurement: little-endian bytes in hex.
    missing : tuple of float
        Those values among the declared or found ones that mean "missing".
    width : int
        Bytes of the longest string, or values of the longest list.
    relation : Relation or None
        How its bits are told from other columns; they are stored as they are without.
    centre : Relation or None
        How the centre of its cells is told from other columns, as decoded at `bounded`; by the
        table's model without.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    unit: str | None = None
    description: str = ""
    kind: str = "plain"
    first: int = 0
    direct: int = 0
    is_position: bool = False
    is_refined: bool = False
    partner: str | None = None
    factor: float = 1.0
    is_inverse: bool = False
    precision: float | None = None
    fills: tuple[str, ...] = ()
    missing: tuple[float, ...] = ()
    width: int = 1
    relation: Relation | None = None
    centre: Relation | None = None

    @property
    def elements(self) -> int:
        """Numbers (or strings) that one row holds."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def is_real(self) -> bool:
        """Whether it holds floats."""
        return self.kind in REAL_KINDS

    @property
    def native(self) -> np.dtype[Any]:
        """Type of its numbers in this machine's byte order."""
        return np.dtype(self.dtype).newbyteorder("=")

    @property
    def direct_layer(self) -> str:
        """Array that holds its bits."""
        return f"direct{self.native.itemsize}"

    @property
    def list_dtype(self) -> np.dtype[Any]:
        """Type that holds its lists: bits of floats, integers as they are; and the numbers."""
        native = self.native
        return np.dtype(f"u{max(native.itemsize, 4)}" if native.kind == "f" else "i8")

    @property
    def row_bytes(self) -> int:
        """Bytes that one row takes in memory, at most."""
        sizes = {"text": self.width, "list": (1 + self.width) * self.list_dtype.itemsize}
        return self.elements * sizes.get(self.kind, 8)

    @property
    def bounded_from(self) -> tuple[str, ...]:
        """Columns whose values at `bounded` its own are decoded from: of its centre, its errors."""
        told = self.centre.columns if self.centre else ()
        return (*told, self.partner) if self.partner else told

    def fill_values(self) -> np.ndarray[Any, Any]:
        """Values of the flags from `FLAG_FILL` on."""
        raw = bytes.fromhex("".join(self.fills))
        return np.frombuffer(raw, self.native.newbyteorder("<")).astype(self.native)

    def places(self, layer: str) -> list[int]:
        """Rows of a layer's array that hold its elements."""
        first = self.direct if layer.startswith("direct") else self.first
        return list(range(first, first + self.elements))


@dataclass(frozen=True)
class CatalogInfo:
    """One catalog of a release.

    Attributes
    ----------
    name : str
    rows : int
        Stored rows.
    chunk_rows, shard_rows : int
        Rows of a chunk and of a shard.
    columns : tuple of Column
    model : str
        Digest of its model, or "".
    channels : int
        Latents of a row.
    fraction : float
        Of each value's own error that `bounded` may cost.
    ra, dec, id, redshift : str or None
        Names of the columns that have a role.
    seed, hold_out_order : int
        Rule of the rows that training never saw: HEALPix cells of this order, or rows for -1.
    levels : dict
        Stored bytes that decoding all columns at a level reads.
    layers : dict
        Stored bytes of each array.
    som : dict
        Shape and errors of the self-organizing map.
    notices : tuple of str
        What the input had that a reader should know: what was set aside, what was kept exactly.
    """

    name: str
    rows: int
    chunk_rows: int
    shard_rows: int
    columns: tuple[Column, ...]
    model: str = ""
    channels: int = 0
    fraction: float = 0.1
    ra: str | None = None
    dec: str | None = None
    id: str | None = None
    redshift: str | None = None
    seed: int = 0
    hold_out_order: int = -1
    levels: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    som: dict[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def chunks(self) -> int:
        """Number of chunks of rows."""
        return -(-self.rows // self.chunk_rows)

    @property
    def shards(self) -> int:
        """Number of shards of rows."""
        return -(-self.rows // self.shard_rows)

    @property
    def pack(self) -> int:
        """Elements that share a chunk."""
        return min(max(1, PACKED_VALUES // self.chunk_rows), MAX_PACK)

    def column(self, name: str) -> Column:
        """Column of a name; UnknownNameError if there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        some = ", ".join(column.name for column in self.columns[:8])
        raise UnknownNameError(
            f"catalog {self.name!r} has no column {name!r} among {len(self.columns)}; there "
            "are such "
            f"as {some}; release.catalogs[{self.name!r}].columns lists them"
        )

    @property
    def real_columns(self) -> list[Column]:
        """Columns of floats: one row each of the array `checksum`."""
        return [column for column in self.columns if column.is_real]

    def numbers(self, kind: str) -> int:
        """How many elements there are of a sort: real, whole, text or list."""
        if kind == "real":
            return sum(column.elements for column in self.columns if column.is_real)
        return sum(column.elements for column in self.columns if column.kind == kind)

    def null_place(self, column: Column) -> int:
        """Row of the layer `nulls` that holds a column's first element."""
        sort = "real" if column.is_real else column.kind
        before = ("real", "whole", "text", "list")
        return sum(map(self.numbers, before[: before.index(sort)])) + column.first

    def layers_read(self, column: Column, level: str) -> tuple[str, ...]:
        """Layers that decoding a column at a level reads, without those of other columns."""
        if not column.is_real:
            return (column.kind, "nulls")
        if column.is_position and level in ("map", "latent"):
            level = "bounded"
        if level == "map":
            return ("map",)
        if level == "latent":
            return ("map", "latent", "flags", "nulls")
        model = () if column.is_position or column.centre else ("map", "latent")
        if column.kind == "plain" or (level == "exact" and not column.is_refined):
            return (column.direct_layer, "nulls")
        cells = (*model, "flags", "bounded", "raw", "nulls")
        return (*cells, "exact") if level == "exact" else cells

    def layer_shape(self, layer: str) -> tuple[str, int]:
        """Type and number of rows of a layer's array; text and lists have their own."""
        real, whole = self.numbers("real"), self.numbers("whole")
        every = real + whole + self.numbers("text") + self.numbers("list")
        counts = {"rows": 1, "map": 1, "latent": self.channels, "nulls": every}
        counts |= {"whole": whole} | dict.fromkeys(("flags", "bounded", "raw", "exact"), real)
        for size in (2, 4, 8):
            ends = [c.direct + c.elements for c in self.real_columns if c.native.itemsize == size]
            counts[f"direct{size}"] = max(ends, default=0)
        return _LAYER_TYPES[layer], counts[layer]

    def arrays(self) -> dict[str, tuple[str, int]]:
        """Type and number of rows of every array that is not empty."""
        shapes = {layer: self.layer_shape(layer) for layer in _LAYER_TYPES}
        return {layer: shape for layer, shape in shapes.items() if shape[1]}

    def specs(self) -> dict[str, dict[str, Any]]:
        """What `zarr.create_array` is given for each array, by name."""
        numbers = {
            layer: {
                "shape": (count, self.rows),
                "chunks": (self.pack, self.chunk_rows),
                "shards": (-(-count // self.pack) * self.pack, self.shard_rows),
                "dtype": dtype,
                "serializer": ZarrCodec(NumbersCodec()),
            }
            for layer, (dtype, count) in self.arrays().items()
        }
        texts = {
            f"text/{place}": {
                "shape": (self.rows, column.width),
                "chunks": (self.chunk_rows, column.width),
                "shards": (self.shard_rows, column.width),
                "dtype": "uint8",
                "serializer": ZarrCodec(TextCodec()),
            }
            for column in self.columns
            if column.kind == "text"
            for place in column.places("text")
        }
        lists = {
            f"list/{column.first}": {
                "shape": (self.rows, 1 + column.width),
                "chunks": (self.chunk_rows, 1 + column.width),
                "shards": (self.shard_rows, 1 + column.width),
                "dtype": column.list_dtype,
                "serializer": ZarrCodec(ListsCodec()),
            }
            for column in self.columns
            if column.kind == "list"
        }
        every = numbers | texts | lists | self._checksum_spec()
        return {name: spec | {"compressors": None, "fill_value": 0} for name, spec in every.items()}

    def _checksum_spec(self) -> dict[str, dict[str, Any]]:
        """CRC of every column's decoded chunk at `latent`, `bounded` and `exact`; see `checked`."""
        count = len(self.real_columns)
        spec = {
            "shape": (count, self.chunks, len(LEVELS) - 1),
            "chunks": (count, self.shard_rows // self.chunk_rows, 1),
            "dtype": "uint32",
        }
        return {"checksum": spec} if count else {}

    def create(self, store: Any, path: str) -> None:
        """Create the arrays of every layer at `path`, without data."""
        for name, spec in self.specs().items():
            zarr.create_array(store, name=f"{path}/{name}", overwrite=True, **spec)

    def to_json(self) -> bytes:
        """The catalog's JSON; the same catalog always gives the same bytes."""
        return json.dumps(asdict(self), sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, key: str) -> CatalogInfo:
        """Inverse of `to_json`.

        Raises
        ------
        CorruptDataError
            If it does not describe a catalog that can be decoded.
        """
        with reading(key, "the description of a catalog"):
            plain = load_json(data, key)
            columns = tuple(_column(row) for row in plain.pop("columns"))
            info = replace(cls(columns=columns, **plain), notices=tuple(plain["notices"]))
            check_info(info)
        return info


def _column(row: dict[str, Any]) -> Column:
    column = Column(**row)
    return replace(
        column,
        shape=tuple(column.shape),
        fills=tuple(column.fills),
        missing=tuple(column.missing),
        relation=_relation(row.get("relation")),
        centre=_relation(row.get("centre")),
    )


def _relation(row: dict[str, Any] | None) -> Relation | None:
    return None if row is None else Relation.from_json(row)


def check_level(level: str) -> str:
    """The level, if catalogs have one of this name; LevelNotStoredError otherwise."""
    if level not in LEVELS:
        raise LevelNotStoredError(
            f"level {level!r} is not one of {', '.join(LEVELS)}, which catalogs have; choose one"
        )
    return level


def catalog_path(name: str) -> str:
    """Key below which a catalog lies; names hold no slash, but for the table of the objects."""
    return name if "/" in name else f"catalogs/{name}"
