"""What is measured of objects, against what was put into the images."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.wcs import WCS

from skyfold.science.matched_filter import THRESHOLD
from storage.objects import finder as object_finder
from storage.objects.writer import ABOUT, search_image

SIGMA, FWHM = 10.0, 3.5


def match(table, truth):
    """Rows of the table nearest to each true object, and their distance [pixel]."""
    x, y = (np.asarray(table[axis], float) for axis in ("x", "y"))
    apart = np.hypot(x[None] - truth["x"][:, None], y[None] - truth["y"][:, None])
    return apart.argmin(axis=1), apart.min(axis=1)


@pytest.mark.parametrize(("image", "unit"), [("night1/r", 1.0), ("night1/nowcs", 1e-12)])
def test_positions_and_fluxes_are_true(objects_release, truth, image, unit):
    table = objects_release.objects.of_image(image)
    known = truth[image]
    rows, apart = match(table, known)
    stars = ~known["extended"] & (known["flux"] > 60 * SIGMA)
    seen = stars & (apart < 2)
    lost = stars & ~seen
    assert lost.sum() <= 3  # under the padding and the bad rows
    assert np.median(apart[seen]) < 0.2
    error = np.asarray(table["flux_2fwhm_error"], float)[rows[seen]]
    measured = np.asarray(table["flux_2fwhm"], float)[rows[seen]]
    pulls = (measured - unit * known["flux"][seen]) / error
    clear = np.asarray(table["flags"])[rows[seen]] == 0
    assert abs(np.median(pulls[clear])) < 0.5
    assert 0.5 < 1.4826 * np.median(np.abs(pulls[clear] - np.median(pulls[clear]))) < 1.6


def test_shapes_are_those_of_the_profiles(objects_release, truth):
    table = objects_release.objects.of_image("night1/r")
    known = truth["night1/r"]
    rows, apart = match(table, known)
    ellipses = rows[known["extended"] & (known["flux"] > 500 * SIGMA) & (apart < 1)]
    stars = rows[~known["extended"] & (known["flux"] > 300 * SIGMA) & (apart < 1)]
    assert min(len(ellipses), len(stars)) >= 5
    for name, value, allowed in (("semi_major", 4, 0.3), ("semi_minor", 2, 0.2), ("theta", 30, 4)):
        measured = np.asarray(getattr(table[name], "unmasked", table[name]))
        assert np.median(measured[ellipses]) == pytest.approx(value, abs=allowed)
    round_ones = np.asarray(table["semi_major"])[stars]
    assert np.median(round_ones) == pytest.approx(FWHM / 2.3548, abs=0.1)
    radius = np.asarray(table["half_light_radius"])[stars]
    assert np.median(radius) == pytest.approx(FWHM / 2, abs=0.25)


def test_sky_positions_are_those_of_the_wcs(objects_release):
    objects = objects_release.objects.of_image("night1/r")
    wcs = WCS(objects_release.images.header("night1/r"))
    expected = wcs.pixel_to_world(np.asarray(objects["x"]), np.asarray(objects["y"]))
    assert np.allclose(np.asarray(objects["ra"]), expected.ra.deg, atol=1e-9)
    assert np.allclose(np.asarray(objects["dec"]), expected.dec.deg, atol=1e-9)
    without = objects_release.objects.of_image("night1/nowcs")
    assert without["ra"].mask.all()


def test_noise_alone_has_hardly_an_object(objects_release):
    assert len(objects_release.objects.of_image("night1/noise")) <= 2


def test_bad_pixels_hold_no_object(objects_release):
    table = objects_release.objects.of_image("night1/nowcs")
    x, y = np.asarray(table["x"]), np.asarray(table["y"])
    assert not ((x < 49) & (y < 29)).any()
    near = (y > 195) & (y < 209) & (x > 97) & (x < 203)
    assert (np.asarray(table["flags"])[near] & object_finder.UNCLEAR).all()


def test_windows_change_nothing(objects_release, monkeypatch):
    whole = search_image(objects_release, "night1/r")
    monkeypatch.setattr(object_finder, "WINDOW", 256)
    parts = search_image(objects_release, "night1/r")
    assert abs(len(parts) - len(whole)) <= 2  # faint ones, by the sky of their window
    bright = whole.columns["snr"] > 3 * THRESHOLD
    for x, y in zip(whole.columns["x"][bright], whole.columns["y"][bright], strict=True):
        assert np.hypot(parts.columns["x"] - x, parts.columns["y"] - y).min() < 0.1


def test_correlated_noise_is_no_object(objects_release):
    """A filtered noise plane, of which white-noise errors would make hundreds of objects."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(5).normal(0, 1, (512, 512)), 1.2)
    sigma = np.full(noise.shape, noise.std() / 2.5)
    clean = np.zeros(noise.shape, bool)
    pixels = object_finder.Pixels(noise, np.zeros_like(noise), sigma, clean, clean)
    entry = objects_release.images.entry("night1/noise")
    from dataclasses import replace

    entry = replace(entry, shape=noise.shape, fwhm_pix=FWHM)
    latents = np.zeros((64, 64, 6), np.int16)
    found = object_finder.find_objects(entry, latents, lambda rows, columns: pixels)
    assert len(found) <= 15


def test_pooled_latents_do_not_depend_on_the_grid():
    """Whole latent positions moved with the object give the same features."""
    latents = np.random.default_rng(2).integers(-3, 4, (32, 32, 6))
    place = np.array([100.0]), np.array([120.0]), np.array([3.0])
    moved = np.roll(latents, (2, 3), axis=(0, 1))
    there = place[0] + 16, place[1] + 24, place[2]
    assert np.allclose(object_finder.pool(latents, *place), object_finder.pool(moved, *there))


def test_columns_are_described(objects_release):
    table = objects_release.objects.table(slice(0, 3))
    assert set(table.colnames) == set(ABOUT)
    for name in table.colnames:
        assert table[name].info.description
    assert str(table["ra"].unit) == "deg"
    assert str(table["flux_auto"].unit) == "adu"
    assert str(table["x"].unit) == "pix"
