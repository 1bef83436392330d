"""Small real things for tests: skies with known answers, FITS files, a network without training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from astropy.io import fits
from astropy.wcs import WCS
from onnx import TensorProto, helper, numpy_helper

from models.entropy import fit_tables
from skyfold.images.network import Network, model_digest

CHANNELS = 6
STEP = 6.0  # quantisation step of the block transform [noise units of a coefficient]


def cosine_basis() -> np.ndarray:
    """First cosines of blocks of 8 x 8 pixels, orthonormal; shape (channels, 8, 8)."""
    place = (np.arange(8) + 0.5) / 8
    waves = np.array([np.cos(np.pi * k * place) for k in range(8)])
    waves *= np.where(np.arange(8) == 0, np.sqrt(1 / 8), np.sqrt(2 / 8))[:, None]
    orders = sorted(np.ndindex(8, 8), key=lambda kl: (sum(kl), kl))[:CHANNELS]
    return np.array([np.outer(waves[k], waves[m]) for k, m in orders])


def cosine_graphs(blind: int | None = None) -> dict[str, bytes]:
    """ONNX encoder and decoder of the block cosine transform: real networks of one layer.

    The decoder does not look at the channel `blind`, if there is one.
    """
    basis = cosine_basis().astype(np.float32)[:, None]
    seen = (np.arange(CHANNELS) != blind)[:, None, None, None]
    return {
        "encoder.onnx": _graph("Conv", basis / STEP, "y", "latent"),
        "decoder.onnx": _graph("ConvTranspose", basis * STEP * seen, "latent", "y"),
    }


def _graph(operator: str, weights: np.ndarray, source: str, target: str) -> bytes:
    nodes = [
        helper.make_node("Transpose", [source], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node(operator, ["first", "w"], ["mapped"], strides=[8, 8]),
        helper.make_node("Transpose", ["mapped"], [target], perm=[0, 2, 3, 1]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", None, None, None])
        for name in (source, target)
    ]
    graph = helper.make_graph(
        nodes, operator, ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def cosine_files() -> dict[str, bytes]:
    """Files of a model that needs no training; tables fitted to a noisy sky."""
    files = cosine_graphs()
    rng = np.random.default_rng(5)
    spectrum = rng.laplace(0, 0.3, (4, 32, 32, CHANNELS))
    tables = fit_tables(np.rint(spectrum).astype(np.int16))
    card = {"name": "block cosine transform", "tolerance": {"relative": 2e-6}}
    return files | {"tables.bin": tables.to_bytes(), "card.json": json.dumps(card).encode()}


def cosine_network() -> Network:
    """The network of `cosine_files`."""
    files = cosine_files()
    return Network(files, model_digest(files))


def sky(
    shape: tuple[int, int] = (300, 280),
    *,
    sources: int = 40,
    sigma: float = 1.0,
    background: float = 0.0,
    seed: int = 0,
    flux: tuple[float, float] = (10.0, 3000.0),
    fwhm: float = 3.5,
) -> np.ndarray:
    """Gaussian sources on Gaussian noise, float64."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    image = rng.normal(background, sigma, shape)
    width = fwhm / 2.3548
    for _ in range(sources):
        cy, cx = rng.uniform(8, shape[0] - 8), rng.uniform(8, shape[1] - 8)
        peak = sigma * np.exp(rng.uniform(*np.log(flux))) / (2 * np.pi * width**2)
        image += peak * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
    return image


def bright_sky(shape: tuple[int, int], seed: int = 3) -> np.ndarray:
    """Photons of stars on a sky that grows nine times as bright from left to right, float64."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    light = 200 * 9 ** (x / shape[1])
    for _ in range(60):
        cy, cx = rng.uniform(8, shape[0] - 8), rng.uniform(8, shape[1] - 8)
        light += 10 ** rng.uniform(2, 4) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 6)
    return np.rint(rng.normal(light, np.sqrt(light)))


def simple_wcs(shape: tuple[int, int], ra: float = 150.0, dec: float = 2.0) -> WCS:
    """Tangent plane of 0.2 arcsec pixels, north up."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.cdelt = [-0.2 / 3600, 0.2 / 3600]
    return wcs


def write_fits(path: Path, data: np.ndarray, wcs: WCS | None = None, **cards: Any) -> Path:
    """Primary HDU with a header."""
    header = fits.Header() if wcs is None else wcs.to_header()
    header.update(cards)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(data, header).writeto(path, overwrite=True)
    return path


def survey_toml(folder: Path, images: str, **sections: dict[str, Any]) -> Path:
    """Configuration of a survey in a folder; `images` is the TOML of its image sets."""
    lines = ['[release]\nurl = "archive/test/dr1"\n', images]
    for name, values in ({"training": {"steps": 30, "model": "pca"}} | sections).items():
        lines.append(f"[{name}]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in values.items()))
    path = folder / "survey.toml"
    path.write_text("\n".join(lines))
    return path


def trail(shape, angle, offset, peak, fwhm=4.0):
    """Light of a satellite's trail at an angle [rad], so many pixels beside the centre."""
    y, x = (plane - size / 2 for plane, size in zip(np.indices(shape), shape, strict=True))
    apart = (x * np.sin(angle) - y * np.cos(angle) - offset) / fwhm
    return peak * np.exp(-4 * np.log(2) * apart**2)
