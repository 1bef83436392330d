"""Opening the Zarr arrays of a release, each only as the layout says that it must be.

Array metadata comes from the release, so it is not believed: shape, chunks, dtype and codecs must
be those that the format gives the layer. What is read then has a known size, and more is refused
before memory is taken: objects and ranges that are too long, shard indexes that point beyond
reason, and zstd frames that would swell beyond their chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.storage import StorePath, WrapperStore

from skyfold.access.trust import check_key, reading
from skyfold.errors import CorruptDataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skyfold.access.contents import ReleaseContents
    from skyfold.access.store import Store

_SLACK = 4096  # bytes that compressed numbers may take beyond plain ones, and for each chunk
_CHUNK_SLACK = 256
_INDEX_CODECS = ["bytes", "crc32c"]


@dataclass(frozen=True)
class BoundedZstdCodec(zarr.codecs.ZstdCodec):
    """zstd that looks at a frame's stated size before it takes memory for it."""

    @classmethod
    def from_dict(cls, data: Any) -> BoundedZstdCodec:
        """Codec of its metadata, which names it here and nowhere in a release."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """Inverse of `from_dict`."""
        return super().to_dict() | {"name": "skyfold.bounded_zstd"}

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        item = chunk_spec.dtype.to_native_dtype().itemsize
        expected = int(np.prod(chunk_spec.shape)) * item
        stated = zstd_content_size(bytes(chunk_bytes.as_numpy_array()[:18]))
        if stated != expected:
            raise CorruptDataError(f"zstd frame states {stated} bytes for a chunk of {expected}")
        return super()._decode_sync(chunk_bytes, chunk_spec)


zarr.registry.register_codec("skyfold.bounded_zstd", BoundedZstdCodec)


def zstd_content_size(head: bytes) -> int | None:
    """Bytes that a zstd frame says it holds, from its first 18; None if it does not say.

    Notes
    -----
    RFC 8878, section 3.1.1.1.
    """
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = head[4]
    single = bool(descriptor & 0x20)
    size = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    at = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    if not size or len(head) < at + size:
        return None
    return int.from_bytes(head[at : at + size], "little") + (256 if size == 2 else 0)


class BoundedStore(WrapperStore[Any]):
    """The objects of one array: plain files, and none longer than its layout allows.

    Parameters
    ----------
    store : zarr.abc.store.Store
    owner : Store
        The same objects, which knows whether they are plain files.
    most : int
        Bytes of the longest object.
    """

    def __init__(self, store: Any, owner: Store, most: int) -> None:
        super().__init__(store)
        self._owner = owner
        self._most = most

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Bytes of an object or of a part of it; None if there is none."""
        try:
            self._owner.check_plain(key)
        except FileNotFoundError:
            return None
        asked = self._bounded(key, byte_range)
        found = await self._store.get(key, prototype, asked)
        if found is not None and len(found) > self._most:
            raise CorruptDataError(f"{key} has more than the {self._most:,} bytes that it may take")
        return found

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> list[Any]:
        """`get` for several keys."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    def _bounded(self, key: str, asked: Any) -> Any:
        if asked is None:
            return RangeByteRequest(0, self._most + 1)
        if isinstance(asked, RangeByteRequest) and asked.end > self._most:
            raise CorruptDataError(
                f"the index of {key} points at byte {asked.end:,}; it may have {self._most:,}"
            )
        if isinstance(asked, SuffixByteRequest) and asked.suffix > self._most:
            raise CorruptDataError(f"the index of {key} takes {asked.suffix:,} bytes")
        return asked


def open_array(
    release: ReleaseContents, store: Any, path: str, spec: Mapping[str, Any]
) -> zarr.Array[Any]:
    """Zarr array of a release, if it is the layout's.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The release's objects.
    path : str
        Such as ``densities/pz/exact``.
    spec : mapping
        What the layout gives `zarr.create_array`: shape (None: any length of that axis), chunks,
        shards, dtype, serializer, compressors.

    Raises
    ------
    CorruptDataError
        If it is missing, or another than the layout's.
    """
    name = f"{release.url}/{check_key(path)}"
    found = release.metadata(path)
    check_metadata(found, spec, name)
    with reading(name, "an array"):
        plain = found | {"codecs": _with_bounds(found["codecs"])}
        bounded = BoundedStore(store, release.store, _longest(spec))
        return zarr.Array(zarr.AsyncArray.from_dict(StorePath(bounded, path), plain))


def _longest(spec: Mapping[str, Any]) -> int:
    """Most bytes that one object of an array can have."""
    shape = spec.get("shards") or spec["chunks"]
    plain = int(np.prod([int(side) for side in shape])) * np.dtype(spec["dtype"]).itemsize
    chunks = plain // max(1, int(np.prod(spec["chunks"])) * np.dtype(spec["dtype"]).itemsize)
    return plain + plain // 8 + _CHUNK_SLACK * chunks + _SLACK


def check_metadata(found: Any, spec: Mapping[str, Any], name: str) -> None:
    """Raise unless an array's metadata is what `zarr.create_array` writes for a layout.

    Parameters
    ----------
    found : object
        Content of its ``zarr.json``.
    spec : mapping
        As `open_array` takes it.
    name : str
        For messages.

    Raises
    ------
    CorruptDataError
    """
    with reading(name, "an array"):
        _compare(found, spec, name)


def _compare(found: Any, spec: Mapping[str, Any], name: str) -> None:
    shards = spec.get("shards")
    expected = {
        "node_type": "array",
        "zarr_format": 3,
        "data_type": np.dtype(spec["dtype"]).name,
        "chunk_grid": [int(side) for side in shards or spec["chunks"]],
        "chunk_key_encoding": "default",
        "fill_value": 0,
        "codecs": _expected_codecs(spec),
        "storage_transformers": [],
    }
    met = {key: found.get(key) for key in ("node_type", "zarr_format", "data_type", "fill_value")}
    met["chunk_grid"] = list(found["chunk_grid"]["configuration"]["chunk_shape"])
    encoding = found["chunk_key_encoding"]
    separator = encoding.get("configuration", {}).get("separator", "/")
    met["chunk_key_encoding"] = encoding["name"] if separator == "/" else separator
    met["codecs"] = [_told(one) for one in found["codecs"]]
    met["storage_transformers"] = list(found.get("storage_transformers") or [])
    wrong = [key for key, value in expected.items() if met[key] != value]
    shape, wanted = found["shape"], spec["shape"]
    fits = len(shape) == len(wanted) and all(
        type(side) is int and 0 <= side < 2**53 and one in (None, side)
        for side, one in zip(shape, wanted, strict=True)
    )
    if wrong or not fits:
        part = wrong[0] if wrong else "shape"
        allowed = expected[part] if wrong else list(wanted)
        raise CorruptDataError(
            f"{name} has {part} {str(met.get(part, shape))[:200]}, the format gives it {allowed}; "
            "do not use this release"
        )


def _expected_codecs(spec: Mapping[str, Any]) -> list[Any]:
    serializer = spec.get("serializer")
    inner = [_told(serializer.to_dict()) if serializer is not None else "bytes"]
    inner += ["zstd"] if spec.get("compressors") is not None else []
    if not spec.get("shards"):
        return inner
    return [["sharding_indexed", [int(side) for side in spec["chunks"]], inner, _INDEX_CODECS]]


def _told(codec: Any) -> Any:
    """A codec as its name, with what its format depends on; levels of effort are left out."""
    name, configuration = codec["name"], codec.get("configuration") or {}
    if name == "sharding_indexed":
        inner = [_told(one) for one in configuration["codecs"]]
        index = [_told(one) for one in configuration["index_codecs"]]
        place = configuration.get("index_location", "end")
        chunk = list(configuration["chunk_shape"])
        return [name, chunk, inner, index] if place == "end" else [name, chunk, inner, place]
    if name == "bytes":
        return name if configuration.get("endian", "little") == "little" else "bytes, big endian"
    return [name, configuration] if name.startswith("skyfold.") else name


def _with_bounds(codecs: Any) -> list[Any]:
    """Codecs with zstd that is bounded."""
    out = []
    for codec in codecs:
        settings = codec.get("configuration") or {}
        if codec["name"] == "sharding_indexed":
            settings = settings | {"codecs": _with_bounds(settings["codecs"])}
        name = "skyfold.bounded_zstd" if codec["name"] == "zstd" else codec["name"]
        out.append({"name": name, "configuration": settings})
    return out
