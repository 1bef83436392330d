"""What each level does to the shear response: simulated galaxies of known shear through the codec.

    python -m tests.benchmarks.shear --release build/demo/archive/demo/dr1 --galaxies 10000

Each galaxy is drawn twice, with shear +g and -g along one axis and the same noise, and encoded by
the release's model. Its response is the difference of its measured ellipticities; m is how much
the mean response of a level differs from that of the raw images, relative to it, and c how far the
mean ellipticity moves. Noise of the raw images drops out, so that few galaxies tell much.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import galsim
import numpy as np
from astropy.io import fits

from skyfold.images.network import Network, model_digest
from skyfold.science.shapes import adaptive_moments
from storage.config import load_config
from storage.images.archive import inspect_image
from storage.images.trial import encode_on_trial
from storage.survey import find_images, read_image

SIDE, STEP, SHEAR = 1024, 64, 0.1  # apart as in a field: of a crowded one, cells stay fine
SCALE, SEEING, SIGMA, PEDESTAL = 0.2, 0.8, 20.0, 1000.0
SNR = (20.0, 200.0)
LEVELS = ("latent", "sources", "bounded", "exact")
PLACE = [("x", "f8"), ("y", "f8")]


def main() -> None:
    """Print m and c of every level with their 95 % intervals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, required=True, help="whose model encodes")
    parser.add_argument("--galaxies", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file")
    given = parser.parse_args()
    folder = next((given.release / "models").glob("*/encoder.onnx")).parent
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    network = Network(files, model_digest(files))
    rows = []
    for number in range(math.ceil(given.galaxies / (SIDE // STEP) ** 2)):
        rows.append(responses(network, given.seed, number))
        print(f"{sum(len(one['raw']) for one in rows)} galaxies", end="\r", flush=True)
    pooled = {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}
    print(f"{len(pooled['raw'])} galaxies, S/N {SNR[0]:g} to {SNR[1]:g}, g = +-{SHEAR}")
    found = {level: bias(pooled, level) for level in LEVELS}
    for level, one in found.items():
        print(
            f"{level:8s} m = {one['m']:+.2e} +- {one['m_error']:.1e}   "
            f"c = {one['c']:+.2e} +- {one['c_error']:.1e} (95 %), {one['failed']} without moments"
        )
    if given.output:
        given.output.write_text(json.dumps({"galaxies": len(pooled["raw"]), **found}, indent=1))


def bias(pooled: dict[str, Any], level: str) -> dict[str, float]:
    """Multiplicative and additive bias of a level, and half the width of their 95 % intervals."""
    raw, decoded = pooled["raw"], pooled[level]
    good = np.isfinite(raw).all(axis=1) & np.isfinite(decoded).all(axis=1)
    change = decoded[good] - raw[good]
    response = (raw[good, 0] - raw[good, 1]).mean()
    of_m, of_c = (change[:, 0] - change[:, 1]) / response, change.mean(axis=1)
    width = 1.96 / math.sqrt(int(good.sum()))
    return {
        "m": float(of_m.mean()),
        "m_error": float(width * of_m.std()),
        "c": float(of_c.mean()),
        "c_error": float(width * of_c.std()),
        "failed": int((~good).sum()),
    }


def responses(network: Network, seed: int, number: int) -> dict[str, Any]:
    """g1 of each galaxy with positive and negative shear, shape (n, 2), raw and at each level."""
    out: dict[str, list[Any]] = {name: [] for name in ("raw", *LEVELS)}
    fwhm = SEEING / SCALE
    for sign in (1, -1):
        image, places = draw(np.random.default_rng([seed, number]), sign * SHEAR)
        for name, decoded in encoded(network, image).items():
            shape, _ = adaptive_moments((decoded - PEDESTAL).astype(np.float32), places, fwhm)
            out[name].append(shape[:, 0])
    return {name: np.stack(pair, axis=1) for name, pair in out.items()}


def draw(rng: np.random.Generator, shear: float) -> tuple[Any, Any]:
    """Galaxies on a grid, 16-bit pixels; all but the shear follows from the generator."""
    image = galsim.ImageD(SIDE, SIDE)
    psf = galsim.Kolmogorov(fwhm=SEEING)
    at = np.arange(STEP / 2, SIDE - STEP / 2 + 1, STEP)
    places = np.zeros(at.size**2, PLACE)
    places["x"], places["y"] = (plane.ravel() for plane in np.meshgrid(at, at))
    for axis in ("x", "y"):
        places[axis] += rng.uniform(-0.5, 0.5, len(places))
    for place in places:
        radius, snr = rng.uniform(0.3, 0.7), np.exp(rng.uniform(*np.log(SNR)))
        size, angle = min(rng.rayleigh(0.2), 0.6), rng.uniform(0, 2 * np.pi)
        profile = galsim.Exponential(half_light_radius=radius)
        profile = profile.shear(g1=size * np.cos(angle), g2=size * np.sin(angle)).shear(g1=shear)
        middle = galsim.PositionD(place["x"] + 1, place["y"] + 1)
        stamp = galsim.Convolve(profile, psf).drawImage(
            nx=STEP, ny=STEP, scale=SCALE, center=middle, dtype=float
        )
        flux = snr * SIGMA / np.sqrt((stamp.array**2).sum())
        common = stamp.bounds & image.bounds
        image[common] += flux * stamp[common]
    noise = np.random.default_rng(int(rng.integers(2**32))).normal(PEDESTAL, SIGMA, (SIDE, SIDE))
    return np.clip(np.rint(image.array + noise), 0, 65535).astype(np.uint16), places


def encoded(network: Network, image: Any) -> dict[str, Any]:
    """The raw image and its decoded levels."""
    with TemporaryDirectory() as folder:
        fits.PrimaryHDU(image).writeto(Path(folder) / "raw.fits")
        toml = Path(folder) / "survey.toml"
        toml.write_text('[release]\nurl = "out"\n[[images]]\nset = "s"\nfiles = ["raw.fits"]\n')
        (ref,), _ = find_images(load_config(toml))
        survey = read_image(ref, storage_options={})
        entry: Any = inspect_image(ref, options={}, step=0.5)
    whole = slice(0, SIDE), slice(0, SIDE)
    decode = encode_on_trial(survey, entry, network, survey.stored, *whole)
    offset, scale = survey.bzero, survey.bscale
    planes = {level: decode(level) * scale + offset for level in LEVELS}
    return {"raw": image.astype(float), **planes}


if __name__ == "__main__":
    main()
