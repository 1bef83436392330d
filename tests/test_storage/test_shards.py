"""Objects of layers: byte for byte those that Zarr writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype

from skyfold.ladder import TILE
from skyfold.layout import ImageGroup
from storage.images.shards import make_shard

LAYERS = (
    "background", "checksum", "quantum", "stripes", "guard", "flags", "sources", "bounded", "exact",
    "direct",
)  # fmt: skip


def by_zarr(document: bytes, values: np.ndarray[Any, Any]) -> bytes:
    objects: dict[str, Any] = {"zarr.json": default_buffer_prototype().buffer.from_bytes(document)}
    array = zarr.open_array(zarr.storage.MemoryStore(objects), mode="r+", zarr_format=3)
    array[1] = values
    made = [bytes(one.to_bytes()) for key, one in objects.items() if key != "zarr.json"]
    assert len(made) <= 1
    return made[0] if made else b""


@pytest.mark.parametrize("tiles", [(1, 1), (1, 3), (3, 5), (4, 2)])
def test_shards_are_those_of_zarr(tiles: tuple[int, int]) -> None:
    documents: dict[str, Any] = {}
    group = ImageGroup(2, tiles, "float32", 4, "0" * 64)
    group.create(zarr.storage.MemoryStore(documents), "group")
    rng = np.random.default_rng(3)
    for layer in LAYERS:
        document = bytes(documents[f"group/{layer}/zarr.json"].to_bytes())
        array = zarr.open_array(zarr.storage.MemoryStore(documents), path=f"group/{layer}")
        values = rng.integers(0, 3, array.shape[1:]).astype(array.dtype)
        assert make_shard(document, np.zeros_like(values)) == b""
        values[:TILE] = -0.0 if values.dtype.kind == "f" else 0
        assert make_shard(document, values) == by_zarr(document, values)


def test_tiles_without_values_have_no_chunk() -> None:
    documents: dict[str, Any] = {}
    ImageGroup(2, (4, 3), "int16", 4, "0" * 64).create(zarr.storage.MemoryStore(documents), "group")
    document = bytes(documents["group/flags/zarr.json"].to_bytes())
    values = np.zeros((4 * TILE, 3 * TILE), np.uint8)
    values[700, 300] = 1
    shard = make_shard(document, values)
    assert shard == by_zarr(document, values)
    assert len(shard) < 4 * 3 * 16 + 64
