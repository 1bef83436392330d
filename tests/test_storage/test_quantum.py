"""Floats that a tile-compressed file held as integers: every bit back, for a few bits a pixel."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
from astropy.io import fits
from independent_decoder import Archive
from small_release import build_release

from skyfold import open_release
from skyfold.quantum import Quantum

SHAPE = (300, 270)
FILES = {
    "rows": {"quantize_method": 1, "dither_seed": 9995},
    "squares": {"quantize_method": 2, "tile_shape": (50, 70), "dither_seed": 77},
    "plain": {"quantize_method": -1, "tile_shape": (16, 270)},
    "wide": {"quantize_method": 1, "tile_shape": (300, 270), "dither_seed": 3},
}


def sky() -> np.ndarray:
    pixels = synthetic.sky(SHAPE, sources=60, sigma=3e-12, background=2e-11, seed=8)
    pixels[10:30, 40:60] = np.nan
    return pixels


@pytest.fixture(scope="module")
def release_url(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("quantised")
    for name, options in FILES.items():
        pixels = sky().astype("f8" if name == "wide" else "f4")
        if name == "squares":
            pixels[100, 100:140:7] = 0  # dithering of kind 2 keeps zeros as they are
        if name == "rows":
            pixels[200] = np.float32(1e-11)  # a constant row is stored losslessly
        hdu = fits.CompImageHDU(pixels, compression_type="RICE_1", quantize_level=8, **options)
        hdu.writeto(folder / f"{name}.fits")
    toml = synthetic.survey_toml(folder, '[[images]]\nset = "all"\nfiles = ["*.fits"]\n')
    assert build_release(toml, str(folder / "dr1")) == []
    return str(folder / "dr1")


@pytest.mark.parametrize("name", FILES)
def test_every_bit_comes_back_for_few_bits(release_url, name):
    release = open_release(release_url)
    entry = release.images.entry(f"all/{name}")
    stored = fits.getdata(f"{release_url}/../{name}.fits", 1)
    stored = stored.astype(stored.dtype.newbyteorder("="))
    assert entry.quantum is not None
    assert entry.quantum.is_dithered == (name != "plain")
    exact = release.images.read(entry.id, "exact")
    assert exact.values.dtype == stored.dtype
    assert exact.values.tobytes() == stored.tobytes()
    assert 8 * entry.bytes_at("exact") / entry.pixels < 9  # 20 and more without
    assert Archive(release_url).decode(entry.id, "exact").tobytes() == stored.tobytes()
    bounded = release.images.read(entry.id, "bounded")
    good = bounded.flags == 0
    off = np.abs(bounded.values - stored)[good] / bounded.sigma[good]
    assert off.max() <= entry.bound


def test_a_part_of_an_image_needs_no_other(release_url):
    images = open_release(release_url).images
    for name in FILES:
        whole = images.read(f"all/{name}", "exact").values
        part = images.read(f"all/{name}", "exact", slice(250, 290), slice(255, 262)).values
        assert part.tobytes() == whole[250:290, 255:262].tobytes()


def test_floats_that_were_never_integers_have_no_quantum(tiny_release):
    assert tiny_release.images.entry("night1/g").quantum is None


def test_a_window_reaches_beyond_the_image():
    quantum = Quantum(7, 11, is_dithered=True, seed=5)
    parameters = np.array([np.full(12, 0.5), np.arange(12.0)])
    whole = quantum.window(parameters, (20, 30), slice(0, 32), slice(0, 32))
    part = quantum.window(parameters, (20, 30), slice(6, 32), slice(10, 32))
    for one, other in zip(
        (whole.scale, whole.zero, whole.offset), (part.scale, part.zero, part.offset), strict=True
    ):
        np.testing.assert_array_equal(one[6:, 10:], other)
    assert not whole.is_quantised[20:].any()
    assert not whole.is_quantised[:, 30:].any()
    assert whole.is_quantised[:20, :30].all()
