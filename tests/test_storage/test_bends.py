"""Noise beneath structure that no mesh follows, and structure that is none."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
from scipy.ndimage import gaussian_filter, shift, zoom

from storage.images.bends import LESS, beneath_light, noise_beneath
from storage.images.cells import cells_of
from storage.images.fills import find_fills
from storage.images.noise_fit import NoiseFit, fit_noise
from tests.test_storage.test_depth import survey_image

SHAPE = (704, 704)
SIGMA = 20.0


def white(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, SIGMA, SHAPE)


def fringes() -> np.ndarray:
    y, x = np.indices(SHAPE)
    phase = 3 * gaussian_filter(white(7) / SIGMA, 60) * 60 * np.sqrt(4 * np.pi) / 3
    return 2 * SIGMA * np.sin((x + 0.4 * y) / 5 + phase)


def nebula() -> np.ndarray:
    lumps = gaussian_filter(white(8), 9)
    return 5 * SIGMA * lumps / lumps.std()


def spectra() -> np.ndarray:
    y, x = np.indices(SHAPE)
    traces = np.exp(-((((x + 8 * np.sin(y / 300)) % 11) - 5.5) ** 2) / (2 * 1.6**2))
    return 12 * SIGMA * traces * (1 + 0.5 * np.sin(y / 150 + x // 11))


def fit(sky: np.ndarray, noise: np.ndarray | None = None) -> NoiseFit:
    image = survey_image((1000 + sky).astype("f4"), noise)
    return fit_noise(image, find_fills(image))


def pixels_scatter(sky: np.ndarray) -> float:
    """Half of all pixels lie within this of the median of their cell: what was taken for noise."""
    cells = sky.reshape(22, 32, 22, 32).transpose(0, 2, 1, 3).reshape(22 * 22, -1)
    return float(np.percentile(1.4826 * np.median(np.abs(cells - np.median(cells)), axis=1), 25))


@pytest.mark.parametrize(("structure", "within"), [(fringes, 0.05), (nebula, 0.05), (spectra, 0.4)])
def test_structure_is_no_noise(structure, within):
    sky = structure() + white()
    assert pixels_scatter(sky) > 1.4 * SIGMA
    found = fit(sky)
    assert 0.95 * SIGMA < found.sigma < (1 + within) * SIGMA
    assert (found.factor == 1).all()


def test_parts_differ_beneath_structure_too():
    sky, noise = nebula(), np.full(SHAPE, SIGMA)
    noise[:, 352:] *= 2
    found = fit(sky + white() * noise / SIGMA, 3 * noise)
    stated = found.sigma * np.repeat(np.repeat(found.factor, 32, axis=0), 32, axis=1)
    ratio = stated[: SHAPE[0], : SHAPE[1]] / noise
    assert np.median(ratio[:, 400:]) == pytest.approx(1, rel=0.15)
    assert np.median(ratio[:, :300]) == pytest.approx(1, rel=0.15)


def correlated(width: float) -> np.ndarray:
    smooth = gaussian_filter(white(), width)
    return SIGMA * smooth / smooth.std()


def resampled() -> np.ndarray:
    half = shift(white(), 0.5, order=1)
    return SIGMA * half / half.std()


def enlarged() -> np.ndarray:
    wide = zoom(white()[:352, :352], 2, order=1)
    return SIGMA * wide / wide.std()


def jitter() -> np.ndarray:
    """Of rows: noise to all who look at the image."""
    return white() + np.random.default_rng(3).normal(0, 0.6 * SIGMA, (SHAPE[0], 1))


SKIES = [
    *(pytest.param(correlated(one), id=f"correlated over {one}") for one in (0.6, 1.2, 2.5, 5.0)),
    pytest.param(resampled(), id="resampled"),
    pytest.param(enlarged(), id="enlarged"),
    pytest.param(jitter(), id="jitter"),
    pytest.param(white() + synthetic.sky(SHAPE, sources=900, sigma=SIGMA), id="sources"),
]


@pytest.mark.parametrize("sky", SKIES)
def test_correlated_noise_is_none(sky, monkeypatch):
    found = fit(sky)
    monkeypatch.setattr("storage.images.noise_fit.LESS", 0.0)
    assert found.sigma == fit(sky).sigma


def test_where_bends_rise_all_the_way_they_tell_nothing():
    scatter = np.ones(5)
    smooth = [0.02, 0.08, 0.3, 0.9]  # correlated over many pixels, or light
    noise = [0.5, 0.5, 0.51, 0.9]  # of half of the scatter, then structure
    more = [0.8, 0.8, 0.81, 0.9]
    correlated = [0.4, 0.8, 0.99, 1.0]
    white_rows = [1.0, 1.0, 1.0, 1.0]
    along_x = np.array([smooth, noise, correlated, more, noise]).T
    along_y = np.array([smooth, smooth, correlated, white_rows, white_rows]).T
    found = noise_beneath(scatter, np.concatenate([along_x, along_y]))
    assert found[1] == 0.5 < LESS
    np.testing.assert_array_equal(found[[0, 2]], 1)
    assert found[3] == 1  # what rows have of their own is noise as well
    assert found[4] == 0.5  # unless most of it is


@pytest.mark.parametrize("of_rows", [True, False])
@pytest.mark.parametrize("much", [1.0, 4.0])
def test_offsets_that_drift_along_a_row_are_no_noise(of_rows, much):
    own = np.random.default_rng(3).normal(0, much * SIGMA, SHAPE[0])[:, np.newaxis]
    other = np.random.default_rng(4).normal(0, much * SIGMA, SHAPE[0])[:, np.newaxis]
    turn = np.linspace(0, np.pi / 2, SHAPE[1])
    rows = own * np.cos(turn) + other * np.sin(turn)
    found = fit(white() + (rows if of_rows else rows.T))
    assert 0.95 * SIGMA < found.sigma < 1.1 * SIGMA


@pytest.mark.parametrize("axis", [0, 1])
def test_noise_correlated_along_one_axis_is_none(axis):
    sky = gaussian_filter(white(), [(0.8, 0), (0, 0.8)][axis])
    assert fit(sky).sigma == pytest.approx(sky.std(), rel=0.03)


@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_rounding_is_no_noise(dtype, monkeypatch):
    """Of a map of exposure times, or a model."""
    y, x = np.indices(SHAPE)
    smooth = 400 * np.sin(x / 30) * np.cos(y / 40)
    image = survey_image((smooth + 1000).astype(dtype))
    found = fit_noise(image, find_fills(image)).sigma
    monkeypatch.setattr("storage.images.noise_fit.LESS", 0.0)
    assert found == fit_noise(image, find_fills(image)).sigma > 10


def test_too_few_pixels_for_bends():
    checkered = np.where(np.indices((64, 300)).sum(axis=0) % 2, np.nan, white()[:64, :300])
    assert fit(checkered).sigma == pytest.approx(SIGMA, rel=0.05)


def crowd(every: int, fwhm: float = 1.7, seed: int = 4) -> np.ndarray:
    """Stars that no cell is without, the fainter the more: one in so many pixels."""
    rng = np.random.default_rng(seed)
    count = SHAPE[0] * SHAPE[1] // every
    place = tuple(rng.integers(0, side, count) for side in SHAPE)
    light = np.zeros(SHAPE)
    np.add.at(light, place, np.minimum(6 * rng.uniform(0, 1, count) ** (-1 / 0.9), 3e3))
    return SIGMA * gaussian_filter(light, fwhm / 2.3548)


@pytest.mark.parametrize(("every", "at_most"), [(20, 1.2), (50, 1.1), (200, 1.1)])
def test_light_of_a_crowd_is_no_noise(every, at_most):
    sky = crowd(every) + white()
    found = fit(sky).sigma
    assert 0.95 * SIGMA < found < at_most * SIGMA
    if every < 50:
        assert pixels_scatter(sky) > 1.15 * SIGMA


@pytest.mark.parametrize("mean", [1, 5, 25, 400])
def test_noise_of_photons_is_no_light(mean):
    """Which is lopsided too, but of each pixel alone."""
    counts = np.random.default_rng(5).poisson(mean, SHAPE).astype("f4")
    assert beneath_light(cells_of(counts, 32).reshape(-1, 1024)) == np.inf


@pytest.mark.parametrize("width", [0.6, 1.0, 3.0])
def test_correlated_noise_is_no_light(width):
    noise = gaussian_filter(white(), width)
    assert beneath_light(cells_of(noise.astype("f4"), 32).reshape(-1, 1024)) == np.inf
