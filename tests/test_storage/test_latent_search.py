"""Latents of less loss: moves change what they are said to change, and faint sources gain."""

from __future__ import annotations

import numpy as np
import pytest
import sep
import synthetic
from numpy.lib.stride_tricks import sliding_window_view

import storage.images.latent_search
from models.entropy import fit_tables, measure_bits
from skyfold.codecs.latent_tables import get_tables
from skyfold.images.network import Network, model_digest
from storage.images.latent_loss import (
    Loss,
    latent_bits,
    source_weights,
    weighed_errors,
    window_errors,
)
from storage.images.latent_search import (
    _answers,
    improved_latents,
    search_latents,
    searched_latents,
)

FWHM = 4.0
LOSS = Loss()


def noisy_sky(seed: int, tiles: int = 4, sources: int = 40) -> np.ndarray:
    """Tiles in noise units."""
    skies = [
        synthetic.sky(
            (256, 256), sources=sources, sigma=1.0, seed=seed + n, flux=(40, 600), fwhm=FWHM
        )
        for n in range(tiles)
    ]
    return np.array(skies, np.float32)


def weights_of(y: np.ndarray) -> np.ndarray:
    return np.array([source_weights(one, np.ones(one.shape, bool), FWHM, LOSS) for one in y])


@pytest.fixture(scope="module")
def fitted() -> Network:
    """Cosines with tables of their own latents of such a sky."""
    files = synthetic.cosine_files()
    plain = synthetic.cosine_network()
    files["tables.bin"] = fit_tables(plain.encode(noisy_sky(100, tiles=12))).to_bytes()
    return Network(files, model_digest(files))


def total_loss(network: Network, latents: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    bits = measure_bits(latents, get_tables(network.tables)).sum()
    errors = (network.decode(latents) - y) * np.sqrt(weights)
    return float(
        bits + 0.6 * LOSS.lmbda * window_errors(errors, np.float32(LOSS.pixel_weight)).sum()
    )


def test_errors_are_those_of_training():
    errors = np.random.default_rng(0).normal(0, 3, (3, 256, 256)).astype(np.float32)
    for tile, found in zip(errors, window_errors(errors, np.float32(0.2)), strict=True):
        expected = 0.2 * (tile.astype(float) ** 2).sum()
        for side in (2, 4, 8):
            step = side // 2
            windows = sliding_window_view(tile.astype(float), (side, side))[::step, ::step]
            expected += step**2 * ((side * windows.mean(axis=(2, 3))) ** 2).sum()
        assert found == pytest.approx(expected, rel=1e-5)


def test_the_loss_becomes_less(fitted):
    y = noisy_sky(1)
    latents, weights = fitted.encode(y), weights_of(y)
    better, predictions = improved_latents(fitted, latents, fitted.decode(latents), y, weights)
    np.testing.assert_array_equal(predictions, fitted.decode(better))
    before, after = (total_loss(fitted, one, y, weights) for one in (latents, better))
    assert after < 0.97 * before


def test_strips_of_an_image_are_as_the_whole(fitted, monkeypatch):
    image = synthetic.sky((1024, 512), sources=250, seed=9, flux=(40, 600), fwhm=FWHM)
    y = image.reshape(4, 256, 2, 256).transpose(0, 2, 1, 3).reshape(8, 256, 256).astype("f4")
    coded = np.ones(image.shape, bool)
    coded[700:, 300:] = False

    def search(together: int) -> tuple[np.ndarray, np.ndarray]:
        monkeypatch.setattr(storage.images.latent_search, "_TOGETHER", together)
        latents = fitted.encode(y)
        predictions = fitted.decode(latents)
        search_latents(fitted, latents, predictions, y, coded, FWHM)
        return latents, predictions

    (whole, pixels), (strips, others) = search(8), search(2)
    np.testing.assert_array_equal(whole, strips)
    np.testing.assert_array_equal(pixels, others)
    assert (whole != fitted.encode(y)).any()


def test_tables_of_searched_latents_fit_better(fitted):
    """Patches of a fourth of a tile, four of them side by side."""
    tiles = noisy_sky(200, tiles=12)
    patches = tiles.reshape(12, 2, 128, 2, 128).transpose(0, 1, 3, 2, 4).reshape(48, 128, 128)
    good = np.ones(patches.shape, bool)
    found = searched_latents(fitted, patches, good)
    assert found.shape == (48, 16, 16, fitted.channels)
    latents, whole = fitted.encode(tiles), np.ones((256, 256), bool)
    weights = np.array([source_weights(one, whole, 3.5, LOSS) for one in tiles])
    expected, _ = improved_latents(fitted, latents, fitted.decode(latents), tiles, weights)
    np.testing.assert_array_equal(found[4], expected[1, :16, :16])
    np.testing.assert_array_equal(found[7], expected[1, 16:, 16:])
    tables = fit_tables(found)
    new, old = (measure_bits(expected, one) for one in (tables, get_tables(fitted.tables)))
    assert new.sum() < old.sum()
    few = searched_latents(fitted, patches[:3], good[:3])
    np.testing.assert_array_equal(few[:, :12, :12], found[:3, :12, :12])


def test_an_answer_is_what_one_more_adds(fitted):
    latents = np.random.default_rng(2).integers(-3, 4, (1, 32, 32, fitted.channels), np.int16)
    more = latents.copy()
    more[0, 9, 20, 5] += 1
    change = (fitted.decode(more) - fitted.decode(latents))[0, 72:80, 160:168]
    np.testing.assert_allclose(change, _answers(fitted)[5], atol=1e-4)


def test_bits_are_those_of_the_tables(fitted):
    tables = get_tables(fitted.tables)
    latents = fitted.encode(noisy_sky(3))
    latents[0, 3, 3, 0], latents[1, 4, 4, 2] = 50, -50  # with plain bits
    less, same, more = latent_bits(latents, np.ones(latents.shape[:3], bool), tables)
    assert same.sum() == pytest.approx(measure_bits(latents, tables).sum(), rel=1e-5)
    last = fitted.channels - 1  # the last pass of the last channel is no context of others
    for number, found in ((-1, less), (1, more)):
        other = latents.copy()
        other[0, 1, 0, last] += number
        change = measure_bits(other, tables).sum() - measure_bits(latents, tables).sum()
        assert found[0, 1, 0, last] - same[0, 1, 0, last] == pytest.approx(change, abs=1e-3)


class Liar(Network):
    """Whose pixels are off wherever a latent is not what its encoder gave."""

    honest: np.ndarray

    def decode(self, latents: np.ndarray) -> np.ndarray:
        pixels = super().decode(latents)
        if latents.shape == self.honest.shape:
            moved = (latents != self.honest).any(axis=-1)
            pixels = pixels + 50 * np.kron(moved, np.ones((1, 8, 8))).astype(np.float32)
        return pixels


def test_a_tile_whose_loss_would_grow_is_left_as_it_was(fitted):
    files = synthetic.cosine_files()
    files["tables.bin"] = fit_tables(fitted.encode(noisy_sky(100))).to_bytes()
    liar, y = Liar(files, model_digest(files)), noisy_sky(4)
    liar.honest = liar.encode(y)
    predictions = liar.decode(liar.honest)
    latents, after = improved_latents(liar, liar.honest, predictions, y, weights_of(y))
    np.testing.assert_array_equal(latents, liar.honest)
    np.testing.assert_array_equal(after, predictions)


def test_faint_sources_keep_more_of_their_flux(fitted):
    """Fluxes at S/N 4-8 within one FWHM, in units of their error, at known places."""
    rng = np.random.default_rng(5)
    x, y = (np.tile(np.arange(20, 240, 24), (9, 1)) for _ in range(2))
    x, y = x.ravel() + rng.uniform(-3, 3, x.size), y.T.ravel() + rng.uniform(-3, 3, y.size)
    rows, columns = np.ogrid[:256, :256]
    spread = FWHM / 2.3548
    image = rng.normal(0, 1, (256, 256))
    area = np.pi * FWHM**2
    for one, two in zip(x, y, strict=False):
        shape = np.exp(-((columns - one) ** 2 + (rows - two) ** 2) / (2 * spread**2))
        image += rng.uniform(4, 8) * np.sqrt(area) * shape / shape.sum()
    tile = image[np.newaxis].astype(np.float32)
    latents = fitted.encode(tile)
    better, _ = improved_latents(fitted, latents, fitted.decode(latents), tile, weights_of(tile))

    def error_of(latents: np.ndarray) -> float:
        left = np.ascontiguousarray((fitted.decode(latents) - tile)[0])
        sums = sep.sum_circle(left, x[: len(y)], y, FWHM, subpix=5)[0] / np.sqrt(area)
        return float(np.percentile(np.abs(sums), 90))

    assert error_of(better) < 0.85 * error_of(latents)


def test_errors_weigh_where_sources_are_and_measurements():
    y, good = np.zeros((256, 256), np.float32), np.ones((256, 256), bool)
    rows, columns = np.ogrid[:256, :256]
    y += 4 * np.exp(-((rows - 100) ** 2 + (columns - 60) ** 2) / (2 * (FWHM / 2.3548) ** 2))
    good[200:] = False
    weights = source_weights(y, good, FWHM, LOSS)
    assert weights[100, 60] == pytest.approx(LOSS.emphasis, rel=1e-3)
    assert weights[100, 200] == 1
    assert not weights[200:].any()
    bright = source_weights(1e4 * y, good, FWHM, LOSS)
    assert bright[100, 60] < 1  # a star takes no bits from others


def test_the_sky_is_what_is_no_source_less_what_the_mesh_takes_up():
    """Half a tile is sky of a level of 3; a cell of the mesh that is mostly sources keeps its."""
    left = np.random.default_rng(6).normal(0, 1, (1, 256, 256)).astype(np.float32)
    left += 3
    root = np.ones_like(left)
    root[0, 8:12, 8:16], root[0, :8, :4] = 10.0, 0.0
    root[0, 64:128, 64:104] = 10.0
    errors, sky, sources = weighed_errors(left, root)
    np.testing.assert_array_equal(errors, left * root)
    is_sky = (root == 1).astype(np.float32)
    cell = is_sky[0, :64, :64]
    level = (left[0, :64, :64] * cell).sum() / cell.sum()
    part = (left[0, 12:16, 8:16] - level).sum()
    assert sky[0, 1, 1] == pytest.approx(part, abs=1e-3)
    assert sky[0, :8, :8].sum() == pytest.approx(0, abs=1e-2)
    assert sky[0, 8, 15] == pytest.approx(left[0, 64:72, 120:128].sum(), rel=1e-4)
    expected = np.zeros((32, 32), bool)
    expected[1, 1], expected[8:16, 8:13] = True, True
    np.testing.assert_array_equal(sources[0], expected)


def test_of_a_channel_that_the_decoder_does_not_look_at_only_bits_count():
    files, graphs = synthetic.cosine_files(), synthetic.cosine_graphs(blind=2)
    blind = Network(files | graphs, model_digest(files | graphs))
    y = noisy_sky(7, tiles=1)
    latents = blind.encode(y)
    better, _ = improved_latents(blind, latents, blind.decode(latents), y, weights_of(y))
    sizes = [np.abs(one[..., 2]).sum() for one in (latents, better)]
    assert sizes[1] < 0.5 * sizes[0]
    assert (better[..., :2] != latents[..., :2]).any()
