"""Fixtures: a catalog with known truth, and a small release of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.catalogs import build_catalog
from flows.job import Job
from skyfold.catalogs.library import CatalogLibrary
from skyfold.release import open_release

ROWS = 10_000
PCA = '[training]\nmodel = "pca"\n'  # its training takes no time
BANDS = "griz"


def make_columns(rows: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Galaxies whose colors follow from redshift and type, with errors that grow with magnitude."""
    rng = np.random.default_rng(seed)
    z = rng.gamma(3.0, 0.2, rows)
    kind = rng.random(rows)
    faint = np.minimum(27.0, 20 + 3 * z + rng.exponential(1.5, rows))
    columns: dict[str, np.ndarray] = {
        "object_id": rng.permutation(rows).astype(np.int64) * 1000 + 7,
        "ra": 150 + 2 * rng.random(rows),
        "dec": np.degrees(np.arcsin(np.sin(np.radians(2)) * (2 * rng.random(rows) - 1))),
    }
    for place, band in enumerate(BANDS):
        mag = faint - place * (0.3 + 0.5 * kind * np.tanh(2 * z - 0.5 * place))
        error = np.hypot(0.005, 0.05 * 10 ** (0.4 * (mag - 25)))
        mag = mag + error * rng.standard_normal(rows)
        lost = error > 0.25
        columns[f"mag_{band}"] = np.where(lost, 99.0, mag).astype(np.float32)
        columns[f"mag_err_{band}"] = np.where(lost, 99.0, error).astype(np.float32)
    columns["redshift"] = z.astype(np.float32)
    columns["size"] = (0.2 + rng.lognormal(-1, 0.4, rows)).astype(np.float32)
    columns["odd"] = np.where(rng.random(rows) < 0.01, np.nan, rng.standard_normal(rows))
    columns["flags"] = rng.integers(0, 4, rows).astype(np.int16)
    columns["good"] = rng.random(rows) < 0.9
    columns["kind"] = np.array(["elliptical", "spiral", "irrégulière"])[(3 * kind).astype(int)]
    return columns


def write_survey(folder: Path, name: str, files: list[str], settings: str = "") -> Path:
    """A survey.toml of one catalog."""
    listed = ", ".join(f'"{one}"' for one in files)
    path = folder / f"{name}.toml"
    path.write_text(
        f'[release]\nurl = "{folder / (name + "_release")}"\n[[catalogs]]\nname = "{name}"\n'
        f"files = [{listed}]\n{settings}\n" + ("" if "[training]" in settings else PCA)
    )
    return path


def build(survey: Path, name: str) -> Any:
    """Catalog of a release that holds it alone, built without a flow."""
    job = Job(str(survey))
    about = {"name": "test/dr1", "images": [], "catalogs": [name]}
    job.builder.start(about, {})
    build_catalog(job, name)
    release = open_release(job.config.resolve(job.config.release.url), unsealed=True)
    return CatalogLibrary(release, [name])[name]


GALAXIES = """
id = "object_id"
redshift = "redshift"
precision = { size = 0.01 }
missing = [99.0]
"""


@pytest.fixture(scope="session")
def columns() -> dict[str, np.ndarray]:
    return make_columns(ROWS)


@pytest.fixture(scope="session")
def galaxies_survey(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, np.ndarray]
) -> Path:
    folder = tmp_path_factory.mktemp("galaxies")
    half = ROWS // 2
    for part in (0, 1):
        cut = slice(part * half, (part + 1) * half)
        table = pa.table({name: pa.array(values[cut]) for name, values in columns.items()})
        pq.write_table(table, folder / f"part{part}.parquet")
    return write_survey(folder, "galaxies", ["part*.parquet"], GALAXIES)


@pytest.fixture(scope="session")
def galaxies(galaxies_survey: Path) -> Any:
    """Catalog of 10,000 galaxies in three chunks and three shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.catalogs.order.SHARD_BYTES", 1)
        patch.setattr("storage.catalogs.order.CHUNK_ROWS", 4096)
        return build(galaxies_survey, "galaxies")
