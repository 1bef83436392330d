"""`skyfold.blocks` and `skyfold.sparse`: round trips, determinism, damage, through Zarr too."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pcodec import ChunkConfig, standalone

from skyfold.codecs.blocks import BlocksCodec
from skyfold.codecs.sparse import SparseCodec
from skyfold.codecs.streams import compress
from skyfold.codecs.zarr_codec import ZarrCodec
from skyfold.errors import CorruptDataError

DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def blocky(dtype: str, share: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    raw = rng.integers(0, 256, (1, 32, 24, dtype.itemsize), dtype=np.uint8)
    chunk = np.ascontiguousarray(raw).view(dtype)[..., 0]
    used = rng.random((4, 3)) < share
    return np.where(np.kron(used, np.ones((8, 8), bool))[None], chunk, dtype.type(0))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(DTYPES), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 2**32 - 1))
def test_blocks_return_every_bit(dtype, share, seed):
    chunk = blocky(dtype, share, seed)
    codec = BlocksCodec()
    data = codec.encode_chunk(chunk)
    back = codec.decode_chunk(data, chunk.shape, chunk.dtype)
    assert back.tobytes() == chunk.tobytes()
    assert codec.encode_chunk(chunk.copy()) == data


def test_empty_blocks_cost_a_byte():
    assert len(BlocksCodec().encode_chunk(np.zeros((1, 256, 256), "i4"))) == 1


@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_pixels_that_repeat_cost_less(dtype):
    """As on plates that were transformed and cut before: each value stands in a square of four."""
    coarse = 18 * np.random.default_rng(2).normal(0, 40, (64, 64)).round()
    chunk = coarse.repeat(2, axis=0).repeat(2, axis=1)[None].astype(dtype)
    codec = BlocksCodec()
    data = codec.encode_chunk(chunk)
    assert len(data) < 0.9 * len(standalone.simple_compress(chunk.ravel(), ChunkConfig()))
    assert codec.decode_chunk(data, chunk.shape, chunk.dtype).tobytes() == chunk.tobytes()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_sparse_returns(count, seed):
    rng = np.random.default_rng(seed)
    chunk = np.zeros((1, 64, 64), np.uint8)
    chunk[0, rng.integers(0, 64, count), rng.integers(0, 64, count)] = rng.integers(1, 256, count)
    codec = SparseCodec()
    data = codec.encode_chunk(chunk)
    assert len(data) <= 5 * count
    np.testing.assert_array_equal(codec.decode_chunk(data, chunk.shape, chunk.dtype), chunk)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_refused_or_decoded_never_more(data):
    for codec, dtype in ((BlocksCodec(), "i4"), (BlocksCodec(), "f8"), (SparseCodec(), "u1")):
        try:
            out = codec.decode_chunk(data, (1, 32, 24), np.dtype(dtype))
        except (CorruptDataError, RuntimeError, ValueError):
            continue
        assert out.shape == (1, 32, 24)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_truncated_blocks_are_corrupt(share):
    chunk = blocky("i4", share, 1)
    data = BlocksCodec().encode_chunk(chunk)
    for length in range(len(data)):
        with pytest.raises((CorruptDataError, RuntimeError)):
            BlocksCodec().decode_chunk(data[:length], chunk.shape, chunk.dtype)


def test_a_bitmap_bomb_stays_small():
    import zlib

    bomb = zlib.compress(bytes(50_000_000), 9)
    data = bytes([2]) + (len(bomb) & 0xFFFF).to_bytes(2, "little") + bomb
    with pytest.raises(CorruptDataError, match="bitmap"):
        BlocksCodec().decode_chunk(data, (1, 32, 24), np.dtype("i4"))


@pytest.mark.parametrize(("codec", "dtype"), [(BlocksCodec(), "int32"), (SparseCodec(), "uint8")])
def test_sharded_arrays_of_zarr(codec, dtype):
    chunk = (blocky("i4", 0.4, 4)[0] % 7).astype(dtype)
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(
        store,
        name="a",
        shape=(2, 32, 24),
        chunks=(1, 16, 8),
        shards=(1, 32, 24),
        dtype=dtype,
        serializer=ZarrCodec(codec),
        compressors=None,
        fill_value=0,
    )
    array[1] = chunk
    again = zarr.open_array(store, path="a", mode="r")
    np.testing.assert_array_equal(again[1], chunk)
    np.testing.assert_array_equal(again[1, 16:, 8:16], chunk[16:, 8:16])
    assert (again[0] == 0).all()


def test_a_map_of_few_values_is_coded_along_its_rows_where_that_is_smaller():
    """Block after block, a weight map of an odd outline would lose its runs."""
    rng = np.random.default_rng(4)
    chunk = np.repeat(rng.choice([1.5, 2.25, 3.125], 256), 256).astype("f4").reshape(1, 256, 256)
    y, x = np.indices((256, 256))
    chunk[0, x + y < 90] = 0
    data = BlocksCodec().encode_chunk(chunk)
    blocks = chunk[0].reshape(32, 8, 32, 8).swapaxes(1, 2).reshape(-1, 64)
    assert len(data) < 0.6 * len(compress(blocks[blocks.any(axis=1)].ravel()))
    found = BlocksCodec().decode_chunk(data, chunk.shape, chunk.dtype)
    assert found.tobytes() == chunk.tobytes()
