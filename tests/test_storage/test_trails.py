"""A night with trails is told from one without, by the images as they were stored."""

import numpy as np
import pytest
import synthetic
from small_release import build_release

from skyfold import open_release
from storage.trails import CROSSED, crossed_images, lit_line, more_crossed

SHAPE = (700, 900)


def noise(seed=1, shape=SHAPE):
    return np.random.default_rng(seed).normal(size=shape)


def trail(shape, angle, offset, peak, fwhm=4.0):
    y, x = (plane - size / 2 for plane, size in zip(np.indices(shape), shape, strict=True))
    apart = (x * np.sin(angle) - y * np.cos(angle) - offset) / fwhm
    return peak * np.exp(-4 * np.log(2) * apart**2)


@pytest.mark.parametrize("angle", np.radians([0, 17.3, 45, 90, 128.6]))
@pytest.mark.parametrize("peak", [2.0, 50.0])
def test_a_trail_lights_a_line(angle, peak):
    good = np.ones(SHAPE, bool)
    assert lit_line(noise() + trail(SHAPE, angle, 40.0, peak), good) > CROSSED


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
    bright = sky.copy()
    bright[:, 300:303] = 60
    masked = good.copy()
    masked[:, 300:303] = False
    assert lit_line(bright, good) > CROSSED
    assert lit_line(bright, masked) < CROSSED


@pytest.mark.parametrize("shape", [(3, 90), (40, 200), (512, 512)])
def test_images_of_any_size(shape):
    good = np.ones(shape, bool)
    assert lit_line(np.zeros(shape), good) == 0
    assert lit_line(noise(shape=shape), good) < CROSSED


@pytest.mark.parametrize(
    ("crossed", "count", "of_base", "is_told"),
    [
        (0, 10, 0, False),
        (1, 10, 0, True),
        (1, 24, 0, False),  # one image in 200 may be: of 24 one is, in 11 nights of a hundred
        (2, 24, 0, True),
        (1, 10, 2, False),
        (3, 10, 2, False),
        (4, 10, 2, True),
        (10, 10, 20, False),
    ],
)
def test_how_many_are_too_many(crossed, count, of_base, is_told):
    night = {"r": [number < crossed for number in range(count)], "z": [True] * 9}
    base = {"r": [number < of_base for number in range(20)], "i": [False] * 20}
    told = more_crossed(night, base)
    assert bool(told) == is_told
    for one in told:
        assert (one["band"], one["number"]) == ("r", "crossed")
        assert one["low"] <= one["high"] < one["value"] == crossed / count


def test_trails_are_seen_in_what_was_stored(tmp_path):
    shape = (384, 384)
    wcs = synthetic.simple_wcs(shape)
    for number in range(2):
        pixels = synthetic.sky(shape, sources=60, sigma=12.0, background=400, seed=number)
        if number == 1:
            pixels = pixels + trail(shape, 0.7, -60.0, 3 * 12.0)
        path = tmp_path / f"raw/{number}.fits"
        synthetic.write_fits(path, pixels.round().astype("u2"), wcs, FILTER="r", GAIN=2.0)
    table = '[[images]]\nset = "s"\nfiles = ["raw/*.fits"]\nband = "header:FILTER"\n'
    url = str(tmp_path / "test" / "dr1")
    build_release(synthetic.survey_toml(tmp_path, table), url, seal=False)
    release = open_release(url, unsealed=True)
    entries = release.images.entries.values()
    assert crossed_images(release, entries) == {"r": [False, True]}
