"""What is fuzzed: each reader of stored bytes as a function of bytes, and seeds for it.

A reader may return or raise a `SkyfoldError`; anything else is a crash. Checksums that would hide
what lies behind them are put right first, as an attacker would.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import fsspec
import numpy as np

from models.entropy import fit_tables
from skyfold import open_release
from skyfold.access.graph_check import check_graph
from skyfold.access.model_files import CARD, files_digest
from skyfold.catalogs.chunks import Chunks
from skyfold.catalogs.index import CatalogInfo, Column
from skyfold.catalogs.model import ARRAYS, TableModel
from skyfold.codecs.blocks import BlocksCodec
from skyfold.codecs.columns import ListsCodec, NumbersCodec, TextCodec
from skyfold.codecs.density import DensityCodec
from skyfold.codecs.interlaced import InterlacedCodec
from skyfold.codecs.kept import KeptCodec
from skyfold.codecs.latent_tables import LatentTables
from skyfold.codecs.latents import decode_together, encode_together
from skyfold.codecs.nonzero import NonzeroCodec
from skyfold.codecs.skewed import SkewedCodec
from skyfold.codecs.sparse import SparseCodec
from skyfold.codecs.tagged import TaggedCodec
from skyfold.codecs.zarr_codec import ZarrCodec
from skyfold.densities.index import Bounds, DensityIndex, Shard
from skyfold.densities.index import read_index as read_density_index
from skyfold.densities.index import write_index as write_density_index
from skyfold.errors import SkyfoldError
from skyfold.fidelity.record import FidelityRecord
from skyfold.images.index import ImageEntry, read_index, write_index
from skyfold.noise import NoiseModel
from tests import synthetic

SIDE = 16
_DTYPES = ("i2", "i4", "f4", "f8", "u1", "i8")


@dataclass(frozen=True)
class Target:
    """One reader: what runs on the fuzzer's bytes, and bytes that a writer gives."""

    run: Callable[[bytes], Any]
    seeds: Callable[[], list[bytes]]


def survive(target: Target, data: bytes) -> bool:
    """Run a target on some bytes; whether it read them, rather than refused by name."""
    try:
        target.run(data)
    except SkyfoldError:
        return False
    return True


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _blocky() -> np.ndarray:
    chunk = np.zeros((1, SIDE, SIDE), np.int32)
    chunk[0, :8, 8:] = _rng().integers(-9, 9, (8, 8))
    return chunk


def _planes() -> list[np.ndarray]:
    """White, predictable, of some leaves, and wide."""
    white = _rng().integers(-9, 9, (1, 64, 64)).astype(np.int32)
    return [white, white.cumsum(2, np.int32), white * _odd()[1], white << 24]


def _odd() -> tuple[int, np.ndarray]:
    """Last bits: none, and those of an island of leaves."""
    island = np.zeros((1, 64, 64), np.int32)
    island[:, 10:30, 20:50] = 1
    return 0, island


def _chunk_target(codec: Any, shape: tuple[int, ...], seeds: Callable[[], list[Any]]) -> Target:
    """The first byte chooses the dtype, and the rest is the chunk."""

    def run(data: bytes) -> np.ndarray:
        dtype = np.dtype(_DTYPES[data[0] % len(_DTYPES)] if data else "i4")
        return _as_zarr_reads(codec, data[1:], shape, dtype)

    def made() -> list[bytes]:
        chunks = seeds()
        return [
            bytes([_DTYPES.index(chunk.dtype.str[1:])]) + codec.encode_chunk(chunk)
            for chunk in chunks
        ]

    return Target(run, made)


def _as_zarr_reads(codec: Any, data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Decode through the codec's meeting with Zarr, which names foreign errors."""
    from zarr.core.array_spec import ArrayConfig, ArraySpec
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.dtype import get_data_type_from_native_dtype

    prototype = default_buffer_prototype()
    spec = ArraySpec(
        shape=shape,
        dtype=get_data_type_from_native_dtype(dtype),
        fill_value=0,
        config=ArrayConfig.from_dict({}),
        prototype=prototype,
    )
    stored = prototype.buffer.from_bytes(data)
    decoded = ZarrCodec(codec)._decode_sync(stored, spec).as_numpy_array()
    assert decoded.shape == shape
    assert decoded.dtype == dtype
    return decoded


def _sealed(codec: Any, shape: tuple[int, ...], dtype: str, chunks: list[Any]) -> Target:
    """A codec whose chunk begins with a CRC-32 of the rest, which is put right."""

    def run(data: bytes) -> None:
        sealed = zlib.crc32(data).to_bytes(4, "little") + data
        _as_zarr_reads(codec, sealed, shape, np.dtype(dtype))

    return Target(run, lambda: [codec.encode_chunk(chunk)[4:] for chunk in chunks])


def _numbers() -> list[np.ndarray]:
    rng = _rng()
    return [
        np.zeros((2, 64), np.int64),
        rng.integers(-5, 5, (2, 64)),
        rng.choice(rng.integers(-(2**62), 2**62, 4), (2, 64)),
        np.stack([np.arange(64) ** 5, np.zeros(64, np.int64)]),
    ]


def _texts() -> list[np.ndarray]:
    words = [[b"%d" % i for i in range(32)], [b"NGC 1", b"M 13"] * 16, [b""] * 32]
    words += [[b"star-%03d" % (i * 37 % 101) for i in range(32)]]
    return [np.array(one, "S12").view(np.uint8).reshape(32, 12) for one in words]


def _densities() -> list[np.ndarray]:
    rng = _rng()
    rows = np.zeros((16, 1 + 40), np.int32)
    rows[:12, 0] = 5
    rows[:12, 1:] = np.rint(rng.laplace(0, 1, (12, 40)))
    return [np.zeros((16, 41), np.int32), rows]


@cache
def _tables() -> LatentTables:
    spectrum = _rng().laplace(0, 1, (2, 16, 16, 3))
    return fit_tables(np.rint(spectrum).astype(np.int16))


def _latents(data: bytes, sparse: bool) -> np.ndarray:
    tables = _tables()
    crc = zlib.crc32(data, zlib.crc32(tables.digest.encode())).to_bytes(4, "little")
    return decode_together([crc + data], (1, 8, 8, 3), tables, sparse)


def _latent_seeds(sparse: bool) -> list[bytes]:
    values = np.rint(_rng().laplace(0, [1, 40], (1, 8, 8, 3, 2))).astype(np.int16)
    values[:, :4, 4:] = 0
    chunks = [np.ascontiguousarray(values[..., i]) for i in (0, 1)]
    return [data[4:] for data in encode_together(chunks, _tables(), sparse)]


def entry(**changes: Any) -> ImageEntry:
    """An index entry, as small as one may be."""
    noise = NoiseModel.from_stored_units(4.0, 0.0, integer=True)
    plain: dict[str, Any] = {
        "id": "night/a", "set": "night", "band": "r", "file": "a.fits", "hdu": 0,
        "group": "int16_1x1", "row": 0, "shape": (64, 64), "dtype": "int16", "mode": "ladder",
        "model": "ab" * 32, "step": 0.5, "bscale": 1.0, "bzero": 0.0, "blank": None, "fills": b"",
        "noise": noise, "quant_step": None, "fwhm_pix": 3.0, "time": None, "ra": 1.0, "dec": 2.0,
        "radius_deg": 0.1, "healpix": (5,), "digest": "cd" * 32, "bytes": {"latent": 5},
        "header": "SIMPLE  =                    T",
    }  # fmt: skip
    return ImageEntry(**plain | changes)


def _image_index(data: bytes) -> None:
    for one in read_index(data, "images/night/index.parquet"):
        one.fill_values()
        one.fits_header()
        one.bytes_at("exact")
        repr(one.plane)


def _density_index() -> DensityIndex:
    shard = Shard(0, 5, {"exact": 10, "latent": 3, "bounded": 4}, (2,), ("is negative",), "ab")
    grid = tuple(np.linspace(0, 1, 40).tolist())
    return DensityIndex("pz", grid, 5, "float32", "trapezoid", Bounds(), ("a.npy",), (shard,))


def _read_density_index(data: bytes) -> None:
    index = read_density_index(data, "densities/pz/index.parquet")
    index.weights()
    index.arrays()
    index.bytes_at("latent")


def catalog_info(**changes: Any) -> CatalogInfo:
    """Description of a small catalog."""
    columns = (
        Column(name="id", kind="whole", dtype="int64", first=0),
        Column(name="mag", kind="plain", dtype="float32", first=0),
    )
    given = {
        "name": "galaxies", "rows": 20, "columns": columns, "chunk_rows": 16, "shard_rows": 16,
        "levels": dict.fromkeys(("map", "latent", "bounded", "exact"), 5),
        "som": {"shape": [2, 2], "arrays": []},
    }  # fmt: skip
    return CatalogInfo(**given | changes)


def _catalog_json(data: bytes) -> None:
    info = CatalogInfo.from_json(data, "catalogs/galaxies/catalog.json")
    info.arrays()
    for column in info.columns:
        column.fill_values() if column.is_real else info.null_place(column)


def _chunks() -> Chunks:
    return Chunks(
        np.array([1, 5]), np.array([4, 9]), np.zeros((2, 2)), np.ones((2, 2)),
        np.array([[True, False, True, True]] * 2),
    )  # fmt: skip


def _record_seeds() -> list[bytes]:
    row = {
        "kind": "images", "set": "a", "band": "r", "level": "sources", "case": "photometry",
        "measure": "flux", "bin": "S/N 5-10", "n": 90, "unit": "sigma", "statistic": "p90",
        "bytes": 5, "bpp": 1.0, "held_out": True, "note": "",
    }  # fmt: skip
    numbers = ("bias", "scatter", "p50", "p90", "p99", "low", "high", "exposure_lost")
    return [FidelityRecord.from_rows([row | dict.fromkeys(numbers, 0.05)]).to_ecsv().encode()]


def _read_record(data: bytes) -> None:
    record = FidelityRecord.from_ecsv(data)
    record.rows()
    record.choose("photometry", "0.1 sigma at S/N 10")


def _table_model(data: bytes) -> None:
    files = {CARD: b"{}", ARRAYS: data}
    TableModel.from_files(files, files_digest(files))


def _npz() -> list[bytes]:
    sink = io.BytesIO()
    np.savez(sink, targets=np.arange(2), weights=np.zeros((2, 1), np.int64))
    packed = io.BytesIO()
    np.savez_compressed(packed, targets=np.arange(2))
    return [sink.getvalue(), packed.getvalue()]


def _open_root(data: bytes) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/fuzz/zarr.json", data)
    files.pipe_file("/fuzz/manifest.json", b"{}")
    release = open_release("memory://fuzz")
    repr(release)
    release.info()
    release.metadata("images/night/int16_1x1/exact")


def _root_seeds() -> list[bytes]:
    about = {"format": 1, "name": "a/b", "images": [], "catalogs": [], "densities": []}
    array = {
        "shape": [1, 256, 256], "data_type": "int32", "fill_value": 0, "zarr_format": 3,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 256, 256]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "skyfold.blocks"}], "attributes": {}, "node_type": "array",
    }  # fmt: skip
    group: dict[str, Any] = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    inside = {
        "images": group, "images/night": group, "images/night/int16_1x1": group,
        "images/night/int16_1x1/exact": array,
    }  # fmt: skip
    root = group | {
        "attributes": {"skyfold": about},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": inside},
    }
    return [json.dumps(root).encode()]


def _manifest(data: bytes) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/lie/zarr.json", _root_seeds()[0])
    try:  # as a liar would: the digest fits
        from skyfold.access.seal import manifest_digest

        plain = json.loads(data)
        plain["digest"] = manifest_digest(plain["objects"])
        data = json.dumps(plain).encode()
    except Exception:
        pass
    files.pipe_file("/lie/manifest.json", data)
    open_release("memory://lie").verify()


TARGETS: dict[str, Target] = {
    "blocks": _chunk_target(
        BlocksCodec(),
        (1, SIDE, SIDE),
        lambda: [_blocky() * 0, _blocky(), _blocky() + 99, _blocky().astype("f4")],
    ),
    "interlaced": _chunk_target(InterlacedCodec(), (1, 64, 64), _planes),
    "skewed": _chunk_target(
        SkewedCodec(), (1, 64, 64), lambda: [*_planes(), *(one**3 for one in _planes())]
    ),
    "kept": _chunk_target(
        KeptCodec(), (1, 64, 64), lambda: [one * odd for one in _planes() for odd in _odd()]
    ),
    "tagged": _chunk_target(
        TaggedCodec(), (1, 64, 64), lambda: [2 * one + odd for one in _planes() for odd in _odd()]
    ),
    "sparse": _chunk_target(
        SparseCodec(), (1, SIDE, SIDE), lambda: [np.abs(_blocky()).astype(np.uint8)]
    ),
    "nonzero": _chunk_target(
        NonzeroCodec(), (16, 16), lambda: [_blocky()[0], (_blocky()[0] + 99).astype("f8")]
    ),
    "numbers": _sealed(NumbersCodec(), (2, 64), "i8", _numbers()),
    "text": _sealed(TextCodec(), (32, 12), "u1", _texts()),
    "lists": _chunk_target(
        ListsCodec(), (16, 5), lambda: [np.tile(np.array([2, 7, -1, 0, 0], "i8"), (16, 1))]
    ),
    "density": _sealed(DensityCodec(columns=1), (16, 41), "i4", _densities()),
    "latents": Target(partial(_latents, sparse=False), partial(_latent_seeds, sparse=False)),
    "sparse_latents": Target(partial(_latents, sparse=True), partial(_latent_seeds, sparse=True)),
    "tables": Target(LatentTables.from_bytes, lambda: [_tables().to_bytes()]),
    "image_index": Target(_image_index, lambda: [write_index([entry(), entry(id="night/b")])[0]]),
    "density_index": Target(_read_density_index, lambda: [write_density_index(_density_index())]),
    "catalog": Target(_catalog_json, lambda: [catalog_info().to_json()]),
    "chunks": Target(
        lambda data: Chunks.from_parquet(data, catalog_info(), "index.parquet"),
        lambda: [_chunks().to_parquet()],
    ),
    "record": Target(_read_record, _record_seeds),
    "table_model": Target(_table_model, _npz),
    "graph": Target(
        lambda data: check_graph(data, "decoder.onnx", (32, 32, synthetic.CHANNELS)),
        lambda: list(synthetic.cosine_graphs().values()),
    ),
    "root": Target(_open_root, _root_seeds),
    "manifest": Target(
        _manifest,
        lambda: [json.dumps({"objects": {"zarr.json": {"size": 5, "sha256": "ab"}}}).encode()],
    ),
}
