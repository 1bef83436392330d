"""Diffuse light put into an image, and what is measured of it."""

from dataclasses import replace

import numpy as np
import pytest

from skyfold.errors import InvalidRequestError
from skyfold.science import ImageContext, get_case
from skyfold.science.diffuse import WIDTHS, inject_diffuse, stamp

FWHM = 2.0


def scene(seed=1, **more):
    raw = np.random.default_rng(seed).normal(1000, 10, (512, 768)).round().astype("u2")
    about = {"fwhm": FWHM, "slope": 0.5, "step": None, "seed": seed} | more
    return raw, inject_diffuse(raw, np.full(raw.shape, 10.0), **about)


def context_of(sigma, blobs):
    everywhere = np.ones(sigma.shape, bool)
    return ImageContext(sigma, ~everywhere, everywhere, 1, FWHM, product="diffuse", injected=blobs)


def values(raw, decoded, context):
    found = get_case("diffuse").measure(raw, decoded, context)
    return {sample.bin: sample.values for sample in found}


def light_of(shape, blobs):
    light = np.zeros(shape)
    for blob in blobs:
        place, profile = stamp(shape, blob)
        light[place] += 10 * blob["snr"] * profile
    return light


def test_diffuse_light_is_what_it_says():
    raw, (pixels, sigma, blobs) = scene()
    assert pixels.dtype == raw.dtype
    assert len(blobs) == (512 // 40) * (768 // 40)
    assert WIDTHS[0] * FWHM < blobs["width"].min() < 5 < 7 < blobs["width"].max()
    light = light_of(raw.shape, blobs)
    for blob in blobs[:20]:
        place, profile = stamp(raw.shape, blob)
        assert np.linalg.norm(profile) == pytest.approx(1)
        rows, columns = np.indices(profile.shape, float)
        up, right = rows + place[0].start - blob["y"], columns + place[1].start - blob["x"]
        assert abs(np.average(up, weights=profile)) < 0.1
        around = up**2 + right**2
        assert np.average(around, weights=profile**2) == pytest.approx(blob["width"] ** 2, rel=0.05)
    np.testing.assert_allclose(sigma**2 - 100, 0.5 * light, atol=1e-6)
    added = pixels.astype(float) - raw - light
    assert np.std(added[light < 0.01]) < 0.5
    assert np.array_equal(scene()[1][0], pixels)


def test_loss_of_diffuse_light():
    """Of which all is lost below S/N 10, and none above."""
    _, (pixels, sigma, blobs) = scene()
    context, raw = context_of(sigma, blobs), pixels.astype(float)
    same = values(raw, raw.copy(), context)
    assert all(np.all(one == 0) for one in same.values())
    assert len(same[">=5"]) > 150
    faint = blobs[blobs["snr"] < 10]
    found = values(raw, raw - light_of(raw.shape, faint), context)
    lost = faint["snr"][faint["snr"] >= 5]
    assert np.sort(found["5-10"]) == pytest.approx(-np.sort(lost)[::-1], rel=0.1)
    assert np.abs(found["10-20"]).max() < 0.1
    assert np.abs(found["20-50"]).max() < 0.1


def test_its_error_is_that_of_its_filter():
    _, (pixels, sigma, blobs) = scene()
    noise = np.random.default_rng(5).normal(0, 1, sigma.shape)
    raw = pixels.astype(float)
    found = values(raw, raw + 0.5 * sigma * noise, context_of(sigma, blobs))
    every = np.concatenate([found[name] for name in ("3-5", ">=5")])
    assert np.std(every) == pytest.approx(0.5, rel=0.2)


def test_what_lies_on_bad_pixels_is_not_measured():
    _, (pixels, sigma, blobs) = scene()
    context = context_of(sigma, blobs)
    bad = np.zeros(sigma.shape, bool)
    bad[:, 300:] = True
    bad[:, 100] = True  # a column: most of the filter is left
    raw = np.where(bad, 0, pixels.astype(float))
    some = values(raw, raw.copy(), replace(context, mask=bad))[">=5"]
    every = values(pixels.astype(float), pixels.astype(float), context)[">=5"]
    assert 0.25 < len(some) / len(every) < 0.45
    decoded = np.where(bad, 1e9, raw)
    assert np.all(values(raw, decoded, replace(context, mask=bad))[">=5"] == 0)
    with pytest.raises(InvalidRequestError, match="holds no diffuse light"):
        values(raw, raw, replace(context, injected=None))
