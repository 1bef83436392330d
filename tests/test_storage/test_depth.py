"""Noise that differs from part to part: found by planes or pixels, and not where there is light."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import synthetic
from scipy.ndimage import gaussian_filter

from skyfold.images.window import decode_window
from skyfold.noise import NOISE_STEP, noise_at
from storage.images.encoder import encode_image
from storage.images.entries import describe_image
from storage.images.fills import find_fills
from storage.images.image_input import SurveyImage
from storage.images.noise_fit import fit_noise
from storage.images.prepared import Prepared, prepare
from storage.images.trial import encode_on_trial
from storage.survey import ImageRef
from tests.test_storage.test_encoder import reading

FACTS = dict.fromkeys(("blank", "mask", "time", "quant_step", "quant_method", "gain"))
SHAPE = (768, 1024)
SIGMA = 20.0


def survey_image(stored: np.ndarray, noise: np.ndarray | None = None) -> SurveyImage:
    from astropy.io import fits

    ref = ImageRef(id="s/a", set="s", band="r", file="a.fits", url="a.fits", hdu=0)
    facts = FACTS | {"bscale": 1.0, "bzero": 0.0, "digest": "", "header": fits.Header()}
    facts["variance"] = None if noise is None else noise**2
    return SurveyImage(ref=ref, stored=stored, shape=stored.shape, **facts)


def factors(stored: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
    image = survey_image(stored, noise)
    return fit_noise(image, find_fills(image)).factor


def of_depths(*, sources: int = 0, dtype: str = "f4") -> tuple[np.ndarray, np.ndarray]:
    """Three times the noise on the right, half of it in a corner; how much there is everywhere."""
    noise = np.full(SHAPE, SIGMA)
    noise[:, 600:] *= 3
    noise[:300, :300] *= 0.5
    sky = 500 + synthetic.sky(SHAPE, sources=sources, sigma=SIGMA, seed=1)
    sky -= np.random.default_rng(1).normal(0, SIGMA, SHAPE)  # its own noise
    return (sky + np.random.default_rng(2).normal(0, noise)).astype(dtype), noise


@pytest.mark.parametrize("dtype", ["f4", "i2"])
@pytest.mark.parametrize("unit", [1.0, 1.6])
def test_a_plane_tells_the_noise_of_each_cell(dtype, unit):
    """In its own unit, where noise is correlated or a survey counts otherwise."""
    stored, noise = of_depths(dtype=dtype)
    found = factors(stored, unit * noise)
    image = survey_image(stored, unit * noise)
    sigma = fit_noise(image, find_fills(image)).sigma
    for cell, true in (((2, 2), 0.5), ((16, 10), 1.0), ((12, 26), 3.0)):
        assert found[cell] * sigma == pytest.approx(true * SIGMA, rel=0.1)
    cells = noise.reshape(24, 32, 32, 32).min(axis=(1, 3))
    assert (found * sigma < 1.1 * cells).all()  # of a cell of two depths by the deeper one


def test_a_relative_weight_tells_it_too():
    stored, noise = of_depths()
    image = replace(survey_image(stored), relative_variance=(1e-3 * noise) ** 2)
    fit = fit_noise(image, find_fills(image))
    np.testing.assert_array_equal(fit.factor, factors(stored, 2 * noise))
    assert fit.sigma == pytest.approx(SIGMA, rel=0.05)


def test_a_variance_beyond_any_number_tells_nothing():
    stored, noise = of_depths()
    tiny, its = stored.astype("f8") * 1e-19, noise * 1e-19
    expected = factors(tiny, its)
    its[5, 7] = 1e150
    np.testing.assert_array_equal(factors(tiny, its), expected)


def test_a_plane_is_not_believed_where_pixels_scatter_less():
    stored, noise = of_depths()
    noise[400:700, 100:500] *= 5  # which the pixels do not bear out
    assert factors(stored, noise).max() < 3.3 / 0.9
    assert factors(stored, noise)[16, 10] < 1.3


def test_pixels_tell_the_noise_of_a_part():
    stored, noise = of_depths(sources=60)
    found = factors(stored)
    assert found[12:, 22:].mean() == pytest.approx(3.0, rel=0.1)
    assert found[:6, :6].mean() == pytest.approx(0.5, rel=0.1)
    assert (found[14:, :16] == 1).all()
    cells = noise.reshape(24, 32, 32, 32).min(axis=(1, 3)) / SIGMA
    assert (found < 1.5 * cells).all()


def test_of_counts_a_quiet_strip_is_no_sky():
    stored, _ = of_depths(dtype="i2")
    stored[:, :130] = np.random.default_rng(9).normal(300, 4, (768, 130))  # overscan
    found = factors(stored)
    assert found[12:, 22:].mean() == pytest.approx(3.0, rel=0.1)
    assert (found[12:, :4] == 1).all()  # above, it touches the corner that is deeper
    assert found[:8, 5:8].mean() == pytest.approx(0.5, rel=0.1)
    stored[:, :230] = np.random.default_rng(9).normal(300, 6, (768, 230))  # an amplifier
    fit = fit_noise(survey_image(stored), find_fills(survey_image(stored)))
    assert fit.sigma * fit.factor[:, :6].mean() == pytest.approx(6, rel=0.1)


def test_a_crowded_part_is_not_taken_for_noise():
    """Nor a galaxy: what scatters there is light, of which everything is kept."""
    sky = synthetic.sky(SHAPE, sigma=SIGMA, sources=0, seed=3)
    crowd = synthetic.sky((768, 424), sigma=SIGMA, sources=4000, flux=(10, 300), seed=4)
    sky[:, 600:] = crowd
    y, x = np.indices(SHAPE)
    sky += 40 * SIGMA * np.exp(-np.hypot(y - 400, x - 250) / 60)
    assert sky[:, 600:].std() > 2.5 * SIGMA
    assert (factors(sky.astype("f4")) == 1).all()


def galaxy(gain: float, spread: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """A large galaxy with stars in it: pixels, their noise, which grows with light, and light."""
    y, x = np.indices(SHAPE)
    light = 200 * SIGMA * np.exp(-np.hypot(y - 384, x - 512) / 45)
    rng = np.random.default_rng(6)
    for row, column in rng.uniform(*spread, (40, 2)):
        light += 300 * SIGMA * np.exp(-((y - row) ** 2 + (x - column - 128) ** 2) / 5)
    noise = np.sqrt(SIGMA**2 + light / gain)
    return (500 + light + rng.normal(0, noise)).astype("f4"), noise, 500 + light


@pytest.mark.parametrize("spread", [(300, 500), (20, 740)])
@pytest.mark.parametrize("with_plane", [False, True])
def test_noise_that_grows_with_light_is_not_counted_twice(spread, with_plane):
    """Whether the stars that would show how it grows are all in the galaxy or not."""
    stored, noise, light = galaxy(0.1, spread)
    image = replace(survey_image(stored, noise if with_plane else None), gain=0.1)
    stated = stated_noise(prepare(image), light)
    assert np.percentile(stated / noise, 99.9) < 1.5
    assert np.median(stated / noise) == pytest.approx(1, rel=0.1)


def stated_noise(prepared: Prepared, expected: np.ndarray) -> np.ndarray:
    """Noise of pixels that are as expected [stored unit]."""
    unit, strip, stated = 2.0**prepared.noise.grid_exponent, prepared.whole(), np.empty(SHAPE)
    for tile in strip.tiles:
        above = expected[strip.place(*tile)] / unit - strip.background(*tile)
        sigma = prepared.noise.pixel_sigma(above, strip.factor(*tile))
        stated[strip.place(*tile)] = sigma * unit
    return stated


def brighter(kind: str) -> tuple[np.ndarray, ...]:
    """Counts of stars on a sky of unequal light: pixels, noise, what is expected, stars alone."""
    y, x = np.indices(SHAPE)
    rng, sky = np.random.default_rng(3), np.full(SHAPE, 200.0)
    if kind == "gradient":
        sky = 200 * 9 ** (x / SHAPE[1])
    elif kind == "galaxy":
        sky += 1500 * np.exp(-np.hypot(y - 384, x - 512) / 90)
    stars = np.zeros(SHAPE)
    for row, column, flux in rng.uniform((20, 20, 2), (740, 1000, 4), (100, 3)):
        stars += 10**flux * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 6)
    noise = np.sqrt(sky + stars + 25)  # of electrons, of which two are a step
    step = np.where((x > 512) & (kind == "step"), 800.0, 0.0)  # of the electronics, not of light
    stored = np.rint((sky + stars + step + rng.normal(0, noise)) / 2).astype("i4")
    return stored, noise / 2, (sky + stars + step) / 2, stars / 2


@pytest.mark.parametrize("kind", ["gradient", "galaxy", "step"])
def test_noise_is_that_of_a_sky_of_unequal_light(kind):
    stored, noise, expected, stars = brighter(kind)
    prepared = prepare(replace(survey_image(stored), gain=2.0))
    assert prepared.noise.of_sky == (kind != "step")
    ratio = stated_noise(prepared, expected) / noise
    low, high = np.percentile(ratio, (0.5, 99.5))
    assert low > 0.9  # 0.8 in a gradient, 0.5 in a galaxy, if light of the sky did not count
    assert high < 1.15  # 1.3
    bright = noise > 1.5 * np.sqrt(noise**2 - stars / 2)
    assert np.percentile(ratio[bright], 99.5) < 1.1  # 1.9 if that of stars grew with the sky's


def test_beside_a_step_between_parts_the_smaller_noise_counts():
    """Of four amplifiers that end within cells of the mesh, where the background is a slope."""
    y, x = np.indices(SHAPE)
    quiet = (y < 450) & (x > 700)
    level = np.where(quiet, 650, np.where(y < 450, 800, 950))
    noise = np.where(quiet, 0.3 * SIGMA, SIGMA)
    stored = np.rint(np.random.default_rng(14).normal(level, noise)).astype("i4")
    found = factors(stored)
    beside = found[12:14, 24:]  # rows 384 to 447, away from the other edge
    assert np.mean(beside < 0.45) > 0.9
    assert (found[16:] == 1).all()


def test_noise_of_shallower_parts_is_no_light():
    """In slices of a cube that end within cells."""
    noise = np.repeat([[SIGMA], [3 * SIGMA], [9 * SIGMA]], [300, 240, 228], axis=0)
    noise = np.broadcast_to(noise, SHAPE)
    stored = np.random.default_rng(12).normal(500, noise).astype("f4")
    image = survey_image(stored, noise)
    assert fit_noise(image, find_fills(image)).slope == 0


def test_a_plane_may_differ_from_pixel_to_pixel():
    stored, noise = of_depths()
    jitter = np.exp(np.random.default_rng(10).normal(0, 0.25, SHAPE))
    off = np.abs(factors(stored, noise * jitter) / factors(stored, noise) - 1)
    assert np.percentile(off, 95) < 0.1  # but cells of two depths
    assert off.max() < 0.6


def test_patterns_of_columns_and_rows_are_not_noise():
    sky = synthetic.sky(SHAPE, sources=30, sigma=SIGMA, seed=7)
    pattern = np.random.default_rng(11).normal(0, 2 * SIGMA, 424)
    sky[:, 600:] += pattern
    assert (factors(sky.astype("f4")) == 1).all()
    sky[:, 600:] += np.resize(pattern, 768)[:, np.newaxis] - pattern
    assert (factors(sky.astype("f4")) == 1).all()


def test_what_was_interpolated_is_not_deeper():
    sky = synthetic.sky(SHAPE, sources=30, sigma=SIGMA, seed=7)
    made = gaussian_filter(np.random.default_rng(13).normal(0, 1, (300, 300)), 3)
    sky[:300, :300] = made * (0.45 * SIGMA / made.std())
    assert (factors(sky.astype("f4")) == 1).all()


def test_a_sky_that_rises_is_not_noise():
    for rise in (2, 5, 8):  # noises a cell
        sky = synthetic.sky(SHAPE, sources=30, sigma=SIGMA, seed=7)
        sky += rise * SIGMA * np.arange(SHAPE[1]) / 64
        assert (factors(sky.astype("f4"), np.full(SHAPE, 1.05 * SIGMA)) == 1).all()
        assert (factors(sky.astype("f4")) == 1).all()


def test_pixels_of_two_values_and_planes_of_none():
    """What there is to divide by may be 0."""
    rng = np.random.default_rng(8)
    stored = rng.choice([0.0, 1.0, 9.0], SHAPE, p=[0.5, 0.45, 0.05]).astype("f4")
    stored[:, 500:] *= 40
    assert np.isfinite(factors(stored)).all()
    assert np.isfinite(factors(stored, np.full(SHAPE, np.nan))).all()
    stored[:700] = 3
    assert np.isfinite(factors(stored, np.full(SHAPE, 2.0))).all()


def test_what_surrounds_a_round_image_does_not_count():
    stored, _ = of_depths()
    y, x = np.indices(SHAPE)
    stored[np.hypot(y - 384, x - 512) > 500] = np.nan
    found = factors(stored)
    assert found[12, 23:28].min() > 2.7
    assert found[0, 31] == 1  # of which nothing is known


@pytest.mark.parametrize("with_plane", [False, True])
def test_levels_follow_the_noise_of_each_part(with_plane, network):
    stored, noise = of_depths()
    for row, column in ((150, 150), (600, 300), (400, 850)):  # S/N 8 of a matched filter
        y, x = np.indices(SHAPE)
        peak = 8 * noise[row, column] / (1.5 * np.sqrt(np.pi))
        stored += (peak * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 4.5)).astype("f4")
    image = survey_image(stored, noise if with_plane else None)
    encoded = encode_image(image, network, 0.5)
    kept = encoded.layers["bounded"][: SHAPE[0], : SHAPE[1]] & 1 == 1
    for row, column in ((150, 150), (600, 300), (400, 850)):
        assert kept[row - 2 : row + 3, column - 2 : column + 3].all()
    assert kept[:, 720:].mean() < 0.005  # was kept for its noise
    entry = encoded.described(describe_image(image, model="m", step=0.5))
    rows, columns = slice(100, 700), slice(70, 1000)
    ask = {"read": reading(encoded.layers), "network": network}
    layers = {name: encoded.layers[name] for name in entry.layers_at("exact")}
    window = decode_window(
        entry, "bounded", slice(0, SHAPE[0]), slice(0, SHAPE[1]), **ask | {"read": reading(layers)}
    )
    error = np.abs(window.values.astype("f8") - stored)
    assert (error <= 0.25 * window.sigma).all()
    assert np.median(window.sigma[400:, 720:]) == pytest.approx(3 * SIGMA, rel=0.1)
    assert (window.sigma < 1.5 * noise).all()  # in a quarter of a cell that is of two depths
    assert (window.sigma < 1.1 * noise).mean() > 0.95
    exact = decode_window(entry, "exact", slice(0, SHAPE[0]), slice(0, SHAPE[1]), **ask)
    assert exact.values.tobytes() == stored.tobytes()
    whole = noise_at(encoded.layers["noise"], slice(0, SHAPE[0]), slice(0, SHAPE[1]))
    part = noise_at(encoded.layers["noise"], rows, columns)
    np.testing.assert_array_equal(part, whole[rows, columns])
    assert (whole / NOISE_STEP % 1 == 0).all()


@pytest.mark.parametrize(("top", "left"), [(400, 0), (0, 400)])
def test_pieces_of_an_uneven_image_are_encoded_by_their_own_noise(top, left, network):
    """To be measured: of one depth in an image of several, and of two in one stated to be even."""
    stored, _ = of_depths()
    image, encoded = survey_image(stored), encode_image(survey_image(stored), network, 0.5)
    entry = encoded.described(describe_image(image, model="m", step=0.5))
    entry = replace(entry, uneven=top > 0)
    rows, columns = slice(top, top + 256), slice(left, left + 512)
    part = stored[rows, columns]
    decoded = encode_on_trial(image, entry, network, part, rows, columns)
    assert decoded("exact").tobytes() == part.tobytes()
    assert np.abs(decoded("bounded") - part).max() < 0.3 * 3 * SIGMA
