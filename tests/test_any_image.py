"""Images of every kind, size, dtype and distance from zero: every bit, every bound, every level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic
from small_release import build_release

from skyfold import open_release
from skyfold.compiled import readers
from skyfold.ladder import LEVELS

SIDES = (1, 2, 17, 63, 64, 65, 200, 256, 257, 300)
DTYPES = ("u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8")
IMAGES = 14  # of a release


def noise(rng, shape, sigma):
    return sigma * rng.normal(size=shape)


def sources(rng, shape, sigma):
    """Of any width and brightness, up to a hundred thousand times the noise."""
    y, x = np.indices(shape)
    sky = noise(rng, shape, sigma)
    for _ in range(rng.integers(0, 60)):
        cy, cx, width = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0.5, 6)
        peak = sigma * 10 ** rng.uniform(0.5, 5)
        sky += peak * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
    return sky


def counts(rng, shape, _):
    return rng.poisson(rng.uniform(0.01, 30), shape).astype(float)


def slope(rng, shape, sigma):
    y, x = np.indices(shape)
    return noise(rng, shape, sigma) + sigma * 10 ** rng.uniform(0, 6) * (y / len(y) + x / len(x))


def steps(rng, shape, sigma):
    return np.rint(noise(rng, shape, rng.uniform(0.3, 4))) * sigma


def anything(rng, shape, _):
    return rng.uniform(-1, 1, shape) * 10.0 ** rng.uniform(-30, 30)


def mask(rng, shape, _):
    return (rng.random(shape) < rng.uniform(0, 0.5)).astype(float)


def columns(rng, shape, sigma):
    every = np.arange(shape[1]) % rng.integers(2, 40) == 0
    return noise(rng, shape, sigma) + sigma * 10 ** rng.uniform(0, 5) * every


def absurd(rng, shape, sigma):
    """Some pixels that are millions of times as far off as others."""
    some = rng.random(shape) < rng.uniform(0, 0.1)
    return noise(rng, shape, sigma) * np.where(some, 10 ** rng.uniform(3, 14), 1)


def denormal(rng, shape, _):
    return noise(rng, shape, 1e-38 * 10 ** rng.uniform(-6, 3))


def saturated(rng, shape, sigma):
    return np.minimum(noise(rng, shape, 5 * sigma), sigma * rng.uniform(2, 10))


KINDS = (
    noise, sources, counts, slope, steps, anything, mask, columns, absurd, denormal, saturated,
)  # fmt: skip


def any_image(rng) -> np.ndarray:
    shape, kind = tuple(rng.choice(SIDES, 2)), KINDS[rng.integers(len(KINDS))]
    sigma = 10 ** rng.uniform(-6, 6) if rng.random() < 0.5 else rng.uniform(0.3, 50)
    values = kind(rng, shape, sigma)
    if rng.random() < 0.5:
        values = values + sigma * 10 ** rng.uniform(-1, 12) * rng.choice([-1, 1])
    dtype = np.dtype(rng.choice(DTYPES))
    return _floats(rng, values, dtype) if dtype.kind == "f" else _integers(rng, values, dtype)


def _floats(rng, values, dtype):
    with np.errstate(over="ignore"):
        values = values.astype(dtype)
    if rng.random() < 0.3:
        values[rng.random(values.shape) < rng.choice([0.001, 0.05, 0.6])] = np.nan
    if rng.random() < 0.2:
        values[rng.random(values.shape) < 0.01] = rng.choice([np.inf, -np.inf, -0.0])
    if rng.random() < 0.2:
        values[:, : values.shape[1] // 3] = 0
    return values


def _integers(rng, values, dtype):
    limits = np.iinfo(dtype)
    if rng.random() < 0.5:
        values = values / (np.abs(values).max() or 1) * float(limits.max) * rng.choice([1, 1e-4])
    most = np.nextafter(float(limits.max), 0)  # of 64 bits no float is the largest integer
    return np.clip(np.rint(values), float(limits.min), np.floor(most)).astype(dtype)


@pytest.mark.parametrize("seed", range(10))
def test_any_image_returns_and_keeps_its_bound(tmp_path, seed):
    stored = {}
    for number in range(IMAGES):
        stored[f"x{number}"] = any_image(np.random.default_rng([seed, number]))
        synthetic.write_fits(tmp_path / f"raw/x{number}.fits", stored[f"x{number}"])
    survey = synthetic.survey_toml(tmp_path, '[[images]]\nset = "all"\nfiles = ["raw/*.fits"]\n')
    set_aside = build_release(survey, str(tmp_path / "archive"))
    assert all(one.is_empty for one in set_aside)
    for one in set_aside:
        del stored[Path(one.file).stem]
    images = open_release(str(tmp_path / "archive")).images
    assert len(images) == len(stored) > IMAGES / 2
    for name, expected in stored.items():
        _check(images, f"all/{name}", expected)


def _check(images, image_id, values):
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:  # as FITS holds it
        values = (values ^ values.dtype.type(1 << (8 * values.itemsize - 1))).view(
            f"i{values.itemsize}"
        )
    for level in LEVELS:
        with readers(compiled=False):
            plain = images.read(image_id, level)
        with readers(compiled=True):
            fast = images.read(image_id, level)
        assert fast.values.tobytes() == plain.values.tobytes(), (image_id, level)
        assert (fast.sigma is None) == (plain.sigma is None)
        assert plain.sigma is None or fast.sigma.tobytes() == plain.sigma.tobytes()
    exact = images.read(image_id, "exact").values
    assert exact.dtype == values.dtype
    assert exact.tobytes() == values.tobytes(), image_id
    for level in ("latent", "sources"):
        assert images.read(image_id, level).values.shape == values.shape
    entry, bounded = images.entry(image_id), images.read(image_id, "bounded")
    if entry.mode == "direct":
        assert bounded.values.tobytes() == values.tobytes()
        return
    good = bounded.flags < 2
    off = np.abs(bounded.values[good].astype("f8") - values[good].astype("f8"))
    least = 0 if values.dtype.kind == "f" else 0.5  # of integers, cells hold one at least
    assert (off <= np.maximum(entry.step / 2 * bounded.sigma[good], least) + least).all(), image_id
