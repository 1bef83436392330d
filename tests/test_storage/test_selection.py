"""Which leaves `sources` keeps, given pixels and what a network left of them."""

import numpy as np
import pytest
import synthetic

from skyfold.science.filters import gaussian
from skyfold.science.trails import DTYPE, stamp
from storage.images.selection import lit_leaves, select_leaves

FWHM = 3.0
PSF = FWHM / 2.3548


def noise(shape=(512, 512), seed=6):
    return np.random.default_rng(seed).normal(0, 1, shape).astype("f4")


def point(shape, y, x, significance):
    """A point source of this S/N in a matched filter."""
    rows, columns = np.indices(shape)
    peak = significance / (PSF * np.sqrt(np.pi))
    return peak * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * PSF**2))


def test_all_of_a_tile_is_kept_where_most_is():
    sky = np.random.default_rng(6).normal(0, 1, (512, 512)).astype("f4")
    sky[:256] = synthetic.sky((256, 512), sources=2600, sigma=1.0, seed=6, flux=(60, 200))
    sky[:256, 300:] = 0  # not measured
    kept, _ = select_leaves(sky, np.zeros_like(sky), 3.0)
    assert kept[:128].all()
    assert kept[128:].mean() < 0.1


def test_what_lies_below_the_sky_is_kept_like_a_source():
    """Of a difference image: what faded, or a dipole."""
    sky, places = noise(), [(100, 100), (300, 200), (410, 333)]
    for y, x in places:
        sky -= point(sky.shape, y, x, 9).astype("f4")
    kept, core = select_leaves(sky, 0.3 * sky, FWHM)  # of which the network drew most
    rows, columns = np.indices(kept.shape) * 2 + 0.5
    for y, x in places:
        assert kept[np.hypot(rows - y, columns - x) < FWHM].all()
        assert core[y // 2, x // 2]
    assert kept.mean() < 0.01


def test_dead_columns_and_pixels_and_overscan_are_no_sources_below_the_sky():
    drawn = np.zeros((512, 512), "f4")
    drawn[50:, 77] = -30
    drawn[:, 460:] = -11
    drawn[200, 200] = -9
    kept, _ = select_leaves(noise() + drawn, noise(), FWHM)  # which the network expected
    assert kept.mean() < 0.001


def test_a_source_that_only_the_network_draws_is_mended():
    sky = noise()
    drawn = point(sky.shape, 256, 256, 8).astype("f4")
    kept, core = select_leaves(sky, sky - drawn, FWHM)
    assert core[128, 128]
    rows, columns = np.indices(kept.shape) * 2 + 0.5
    assert kept[np.hypot(rows - 256, columns - 256) < FWHM].all()
    kept, _ = select_leaves(sky + drawn, sky, FWHM)
    assert kept.mean() < 0.002


def test_a_hole_that_only_the_network_draws_is_mended():
    sky = noise()
    drawn = -point(sky.shape, 256, 256, 8).astype("f4")
    kept, core = select_leaves(sky, sky - drawn, FWHM)
    assert core[128, 128]
    rows, columns = np.indices(kept.shape) * 2 + 0.5
    assert kept[np.hypot(rows - 256, columns - 256) < FWHM].all()


def test_reach_is_a_distance_of_pixels():
    """About a point narrower than a leaf are kept the leaves within 1.6 pixels of it, no more."""
    sky = 0.1 * noise()
    sky[100, 100] = 9
    kept, _ = select_leaves(sky, 0.1 * noise(), 1.4)
    assert kept[49:52, 49:52].sum() == kept.sum()
    assert kept[50, 50]


def test_misfit_of_a_network_is_not_taken_for_noise():
    """Residuals that scatter more than the data do not lift the limit of what is unexpected."""
    sky = noise()
    rows, columns = np.indices(sky.shape)
    ripple = 1.5 * np.sin(rows / 1.5) * np.sin(columns / 1.5)
    spots = sum(point(sky.shape, y, y, 4) for y in range(40, 480, 40))
    residual = (sky + ripple + spots).astype("f4")
    kept, _ = select_leaves(sky, residual, FWHM)
    plain, _ = select_leaves(sky, (sky + spots).astype("f4"), FWHM)
    assert kept.sum() > plain.sum()


def test_sources_in_a_trough_of_the_background_are_seen():
    """A mesh is too high beside a step, at a steep edge and around bright light."""
    trough = np.zeros((512, 512), "f4")
    trough[:300, :40] = -3 * (1 - np.arange(40) / 40)
    rows, columns = np.indices(trough.shape)
    trough -= 2 * np.exp(-((np.hypot(rows - 300, columns - 300) - 80) ** 2) / 800)
    places = [(60, 9), (200, 15), (300, 220), (380, 300), (357, 357)]
    sky = noise() + trough
    for y, x in places:
        sky += point(sky.shape, y, x, 9)
    kept, _ = select_leaves(sky, noise(seed=7), FWHM)
    rows, columns = np.indices(kept.shape) * 2 + 0.5
    for y, x in places:
        assert kept[np.hypot(rows - y, columns - x) < FWHM].all()
    plain, _ = select_leaves(noise(), noise(seed=7), FWHM)
    assert kept.mean() < plain.mean() + 0.01


@pytest.mark.parametrize(("correlation", "seen"), [(0.0, True), (1.5, False)])
def test_a_faint_peak_is_kept_where_noise_is_white(correlation, seen):
    sky = gaussian(noise(), correlation) if correlation else noise()
    sky /= sky.std()
    sky[240:272, 240:272] = point((32, 32), 16, 16, 4.35)
    kept, _ = select_leaves(sky, 0.3 * noise(seed=7), FWHM)
    assert kept[128, 128] == seen


@pytest.mark.parametrize(("significance", "seen"), [(3.3, True), (2.7, False)])
def test_diffuse_light_adds_to_what_is_a_source(significance, seen):
    """Light of two times the noise of the filter, on which a point is to come to five."""
    light = np.full((512, 512), 2 / (2 * PSF * np.sqrt(np.pi)), "f4")
    signal = point(light.shape, 256, 256, significance).astype("f4")
    kept, core = lit_leaves(signal, light, FWHM, slice(0, 512))
    assert kept[128, 128] == core[128, 128] == seen
    assert kept.mean() < 0.01


def test_a_trail_too_faint_to_be_seen_pixel_by_pixel_is_kept():
    trails = np.zeros(8, DTYPE)
    trails["y"], trails["x"] = (70 + 120 * plane.ravel() for plane in np.indices((2, 4)))
    trails["length"], trails["angle"] = 40, np.linspace(0, np.pi, 9)[:-1] + 0.05
    drawn = np.zeros((512, 512), "f4")
    for one in trails:
        place, profile = stamp(drawn.shape, one, 1.4)
        drawn[place] += 11 * profile
    sky = noise() + drawn
    kept, core = select_leaves(sky, sky, 1.4)
    for leaves, share in ((kept, 0.8), (core, 0.5)):  # by the filter of points alone: 0.2
        pixels = np.repeat(np.repeat(leaves, 2, axis=0), 2, axis=1)
        assert (drawn**2 * pixels).sum() > share * (drawn**2).sum()
    assert kept.mean() < 0.015
