"""The two codecs of densities: whatever goes in comes out, and damage never passes."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfold.codecs.density import DensityCodec
from skyfold.codecs.density_tables import CONTEXTS, built_in_map, costs, tables
from skyfold.codecs.latent_tables import TOTAL
from skyfold.codecs.nonzero import NonzeroCodec
from skyfold.errors import CorruptDataError, InvalidRequestError

GOLDEN = Path(__file__).parent / "golden"
DTYPES = ["f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]


def chunk_of(seed, rows=40, points=50, columns=7):
    """A chunk as an encoder may write it: some rows empty, coefficients of every size."""
    rng = np.random.default_rng(seed)
    out = np.zeros((rows, columns + points), np.int32)
    out[:, columns:] = rng.normal(0, 1, (rows, points)) ** 5
    out[:, columns + 3] = rng.integers(-32000, 32000, rows)
    out[:, 0] = rng.integers(1, 20, rows)
    if columns > 1:
        out[:, 1], out[:, 2] = rng.integers(0, 40, rows), rng.integers(8, 24, rows)
        out[:, 3:columns] = rng.normal(0, 20, (rows, columns - 3))
    out[rng.random(rows) < 0.2] = 0
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 7]), st.integers(0, 60))
def test_densities_come_back(seed, columns, rows):
    chunk, codec = chunk_of(seed, rows, columns=columns), DensityCodec(columns)
    data = codec.encode_chunk(chunk)
    assert (codec.decode_chunk(data, chunk.shape, chunk.dtype) == chunk).all()
    assert codec.encode_chunk(chunk) == data


def test_empty_rows_take_no_bytes():
    codec = DensityCodec(7)
    assert len(codec.encode_chunk(np.zeros((4096, 207), np.int32))) == 5
    one = np.zeros((4096, 207), np.int32)
    one[7, 0] = 3
    assert len(codec.encode_chunk(one)) < 100


@pytest.mark.parametrize("codec", [DensityCodec(7), NonzeroCodec()])
def test_damage_raises(codec):
    chunk = chunk_of(1)
    data = codec.encode_chunk(chunk)
    for cut in (0, 1, 3, len(data) // 2, len(data) - 1):
        with pytest.raises((CorruptDataError, RuntimeError)):
            codec.decode_chunk(data[:cut], chunk.shape, chunk.dtype)


def test_every_flipped_byte_of_densities_raises():
    chunk, codec = chunk_of(2, rows=10), DensityCodec(7)
    data = codec.encode_chunk(chunk)
    for place in range(len(data)):
        bad = bytearray(data)
        bad[place] ^= 0x10
        with pytest.raises(CorruptDataError):
            codec.decode_chunk(bytes(bad), chunk.shape, chunk.dtype)


def test_a_width_out_of_range_is_refused():
    chunk = chunk_of(1)
    chunk[0, :3] = (1, 0, 4000)
    with pytest.raises(InvalidRequestError, match="widths"):
        DensityCodec(7).encode_chunk(chunk)


def test_another_shape_raises():
    codec = DensityCodec(7)
    data = codec.encode_chunk(chunk_of(1))
    with pytest.raises(InvalidRequestError, match="int32"):
        codec.decode_chunk(data, (40, 57), np.dtype("f8"))
    with pytest.raises(InvalidRequestError, match="4 to 2048"):
        codec.encode_chunk(np.zeros((4, 8), np.int32))


def test_tables_are_probabilities():
    assert (tables() >= 0).all()
    assert (tables().sum(axis=1) == TOTAL).all()
    np.testing.assert_allclose((2 ** -costs()).sum(axis=1), 1)


@pytest.mark.parametrize("core", [True, False])
def test_built_in_maps_name_tables(core):
    chosen = built_in_map(core=core)
    assert chosen.shape == (CONTEXTS,)
    assert chosen.max() < len(tables())
    assert len(set(chosen.tolist())) > 20  # fitted, not a stub


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(DTYPES), st.floats(0, 1))
def test_values_and_zeros_come_back(seed, dtype, share):
    rng = np.random.default_rng(seed)
    chunk = np.frombuffer(rng.bytes(12 * 10 * np.dtype(dtype).itemsize), dtype).reshape(12, 10)
    chunk = np.where(rng.random(chunk.shape) < share, np.dtype(dtype).type(0), chunk)
    codec = NonzeroCodec()
    back = codec.decode_chunk(codec.encode_chunk(chunk), chunk.shape, chunk.dtype)
    assert back.dtype == chunk.dtype
    assert back.tobytes() == chunk.tobytes()  # NaN payloads and minus zeros included


def test_runs_that_reach_too_far_raise():
    chunk = np.zeros((4, 10))
    chunk[:, 3:5] = 1.5
    data = NonzeroCodec().encode_chunk(chunk)
    with pytest.raises(CorruptDataError, match="beyond"):
        NonzeroCodec().decode_chunk(data, (2, 5), chunk.dtype)
    with pytest.raises(CorruptDataError, match="begins with"):
        NonzeroCodec().decode_chunk(b"\x09" + data, chunk.shape, chunk.dtype)


def golden_values():
    chunk = np.zeros((6, 20))
    chunk[1:5, 4:9] = np.arange(20).reshape(4, 5) / 8
    return chunk


@pytest.mark.parametrize(
    ("name", "codec", "chunk"),
    [
        ("skyfold.density", DensityCodec(7), chunk_of(5, rows=12, points=20)),
        ("skyfold.nonzero", NonzeroCodec(), golden_values()),
    ],
)
def test_old_bytes_decode_for_ever(name, codec, chunk):
    data = (GOLDEN / f"{name}.bin").read_bytes()
    back = codec.decode_chunk(data, chunk.shape, chunk.dtype)
    expected = (GOLDEN / f"{name}.sha256").read_text().strip()
    assert hashlib.sha256(back.tobytes()).hexdigest() == expected
    assert (back == chunk).all()
