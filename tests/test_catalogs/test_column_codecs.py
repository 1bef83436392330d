"""`skyfold.numbers` and `skyfold.text`: round trips, damage, and bytes that must not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pcodec import ChunkConfig, standalone

from skyfold.codecs.columns import (
    ListsCodec,
    NumbersCodec,
    TextCodec,
    decode_numbers,
    encode_numbers,
    encode_text,
)
from skyfold.errors import CorruptDataError

GOLDEN = Path(__file__).parent / "golden"
DTYPES = ["u1", "u2", "u4", "u8", "i4", "i8"]


def some_numbers(dtype: str, kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 400))
    if kind == "any":
        return rng.integers(0, 256, (size, np.dtype(dtype).itemsize), np.uint8).view(dtype)[:, 0]
    if kind == "few":
        return rng.choice(rng.integers(0, 100, 3), size).astype(dtype)
    return np.where(rng.random(size) < 0.1, rng.integers(0, 50, size), 0).astype(dtype)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(DTYPES), st.sampled_from(["any", "few", "sparse"]), st.integers(0, 2**32 - 1)
)
def test_numbers_return_every_bit(dtype, kind, seed):
    values = some_numbers(dtype, kind, seed)
    data = encode_numbers(values)
    back = decode_numbers(data, len(values), values.dtype)
    assert back.tobytes() == values.tobytes()
    assert encode_numbers(values.copy()) == data


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_rows_of_several_columns_return(count, width, seed):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(0, 12, count)
    chunk = (scale[:, None] * rng.random((count, width))).astype(np.int64)
    chunk[rng.random(count) < 0.3] = 0
    codec = NumbersCodec()
    data = codec.encode_chunk(chunk)
    np.testing.assert_array_equal(codec.decode_chunk(data, chunk.shape, chunk.dtype), chunk)
    assert len(data) <= len(encode_numbers(chunk.ravel()))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=9).filter(lambda one: "\0" not in one), min_size=1, max_size=50))
def test_text_returns(strings):
    encoded = [one.encode() for one in strings]
    width = max(1, *map(len, encoded))
    rows = np.array(encoded, f"S{width}").view(np.uint8).reshape(len(encoded), width)
    codec = TextCodec()
    data = codec.encode_chunk(rows)
    assert codec.decode_chunk(data, rows.shape, rows.dtype).tobytes() == rows.tobytes()


def test_text_that_spells_integers_costs_what_the_integers_cost():
    numbers = np.random.default_rng(1).integers(10**17, 10**18, 500)
    spelled = encode_text([str(one).encode() for one in numbers])
    assert len(spelled) <= len(encode_numbers(numbers)) + 16


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 5))
def test_hostile_bytes_are_refused_or_decoded_never_more(body, method):
    import zlib

    rest = bytes([method]) + (12).to_bytes(4, "little") + body
    data = zlib.crc32(rest).to_bytes(4, "little") + rest
    for codec, shape, dtype in (
        (NumbersCodec(), (3, 4), "i8"),
        (NumbersCodec(), (12,), "u4"),
        (TextCodec(), (12, 5), "u1"),
    ):
        try:
            out = codec.decode_chunk(data, shape, np.dtype(dtype))
        except (CorruptDataError, RuntimeError, ValueError, IndexError, OverflowError):
            continue
        assert out.shape == shape


@pytest.mark.parametrize("place", [0, 4, 9, -1])
def test_a_flipped_bit_is_found(place):
    values = np.random.default_rng(2).integers(0, 1000, 200)
    bad = bytearray(encode_numbers(values))
    bad[place] ^= 4
    with pytest.raises(CorruptDataError, match="checksum"):
        decode_numbers(bytes(bad), 200, values.dtype)


@pytest.mark.parametrize("decimals", [3, None])
def test_never_larger_than_pcodec_or_parquet(decimals):
    values = np.random.default_rng(3).normal(20, 2, 8000)
    values = values if decimals is None else np.round(values, decimals)
    alone = len(standalone.simple_compress(values, ChunkConfig()))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"v": values}), sink, compression="zstd")
    assert len(encode_numbers(values.view("u8"))) <= min(alone + 16, sink.tell())


def golden_chunks() -> dict[str, tuple[object, np.ndarray]]:
    n = np.arange(60)
    sets = {
        "skyfold.numbers.0": n * 0,
        "skyfold.numbers.1": (n * 37 % 101).astype(np.int64),
        "skyfold.numbers.5": np.stack([n * n, np.zeros_like(n), n * 10**9 + n * n % 7]),
    }
    text = np.array([f"star {one % 7}".encode() for one in n], "S6")
    chunks: dict[str, tuple[object, np.ndarray]] = {
        name: (NumbersCodec(), values) for name, values in sets.items()
    }
    chunks["skyfold.text"] = TextCodec(), text.view(np.uint8).reshape(60, 6)
    lengths = n % 8
    lists = np.where(np.arange(7) < lengths[:, None], n[:, None] * 13 - 100, 0)
    chunks["skyfold.lists"] = ListsCodec(), np.column_stack([lengths, lists])
    return chunks


@pytest.mark.parametrize("name", sorted(golden_chunks()))
def test_golden_bytes_decode_as_ever(name):
    codec, values = golden_chunks()[name]
    data = (GOLDEN / f"{name}.bin").read_bytes()
    np.testing.assert_array_equal(codec.decode_chunk(data, values.shape, values.dtype), values)
