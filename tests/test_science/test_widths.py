"""The width of points: stars tell it, whatever else there is in a frame."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic

from skyfold.science.sources import FALLBACK_FWHM
from skyfold.science.widths import MIN_STARS, estimate_fwhm, star_widths

SHAPE = (600, 600)
ALL = np.ones(SHAPE, bool)


def stars(fwhm: float) -> np.ndarray:
    """A sparse field, over its noise."""
    sky = synthetic.sky(SHAPE, sources=60, sigma=1.0, seed=4, flux=(1500, 20_000), fwhm=fwhm)
    return sky.astype(np.float32)


def cosmic_rays(number: int) -> np.ndarray:
    """Tracks of a pixel in width, of any direction and light."""
    rng, hit = np.random.default_rng(8), np.zeros(SHAPE, np.float32)
    for _ in range(number):
        (y, x), angle = rng.uniform(5, 595, 2), rng.uniform(0, np.pi)
        for along in np.arange(0, min(rng.exponential(3) + 0.5, 20), 0.5):
            place = int(y + along * np.sin(angle)), int(x + along * np.cos(angle))
            if max(place) < 600 and min(place) >= 0:
                hit[place] += rng.exponential(100) + 25
    return hit


def width(image: np.ndarray, good: np.ndarray = ALL) -> float:
    return estimate_fwhm(image, np.ones(SHAPE, np.float32), good)


@pytest.mark.parametrize("fwhm", [1.6, 2.5, 4.5, 7.0, 10.0, 14.0])
def test_it_is_that_of_the_stars(fwhm):
    pixel = np.sqrt(8 * np.log(2) / 12)  # FWHM of a Gaussian as wide as a pixel
    assert width(stars(fwhm)) == pytest.approx(np.hypot(fwhm, pixel), rel=0.1)


@pytest.mark.parametrize("fwhm", [2.5, 4.5, 7.0])
@pytest.mark.parametrize("number", [25, 100, 300])
def test_cosmic_rays_do_not_count(fwhm, number):
    hit = stars(fwhm) + cosmic_rays(number)
    assert width(hit) == pytest.approx(width(stars(fwhm)), rel=0.03)
    # they are many, and smaller
    found = star_widths(hit, np.ones(SHAPE, np.float32), ALL)[:, 0]
    assert number < 100 or np.percentile(found, 15) < 0.8 * width(hit)


def test_cosmic_rays_alone_tell_nothing():
    noise = np.random.default_rng(3).normal(0, 1, SHAPE).astype(np.float32)
    assert width(noise + cosmic_rays(200)) == FALLBACK_FWHM


def test_where_all_are_sharp_they_are_the_stars():
    image = stars(1.2)
    found = star_widths(image, np.ones(SHAPE, np.float32), ALL)
    assert (found[:, 1] < 0.1).mean() > 0.4
    assert width(image) == pytest.approx(np.percentile(found[:, 0], 15), rel=0.05)


@pytest.mark.parametrize("bad", [0.003, 0.01, 0.03])
def test_lone_bad_pixels_hide_no_star(bad):
    image, rng = stars(4.5), np.random.default_rng(2)
    good = rng.random(SHAPE) >= bad
    good[:, 300] = False  # and a dead column
    image[~good] = 0
    assert width(image, good) == pytest.approx(width(stars(4.5)), rel=0.03)


def test_masked_cores_are_not_filled():
    image, good = stars(4.5), ALL.copy()
    bright = np.argwhere(image > 100)
    for y, x in bright:
        good[y, x] = False
    image[~good] = 0
    few = star_widths(image, np.ones(SHAPE, np.float32), good)
    assert len(few) < len(star_widths(stars(4.5), np.ones(SHAPE, np.float32), ALL))


@pytest.mark.parametrize("fwhm", [2.0, 2.5, 4.5, 7.0])
def test_faint_sources_tell_it_where_no_other_can(fwhm):
    flux = (12 * fwhm, 30 * fwhm)  # S/N 7 to 17 at best
    image = synthetic.sky(SHAPE, sources=30, sigma=1.0, seed=5, flux=flux, fwhm=fwhm)
    image = image.astype(np.float32)
    assert len(star_widths(image, np.ones(SHAPE, np.float32), ALL)) < MIN_STARS
    assert width(image) == pytest.approx(fwhm, rel=0.1)


def test_of_few_it_is_a_guess():
    image = synthetic.sky(SHAPE, sources=MIN_STARS - 1, sigma=1.0, seed=4, flux=(1500, 2000))
    assert width(image.astype(np.float32)) == FALLBACK_FWHM
    assert width(np.zeros(SHAPE, np.float32)) == FALLBACK_FWHM
