"""`skyfold.skewed`: crowded fields in fewer bytes, others as before, a second decoder, damage."""

from __future__ import annotations

import numpy as np
import pytest
from damage import require_named_damage
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_decoder import decode_blocks
from independent_interlaced import decode_skewed, table
from scipy.ndimage import gaussian_filter

from skyfold.codecs.interlaced import InterlacedCodec
from skyfold.codecs.skewed import SkewedCodec
from skyfold.codecs.tables import SYMBOLS, get_sided

CODEC = SkewedCodec()
OTHER, ALL, SOME = 0, 1, 2


def crowded(seed: int, shape=(128, 128), density: float = 0.05, scale: float = 400) -> np.ndarray:
    """Points so narrow and so many that most pixels have a neighbour's light."""
    rng = np.random.default_rng(seed)
    stars = np.where(rng.random(shape) < density, rng.exponential(scale, shape), 0)
    return np.rint(gaussian_filter(stars, 0.7) + rng.normal(90, 2, shape))[np.newaxis]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 30]), st.sampled_from([50.0, 400.0, 20000.0]))
def test_every_plane_returns_and_a_second_decoder_agrees(seed, blank, scale):
    chunk = crowded(seed, scale=scale).astype("i4")
    chunk[:, 128 - blank :] = 0
    data = CODEC.encode_chunk(chunk)
    np.testing.assert_array_equal(CODEC.decode_chunk(data, chunk.shape, chunk.dtype), chunk)
    blocks = lambda rest: decode_blocks(rest, (128, 128), np.dtype("i4"))  # noqa: E731
    np.testing.assert_array_equal(decode_skewed(data, (128, 128), blocks), chunk[0])
    assert CODEC.encode_chunk(chunk.copy()) == data


@pytest.mark.parametrize(("blank", "form"), [(0, ALL), (30, SOME)])
@pytest.mark.parametrize("dtype", ["i2", "u2", "i8"])
def test_crowded_fields_take_fewer_bytes(blank, form, dtype):
    chunk = crowded(1, (256, 256)).astype(dtype)
    chunk[:, 256 - blank :] = 0
    data = CODEC.encode_chunk(chunk)
    assert data[0] == form
    assert len(data) < 0.985 * len(InterlacedCodec().encode_chunk(chunk))
    back = CODEC.decode_chunk(data, chunk.shape, chunk.dtype)
    assert back.dtype == chunk.dtype
    assert back.tobytes() == chunk.tobytes()


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8"])
def test_other_planes_are_as_they_were(dtype):
    rng = np.random.default_rng(2)
    sky = gaussian_filter(rng.normal(size=(128, 64)), 2.0) * 70 + 3 * rng.normal(size=(128, 64))
    for plane in (sky + 60, 0 * sky, rng.integers(0, 120, (24, 40))):
        chunk = np.clip(np.rint(plane), 0, 127)[np.newaxis].astype(dtype)
        data = CODEC.encode_chunk(chunk)
        assert data == bytes([OTHER]) + InterlacedCodec().encode_chunk(chunk)
        assert CODEC.decode_chunk(data, chunk.shape, chunk.dtype).tobytes() == chunk.tobytes()


@pytest.mark.parametrize(
    "numbers", [(20, 3, 40, 0, 128), (40, 8, 3, 0, 0), (90, 0, 60, 4, 255), (0, 8, 127, 8, 200)]
)
def test_tables_of_two_sides_are_those_of_the_format(numbers):
    """A coder that is given the same symbols by both writes the same words."""
    import constriction

    ours, (left_off, model) = get_sided(*numbers), table(*numbers)
    assert ours.shift == left_off
    symbols = np.random.default_rng(3).integers(0, SYMBOLS, 3000).astype(np.int32)
    words = []
    for one in (ours.model, model):
        coder = constriction.stream.queue.RangeEncoder()
        coder.encode(symbols, one)
        words.append(coder.get_compressed())
    np.testing.assert_array_equal(*words)


def test_damage_raises_or_changes_values_but_never_anything_else():
    chunk = crowded(4).astype("i2")
    assert CODEC.encode_chunk(chunk)[0] == ALL
    require_named_damage(CODEC, chunk, places=range(200), cuts=(0, 1, 5, 100, 160))
