"""A small sealed release of every kind: two images, a catalog, densities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import synthetic
from small_release import build_release

from flows.catalogs import build_catalog
from flows.job import Job
from skyfold.access.store import Store
from storage.builder import ReleaseBuilder
from storage.densities.reader import open_densities
from storage.densities.writer import (
    archive_shard,
    finish_densities,
    plan_densities,
    start_densities,
)

TABLES = """
[[catalogs]]
name = "galaxies"
files = ["raw/galaxies.parquet"]
id = "id"
errors = { mag = "err" }
[[densities]]
name = "pz"
files = ["raw/pz.npy"]
grid = [0.0, 3.0, 60]
"""


def write_survey(folder: Path, seed: int = 1) -> Path:
    """Raw files and survey.toml; another seed, other skies and tables."""
    rng = np.random.default_rng(seed)
    for name, dtype in (("a", "i2"), ("b", "f4")):
        shape = (300, 270)
        seed = int(rng.integers(999))
        sky = synthetic.sky(shape, sources=60, sigma=9.0, background=300, seed=seed)
        if dtype == "f4":
            sky[:128, 64:192] = 300 + 0.3 * (sky[:128, 64:192] - 300)  # deeper than the rest
            sky[:, 200:] += 80  # another amplifier
        sky[5:9, 5:9] = 0 if dtype == "i2" else np.nan
        path = folder / f"raw/{name}.fits"
        synthetic.write_fits(path, sky.round().astype(dtype), synthetic.simple_wcs(shape))
    mag = rng.normal(22, 1, 500)
    columns = {
        "id": np.arange(500),
        "ra": 150 + rng.normal(0, 0.1, 500),
        "dec": 2 + rng.normal(0, 0.1, 500),
        "mag": mag.astype(np.float32),
        "err": np.full(500, 0.05, np.float32) + 0.01 * rng.random(500).astype(np.float32),
        "kind": rng.choice(["spiral", "elliptical"], 500).tolist(),
    }
    pq.write_table(pa.table(columns), folder / "raw/galaxies.parquet")
    grid = np.linspace(0, 3, 60)
    centres = rng.uniform(0.5, 2, (80, 1))
    np.save(folder / "raw/pz.npy", np.exp(-(((grid - centres) / 0.2) ** 2)).astype(np.float32))
    images = '[[images]]\nset = "night1"\nfiles = ["raw/*.fits"]\nband = "r"\n' + TABLES
    return synthetic.survey_toml(folder, images)


def build(folder: Path, url: str | None = None, *, seed: int = 1, seal: bool = True) -> str:
    """Write a survey and build its release without flows; its URL."""
    survey = write_survey(folder, seed)
    job = Job(str(survey))
    url = url or job.config.resolve(job.config.release.url)
    build_release(survey, url, seal=False)
    builder = ReleaseBuilder(Store(url))
    about = _about(builder)
    builder.describe(about | {"catalogs": ["galaxies"], "densities": ["pz"]})
    build_catalog(job, "galaxies")
    source = open_densities(job.config, job.config.densities[0])
    index = plan_densities(source)
    start_densities(builder, index)
    shards = [archive_shard(builder, index, source, at)[0] for at in range(len(index.spans))]
    finish_densities(builder, index, shards)
    if seal:
        builder.seal()
    return url


def _about(builder: ReleaseBuilder) -> dict:
    import json

    return json.loads(builder.store.read("zarr.json"))["attributes"]["skyfold"]
