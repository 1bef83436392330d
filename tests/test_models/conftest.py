"""A sky of stars and galaxies in noise units, and models trained on it for a moment."""

import numpy as np
import pytest

from models import autoencoder, pca
from models.entropy import fit_tables
from models.patches import sample_patches


def make_sky(count, side, seed):
    """Images of white noise 1 with Gaussian and exponential sources, bright ones stretched."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    images = rng.normal(size=(count, side, side))
    for image in images:
        for _ in range(side * side // 1500):
            row, column = rng.uniform(0, side, 2)
            radius = np.hypot(x - column, y - row)
            width = rng.uniform(1.3, 2.2)
            shape = np.exp(-0.5 * (radius / width) ** 2), np.exp(-radius / width)
            image += min(3 * (1 + rng.pareto(1.0)), 2000) * shape[rng.integers(2)]
    bright = 8 * (np.sqrt(1 + 0.25 * np.maximum(images, 0)) - 1)
    return np.where(images > 0, bright, images).astype(np.float32)


@pytest.fixture(scope="session")
def sky():
    return make_sky(12, 256, seed=5)


@pytest.fixture(scope="session")
def patches(sky):
    return sample_patches(list(sky), count=96, seed=2, side=64)


@pytest.fixture(scope="session")
def held_out():
    return sample_patches(list(make_sky(4, 256, seed=6)), count=64, seed=2, side=64)[0]


@pytest.fixture(scope="session")
def linear(patches):
    return pca.train(*patches, seed=0, channels=6)


@pytest.fixture(scope="session")
def trained(patches):
    return autoencoder.train(*patches, steps=200, seed=4, width=24, depth=1, channels=6)


@pytest.fixture(scope="session")
def twins(patches):
    """Two trainings that should be the same."""
    options = {"width": 8, "depth": 1, "channels": 4, "batch": 4}
    return [autoencoder.train(*patches, steps=2, seed=1, **options) for _ in range(2)]


@pytest.fixture(scope="session")
def tables(trained, patches):
    return fit_tables(trained.encode(patches[0]))
