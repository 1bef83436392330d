"""Writing a set of densities: its plan, its arrays, its shards one at a time, its index.

Every step can be repeated: a shard's note names what it was made of, and a shard whose objects are
there, from the same input and format, is skipped.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyfold.densities.index import (
    FLOORS,
    LAYERS,
    NORMALISATIONS,
    Bounds,
    DensityIndex,
    Shard,
    about,
    index_key,
    quadrature,
    write_index,
)
from skyfold.densities.rows import to_masses
from skyfold.errors import InputError
from skyfold.layout import ZARR_KEY
from storage.densities.shard import EncodedShard, encode_shard

if TYPE_CHECKING:
    from storage.builder import ReleaseBuilder
    from storage.densities.reader import DensitiesInput

LOOKED_AT = 1000  # rows that tell how a set is normalised
SAMPLE_ROWS, SAMPLE_RUN = 8192, 64  # that the map is trained on, and how many lie together
WRITER_VERSION = 2  # changes when the same rows would be written as other bytes


def plan_densities(source: DensitiesInput) -> DensityIndex:
    """Index of a set that is not yet written.

    Raises
    ------
    InputError
        If it has no rows, or none of those looked at is a density.
    """
    if not source.rows:
        raise InputError(f"densities {source.name!r}: its files hold no rows; check `files`")
    return DensityIndex(
        name=source.name,
        grid=tuple(source.grid.tolist()),
        rows=source.rows,
        dtype=source.dtype.name,
        normalisation=find_normalisation(source),
        bounds=Bounds(),
        files=tuple(source.files),
    )


def find_normalisation(source: DensitiesInput) -> str:
    """What is 1 of most rows; the trapezoidal integral where nothing is."""
    places = np.unique(np.linspace(0, source.rows - 1, min(source.rows, LOOKED_AT)).astype(int))
    rows = np.concatenate([source.read(place, place + 1) for place in places.tolist()])
    rows = rows.astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1) & (rows >= 0).all(axis=1)]
    for name in NORMALISATIONS:
        total = rows @ quadrature(source.grid, name)
        if len(rows) and np.mean(np.abs(total - 1) < 1e-3) > 0.5:
            return name
    return NORMALISATIONS[0]


def sample_masses(source: DensitiesInput, index: DensityIndex) -> NDArray[np.float64]:
    """Probability masses of some good rows, in runs spread over the set, shape (n, points)."""
    runs = max(SAMPLE_ROWS // SAMPLE_RUN, 1)
    starts = np.unique(np.linspace(0, max(source.rows - SAMPLE_RUN, 0), runs).astype(int)).tolist()
    found = []
    for start in starts:
        stored = source.read(start, min(start + SAMPLE_RUN, source.rows))
        mass, reason = to_masses(stored, index.weights())
        found.append(mass[reason == ""])
    return np.concatenate(found)[:SAMPLE_ROWS]


def with_map(index: DensityIndex, prototypes: NDArray[np.int32]) -> DensityIndex:
    """The plan of a set whose rows are assigned to the cells of a map, shape (ny, nx, points)."""
    digest = hashlib.sha256(np.ascontiguousarray(prototypes, "<i4").tobytes()).hexdigest()
    return replace(index, map_shape=prototypes.shape[:2], map_digest=digest)


def start_densities(
    builder: ReleaseBuilder, index: DensityIndex, prototypes: NDArray[np.int32] | None = None
) -> None:
    """Create the arrays of a set, and write its map, unless they are there as planned."""
    builder.write_arrays(index.create)
    numbers = range(len(index.spans))
    shards = {index.shard_key(layer, number) for layer in LAYERS for number in numbers}
    if prototypes is not None:
        builder.arrays()(f"{index.path}/prototypes")[:] = prototypes.reshape(index.cells, -1)
        shards.add(index.shard_key("prototypes", 0))
    for key in builder.store.sizes(index.path):
        if not key.endswith((ZARR_KEY, ".parquet", ".json")) and key not in shards:
            builder.store.delete(key)  # of an earlier plan


def archive_shard(
    builder: ReleaseBuilder,
    index: DensityIndex,
    source: DensitiesInput,
    number: int,
    prototypes: NDArray[np.int32] | None = None,
) -> tuple[Shard, bool]:
    """Write one shard of a set, unless it is there already.

    Returns
    -------
    Shard
        As written.
    bool
        Whether it was written now.

    Raises
    ------
    InputError
        If the files no longer hold what the plan was made of.
    """
    builder.require_unsealed()
    start, stop = index.spans[number]
    stored = source.read(start, stop)
    if stored.shape != (stop - start, index.points) or stored.dtype.name != index.dtype:
        raise InputError(
            f"rows {start} to {stop} of densities {index.name!r} are {stored.dtype.name} of shape "
            f"{stored.shape}; planned were {index.points} points of {index.dtype}: run train again"
        )
    digest = _digest(index, stored)
    name = f"densities/{index.name}/{number}"
    written = _find_written(builder, index, number, digest)
    if written is not None:
        return written, False
    encoded = encode_shard(stored, index, prototypes)
    shard = _write(builder, index, number, encoded, digest)
    builder.note(name, shard.to_row())
    return shard, True


def _digest(index: DensityIndex, stored: NDArray[Any]) -> str:
    """Of the rows, and of everything else that their bytes depend on."""
    content = {name: value for name, value in about(index).items() if name != "files"}
    head = json.dumps([WRITER_VERSION, FLOORS, content], sort_keys=True).encode()
    return hashlib.sha256(head + np.ascontiguousarray(stored).tobytes()).hexdigest()


def _find_written(
    builder: ReleaseBuilder, index: DensityIndex, number: int, digest: str
) -> Shard | None:
    note = builder.read_note(f"densities/{index.name}/{number}")
    if note is None or note["digest"] != digest:
        return None
    shard = Shard.from_row(note)
    there = all(
        builder.store.size(index.shard_key(layer, number)) == size
        for layer, size in shard.bytes.items()
    )
    return shard if there else None


def _write(
    builder: ReleaseBuilder, index: DensityIndex, number: int, encoded: EncodedShard, digest: str
) -> Shard:
    array = builder.arrays()
    start, stop = index.spans[number]
    sizes = {}
    for layer, values in encoded.layers.items():
        rows = slice(start, stop)
        if layer == "checksum":
            each = index.chunk_rows
            rows = slice(start // each, -(-stop // each))
        array(f"{index.path}/{layer}")[rows] = values
        sizes[layer] = builder.store.size(index.shard_key(layer, number))
    return Shard(
        start=start,
        stop=stop,
        bytes=_worth_storing(builder, index, number, sizes),
        bad_rows=tuple(start + row for row in encoded.bad),
        bad_reasons=tuple(encoded.bad.values()),
        digest=digest,
    )


def _worth_storing(
    builder: ReleaseBuilder, index: DensityIndex, number: int, sizes: dict[str, int]
) -> dict[str, int]:
    """Sizes of the layers that stay: those below `exact` only where they are smaller."""
    gone = []
    if sizes["exact"] <= sizes["latent"] + sizes["bounded"]:
        gone = ["bounded"]
    if sizes["exact"] <= sizes["latent"]:
        gone = ["latent", "bounded"]
    for layer in gone:
        builder.store.delete(index.shard_key(layer, number))
    return {layer: size for layer, size in sorted(sizes.items()) if layer not in gone}


def finish_densities(
    builder: ReleaseBuilder, index: DensityIndex, shards: list[Shard]
) -> DensityIndex:
    """Write the index of a set whose shards are all there."""
    size = builder.store.size(index.shard_key("prototypes", 0)) if index.cells else 0
    shards = sorted(shards, key=lambda one: one.start)
    done = replace(index, shards=tuple(shards), map_bytes=size)
    builder.store.write(index_key(index.name), write_index(done))
    return done


def describe_bad(shards: list[Shard]) -> dict[str, tuple[int, int]]:
    """How many rows are no densities, and the first of them, for each reason."""
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for one in shards:
        for row, reason in zip(one.bad_rows, one.bad_reasons, strict=True):
            counts[reason] += 1
            first.setdefault(reason, row)
    return {reason: (count, first[reason]) for reason, count in counts.items()}
