"""Compiled arithmetic of tiles: the numbers of `skyfold.ladder` and of noise models, every bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import synthetic
from astropy.io import fits

from skyfold.noise import NoiseModel
from storage.images import strip_layers
from storage.images.encoder import encode_image
from storage.images.image_input import SurveyImage
from storage.images.tile_kernels import significance
from storage.survey import ImageRef

FACTS = dict.fromkeys(("blank", "mask", "variance", "time", "quant_step", "quant_method"))


def image(dtype: str, sigma: float, gain: float | None, depth: float = 1.0) -> SurveyImage:
    """Of a sky of two depths: the variance of the right half is told, if it is another."""
    sky = synthetic.sky((300, 530), sources=700, sigma=sigma, background=40 * sigma, seed=2)
    noise = np.full(sky.shape, sigma)
    noise[:, 265:] *= depth
    sky[:, 265:] += np.random.default_rng(5).normal(0, sigma * max(depth - 1, 0), (300, 265))
    light = np.maximum(sky - 43 * sigma, 0)
    sky += np.random.default_rng(3).normal(0, 1, sky.shape) * np.sqrt(light * sigma)
    sky[100:103, 100:103] += 3e5 * sigma  # the network's reach: guarded by residues
    if dtype != "i4":
        sky[200:210, 300:310] = np.nan
    stored = (np.rint(sky) if dtype == "i4" else sky).astype(dtype)
    ref = ImageRef(id="s/a", set="s", band="r", file="a.fits", url="a.fits", hdu=0)
    about = FACTS | {"bscale": 1.0, "bzero": 0.0, "digest": "", "header": fits.Header()}
    about["variance"] = None if depth == 1 else noise**2
    return SurveyImage(ref=ref, stored=stored, shape=stored.shape, gain=gain, **about)


@pytest.mark.parametrize("gain", [None, 1.0])
@pytest.mark.parametrize(
    ("dtype", "sigma", "depth"),
    [
        ("i4", 11.0, 1),
        ("i4", 4.2, 1),
        ("i4", 30.0, 2),
        ("i4", 3000.0, 1),
        ("f4", 1e-12, 1),
        ("f4", 1e-12, 5),
        ("f8", 7.0, 1),
    ],
)
def test_layers_are_the_same_without_a_compiler(dtype, sigma, depth, gain, network, monkeypatch):
    raw = image(dtype, sigma, gain and gain / sigma, depth)
    fast = encode_image(raw, network, 0.5)
    monkeypatch.setattr(strip_layers, "can_compile", lambda: False)
    plain = encode_image(raw, network, 0.5)
    assert fast.mode == plain.mode == "ladder"
    assert (fast.noise.slope > 0) == (gain is not None and depth == 1)
    assert fast.uneven == ("noise" in fast.layers) == (depth != 1)
    assert (fast.dithered, fast.odd_cells) == (plain.dithered, plain.odd_cells)
    for name, layer in plain.layers.items():
        np.testing.assert_array_equal(fast.layers[name], layer, err_msg=name)
    assert (plain.layers["guard"] > 0).any()


def test_layers_of_a_bright_sky_are_the_same_without_a_compiler(network, monkeypatch):
    """Whose factors of the noise are not those of the light of sources."""
    stored = synthetic.bright_sky((300, 530)).astype("i4")
    raw = replace(image("i4", 11.0, 1.0), stored=stored)
    fast = encode_image(raw, network, 0.5)
    monkeypatch.setattr(strip_layers, "can_compile", lambda: False)
    plain = encode_image(raw, network, 0.5)
    assert fast.noise.of_sky
    assert fast.uneven
    for name, layer in plain.layers.items():
        np.testing.assert_array_equal(fast.layers[name], layer, err_msg=name)


@pytest.mark.parametrize("of_sky", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_significance_is_that_of_the_noise_model(slope, of_sky):
    noise = NoiseModel.from_stored_units(3.7, slope, integer=True, of_sky=of_sky)
    rng = np.random.default_rng(1)
    predictions = rng.normal(0, 40, (256, 256)).astype("f4")
    predictions[0, :3] = 1e9, -1e9, np.nan
    above = rng.normal(0, 200, (256, 256)).astype("f4")
    coded = rng.random((256, 256)) < 0.9
    above *= coded
    signal, residual = (np.empty((256, 256), np.float32) for _ in range(2))
    factor = rng.uniform(0.3, 3, (256, 256))
    significance(above, coded, predictions, factor, noise.numbers, signal, residual)
    smooth = noise.to_signal(predictions, factor).astype(np.float32)
    sigma = noise.pixel_sigma(smooth, factor)
    np.testing.assert_array_equal(signal, (above / sigma).astype("f4"))
    np.testing.assert_array_equal(residual, ((above - smooth * coded) / sigma).astype("f4"))
