"""The linear model finds the components that are there."""

import numpy as np
import pytest

from models.pca import patch_basis, train
from skyfold.errors import InvalidRequestError


def blocks_of(vectors, coefficients):
    """Patches whose 8 x 8 blocks are sums of vectors."""
    n = len(coefficients)
    blocks = (coefficients @ vectors.T).reshape(n // 16, 4, 4, 8, 8).transpose(0, 1, 3, 2, 4)
    return blocks.reshape(n // 16, 32, 32).astype(np.float32)


def test_planted_components_are_found():
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(64, 2)))[0]
    patches = blocks_of(vectors, rng.normal(size=(1600, 2)) * (5, 2))
    basis, variances = patch_basis(patches, np.ones_like(patches), 2)
    assert np.abs(basis.T @ vectors) == pytest.approx(np.eye(2), abs=0.05)
    assert variances == pytest.approx([25, 4], rel=0.1)
    assert basis.T @ basis == pytest.approx(np.eye(2), abs=1e-5)


def test_decoded_patches_are_the_projection_within_a_step(patches):
    coarse, fine = (train(*patches, seed=0, channels=6, step=step) for step in (0.5, 0.02))
    y = np.clip(patches[0], -10, 20)  # or fine steps overflow 16 bits
    apart = coarse.decode(coarse.encode(y)) - fine.decode(fine.encode(y))
    # six components of 64 pixels, each with the mean square of a uniform distribution
    assert np.mean(apart**2) == pytest.approx(6 / 64 * 0.5**2 / 12, rel=0.05)


def test_more_weight_on_distortion_means_finer_steps(patches):
    coarse, fine = (train(*patches, seed=0, channels=6, lmbda=value) for value in (0.2, 5.0))
    assert fine.config["step"] < coarse.config["step"]
    assert fine.history[0]["bpp"] > coarse.history[0]["bpp"]
    assert fine.history[0]["mse"] < coarse.history[0]["mse"]


def test_steps_are_reported_once(patches):
    seen = []
    model = train(*patches, seed=0, steps=5, on_step=lambda step, parts: seen.append((step, parts)))
    assert seen == [(1, model.history[0])]


def test_impossible_channels_are_refused(patches):
    with pytest.raises(InvalidRequestError, match="1 to 64"):
        train(*patches, seed=0, channels=65)
    with pytest.raises(InvalidRequestError, match="good pixels"):
        patch_basis(patches[0], np.zeros_like(patches[0]), 4)
