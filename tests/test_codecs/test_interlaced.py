"""`skyfold.interlaced`: round trips of every kind of plane, size, damage, a second decoder."""

from __future__ import annotations

from functools import partial

import constriction
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_decoder import decode_blocks
from independent_interlaced import decode_interlaced, table
from scipy.ndimage import gaussian_filter

from skyfold.codecs import interlaced_fit, interlaced_tables, tables
from skyfold.codecs.blocks import BlocksCodec
from skyfold.codecs.interlaced import InterlacedCodec
from skyfold.codecs.kept import KeptCodec
from skyfold.codecs.skewed import SkewedCodec
from skyfold.codecs.tagged import TaggedCodec
from skyfold.errors import CorruptDataError

CODEC = InterlacedCodec()


def smooth(seed: int, scale: float, noise: float, shape: tuple[int, int] = (128, 64)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    sky = gaussian_filter(rng.normal(size=shape), 2.0) * 7
    stars = 300 * (rng.random(shape) > 0.999)
    return scale * (sky + gaussian_filter(stars.astype(float), 1.2)) + noise * rng.normal(
        size=shape
    )


def is_predicted(data: bytes) -> bool:
    return data[0] in (1, 2)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "i8", "u8"])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_correlated_planes_return_in_fewer_bytes(dtype, share):
    plane = np.clip(np.rint(smooth(1, 6, 3)) + 60, 0, 250)
    used = np.random.default_rng(2).random((16, 8)) < share
    chunk = (plane * np.kron(used, np.ones((8, 8))))[None].astype(dtype)
    chunk[0, 6:9, 3:30] = 0
    data = CODEC.encode_chunk(chunk)
    assert is_predicted(data)
    assert len(data) < len(BlocksCodec().encode_chunk(chunk))
    back = CODEC.decode_chunk(data, chunk.shape, chunk.dtype)
    assert back.dtype == chunk.dtype
    assert back.tobytes() == chunk.tobytes()
    assert CODEC.encode_chunk(chunk.copy()) == data


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.1, 3.0, 100.0, 4000.0]),
    st.sampled_from([0.2, 2.0, 50.0]),
    st.integers(-(2**30), 2**30),
)
def test_every_plane_returns_and_a_second_decoder_agrees(seed, scale, noise, offset):
    chunk = np.rint(smooth(seed, scale, noise, (64, 64)) + offset).astype("i4")[None]
    data = CODEC.encode_chunk(chunk)
    np.testing.assert_array_equal(CODEC.decode_chunk(data, chunk.shape, chunk.dtype), chunk)
    blocks = lambda rest: decode_blocks(rest, (64, 64), np.dtype("i4"))  # noqa: E731
    np.testing.assert_array_equal(decode_interlaced(data, (64, 64), blocks), chunk[0])


def test_white_noise_is_left_to_pcodec():
    chunk = np.random.default_rng(3).normal(0, 2, (1, 256, 256)).round().astype("i4")
    assert not is_predicted(CODEC.encode_chunk(chunk))


def test_values_far_apart_and_other_shapes_are_left_to_pcodec():
    wide = (smooth(1, 6, 3) * 1e5).astype("i8")[None]
    for chunk in (wide, wide[:, :24, :40], np.zeros((1, 64, 64), "i2"), wide.astype("f8")):
        data = CODEC.encode_chunk(chunk)
        assert not is_predicted(data)
        assert CODEC.decode_chunk(data, chunk.shape, chunk.dtype).tobytes() == chunk.tobytes()


@pytest.mark.parametrize("codec", [CODEC, SkewedCodec(), KeptCodec(), TaggedCodec()])
@pytest.mark.parametrize(
    ("dtype", "offset"),
    [
        ("u4", 3 << 30),
        ("u4", (1 << 31) - 300),
        ("i8", 5 << 30),
        ("i8", -(1 << 40)),
        ("u8", 1 << 63),
        ("i8", -(1 << 31)),
    ],
)
def test_correlated_planes_far_from_zero_return(codec, dtype, offset):
    plane = np.rint(smooth(1, 6, 3))[None].astype("i8") + 300
    chunk = plane.astype(dtype) + np.array(offset, dtype)
    data = codec.encode_chunk(chunk)
    assert codec.decode_chunk(data, chunk.shape, chunk.dtype).tobytes() == chunk.tobytes()


@pytest.mark.parametrize("share", [0.0, 0.003, 0.2, 0.7, 0.99, 1.0])
def test_white_noise_in_some_places_returns(share):
    rng = np.random.default_rng(6)
    places = gaussian_filter(rng.normal(size=(128, 192)), 3)
    places = places > np.quantile(places, 1 - share) if share else np.zeros(places.shape, bool)
    chunk = np.where(places, rng.normal(0, 3, places.shape).round(), 0).astype("i4")[None]
    data = CODEC.encode_chunk(chunk)
    np.testing.assert_array_equal(CODEC.decode_chunk(data, chunk.shape, chunk.dtype), chunk)
    blocks = partial(decode_blocks, shape=places.shape, dtype=np.dtype("i4"))
    np.testing.assert_array_equal(decode_interlaced(data, places.shape, blocks), chunk[0])
    assert len(data) <= len(BlocksCodec().encode_chunk(chunk)) + 1


def test_single_values_that_nothing_foretells_return():
    chunk = np.rint(smooth(4, 6, 3)).astype("i4")[None]
    chunk[0, [0, 17, 127], [0, 40, 63]] = (60_000, -60_000, 50_001)
    data = CODEC.encode_chunk(chunk)
    assert is_predicted(data)
    np.testing.assert_array_equal(CODEC.decode_chunk(data, chunk.shape, chunk.dtype), chunk)


WRITTEN = CODEC.encode_chunk(np.rint(smooth(5, 6, 3, (64, 64))).astype("i4")[None])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_is_an_error_or_a_plane_of_the_same_shape(data):
    good = bytearray(WRITTEN)
    for _ in range(3):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        back = CODEC.decode_chunk(cut, (1, 64, 64), np.dtype("i4"))
    except (CorruptDataError, ValueError, IndexError, RuntimeError, OverflowError):
        return  # `ChunkCodec` names them all CorruptDataError
    assert back.shape == (1, 64, 64)


def test_tables_are_those_of_the_document():
    symbols = np.arange(tables.SYMBOLS, dtype=np.int32)
    for scale in range(0, tables.SCALES, 17):
        for shape in range(tables.SHAPES):
            one, other = tables.get_table(scale, shape), table(scale, shape)
            assert one.shift == other[0]
            assert coded(symbols, one.model) == coded(symbols, other[1])


def coded(symbols: np.ndarray, model) -> bytes:
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(symbols, model)
    return coder.get_compressed().tobytes()


@pytest.mark.parametrize("share", [None, 0.4])
@pytest.mark.parametrize("scale", [1.0, 30.0, 900.0])
def test_compiled_loops_change_no_byte(share, scale, monkeypatch):
    """Another machine's writer may have no compiler."""
    plane = smooth(5, scale, scale / 2, (256, 256)).round().astype("i4")
    if share is not None:
        rng = np.random.default_rng(5)
        plane *= np.repeat(np.repeat(rng.random((32, 32)) < share, 8, axis=0), 8, axis=1)
    compiled = CODEC.encode_chunk(plane[np.newaxis])
    assert is_predicted(compiled)
    assert interlaced_fit.can_compile()  # so that there is something to compare
    for module in (interlaced_fit, interlaced_tables):
        monkeypatch.setattr(module, "can_compile", lambda: False)
    assert CODEC.encode_chunk(plane[np.newaxis]) == compiled
