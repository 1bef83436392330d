"""`skyfold.tagged`: planes of two kinds of leaves, by a second decoder too, and damage."""

from __future__ import annotations

import numpy as np
import pytest
from damage import require_named_damage
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_decoder import decode_blocks
from independent_interlaced import decode_tagged
from scipy.ndimage import gaussian_filter

from skyfold.codecs.interlaced import InterlacedCodec
from skyfold.codecs.streams import compress
from skyfold.codecs.tagged import TaggedCodec

CODEC = TaggedCodec()


def two_kinds(seed: int, share: float, *, smooth: bool = False, blank: int = 0) -> np.ndarray:
    """Cells of the sky, and small numbers in a share of the leaves."""
    rng = np.random.default_rng(seed)
    sky = rng.normal(0, 2, (128, 64))
    sky = np.rint(8 * gaussian_filter(sky, 1.5) + sky if smooth else sky).astype("i4")
    ranks = gaussian_filter(rng.normal(size=(64, 32)), 3).argsort(axis=None).argsort()
    odd = np.kron(ranks.reshape(64, 32) < share * 2048, np.ones((2, 2), bool))
    few = np.rint(rng.normal(0, 0.8, sky.shape)).astype("i4")
    plane = np.where(odd, 2 * few + 1, 2 * sky)
    plane[:, 64 - blank :] = 0
    return plane[np.newaxis]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.02, 0.3, 0.9, 1.0]),
    st.booleans(),
    st.sampled_from([0, 32]),
)
def test_every_plane_returns_and_a_second_decoder_agrees(seed, share, smooth, blank):
    chunk = two_kinds(seed, share, smooth=smooth, blank=blank)
    data = CODEC.encode_chunk(chunk)
    assert data[0] == 1
    np.testing.assert_array_equal(CODEC.decode_chunk(data, chunk.shape, chunk.dtype), chunk)
    blocks = lambda rest: decode_blocks(rest, (128, 64), np.dtype("i4"))  # noqa: E731
    np.testing.assert_array_equal(decode_tagged(data, (128, 64), blocks), chunk[0])
    assert CODEC.encode_chunk(chunk.copy()) == data


def test_each_kind_takes_what_it_takes_alone():
    chunk = two_kinds(1, 0.3)
    odd = chunk % 2 == 1
    alone = InterlacedCodec().encode_chunk(np.where(odd, 0, chunk // 2))
    few = compress(chunk[odd] // 2)
    assert len(CODEC.encode_chunk(chunk)) < len(alone) + len(few) + 20
    assert len(CODEC.encode_chunk(chunk)) < 0.97 * len(InterlacedCodec().encode_chunk(chunk))


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "i8"])
def test_mixed_leaves_and_other_chunks_return_as_well(dtype):
    rng = np.random.default_rng(2)
    wide = rng.integers(0, 30000, (1, 64, 64)).astype(dtype)
    huge = (2 * (wide.astype("i8") << 40)).astype("i8")
    for chunk in (wide, wide[:, :24, :40], np.zeros_like(wide), 0 * wide + 1, huge):
        data = CODEC.encode_chunk(chunk)
        back = CODEC.decode_chunk(data, chunk.shape, chunk.dtype)
        assert back.tobytes() == chunk.tobytes()


def test_damage_raises_or_changes_values_but_never_anything_else():
    chunk = two_kinds(4, 0.3)
    require_named_damage(CODEC, chunk, cuts=(0, 1, 5, len(CODEC.encode_chunk(chunk)) // 2))
