"""Writing a catalog into a release: arrays, one shard of rows at a time, then its description.

A shard of every layer has one writer, and a note says what is in it; a shard whose note names the
same input, model and plan is skipped. The description and the index come last.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from skyfold.access.model_files import files_digest
from skyfold.catalogs.chunks import Chunks
from skyfold.catalogs.columns import LEVELS
from skyfold.catalogs.index import ROW_MAJOR, CatalogInfo, Column, catalog_path
from skyfold.catalogs.model import TableModel, u_matrix
from skyfold.catalogs.rows import checked_level
from skyfold.errors import CorruptDataError, ReleaseError
from skyfold.layout import STAGING
from storage.builder import ReleaseBuilder
from storage.catalogs.encoder import EncodedRows

if TYPE_CHECKING:
    from skyfold.access.store import Store
    from skyfold.objects.model import ObjectModel

_INDEX_ENTRY = (
    16  # bytes of a chunk in a shard's index: offset and length (Zarr sharding codec 1.0)
)
_EMPTY = 2**64 - 1


@dataclass(frozen=True)
class CatalogWriter:
    """One catalog being written.

    Parameters
    ----------
    builder : ReleaseBuilder
    info : CatalogInfo
        With its model's digest.
    key : str
        Digest of all that the stored rows depend on.
    """

    builder: ReleaseBuilder
    info: CatalogInfo
    key: str

    @property
    def path(self) -> str:
        """Key below which the catalog lies."""
        return catalog_path(self.info.name)

    @property
    def store(self) -> Store:
        """Where the release is."""
        return self.builder.store

    def start(self) -> None:
        """Empty arrays of every layer, unless they are there as planned."""
        self.builder.require_unsealed()
        started = self.builder.read_note(self._note("arrays"))
        if started == self.key:
            return
        if started is not None:  # shards of another plan
            self.store.delete_prefix(self.path)
        self.builder.write_arrays(lambda store: self.info.create(store, self.path))
        self.builder.note(self._note("arrays"), self.key)

    def _note(self, what: object) -> str:
        return f"catalogs/{self.info.name}/{what}"

    def is_written(self, shard: int) -> bool:
        """Whether a shard is there, from the same input, model and plan."""
        note = self.builder.read_note(self._note(shard))
        if note is None or note["key"] != self.key:
            return False
        return all(self.store.size(key) == size for key, size in note["objects"].items())

    def rows_of(self, shard: int) -> slice:
        """Stored places of a shard's rows."""
        first = shard * self.info.shard_rows
        return slice(first, min(first + self.info.shard_rows, self.info.rows))

    def write(self, shard: int, encoded: EncodedRows) -> None:
        """Write one shard of every layer, then the note that says so."""
        self.builder.require_unsealed()
        open_array = self.builder.arrays()
        rows = self.rows_of(shard)
        for layer, values in encoded.layers.items():
            array = open_array(f"{self.path}/{layer}")
            if _is_row_major(layer):
                array[rows] = values
            else:
                array[:, rows] = values
        if encoded.checksum.size:
            first = rows.start // self.info.chunk_rows
            chunks = slice(first, first + encoded.checksum.shape[1])
            open_array(f"{self.path}/checksum")[:, chunks] = encoded.checksum
        self._note_shard(shard, encoded)

    def _note_shard(self, shard: int, encoded: EncodedRows) -> None:
        """Sizes of all chunks, and what the index will say of them."""
        keys = {layer: self._object(layer, shard) for layer in encoded.layers}
        checks = {level: self._object(f"checksum/{level}", shard) for level in LEVELS[1:]}
        objects = {key: self.store.size(key) for key in (*keys.values(), *checks.values())}
        elements = {
            layer: self._element_bytes(layer, keys[layer], len(values))
            for layer, values in encoded.layers.items()
        }
        sink = io.BytesIO()
        cells = self._cells_present(encoded)
        np.savez_compressed(
            sink, cells=cells, least=encoded.least, most=encoded.most, sums=encoded.sums
        )
        self.store.write(f"{STAGING}/{self._note(shard)}.npz", sink.getvalue())
        note = {"key": self.key, "objects": objects, "elements": elements}
        note["checksum"] = {level: objects[key] for level, key in checks.items()}
        self.builder.note(self._note(shard), note)

    def _cells_present(self, encoded: EncodedRows) -> NDArray[np.bool_]:
        step, count = self.info.chunk_rows, encoded.sums.shape[1]
        out = np.zeros((encoded.least.shape[0], count), bool)
        for chunk in range(len(out) if count else 0):
            out[chunk, encoded.layers["map"][0, chunk * step : (chunk + 1) * step]] = True
        return out

    def _object(self, layer: str, shard: int) -> str:
        """Key of the one object that holds a layer's shard."""
        if layer.startswith("checksum/"):
            layer, level = layer.split("/")
            return f"{self.path}/{layer}/c/0/{shard}/{LEVELS.index(level) - 1}"
        place = f"{shard}/0" if _is_row_major(layer) else f"0/{shard}"
        return f"{self.path}/{layer}/c/{place}"

    def _element_bytes(self, layer: str, key: str, count: int) -> list[int]:
        """Stored bytes of each row of chunks of a shard, its part of the shard's index included."""
        chunks = self.info.shard_rows // self.info.chunk_rows
        count = 1 if _is_row_major(layer) else -(-count // self.info.pack)
        tail = _INDEX_ENTRY * chunks * count + 4
        if not self.store.size(key):
            return [0] * count
        data = self.store.fs.cat_file(self.store.path(key), start=-tail)
        entries = np.frombuffer(data[:-4], "<u8").reshape(count, chunks, 2)
        lengths = np.where(entries[..., 1] == _EMPTY, 0, entries[..., 1])
        return [int(row.sum()) + _INDEX_ENTRY * chunks for row in lengths]

    # The end.

    def finish(
        self, model: TableModel | None, low: NDArray[Any], high: NDArray[Any]
    ) -> CatalogInfo:
        """Write the index, the map and the description, once every shard is there.

        Parameters
        ----------
        model : TableModel or None
        low, high : ndarray, shape (chunks,), int64
            Range of sky cells of each chunk.

        Returns
        -------
        CatalogInfo
            With the bytes of each level.

        Raises
        ------
        ReleaseError
            If a shard is missing.
        """
        lacking = [shard for shard in range(self.info.shards) if not self.is_written(shard)]
        if lacking:
            raise ReleaseError(
                f"catalog {self.info.name!r} lacks {len(lacking)} of {self.info.shards} "
                "shards, the first "
                f"is {lacking[0]}; run encode again"
            )
        notes = [self.builder.read_note(self._note(shard)) for shard in range(self.info.shards)]
        found = [self._statistics(shard) for shard in range(self.info.shards)]
        joined = {
            name: np.concatenate([one[name] for one in found])
            for name in ("least", "most", "cells")
        }
        chunks = Chunks(low, high, joined["least"], joined["most"], joined["cells"])
        self.store.write(f"{self.path}/index.parquet", chunks.to_parquet())
        sums = np.sum([one["sums"] for one in found], axis=0)
        som = self._write_som(model, sums) if model is not None else {}
        info = replace(self.info, som=som)
        levels, layers = _sizes(info, notes)
        info = replace(info, levels=levels, layers=layers)
        self.store.write(f"{self.path}/catalog.json", info.to_json())
        return info

    def _statistics(self, shard: int) -> dict[str, NDArray[Any]]:
        data = self.store.read(f"{STAGING}/{self._note(shard)}.npz")
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}

    def _write_som(self, model: TableModel, sums: NDArray[np.float64]) -> dict[str, Any]:
        """The map's arrays, axes (y, x) first, and what the description says of them."""
        arrays = som_arrays(self.info, model, sums)
        target = self.store.zarr(read_only=False)
        for name, values in arrays.items():
            path = f"{self.path}/som/{name}"
            zarr.create_array(
                target,
                name=path,
                data=values,
                chunks=values.shape,
                compressors=zarr.codecs.ZstdCodec(level=19, checksum=True),
                overwrite=True,
            )
        features = [int(model.targets[place]) for place in model.features]
        return {
            **model.card.get("som", {}),
            "shape": list(model.som.shape[:2]),
            "features": [element_name(self.info, element) for element in features],
            "arrays": sorted(arrays),
        }


def _is_row_major(layer: str) -> bool:
    return layer.split("/")[0] in ROW_MAJOR


def som_arrays(
    info: CatalogInfo, model: TableModel, sums: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """What a map and the rows in its cells amount to, as arrays with axes (y, x) first."""
    shape = model.som.shape[:2]
    count, total, squares = sums
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.where(count > 0, total / count, np.nan)
        scatter = np.sqrt(np.maximum(squares / count - mean * mean, 0))
    cells = {"count": count, "mean": mean, "scatter": np.where(count > 0, scatter, np.nan)}
    arrays: dict[str, NDArray[Any]] = {
        name: values.reshape(*shape, -1) for name, values in cells.items()
    }
    arrays |= {"weights": model.som, "hits": count.max(axis=1, initial=0).reshape(shape)}
    arrays["u_matrix"] = u_matrix(model.som)
    redshift = [c for c in info.columns if c.name == info.redshift and c.is_real]
    for column in redshift:
        arrays["redshift"] = arrays["mean"][..., column.first]
        arrays["redshift_scatter"] = arrays["scatter"][..., column.first]
    return arrays


def element_name(info: CatalogInfo, element: int) -> str:
    """Name of a real element: its column's, and the place in a vector; else CorruptDataError."""
    for column in info.columns:
        if column.is_real and element in column.places("bounded"):
            place = element - column.first
            return column.name if column.elements == 1 else f"{column.name}[{place}]"
    raise CorruptDataError(f"catalog {info.name!r} has no real element {element}; plan it again")


def _sizes(
    info: CatalogInfo, notes: Sequence[dict[str, Any]]
) -> tuple[dict[str, int], dict[str, int]]:
    """Bytes of each layer, and of what each level reads."""
    elements: dict[tuple[str, int], int] = {}
    for note in notes:
        for layer, sizes in note["elements"].items():
            for place, size in enumerate(sizes):
                elements[layer, place] = elements.get((layer, place), 0) + size
    checks = {level: sum(note["checksum"][level] for note in notes) for level in LEVELS[1:]}
    layers = {"checksum": sum(checks.values())}
    for (layer, _), size in elements.items():
        name = layer.split("/")[0]
        layers[name] = layers.get(name, 0) + size
    levels = {}
    for level in LEVELS:
        read = {("rows", 0)}
        for column in info.columns:
            read |= {(layer, place // info.pack) for layer, place in _read_by(info, column, level)}
        checked = _levels_checked(info, level)
        levels[level] = sum(checks[one] for one in checked) + sum(
            elements.get(key, 0) for key in read
        )
    return levels, dict(sorted(layers.items()))


def _levels_checked(info: CatalogInfo, level: str) -> set[str]:
    """Levels whose checksums decoding all columns at a level reads."""
    places = {checked_level(column, level) for column in info.columns} - {None}
    return {LEVELS[place + 1] for place in places if place is not None}


def _read_by(info: CatalogInfo, column: Column, level: str) -> set[tuple[str, int]]:
    """Rows of layers that decoding a column reads, those of its errors included."""
    read: set[tuple[str, int]] = set()
    layers = info.layers_read(column, level)
    for layer in layers:
        if layer == "nulls":
            first = info.null_place(column)
            read |= {("nulls", place) for place in range(first, first + column.elements)}
        elif layer in ROW_MAJOR:
            read |= {(f"{layer}/{place}", 0) for place in column.places(layer)}
        elif layer in ("map", "latent"):
            read |= {(layer, place) for place in range(info.channels if layer == "latent" else 1)}
        else:
            read |= {(layer, place) for place in column.places(layer)}
    if column.relation is not None and column.direct_layer in layers:
        for name in column.relation.columns:
            other = info.column(name)
            read |= {(other.direct_layer, place) for place in other.places(other.direct_layer)}
    if "bounded" in layers:
        for other in map(info.column, column.bounded_from):
            read |= _read_by(info, other, "bounded")
    return read


def write_table_model(builder: ReleaseBuilder, model: TableModel | ObjectModel) -> str:
    """Store the files of a model of a table or of objects under their digest; see `files_digest`.

    Raises
    ------
    SealedReleaseError
        If the release is sealed.
    """
    builder.require_unsealed()
    files = model.to_files()
    digest = files_digest(files)
    for name, data in files.items():
        builder.store.write(f"models/{digest}/{name}", data)
    return digest


def plan_key(info: CatalogInfo, order: NDArray[np.int64], inputs: Sequence[str]) -> str:
    """Digest of all that stored rows depend on: description, model, order and input."""
    found = hashlib.sha256(info.to_json())
    found.update(np.ascontiguousarray(order, "<i8").tobytes())
    found.update("\n".join(inputs).encode())
    return found.hexdigest()
