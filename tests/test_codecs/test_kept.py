"""`skyfold.kept`: leaves of every kind of mask and number, by a second decoder too, and damage."""

from __future__ import annotations

import numpy as np
import pytest
from damage import require_named_damage
from hypothesis import given, settings
from hypothesis import strategies as st
from independent_decoder import decode_blocks
from independent_kept import decode_kept
from scipy.ndimage import gaussian_filter

from skyfold.codecs import kept_fit
from skyfold.codecs.interlaced import InterlacedCodec
from skyfold.codecs.kept import DEEPEST, STEPS, KeptCodec, Plan, depths_of, steps_of
from skyfold.codecs.leaf_styles import STYLES
from skyfold.codecs.leaves import decode_leaves, encode_leaves

CODEC = KeptCodec()
KEPT = 1  # form of a chunk


def leaves_of(seed: int, share: float, smooth: float, shape=(64, 32)) -> np.ndarray:
    """A mask of a share of the leaves, in islands as wide as they are smooth."""
    field = np.random.default_rng(seed).normal(size=shape)
    field = gaussian_filter(field, smooth) if smooth else field
    ranks = field.argsort(axis=None).argsort().reshape(shape)
    return ranks < share * field.size


def numbers_in(leaves: np.ndarray, seed: int, size: float) -> np.ndarray:
    """Numbers in leaves, larger in the middle of them."""
    used = np.kron(leaves, np.ones((2, 2), bool))
    scale = size * (1 + 2 * np.kron(depths_of(leaves), np.ones((2, 2))))
    noise = np.random.default_rng(seed).normal(size=used.shape)
    return np.where(used, np.rint(scale * noise), 0).astype("i4")[np.newaxis]


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.002, 0.05, 0.3, 0.9]),
    st.sampled_from([0.0, 1.0, 4.0]),
    st.sampled_from([0.4, 3.0, 400.0]),
)
def test_every_plane_returns_and_a_second_decoder_agrees(seed, share, smooth, size):
    chunk = numbers_in(leaves_of(seed, share, smooth), seed, size)
    data = CODEC.encode_chunk(chunk)
    np.testing.assert_array_equal(CODEC.decode_chunk(data, chunk.shape, chunk.dtype), chunk)
    blocks = lambda rest: decode_blocks(rest, (128, 64), np.dtype("i4"))  # noqa: E731
    np.testing.assert_array_equal(decode_kept(data, (128, 64), blocks), chunk[0])
    assert CODEC.encode_chunk(chunk.copy()) == data


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "i8"])
def test_full_empty_small_and_wide_chunks_return_as_well(dtype):
    wide = np.random.default_rng(2).integers(0, 30000, (1, 64, 64)).astype(dtype)
    some = wide.copy()
    some[:, 10:40] = 0
    huge = (some.astype("i8") << 40).astype("i8")
    for chunk in (wide, some, wide[:, :24, :40], np.zeros_like(wide), 0 * wide + 1, huge):
        data = CODEC.encode_chunk(chunk)
        back = CODEC.decode_chunk(data, chunk.shape, chunk.dtype)
        assert back.dtype == chunk.dtype
        assert back.tobytes() == chunk.tobytes()


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_few_numbers_take_fewer_bytes_than_predicted_ones(share):
    leaves = leaves_of(3, share, 3.0, (128, 128))
    chunk = numbers_in(leaves, 4, 0.7)
    data = CODEC.encode_chunk(chunk)
    assert data[0] == KEPT
    assert len(data) < 0.97 * len(InterlacedCodec().encode_chunk(chunk))


def test_what_neighbours_predict_is_left_to_the_other_codec():
    y, x = np.mgrid[:256, :256]
    used = np.kron(leaves_of(5, 0.5, 8.0, (128, 128)), np.ones((2, 2), bool))
    chunk = np.where(used, 40 + y * x // 200, 0).astype("i4")[np.newaxis]
    data = CODEC.encode_chunk(chunk)
    assert data[0] != KEPT
    np.testing.assert_array_equal(CODEC.decode_chunk(data, chunk.shape, chunk.dtype), chunk)


@pytest.mark.parametrize("smooth", [0.0, 1.0, 4.0])
def test_each_kind_of_mask_has_a_style_that_knows_it(smooth):
    import constriction

    leaves, taken = leaves_of(6, 0.1, smooth, (128, 128)), []
    for _ in STYLES:
        coder = constriction.stream.queue.RangeEncoder()
        share, style = encode_leaves(coder, leaves)
        words = coder.get_compressed()
        decoder = constriction.stream.queue.RangeDecoder(words)
        np.testing.assert_array_equal(decode_leaves(decoder, (256, 256), share, style), leaves)
        taken.append(4 * len(words))
    entropy = -leaves.size / 8 * (0.1 * np.log2(0.1) + 0.9 * np.log2(0.9))
    assert taken[0] < {0.0: 1.35, 1.0: 0.75, 4.0: 0.35}[smooth] * entropy


def test_contexts_part_where_numbers_differ():
    rng = np.random.default_rng(7)
    depths = np.repeat(np.arange(DEEPEST + 1, dtype=np.uint8), 500)
    doubts = np.repeat(np.array(STEPS, np.int32), 500)
    alike = rng.normal(0, 1, depths.size).round().astype("i4")
    more = (rng.normal(size=doubts.size) * np.where(doubts < 7, 0.5, 5)).round().astype("i4")
    plan = kept_fit.fit_kept((depths, alike), (doubts, more))
    steps = steps_of(doubts, plan.unit)
    assert plan.depths == 0
    assert (
        len(set(plan.of_steps(steps[doubts < 7])))
        == len(set(plan.of_steps(steps[doubts >= 7])))
        == 1
    )
    assert plan.doubts.bit_count() == 1
    assert Plan.from_bytes(plan.to_bytes() + b"words") == (plan, b"words")


def test_damage_raises_or_changes_values_but_never_anything_else():
    chunk = numbers_in(leaves_of(8, 0.2, 2.0), 9, 2.0)
    assert CODEC.encode_chunk(chunk)[0] == KEPT
    require_named_damage(CODEC, chunk, places=range(20), cuts=(0, 1, 5, 9))
