"""Patches are taken from good pixels, and weigh what they should."""

import numpy as np
import pytest

from models.patches import sample_patches, significance, source_weights, turn_patches
from skyfold.errors import InvalidRequestError


def test_patches_are_parts_of_the_images(sky):
    patches, weights = sample_patches(list(sky), count=10, seed=1, side=32)
    assert patches.shape == weights.shape == (10, 32, 32)
    assert patches.dtype == weights.dtype == np.float32
    assert (weights == 1).all()
    rows = np.lib.stride_tricks.sliding_window_view(sky, 4, axis=2).reshape(-1, 4)
    assert all((rows == patch[0, :4]).all(axis=1).any() for patch in patches)


def test_the_same_seed_gives_the_same_patches(sky):
    first, again, other = (
        sample_patches(list(sky), count=6, seed=seed, side=32)[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sources_are_sampled_more_often_than_empty_sky():
    sky = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    sky[40:46, 40:46] += 50
    patches, _ = sample_patches([sky], count=200, seed=0, side=32)
    share = np.mean([patch.max() > 30 for patch in patches])
    assert 0.2 < share < 0.8


def test_bad_pixels_are_zero_and_weigh_nothing():
    image = np.full((40, 50), 7, np.float32)
    mask = np.zeros(image.shape, bool)
    mask[:, :20] = True
    image[3, 30] = np.nan
    patches, weights = sample_patches([image], [mask], count=5, seed=0, side=32)
    assert set(np.unique(weights)) <= {0, 1}
    assert (patches[weights == 0] == 0).all()
    assert (patches[weights == 1] == 7).all()
    assert (weights == 0).any()


def test_small_images_are_padded_with_bad_pixels():
    patches, weights = sample_patches([np.ones((10, 20), np.float32)], count=2, seed=0, side=32)
    assert weights.sum() == patches.sum() == 2 * 10 * 20


def test_images_without_a_good_pixel_are_refused():
    with pytest.raises(InvalidRequestError, match="no good pixel"):
        sample_patches([np.full((64, 64), np.nan, np.float32)], count=2, seed=0)
    with pytest.raises(InvalidRequestError, match="multiples of 16"):
        sample_patches([np.ones((64, 64), np.float32)], count=2, seed=0, side=20)


def test_significance_is_one_in_white_noise():
    noise = np.random.default_rng(0).normal(size=(4, 128, 128)).astype(np.float32)
    inside = significance(noise)[:, 4:-4, 4:-4]
    assert inside.std() == pytest.approx(1, abs=0.05)


def test_sources_weigh_more_stars_less_and_bad_pixels_nothing():
    patch = np.zeros((1, 64, 64), np.float32)
    patch[0, 16, 16], patch[0, 48, 48] = 30, 3000
    good = np.ones_like(patch)
    good[0, 0, 0] = 0
    weight = source_weights(patch, good, emphasis=10, bright=300)[0]
    assert weight[32, 32] == 1
    assert weight[16, 16] == pytest.approx(10 / 1.01)
    assert weight[20, 20] == pytest.approx(weight[16, 16])  # the aperture around it as well
    assert weight[48, 48] == pytest.approx(10 / 101)
    assert weight[0, 0] == 0


def test_arrays_of_a_batch_turn_alike():
    batch = np.arange(2 * 16 * 16, dtype=np.float32).reshape(2, 16, 16)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        one, two = turn_patches((batch, batch + 0.5), rng)
        assert np.array_equal(one + 0.5, two)
        seen.add(one.tobytes())
    assert len(seen) == 8
