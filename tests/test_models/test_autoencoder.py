"""Training makes the loss smaller, is repeatable, and ignores what is masked."""

import time

import keras
import numpy as np
import pytest

from models import pca
from models.autoencoder import AutoencoderConfig, RateDistortion, networks, train
from models.entropy import fit_tables, measure_bits
from models.patches import significance
from skyfold.errors import InvalidRequestError


def bits_and_error(model, patches):
    """Bits a pixel, and mean square of errors summed over 8 x 8 pixels where there are sources."""
    latents = model.encode(patches)
    error = model.decode(latents) - patches
    means = error.reshape(len(patches), 8, 8, 8, 8).mean((2, 4)) * 8
    is_source = (significance(patches) > 5).reshape(len(patches), 8, 8, 8, 8).any((2, 4))
    bits = measure_bits(latents, fit_tables(latents)).sum() / patches.size
    return bits, np.sqrt(np.median(means[is_source] ** 2))


def test_fewer_bits_and_better_flux_than_the_linear_model_on_sky_never_seen(
    trained, patches, held_out
):
    linear = pca.train(*patches, seed=0, channels=6, step=2.5)
    baseline, learned = (bits_and_error(model, held_out) for model in (linear, trained))
    assert learned[0] < 0.95 * baseline[0]
    assert learned[1] < 0.85 * baseline[1]


def test_blank_sky_decodes_to_nothing(trained):
    noise = np.random.default_rng(8).normal(size=(4, 64, 64)).astype(np.float32)
    decoded = trained.decode(trained.encode(noise))
    assert (noise - decoded).std() == pytest.approx(1, abs=0.06)
    assert decoded.std() < 0.5


def test_only_the_linear_path_sees_how_far_below_the_sky_something_lies(trained):
    levels = [np.full((1, 64, 64, 1), level, np.float32) for level in (-4, -8, -12)]
    higher, middle, lower = (np.asarray(trained.encoder(level)) for level in levels)
    assert np.abs(middle - lower).max() > 1
    np.testing.assert_allclose(higher - middle, middle - lower, atol=1e-3)


def test_history_names_the_parts(trained):
    last = trained.history[-1]
    assert last["step"] == 200
    assert set(last) == {"step", "loss", "bpp", "mse", "block2", "block4", "block8"}
    config = trained.config
    distortion = config["pixel_weight"] * last["mse"] + sum(
        last[f"block{side}"] for side in (2, 4, 8)
    )
    assert last["loss"] == pytest.approx(last["bpp"] + config["lmbda"] * distortion, rel=1e-3)


def test_same_seed_and_steps_give_the_same_weights(twins):
    first, again = ([*model.encoder.get_weights(), *model.decoder.get_weights()] for model in twins)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))


def test_masked_pixels_do_not_count(trained):
    model = RateDistortion(trained.encoder, trained.decoder, AutoencoderConfig(channels=6), seed=0)
    y = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
    weight = np.ones_like(y)
    weight[:, 4:12, 8:24] = 0
    predicted = model(y)
    wild = np.where(weight > 0, y, 1e4)
    losses = [
        float(model.compute_loss(y=np.concatenate([target, w], axis=-1), y_pred=predicted))
        for target, w in ((y, weight), (wild, weight), (wild, np.ones_like(weight)))
    ]
    assert losses[0] == losses[1]
    assert losses[2] > 100 * losses[0]


def test_the_budget_of_time_is_kept(patches):
    seen, start = [], time.monotonic()
    train(*patches, minutes=0.02, seed=1, on_step=lambda *step: seen.append(step), width=8)
    assert time.monotonic() - start < 30  # the first step compiles
    assert seen


def test_networks_begin_as_the_linear_model():
    config = AutoencoderConfig(channels=64, step=1.0, width=8, depth=1)
    keras.utils.set_random_seed(0)
    encoder, decoder = networks(config, np.eye(64, dtype=np.float32))
    y = np.random.default_rng(0).normal(size=(1, 32, 48, 1)).astype(np.float32)
    assert np.asarray(decoder(encoder(y))) == pytest.approx(y, abs=0.05)


def test_tiles_of_any_shape_keep_their_place(trained, sky):
    y = sky[:1, :64, :112]
    assert trained.encode(y).shape == (1, 8, 14, 6)
    assert trained.decode(trained.encode(y)).shape == y.shape


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 5, "minutes": 1}, "give a budget"),
        ({}, "give a budget"),
        ({"steps": 0}, "give a budget"),
        ({"steps": 5, "depht": 2}, "correct the name"),
    ],
)
def test_wrong_options_are_named(patches, options, match):
    with pytest.raises(InvalidRequestError, match=match):
        train(*patches, seed=0, **options)


def test_patches_of_odd_sides_are_refused():
    with pytest.raises(InvalidRequestError, match="multiples of 16"):
        train(np.zeros((3, 20, 20), np.float32), seed=0, steps=1)
