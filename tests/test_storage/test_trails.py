"""A trail across an image is told from stars, galaxies, spikes, and marks of the detector."""

import numpy as np
import pytest
import synthetic

from storage.trails import CROSSED, lit_line

SHAPE = (700, 900)


def noise(seed=1, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("angle", np.radians([3, 17.3, 45, 92.5, 128.6, 176]))
@pytest.mark.parametrize("peak", [2.0, 50.0])
def test_a_trail_lights_a_line(angle, peak):
    good = np.ones(SHAPE, bool)
    assert lit_line(noise() + synthetic.trail(SHAPE, angle, 40.0, peak), good) > CROSSED


def test_stars_noise_and_dead_columns_do_not():
    good = np.ones(SHAPE, bool)
    sky = synthetic.sky(SHAPE, sources=100, sigma=1.0, background=0, seed=2)
    dark = sky.copy()
    dark[:, 300:303] = -60
    star = sky + 1e4 * np.exp(-np.hypot(*(np.indices(SHAPE) - 350.0)) / 15)
    for image in (noise(), sky, dark, star):
        assert lit_line(image, good) < CROSSED
    beside = dark.copy()
    beside[:, 299] = beside[:, 303] = 4.0  # what a network overshoots
    assert lit_line(beside, good) < CROSSED
    masked = good.copy()
    masked[:, 300:303] = False
    slanted = sky + synthetic.trail(SHAPE, np.radians(60), 0.0, 60.0, fwhm=2.0)
    assert lit_line(slanted, good) > CROSSED
    assert (
        lit_line(slanted, synthetic.trail(SHAPE, np.radians(60), 0.0, 1.0, fwhm=2.0) < 0.01)
        < CROSSED
    )


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("width", [2, 24])
@pytest.mark.parametrize("height", [2.0, 200.0])
@pytest.mark.parametrize("length", [0.4, 0.55, 1.0])
def test_what_lies_along_rows_or_columns_is_the_detectors(turned, width, height, length):
    good = np.ones(SHAPE, bool)
    image = synthetic.sky(SHAPE, sources=100, sigma=1.0, background=0, seed=3)
    image[: int(length * SHAPE[0]), 300 : 300 + width] += height
    mask = good.T if turned else good
    image = image.T if turned else image
    assert lit_line(image, mask) < CROSSED
    crossed = image + synthetic.trail(image.shape, np.radians(30), 20.0, 4.0)
    assert lit_line(crossed, mask) > CROSSED


@pytest.mark.parametrize("steepness", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("peak", [100.0, 1e3, 1e5])
def test_spikes_of_a_bright_star_fade_and_are_no_trail(steepness, peak):
    good = np.ones(SHAPE, bool)
    y, x = np.indices(SHAPE)
    along, across = (y - 350 + x - 420) / np.sqrt(2), (y - 350 - x + 420) / np.sqrt(2)
    image = noise() + peak * 30 * np.exp(-np.hypot(along, across) / 8)
    for far, off in ((along, across), (across, along)):
        fall = (20 / np.maximum(np.abs(far), 20)) ** steepness
        image += peak * fall * np.exp(-((off / 2) ** 2) / 2)
    assert lit_line(image, good) < CROSSED


@pytest.mark.parametrize("shape", [(3, 90), (40, 200), (512, 512)])
def test_images_of_any_size(shape):
    good = np.ones(shape, bool)
    assert lit_line(np.zeros(shape), good) == 0
    assert lit_line(noise(shape=shape), good) < CROSSED
