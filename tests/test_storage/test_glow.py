"""Smooth light that the network leaves: found where it is, stored, and added at `sources`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from skyfold.codecs.kept import KeptCodec
from skyfold.images.window import decode_window
from skyfold.ladder import LEVELS
from skyfold.noise import GLOW_CELL, GLOW_STEP, NoiseModel, background_at
from storage.images.encoder import encode_image
from storage.images.entries import describe_image
from storage.images.glow import SQUARE, mesh_and_glow, to_steps
from storage.images.mesh import stretched
from tests.test_storage.test_depth import survey_image
from tests.test_storage.test_encoder import reading

SHAPE = (640, 704)
SIGMA = 20.0
STEP = 0.35  # of the noise: between a quarter and a half, as its power of two has it
LIMIT = 3.0  # as the writer has it
Y, X = np.indices(SHAPE)


def noise(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, SHAPE).astype("f4")


def blob(y: float, x: float, width: float, snr: float) -> tuple[np.ndarray, np.ndarray]:
    """Light of a Gaussian in units of the noise, and the filter of its shape."""
    shape = np.exp(-((Y - y) ** 2 + (X - x) ** 2) / (2 * width**2))
    matched = shape / np.linalg.norm(shape)
    return (snr * matched).astype("f4"), matched


def taken_up(left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What mesh and glow take up of an image at every pixel, as stored, and nodes in steps."""
    mesh, nodes, seen = mesh_and_glow(left.copy(), np.isfinite(left), LIMIT)
    steps = to_steps(nodes / STEP, seen)
    whole = slice(0, SHAPE[0]), slice(0, SHAPE[1])
    glow = STEP * background_at(steps, 1.0, *whole, GLOW_CELL)
    return np.concatenate([one for _, one in stretched(mesh, SHAPE)]) + glow, steps


@pytest.mark.parametrize("correlated", [0, 1.5])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise_has_little_glow(seed, correlated):
    """Means of pixels that were made of one another scatter more, which is no light either."""
    plane = gaussian_filter(noise(seed), correlated)
    _, steps = taken_up(plane / plane.std())
    assert (steps != 0).mean() < (0.25 if correlated else 0.08)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("width", "snr"), [(12, 12), (16, 15), (24, 20), (32, 25)])
def test_what_is_wide_and_faint_is_found(width, snr, sign):
    light, matched = blob(300.4, 351.7, width, sign * snr)
    left = noise() + light
    off = left - taken_up(left)[0]
    assert abs(np.vdot(matched, off)) < 1.2


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sky_beside_glow_is_not_off(seed):
    """Whoever subtracts a sky there would find all fluxes around it off by its error."""
    ring = np.exp(-((np.hypot(Y - 320, X - 352) - 150) ** 2) / (2 * 10**2))
    left = (noise(seed) + 0.4 * ring).astype("f4")
    cells = (left - taken_up(left)[0]).reshape(10, 64, 11, 64).mean(axis=(1, 3))
    assert np.sqrt(np.mean(cells**2)) < 0.35 / 64  # a third of what noise would give them


def test_cells_of_little_sky_are_as_those_around_them():
    """Of whose pixels a quarter is left, which alone would tell little."""
    light, _ = blob(320, 352, 40, 60)
    few = (abs(Y - 320) < 12) & (abs(X - 352) < 12)
    off, drawn_up = [], []
    for seed in (4, 5, 6):
        left = noise(seed) + light
        left[few & (X % 4 > 0)] = np.nan
        lifted = left.copy()
        lifted[few & (X % 4 == 0)] += 1
        plain, found = taken_up(left)[0], taken_up(lifted)[0]
        off.append((light - plain)[few].mean())
        drawn_up.append((found - plain)[few].mean())
    assert abs(np.mean(off)) < 0.2 * light.max()
    assert abs(np.mean(drawn_up)) < 0.2 * light.max()


def test_what_is_bright_does_not_count():
    left, spot = noise(5), noise(5)
    spot[300:303, 300:303] = 500
    found, expected = (mesh_and_glow(one, np.isfinite(one), LIMIT) for one in (spot, left))
    for one, its in zip(found[:2], expected[:2], strict=True):
        assert abs(one - its).max() < 0.1


def test_light_of_less_than_a_step_is_not_rounded_away():
    """And what is zero stays so."""
    nodes = np.random.default_rng(1).normal(0.2, 0.1, (32, 64))
    nodes[:, 40:] = 0
    steps = to_steps(nodes, np.ones(nodes.shape))
    assert np.abs(steps - nodes).max() < 1
    assert not steps[:, 40:].any()
    off = (steps - nodes).reshape(8, SQUARE, 16, SQUARE).sum(axis=(1, 3))
    assert np.abs(off).max() <= 0.5
    assert (to_steps(-nodes, np.ones(nodes.shape)) == -steps).all()


def test_light_that_is_seen_is_kept():
    """Of nodes half of which light what comes from elsewhere: a third is seen of some."""
    rng = np.random.default_rng(1)
    nodes = rng.normal(0.2, 0.3, (32, 64))
    seen = rng.choice([0.0, 1 / 3, 1.0], nodes.shape)
    steps = to_steps(nodes, seen)
    off = (seen * (steps - nodes)).reshape(8, SQUARE, 16, SQUARE).sum(axis=(1, 3))
    assert np.abs(off).max() <= 0.5
    assert abs(off.mean()) < 0.06


@pytest.mark.parametrize(("fwhm", "loss"), [(12, 4), (16, 3), (24, 3)])
def test_a_stream_is_found_along_all_of_it(fwhm, loss):
    """0.3 sigma high, and as wide as a cell or two; its S/N is 25 to 35."""
    tilt = np.deg2rad(27)
    across = (X - 350) * np.sin(tilt) - (Y - 320) * np.cos(tilt)
    light = (0.3 * np.exp(-4 * np.log(2) * (across / fwhm) ** 2)).astype("f4")
    left = noise(9) + light
    off = left - taken_up(left)[0]
    assert np.linalg.norm(light) > 20
    assert abs(np.vdot(light, off)) / np.linalg.norm(light) < loss


def test_glow_of_a_window_is_that_of_the_whole():
    model = NoiseModel.from_stored_units(25.0, 0.0, integer=True)
    nodes = np.random.default_rng(3).integers(-(2**31), 2**31, (64, 96))
    whole = model.glow(nodes, slice(0, 512), slice(0, 768))
    part = model.glow(nodes, slice(10, 270), slice(300, 511))
    np.testing.assert_array_equal(whole[10:270, 300:511], part)
    unit = GLOW_STEP * model.background_step
    assert whole[0, 0] == int(nodes[0, 0]) * unit
    near = [int(nodes[y, x]) for y in (1, 2) for x in (3, 4)]
    weights = [9 * 9, 9 * 7, 7 * 9, 7 * 7]  # half a pixel short of the middle of four nodes
    found = sum(w * n for w, n in zip(weights, near, strict=True)) / 16**2
    assert whole[2 * GLOW_CELL - 1, 4 * GLOW_CELL - 1] == found * unit


def test_nothing_is_stored_beyond_the_image_and_within_what_is_kept(network):
    """But for the nodes between which its last pixels lie."""
    shape = (200, 264)
    light = np.broadcast_to(0.5 * np.sin(np.arange(shape[0])[:, np.newaxis] / 7), shape)
    plane = 1000 + SIGMA * (np.random.default_rng(3).normal(0, 1, shape) + light)
    encoded = encode_image(survey_image(plane.astype("f4")), network, 0.5)
    glow = encoded.layers["glow"]
    assert glow.shape == (32, 64)
    assert glow[:25, :33].any()
    assert not glow[26:].any()
    assert not glow[:, 34:].any()
    left = noise(2) + np.float32(0.4) * np.sin(Y / 9).astype("f4")
    left[200:400, 200:400] = np.nan
    _, steps = taken_up(left)
    assert steps[:, 28:47].any()
    assert not steps[27:48, 27:48].any()


@pytest.mark.parametrize("dtype", ["i4", "f4"])
def test_faint_wide_light_is_in_every_level_from_sources_on(dtype, network):
    """Which nothing sees pixel by pixel, and of which nothing is kept."""
    light, matched = blob(250, 420, 14, 16)
    sky = 1000 + SIGMA * (noise(7) + light)
    sky[500:520, 100:110] += 40 * SIGMA  # a source elsewhere
    stored = np.rint(sky).astype(dtype)
    image = survey_image(stored)
    encoded = encode_image(image, network, 0.5)
    entry = encoded.described(describe_image(image, model="m", step=0.5))
    assert entry.glowing
    assert ["glow" in entry.layers_at(level) for level in LEVELS] == [False, True, False, False]
    window = slice(100, 600), slice(100, 690)  # of all tiles
    for level in LEVELS:
        layers = {name: encoded.layers[name] for name in entry.layers_at(level)}
        found = decode_window(entry, level, *window, read=reading(layers), network=network)
        error = found.values - stored[window].astype("f8")
        if level == "sources":
            assert abs(np.vdot(matched[window], error)) / SIGMA < 2
        if level == "bounded":
            assert (abs(error) <= 0.25 * found.sigma).all()
    assert found.values.tobytes() == stored[window].tobytes()


def test_glow_of_deeper_parts_is_in_units_of_the_noise_there(network):
    """A quarter of the noise on one half, and light that is as faint there."""
    depth = np.where(X < 352, 0.25, 1.0)
    light, matched = blob(320, 170, 14, 20)
    stored = (1000 + SIGMA * depth * (noise(8) + light)).astype("f4")
    image = survey_image(stored, SIGMA * depth)
    encoded = encode_image(image, network, 0.5)
    entry = encoded.described(describe_image(image, model="m", step=0.5))
    assert entry.uneven
    assert entry.glowing
    whole = slice(0, SHAPE[0]), slice(0, SHAPE[1])
    found = decode_window(entry, "sources", *whole, read=reading(encoded.layers), network=network)
    error = (found.values - stored) / (SIGMA * depth)
    assert abs(np.vdot(matched, error)) < 2.5


@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 64), (64, 64)])
def test_small_planes_are_coded_by_their_leaves(shape):
    """Of an image of one tile, and of a few: in fewer bytes than its numbers take elsewhere."""
    plane = np.zeros((1, *shape), np.int32)
    plane[0, 3:9, 5:11] = np.random.default_rng(2).integers(-3, 4, (6, 6))
    data = KeptCodec().encode_chunk(plane)
    assert data[0] == 1
    assert len(data) < 45
    np.testing.assert_array_equal(KeptCodec().decode_chunk(data, plane.shape, plane.dtype), plane)
