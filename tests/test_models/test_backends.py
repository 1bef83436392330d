"""Two ways to compute the decoder, Keras and onnxruntime: one lattice, because of the guard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic

from models.autoencoder import train
from models.entropy import fit_tables
from models.export import export_model
from models.patches import sample_patches
from skyfold import ladder
from skyfold.images.network import Network
from skyfold.layout import MODEL_FILES
from skyfold.noise import background_at
from storage.images.encoder import encode_image
from storage.images.image_input import read_image
from storage.images.prepared import prepare
from storage.survey import ImageRef


class KerasNetwork(Network):
    """The stored model, its decoder run by Keras instead of onnxruntime."""

    keras_model = None

    def decode(self, latents):
        return self.keras_model.decode(latents, batch=3)


@pytest.fixture(scope="module")
def two_ways(tmp_path_factory) -> tuple[Network, KerasNetwork]:
    sky = synthetic.sky((512, 512), sources=300, seed=5).astype("f4")
    patches, weights = sample_patches([sky], count=64, seed=1)
    trained = train(patches, weights, steps=60, seed=1)
    folder = tmp_path_factory.mktemp("model")
    tables = fit_tables(trained.encode(patches))
    digest = export_model(trained, tables, folder, {}, examples=patches[:8])
    files = {name: (Path(folder) / digest / name).read_bytes() for name in MODEL_FILES}
    other = KerasNetwork(files, digest)
    other.keras_model = trained
    return Network(files, digest), other


@pytest.fixture(scope="module", params=["u2", "f4", "f8"])
def encoded(request, two_ways, tmp_path_factory):
    pixels = synthetic.sky((768, 768), sources=500, sigma=11.0, background=900, seed=8)
    pixels[100:103, 100:103] += 5e4  # saturated: far beyond what the network knows
    if request.param == "u2":
        pixels = pixels.round()
    path = tmp_path_factory.mktemp("raw") / "a.fits"
    synthetic.write_fits(path, pixels.astype(request.param))
    ref = ImageRef(id="s/a", set="s", band="r", file="a.fits", url=str(path), hdu=0)
    image = read_image(ref, storage_options={})
    return prepare(image), encode_image(image, two_ways[0], 0.5)


def lattices(image, encoded, network) -> list[np.ndarray]:
    latents = encoded.layers["latent"]
    ny, nx = image.tiles
    tiles = (
        latents.reshape(ny, 32, nx, 32, -1).transpose(0, 2, 1, 3, 4).reshape(ny * nx, 32, 32, -1)
    )
    predictions, whole = network.decode(tiles), image.whole()
    out = []
    for number, tile in enumerate(np.ndindex(ny, nx)):
        place = whole.place(*tile)
        noise, layers = encoded.noise, encoded.layers
        background = background_at(layers["background"], noise.background_step, *place)
        guard = layers["guard"][place]
        predicted = ladder.predict(predictions[number], background, noise, guard)
        sigma = noise.pixel_sigma(predicted - background)
        dtype = image.dtype
        width = ladder.cell_width(predicted, sigma, 0.5, dtype, odd=encoded.odd_cells)
        cells = ladder.joined_cells(
            layers["sources"][place], layers["bounded"][place], encoded.coarse
        )
        out.append(ladder.from_cells(cells, predicted, width))
    return out


def test_keras_and_onnxruntime_decode_the_same_lattice(encoded, two_ways):
    work, layers = encoded
    onnx, keras = (lattices(work, layers, network) for network in two_ways)
    np.testing.assert_array_equal(onnx, keras)


def test_the_networks_differ_and_the_guard_is_needed(encoded, two_ways):
    """Without it, a rounding tie that another machine takes would be a wrong pixel."""
    _, layers = encoded
    latents = layers.layers["latent"].reshape(3, 32, 3, 32, -1).transpose(0, 2, 1, 3, 4)
    tiles = latents.reshape(9, 32, 32, -1)
    here, there = (network.decode(tiles) for network in two_ways)
    apart = np.abs(here - there)
    assert 0 < apart.max() < 1e-2  # they do differ, by rounding
    scale = np.abs(here).reshape(9, 32, 8, 32, 8).max(axis=(2, 4), keepdims=True)
    scale = np.broadcast_to(scale, (9, 32, 8, 32, 8)).reshape(here.shape)
    assert (apart <= two_ways[0].tolerance * (1 + scale)).all()
    share = (layers.layers["guard"] > 0).mean()
    assert 0 < share < 3e-3
