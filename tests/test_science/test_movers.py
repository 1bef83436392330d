"""Trails put into an image, and what is measured of them."""

from dataclasses import replace

import numpy as np
import pytest

from skyfold.errors import InvalidRequestError
from skyfold.science import ImageContext, get_case
from skyfold.science.trails import LENGTHS, inject_trails, stamp

FWHM = 3.0


def scene(seed=1, **more):
    raw = np.random.default_rng(seed).normal(1000, 10, (512, 768)).round().astype("u2")
    about = {"fwhm": FWHM, "slope": 0.5, "step": None, "seed": seed} | more
    return raw, inject_trails(raw, np.full(raw.shape, 10.0), **about)


def context_of(sigma, trails):
    everywhere = np.ones(sigma.shape, bool)
    return ImageContext(sigma, ~everywhere, everywhere, 1, FWHM, product="trailed", injected=trails)


def values(raw, decoded, context):
    found = get_case("movers").measure(raw, decoded, context)
    return {(sample.measure, sample.bin): sample.values for sample in found}


def test_trails_are_what_they_say():
    raw, (pixels, sigma, trails) = scene()
    assert pixels.dtype == raw.dtype
    assert len(trails) == (512 // 39) * (768 // 39)
    light = np.zeros(raw.shape)
    for trail in trails:
        place, profile = stamp(raw.shape, trail, FWHM)
        light[place] += 10 * trail["snr"] * profile
        rows, columns = np.indices(profile.shape, float)
        moments = np.cov(np.stack([columns.ravel(), rows.ravel()]), aweights=profile.ravel())
        of_point = (FWHM / 2.3548) ** 2
        long, wide = np.linalg.eigvalsh(moments)[::-1]
        assert long == pytest.approx(trail["length"] ** 2 / 12 + of_point, rel=0.03)
        assert wide == pytest.approx(of_point, rel=0.03)
        tilt = 0.5 * np.arctan2(2 * moments[0, 1], moments[0, 0] - moments[1, 1])
        assert abs(np.sin(tilt - trail["angle"])) < 0.01
    np.testing.assert_allclose(sigma**2 - 100, 0.5 * light, atol=1e-6)
    added = pixels.astype(float) - raw - light
    assert np.std(added[light < 0.1]) < 0.5
    assert trails["length"].min() > LENGTHS[0] * FWHM
    assert np.array_equal(scene()[1][0], pixels)


def test_loss_of_trails():
    _, (pixels, sigma, trails) = scene()
    context, raw = context_of(sigma, trails), pixels.astype(float)
    same = values(raw, raw.copy(), context)
    assert all(np.all(one == 0) for one in same.values())
    assert len(same["trail_flux", ">=5"]) > 100
    gone = raw.copy()
    for trail in trails[trails["snr"] < 10]:
        place, profile = stamp(raw.shape, trail, FWHM)
        gone[place] -= 10 * trail["snr"] * profile
    found = values(raw, gone, context)
    assert found["trail_missed", "5-10"].mean() == 1
    assert found["trail_missed", "10-20"].sum() == found["trail_missed", "20-50"].sum() == 0
    lost = trails["snr"][(trails["snr"] >= 5) & (trails["snr"] < 10)]
    assert np.median(found["trail_flux", "5-10"]) == pytest.approx(-np.median(lost), rel=0.15)
    assert np.abs(found["trail_flux", "20-50"]).max() < 0.3  # of a sky that is measured anew


def test_the_error_of_a_trail_is_that_of_its_filter():
    _, (pixels, sigma, trails) = scene()
    noise = np.random.default_rng(5).normal(0, 1, sigma.shape)
    raw = pixels.astype(float)
    found = values(raw, raw + 0.5 * sigma * noise, context_of(sigma, trails))
    every = np.concatenate([found["trail_flux", name] for name in ("3-5", ">=5")])
    assert np.std(every) == pytest.approx(0.5, rel=0.1)


def test_trails_that_are_not_whole_are_not_measured():
    _, (pixels, sigma, trails) = scene()
    context = context_of(sigma, trails)
    bad = np.zeros(sigma.shape, bool)
    bad[:, 300:] = True
    raw = np.where(bad, 0, pixels.astype(float))
    some = values(raw, raw.copy(), replace(context, mask=bad))["trail_flux", ">=5"]
    every = values(pixels.astype(float), pixels.astype(float), context)["trail_flux", ">=5"]
    assert 0.2 < len(some) / len(every) < 0.4
    with pytest.raises(InvalidRequestError, match="no trails"):
        values(raw, raw, replace(context, injected=None))
