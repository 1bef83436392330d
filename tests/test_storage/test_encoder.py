"""Noise of images, leaves that `sources` keeps, and images that cannot be a ladder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import synthetic
import zarr
from astropy.io import fits
from scipy.ndimage import (
    binary_dilation,
    binary_erosion,
    convolve1d,
    gaussian_filter,
    uniform_filter,
)

from skyfold.images.index import FLAG_FILL
from skyfold.images.window import decode_window
from skyfold.ladder import joined_cells
from skyfold.layout import ImageGroup, direct_codec
from skyfold.noise import background_at
from storage.images.encoder import encode_image
from storage.images.entries import describe_image, plan_groups
from storage.images.fills import find_fills
from storage.images.image_input import SurveyImage
from storage.images.mesh import mesh_correction
from storage.images.noise_fit import fit_noise
from storage.images.prepared import padded
from storage.images.shaping import FINE
from storage.images.shards import Coded, choose_mode, direct_share, make_shards
from storage.survey import ImageRef


def survey_image(stored: np.ndarray, **about) -> SurveyImage:
    ref = ImageRef(id="s/a", set="s", band="r", file="a.fits", url="a.fits", hdu=0)
    facts = {
        "bscale": 1.0, "bzero": 0.0, "blank": None, "mask": None, "variance": None, "gain": None,
        "time": None, "quant_step": None, "quant_method": None, "digest": "",
    }  # fmt: skip
    return SurveyImage(ref=ref, stored=stored, shape=stored.shape, header=None, **(facts | about))


def fitted(stored: np.ndarray, **about):
    image = survey_image(stored, **about)
    return fit_noise(image, find_fills(image))


@pytest.mark.parametrize("sigma", [4e-12, 3e-3, 1.0, 60.0, 1e9])
def test_noise_of_any_scale(sigma):
    image = synthetic.sky((512, 512), sources=80, sigma=sigma, background=-7 * sigma, seed=1)
    assert fitted(image).sigma == pytest.approx(sigma, rel=0.03)


def test_noise_is_that_of_pixels_where_it_is_correlated():
    white = np.random.default_rng(0).normal(0, 1, (512, 512))
    smooth = gaussian_filter(white, 0.8)
    sigma = float(smooth.std())
    differences = np.diff(smooth, axis=1).std() / np.sqrt(2)
    assert differences < 0.75 * sigma  # what an estimate from differences would say
    assert fitted(smooth).sigma == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("mean", [0.05, 0.9, 3.0])
def test_zeros_of_a_map_of_few_counts_are_measurements(mean):
    """Counts over an exposure that differs from pixel to pixel: none is common but 0."""
    y, x = np.indices((500, 500)) - 250
    exposure = 3e4 * (1 - 1e-6 * (x**2 + y**2))
    counts = np.random.default_rng(1).poisson(mean, exposure.shape)
    image = survey_image((counts / exposure).astype("f4"))
    fills = find_fills(image)
    assert fills.good == counts.size
    noise = fit_noise(image, fills).sigma * 3e4 / np.sqrt(mean)
    assert noise == (0 if mean < 0.1 else pytest.approx(1, abs=0.1))


def test_padding_and_dead_pixels_are_zeros_that_are_no_measurements():
    rng = np.random.default_rng(2)
    sky = rng.normal(500, 20, (500, 500)).astype("f4")
    edge, column, lone, corner = (sky.copy() for _ in range(4))
    edge[:30] = 0
    column[:, 100:400:30] = 0
    lone[rng.random(sky.shape) < 0.01] = 0
    y, x = np.indices(sky.shape)
    corner[y + x < 100] = 0
    for image in (edge, column, lone, corner, edge - np.float32(500) * (edge != 0)):
        assert find_fills(survey_image(image)).good == np.count_nonzero(image)


def test_noise_under_zero_padding():
    image = synthetic.sky((600, 600), sources=0, sigma=2e-3, seed=2)
    image[70:] = 0  # 88 % of it
    fills = find_fills(survey_image(image.astype("f4")))
    assert fills.values.tolist() == [0.0]
    assert (fills.flags(slice(70, 600)) == FLAG_FILL).all()
    assert (fills.good, fills.masked) == (70 * 600, 0)
    assert fitted(image.astype("f4")).sigma == pytest.approx(2e-3, rel=0.05)


def test_noise_does_not_grow_with_crowding():
    image = synthetic.sky((512, 512), sources=1500, sigma=1.0, seed=3, flux=(10, 500))
    assert fitted(image).sigma < 1.35
    assert image.std() > 2.5


def test_gain_gives_the_slope_and_a_wrong_gain_does_not():
    rng = np.random.default_rng(5)
    truth = synthetic.sky((512, 512), sources=200, sigma=1e-6, seed=5, flux=(1e9, 1e11))
    electrons = rng.poisson(np.maximum(truth, 0) * 20 + 400) / 2.0
    stored = np.rint(electrons).astype("i4")
    right = fitted(stored, gain=2.0)
    assert right.slope == pytest.approx(0.5, rel=0.25)
    wrong = fitted(stored, gain=0.001)
    assert wrong.slope < 0.05 * 1000  # what bright pixels show limits it


def bright_sky(seed=8, gain=1.6):
    """Photon and read noise, in counts."""
    rng = np.random.default_rng(seed)
    sky = synthetic.sky((512, 512), sources=250, sigma=1e-6, seed=seed, flux=(3e8, 6e10))
    return rng.poisson(np.maximum(sky, 0) * gain + 400) / gain + rng.normal(0, 4, sky.shape)


@pytest.mark.parametrize("noise", [0, 3])
def test_a_full_detector_does_not_take_the_gain(noise):
    stored = bright_sky()
    bleed = (slice(100, 220), slice(250, 253))
    stored[bleed] = 60000 + np.random.default_rng(9).normal(0, noise, stored[bleed].shape)
    assert fitted(np.rint(stored).astype("i4"), gain=1.6).slope == pytest.approx(0.625, rel=0.02)


def test_correlated_noise_does_not_take_the_gain():
    stored = bright_sky()
    for axis in (0, 1):
        stored = convolve1d(stored, np.array([1, 2, 1]) / 4, axis=axis)
    left = 0.625 * (6 / 16) ** 2  # of the variance
    assert fitted(stored, gain=1 / left).slope == pytest.approx(left, rel=0.1)


def test_the_slope_of_a_variance_plane_is_that_of_its_sources():
    stored = bright_sky()
    light = 300 * np.exp(-(((np.indices(stored.shape) - 256) / 200) ** 2).sum(axis=0))
    variance = 400 / 1.6**2 + 16 + np.maximum(stored - 250, 0) / 1.6
    variance += light / 1.6
    stored += light
    found = fitted(stored, variance=variance)
    assert found.slope == pytest.approx(0.625, rel=0.1)


@pytest.mark.parametrize("kind", ["mask", "counts", "big", "palette"])
def test_images_without_noise_are_stored_directly(kind, network):
    rng = np.random.default_rng(1)
    stored = {
        "mask": (rng.random((300, 300)) < 0.01).astype("u1"),
        "counts": rng.poisson(0.01, (300, 300)).astype("i2"),
        "big": rng.integers(-(2**62), 2**62, (300, 300)),
        "palette": rng.normal(0, 1, (300, 300)) * np.where(rng.random((300, 300)) < 0.01, 1e30, 1),
    }[kind]
    encoded = encode_image(survey_image(stored), network, 0.5)
    assert encoded.mode == "direct"
    np.testing.assert_array_equal(encoded.layers["direct"][:300, :300], stored)


def spiral(shape):
    y, x = np.indices(shape) - np.array(shape)[:, None, None] / 2
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    return 3.5 * np.exp(-radius / 25) * (1 + np.cos(2 * angle - radius / 5))


def trail(shape):
    y, x = np.indices(shape)
    return 4.0 * np.exp(-0.5 * ((y - 0.4 * x - 40) / 1.5) ** 2)


def ring(shape):
    y, x = np.indices(shape) - np.array(shape)[:, None, None] / 2
    return 4.0 * np.exp(-0.5 * ((np.hypot(x, y) - 40) / 1.5) ** 2)


def flash(shape):
    out = np.zeros(shape)
    out[100, 120] = 8.0
    return out


@pytest.mark.parametrize("surprise", [spiral, trail, ring, flash])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_the_model_never_saw_comes_back_at_sources(surprise, seed, network):
    """Where a surprise stands out by 3 sigma, `sources` is within its cells, or nearly all of it.

    Of a line that is 4 sigma high, a fiftieth of the pixels may lie in a leaf where noise hid it.
    """
    shape, sigma, step = (256, 256), 10.0, 0.5
    signal = surprise(shape)
    noisy = np.random.default_rng(seed).normal(500, sigma, shape) + sigma * signal
    stored = np.rint(noisy).astype("i2")
    encoded = encode_image(survey_image(stored), network, step)
    tagged = encoded.layers["bounded"]
    covered = tagged & 1 == 1
    strong = signal > 3
    assert covered[strong].mean() > 0.98
    assert covered.mean() < 0.4
    image = replace(survey_image(stored), header=fits.Header())
    entry = encoded.described(describe_image(image, model="m", step=step))
    whole = slice(0, 256), slice(0, 256)
    bounded, sources = (
        decode_window(entry, level, *whole, read=reading(encoded.layers), network=network).values
        for level in ("bounded", "sources")
    )
    width = int(encoded.noise.sigma * step) | encoded.odd_cells
    off, wide = np.where(covered, (bounded - sources) / width, 0), encoded.coarse / FINE
    assert np.abs(off).max() <= wide + 0.5  # fine cells
    whole = uniform_filter(covered.astype(float), 5, mode="constant") > 0.999
    sums = 25 * step * uniform_filter(off.astype(float), 5)[whole]
    assert not sums.size or sums.std() < 0.25 * 5  # of 25 pixels, whose own noise is 5


@pytest.mark.parametrize("shape", [(264, 1000), (600, 270), (1000, 1000)])
@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_raw_bytes_are_told_from_a_few_tiles_of_any_image(shape, times):
    noise = np.random.default_rng(4).normal(300, 20, shape).round().astype("i2")
    stored = padded(noise)
    starts = [(y, x) for y in range(0, shape[0], 256) for x in range(0, shape[1], 256)]
    tiles = [stored[np.newaxis, y : y + 256, x : x + 256] for y, x in starts]
    sizes = np.array([len(direct_codec("int16").encode_chunk(tile)) for tile in tiles])
    direct = Coded(direct_document(shape))
    share = direct_share(direct, noise, (times * sizes).astype(int))
    assert share == pytest.approx(1 / times, rel=0.01)
    assert 2 <= len(direct.places) <= 4


def direct_document(shape: tuple[int, int]) -> bytes:
    documents: dict = {}
    tiles = (-(-shape[0] // 256), -(-shape[1] // 256))
    ImageGroup(1, tiles, "int16", 4, "0" * 64).create(zarr.storage.MemoryStore(documents), "group")
    return documents["group/direct/zarr.json"].to_bytes()


def test_little_is_kept_where_there_is_nothing(network):
    noise = np.random.default_rng(3).normal(0, 1, (1024, 1024))
    encoded = encode_image(survey_image(noise.astype("f4")), network, 0.5)
    assert (encoded.layers["bounded"] & 1).mean() < 0.002


def kept_at_sources(stored: np.ndarray, network) -> np.ndarray:
    return encode_image(survey_image(stored), network, 0.5).layers["bounded"] & 1 == 1


def test_what_diffuse_light_makes_a_source_is_kept(network):
    """Of the light of a cluster, which its background mesh holds, photometry makes sources."""
    y, x = np.indices((768, 768)) - 384
    noise = np.random.default_rng(2).normal(300, 10, y.shape)
    light = 35 * np.exp(-(x**2 + y**2) / (2 * 64**2))
    kept = kept_at_sources(np.rint(noise + light).astype("i2"), network)
    assert kept[light > 24].mean() > 0.95  # half of it, if the mesh were the sky
    assert kept[light < 1].mean() < 0.01


def test_a_sky_that_rises_evenly_is_no_light(network):
    noise = np.random.default_rng(2).normal(300, 10, (768, 768))
    sloped = np.rint(noise + 0.1 * np.arange(768)).astype("i2")  # 0.6 sigma a cell of the mesh
    assert kept_at_sources(sloped, network).mean() < 0.01


def test_the_edge_of_a_turned_image_is_no_light(network):
    """Cells of the mesh without pixels have the sky of the others, not that beside them."""
    y, x = np.indices((1024, 1024)) - 512
    noise = np.random.default_rng(2).normal(500, 10, y.shape)
    sloped = np.where(np.abs(y) + np.abs(x) < 500, noise + 0.15 * x, 0).astype("f4")
    kept = kept_at_sources(sloped, network)[:1024, :1024]
    assert kept[sloped != 0].mean() < 0.018  # 0.015; 0.027 by the sky beside them


def test_the_mesh_takes_the_mean_error_of_what_is_not_kept(network):
    sky = synthetic.sky((1024, 1024), sources=400, sigma=9.0, background=300, seed=4)
    encoded = encode_image(survey_image(np.rint(sky).astype("i2")), network, 0.5)
    noise, layers = encoded.noise, encoded.layers
    tiles = layers["latent"].reshape(4, 32, 4, 32, -1).transpose(0, 2, 1, 3, 4)
    y = network.decode(tiles.reshape(16, 32, 32, -1))
    left = []
    for number, (ty, tx) in enumerate(np.ndindex(4, 4)):
        place = (slice(ty * 256, ty * 256 + 256), slice(tx * 256, tx * 256 + 256))
        smooth = background_at(layers["background"], noise.background_step, *place)
        smooth = smooth + noise.to_signal(y[number])
        rest = layers["bounded"][place] & 1 == 0
        left.append(((np.rint(sky)[place] - smooth) / noise.sigma)[rest].mean())
    assert np.abs(left).max() < 0.02


@pytest.mark.parametrize(("smallest", "mode"), [("reads", "ladder+direct"), ("storage", "ladder")])
def test_reads_of_exact_or_the_release_are_kept_small(smallest, mode, network):
    """The pixels of correlated noise take less than the ladder, and more than its top."""
    noise = gaussian_filter(np.random.default_rng(1).normal(300, 60, (512, 512)), 1.0)
    image = replace(survey_image(np.rint(noise).astype("i2")), header=fits.Header())
    described = [describe_image(image, model="m", step=0.5, smallest=smallest)]
    placed, groups = plan_groups(described, network.channels, network.tables)
    arrays = {}
    next(iter(groups.values())).create(zarr.storage.MemoryStore(arrays), "g")
    documents = {
        key.split("/")[1]: bytes(data.to_bytes()) for key, data in arrays.items() if "/" in key
    }
    encoded = encode_image(image, network, 0.5)
    met, shards = make_shards(placed[0], encoded, documents, smallest=smallest)
    assert met == mode
    assert ("direct" in shards) == (smallest == "reads")


@pytest.mark.parametrize(
    ("low", "bounded", "exact", "raw", "reads", "storage"),
    [
        (10, 50, 40, 100, "ladder", "ladder"),
        (10, 50, 40, 90, "ladder+direct", "ladder"),
        (10, 50, 40, 35, "sources+direct", "sources+direct"),  # noise of few integers
        (10, 90, 5, 98, "sources+direct", "ladder"),
        (50, 50, 40, 90, "sources+direct", "ladder"),
        (50, 50, 40, 60, "direct", "direct"),  # plates, masks
    ],
)
def test_the_raw_array_takes_the_place_of_what_is_no_smaller(
    low, bounded, exact, raw, reads, storage
):
    sizes = {"latent": 5, "sources": low - 5, "bounded": bounded, "exact": exact}
    share = raw / sum(sizes.values())
    assert choose_mode(sizes, share, "reads") == reads
    assert choose_mode(sizes, share, "storage") == storage


def test_layers_of_releases_before_coarse_cells_decode_as_they_did(network):
    """Then `sources` held fine cells in the leaves that it kept, and `bounded` all others."""
    sky = synthetic.sky((300, 400), sources=60, sigma=9.0, background=300, seed=8)
    image = survey_image(np.rint(sky).astype("i2"))
    image = replace(image, header=fits.Header())
    encoded = encode_image(image, network, 0.5)
    assert encoded.coarse > FINE
    layers = dict(encoded.layers)
    kept = layers["bounded"] & 1 == 1
    cells = joined_cells(layers["sources"], layers["bounded"], encoded.coarse)
    layers["sources"], layers["bounded"] = np.where(kept, cells, 0), np.where(kept, 0, cells)
    entry = encoded.described(describe_image(image, model="m", step=0.5))
    now, before = (
        {
            level: decode_window(
                one, level, slice(0, 300), slice(0, 400), read=reading(its), network=network
            ).values
            for level in ("bounded", "exact")
        }
        for one, its in (
            (entry, encoded.layers),
            (replace(entry, coarse=None), layers),
        )
    )
    np.testing.assert_array_equal(before["exact"], image.stored)
    np.testing.assert_array_equal(before["bounded"], now["bounded"])


def reading(layers):
    return lambda names, tiles_y, tiles_x: {name: layers[name] for name in names}


def test_a_cell_of_few_pixels_takes_the_correction_of_its_neighbours():
    """A galaxy fills it, but for pixels that say nothing of the sky."""
    left = np.random.default_rng(5).normal(0.1, 1, (320, 320)).astype("f4")
    left[128:192, 128:192] = np.nan
    left[130, 130:134] = -2.5
    total = mesh_correction(left, np.isfinite(left), 3.0)
    assert np.abs(total - 0.1).max() < 0.15


@pytest.mark.parametrize(("dtype", "wide"), [("f4", 96), ("i2", 96), ("i2", 64)])
def test_sources_of_deeper_parts_are_kept_by_the_noise_there(dtype, wide, network):
    """Half as much or less, of a coadd; of counts, an amplifier narrower than three cells too."""
    rng = np.random.default_rng(3)
    y, x = np.indices((512, 512))
    is_deep = (np.abs(y - 160) < 96) & (np.abs(x - 160) < wide)  # an eighth of the image
    sky = 300 + rng.normal(0, 40, y.shape) * np.where(is_deep, 0.2, 1)
    places = [(130, 130), (160, 200), (200, 150)]
    for row, column in places:  # S/N 8 in the matched filter there, 1.6 by the noise elsewhere
        sky += 8 * 8 / (1.5 * np.sqrt(np.pi)) * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 4.5)
    kept = kept_at_sources(sky.astype(dtype), network)
    near = [kept[row - 2 : row + 3, column - 2 : column + 3].mean() for row, column in places]
    assert min(near) == 1
    # within a noise cell of the step the sky is not known to the noise of the deep side, and lines
    # along it stand out
    beside = binary_dilation(is_deep, iterations=32) & ~binary_erosion(is_deep, iterations=32)
    assert kept[~beside].mean() < 0.01
    assert kept.mean() < 0.015
