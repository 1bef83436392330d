"""Densities with known answers, and releases made of them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from models.density_map import train_density_map
from skyfold.access.store import Store
from skyfold.densities.library import DensityLibrary
from skyfold.release import open_release
from storage.builder import ReleaseBuilder
from storage.config import load_config
from storage.densities.reader import open_densities
from storage.densities.writer import (
    archive_shard,
    finish_densities,
    plan_densities,
    sample_masses,
    start_densities,
    with_map,
)


def make_mixtures(rows, points=101, seed=1, stop=3.0):
    """Mixtures of one to three Gaussians on a grid from 0: sharp, wide, with tails, cut at 0."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, stop, points)
    out = np.zeros((rows, points))
    for number in range(3):
        mean = rng.uniform(0, stop, (rows, 1))
        sd = np.exp(rng.uniform(np.log(0.5 * stop / points), np.log(stop / 5), (rows, 1)))
        weight = rng.random((rows, 1)) * (rng.random((rows, 1)) < 0.5 if number else 1)
        out += weight * np.exp(-(((x - mean) / sd) ** 2) / 2) / sd
    out = np.where(out > 1e-4 * out.max(axis=1, keepdims=True), out, 0)
    return x, out / np.trapezoid(out, x, axis=1)[:, np.newaxis]


def write_survey(folder: Path, text: str) -> Path:
    """A survey.toml with a release beside it."""
    path = folder / "survey.toml"
    path.write_text(f'[release]\nurl = "out/dr1"\n{text}')
    return path


def build(survey: Path):
    """Plan and write every set; gives the builder, sources, indexes, and what was new."""
    config = load_config(survey)
    builder = ReleaseBuilder(Store(config.resolve(config.release.url)))
    names = [one.name for one in config.densities]
    builder.start({"name": "dr1", "images": [], "densities": names}, {})
    made = SimpleNamespace(builder=builder, sources={}, indexes={}, new={})
    for one in config.densities:
        source = open_densities(config, one)
        index = plan_densities(source)
        prototypes = train_density_map(sample_masses(source, index))
        index = with_map(index, prototypes)
        start_densities(builder, index, prototypes)
        numbers = range(len(index.spans))
        done = [archive_shard(builder, index, source, at, prototypes) for at in numbers]
        made.indexes[one.name] = finish_densities(builder, index, [shard for shard, _ in done])
        made.new[one.name] = [is_new for _, is_new in done]
        made.sources[one.name] = source
    return made


def open_densities_of(builder):
    """The release's densities through the public client."""
    release = open_release(builder.store.url, unsealed=True)
    return DensityLibrary(release, release.about["densities"])


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """A release of three sets: float32, float64 with bad rows, and counts."""
    folder = tmp_path_factory.mktemp("survey")
    x, smooth = make_mixtures(300)
    np.save(folder / "x.npy", x)
    np.save(folder / "smooth.npy", smooth.astype(np.float32))
    bad = make_mixtures(40, seed=2)[1]
    bad[3, 5] = np.array([0x7FF8DEADBEEF0001], np.uint64).view(np.float64)[0]
    bad[7] = 0
    bad[11, 50] = -1
    bad[12, 3] = -0.0
    bad[20, 9] = np.inf
    np.save(folder / "bad.npy", np.concatenate([bad, x[np.newaxis]]))
    counts = np.random.default_rng(4).poisson(0.2, (50, 60)).astype(np.int16)
    counts[:, 30] += 1
    np.save(folder / "counts.npy", counts)
    survey = write_survey(
        folder,
        """
[[densities]]
name = "smooth"
files = ["smooth.npy"]
grid = "x.npy"
[[densities]]
name = "bad"
files = ["bad.npy"]
grid = "last-row"
[[densities]]
name = "counts"
files = ["counts.npy"]
grid = [0.0, 3.0, 60]
""",
    )
    made = build(survey)
    return SimpleNamespace(
        survey=survey,
        made=made,
        densities=open_densities_of(made.builder),
        raw={"smooth": smooth.astype(np.float32), "bad": bad, "counts": counts},
    )
