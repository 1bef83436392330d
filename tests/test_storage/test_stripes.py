"""Offsets of rows and columns: found where a detector has them, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
from scipy.ndimage import gaussian_filter

from skyfold.images.window import decode_window
from skyfold.noise import STRIPE_STEP, stripes_at
from storage.images.encoder import encode_image
from storage.images.entries import describe_image
from storage.images.fills import find_fills
from storage.images.mesh import stretched
from storage.images.noise_fit import fit_noise
from storage.images.trial import encode_on_trial
from tests.test_storage.test_depth import survey_image
from tests.test_storage.test_encoder import reading

SHAPE = (600, 700)
SIGMA = 20.0
Y, X = np.indices(SHAPE)
RNG = np.random.default_rng(8)


def sky(seed: int = 1, sources: int = 40) -> np.ndarray:
    return 1000 + synthetic.sky(SHAPE, sources=sources, sigma=SIGMA, seed=seed)


def stripes(plane: np.ndarray, dtype: str = "i4") -> tuple[np.ndarray, np.ndarray] | None:
    image = survey_image(np.rint(plane).astype(dtype))
    return fit_noise(image, find_fills(image)).stripes


AMPLIFIERS = np.where(X < 333, 0.0, 6 * SIGMA)
OVERSCAN = np.where(X >= 640, -30 * SIGMA, 0.0)
GLOW = 15 * SIGMA * np.exp(-Y / 9)
# Of channels of 32 columns, even and odd columns of which are read by two outputs.
CHANNELS = SIGMA * (0.4 * np.where(X % 2, 1, -1) + np.where(X // 32 % 3 == 1, 1.2, 0))
JITTER = RNG.normal(0, 1.2 * SIGMA, (SHAPE[0], 1)) + RNG.normal(0, 3 * SIGMA, SHAPE[1])
DEAD_COLUMN = np.where(X == 200, -12 * SIGMA, 0.0)


@pytest.mark.parametrize("dtype", ["i4", "f4"])
@pytest.mark.parametrize(
    "offsets",
    [AMPLIFIERS, OVERSCAN, GLOW, DEAD_COLUMN, CHANNELS, JITTER, AMPLIFIERS + OVERSCAN + GLOW],
)
def test_offsets_are_taken_off(offsets, dtype):
    """With its mesh, the sky is then flat everywhere, and its noise is that of pixels."""
    image = survey_image((sky(sources=0) + offsets).astype(dtype))
    fit = fit_noise(image, find_fills(image))
    assert fit.stripes is not None
    assert fit.sigma == pytest.approx(SIGMA, rel=0.03)
    rows, columns = fit.stripes
    level = np.concatenate([one for _, one in stretched(fit.background, SHAPE)])
    left = image.stored - level - rows[:, np.newaxis] - columns
    assert np.abs(left.mean(axis=0)).max() < 0.5 * SIGMA
    assert np.abs(left.mean(axis=1)).max() < 0.5 * SIGMA


@pytest.mark.parametrize(
    "plane",
    [
        sky(),
        sky(sources=600),
        1000 + SIGMA * 4 * gaussian_filter(RNG.normal(0, 1, SHAPE), 1.5),
        sky() + 2 * SIGMA * np.sin(X / 60) * np.cos(Y / 80),
        sky() + RNG.normal(0, 0.5 * SIGMA, (SHAPE[0], 1)),
        sky() + np.where((X == 200) & (Y > 250), -12 * SIGMA, 0),
        sky() + 40 * SIGMA * np.exp(-((Y - 300) ** 2) / 50 - ((X - 350) / 80) ** 2),
    ],
    ids=["plain", "crowded", "correlated", "waves", "jitter", "dead in part", "edge-on galaxy"],
)
def test_what_is_no_offset_is_left(plane):
    assert stripes(plane) is None


def test_small_and_masked_images_have_no_offsets_that_cannot_be_told():
    """Of fewer than four blocks a median is no witness."""
    assert stripes((sky() + AMPLIFIERS)[:, 250:440]) is not None  # rows enough: columns are told
    assert stripes((sky() + AMPLIFIERS)[:200, 250:440]) is None
    plane = (sky() + AMPLIFIERS).astype("f4")
    plane[130:] = np.nan
    assert stripes(plane, "f4") is None
    assert stripes(np.full(SHAPE, 7.0)) is None


def encoded_and_entry(plane, network):
    image = survey_image(plane)
    encoded = encode_image(image, network, 0.5)
    return image, encoded, encoded.described(describe_image(image, model="m", step=0.5))


@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_levels_of_an_image_with_offsets(dtype, network):
    """Nothing is kept for them at `sources`, the bound holds, and every bit is there."""
    offsets = AMPLIFIERS + OVERSCAN + GLOW
    plane = (sky(sources=0) + offsets).astype(dtype)
    _, encoded, entry = encoded_and_entry(plane, network)
    assert entry.striped
    kept = encoded.layers["bounded"][: SHAPE[0], : SHAPE[1]] & 1 == 1
    assert kept.mean() < 0.02
    window = slice(30, 590), slice(250, 690)
    for level in ("latent", "sources", "bounded", "exact"):
        layers = {name: encoded.layers[name] for name in entry.layers_at(level)}
        found = decode_window(entry, level, *window, read=reading(layers), network=network)
        error = found.values - plane[window].astype("f8")
        assert abs(error.mean(axis=0)).max() < SIGMA  # offsets are there at every level
        if level == "bounded":
            assert (abs(error) <= 0.25 * found.sigma).all()
            assert np.median(found.sigma) == pytest.approx(SIGMA, rel=0.1)
    assert found.values.tobytes() == plane[window].tobytes()


def test_pieces_of_an_image_with_offsets_are_encoded_with_their_own(network):
    plane = (sky() + AMPLIFIERS + GLOW).astype("i4")
    image, _, entry = encoded_and_entry(plane, network)
    rows, columns = slice(0, 300), slice(200, 512)
    decoded = encode_on_trial(image, entry, network, plane[rows, columns], rows, columns)
    assert decoded("exact").tobytes() == plane[rows, columns].tobytes()
    assert abs(decoded("bounded") - plane[rows, columns]).max() < 0.3 * 4 * SIGMA
    off = decoded("latent") - (sky(sources=0) + AMPLIFIERS + GLOW)[rows, columns]
    assert abs(np.median(off, axis=0)).max() < SIGMA


def test_offsets_of_a_window_are_those_of_the_whole():
    offsets = np.random.default_rng(3).integers(-(2**31), 2**31, (2, 512))
    whole = stripes_at(offsets, 0.25, slice(0, 512), slice(0, 512))
    part = stripes_at(offsets, 0.25, slice(10, 20), slice(300, 511))
    np.testing.assert_array_equal(whole[10:20, 300:511], part)
    assert whole[3, 5] == (int(offsets[0, 3]) + int(offsets[1, 5])) * 0.25 * STRIPE_STEP
