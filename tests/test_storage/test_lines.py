"""Lines along which a residual is not noise."""

import numpy as np
import pytest

from skyfold.science.trails import DTYPE, stamp
from storage.images.lines import trail_leaves

SHAPE = 512, 512


def noise(seed=6):
    return np.random.default_rng(seed).normal(0, 1, SHAPE).astype("f4")


def found_in(pixels, fwhm, bright=None):
    """Pixels of the leaves that are found in a residual."""
    leaves = (pixels[::2] + pixels[1::2]) / 2
    leaves = leaves[:, ::2] + leaves[:, 1::2]
    none = np.zeros(leaves.shape, bool)
    found = trail_leaves(leaves, none if bright is None else bright, fwhm)
    return np.repeat(np.repeat(found, 2, axis=0), 2, axis=1)


def drawn(fwhm, length, significance):
    trails = np.zeros(16, DTYPE)
    trails["y"], trails["x"] = (70 + 120 * plane.ravel() for plane in np.indices((4, 4)))
    trails["length"], trails["angle"] = length, np.linspace(0, np.pi, 17)[:-1] + 0.05
    light = np.zeros(SHAPE)
    for one in trails:
        place, profile = stamp(SHAPE, one, fwhm)
        light[place] += significance * profile
    return trails, light


@pytest.mark.parametrize(("fwhm", "length"), [(1.4, 20), (1.4, 60), (3, 30), (5, 60)])
@pytest.mark.parametrize("sign", [1, -1])
def test_faint_trails_are_found_in_every_direction(fwhm, length, sign):
    trails, light = drawn(fwhm, length, 12)
    found = found_in(noise() + sign * light.astype("f4"), fwhm)
    shares = []
    for one in trails:
        along = np.linspace(-0.45, 0.45, 19) * length
        rows = np.rint(one["y"] + along * np.sin(one["angle"])).astype(int)
        columns = np.rint(one["x"] + along * np.cos(one["angle"])).astype(int)
        near = [
            found[row - 3 : row + 4, column - 3 : column + 4].any()
            for row, column in zip(rows, columns, strict=True)
        ]
        shares.append(np.mean(near))
    assert min(shares) > 0.5
    assert np.mean(shares) > 0.9
    assert found.mean() < 0.05


def test_noise_has_no_trails():
    assert np.mean([found_in(noise(seed), 3).mean() for seed in range(5)]) < 0.001


def test_a_line_is_found_once():
    """Of those that cross a bright trail, or run along it, none counts."""
    _, light = drawn(3, 50, 60)
    found = found_in(noise() + light.astype("f4"), 3)
    assert found.sum() < 16 * 3 * 50 * 6  # 64 pixels and what is beyond, some lines wide


def test_stripes_and_slopes_are_no_trails():
    rows = np.random.default_rng(8).normal(0, 0.3, (SHAPE[0], 1)).astype("f4")
    slope = 0.2 * np.sin(np.arange(SHAPE[1]) / 30).astype("f4")
    for more in (rows, rows.T, slope, slope[:, np.newaxis]):
        assert found_in(noise() + more, 3).mean() < 0.001


def test_sources_make_no_trails():
    pixels, bright = noise(), np.zeros((256, 256), bool)
    pixels[200:220, 200:220] += 1000
    bright[98:112, 98:112] = True
    places = np.random.default_rng(9).integers(10, 500, (100, 2))
    for y, x in places:
        pixels[y - 1 : y + 2, x - 1 : x + 2] += 2  # of 6 sigma together
    assert found_in(pixels, 3, bright).mean() < 0.003


@pytest.mark.parametrize("shape", [(2, 2), (30, 512), (512, 14), (1024, 40)])
def test_images_smaller_than_a_trail(shape):
    assert found_in(np.full(shape, 0, "f4"), 3).shape == shape
    assert found_in(noise().reshape(-1)[: shape[0] * shape[1]].reshape(shape), 3).mean() < 0.1
