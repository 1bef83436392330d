"""Atlases of catalogs: maps of rows, and the columns that make a row odd."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.atlas import draw_catalog
from flows.catalogs import build_catalog
from flows.job import Job
from flows.report_maps import explanations, maps, scatters
from skyfold import open_release

ODD = 137


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """600 rows of colors on a line, and one whose band g is five magnitudes off."""
    folder: Path = tmp_path_factory.mktemp("atlas")
    rng = np.random.default_rng(1)
    kind = rng.random(600)
    columns = {"id": np.arange(600), "redshift": kind.astype("f4")}
    for place, band in enumerate("griz"):
        values = 21 + kind * place + rng.normal(0, 0.03, 600)
        values[ODD] += 5.0 if band == "g" else 0.0
        columns[f"mag_{band}"] = values.astype("f4")
        columns[f"mag_err_{band}"] = np.full(600, 0.03, "f4")
    pq.write_table(pa.table(columns), folder / "stars.parquet")
    survey = folder / "survey.toml"
    survey.write_text(
        f'[release]\nurl = "{folder / "dr1"}"\n[[catalogs]]\nname = "stars"\n'
        'files = ["stars.parquet"]\nid = "id"\nredshift = "redshift"\n'
        '[training]\nmodel = "pca"\nsteps = 1\n'
    )
    job = Job(str(survey))
    job.builder.start({"name": "test/dr1", "images": [], "catalogs": ["stars"]}, {})
    build_catalog(job, "stars")
    found = open_release(job.url, unsealed=True)
    assert draw_catalog(job.builder, found, "stars", 1)
    return found


def test_odd_row_is_owed_to_its_column(release):
    atlas = json.loads(release.read("catalogs/stars/atlas.json"))["explained"]
    assert atlas["rows"][0] == ODD
    largest = int(np.argmax(np.abs(atlas["shap"][0])))
    assert atlas["features"][largest] == "mag_g"
    assert atlas["of"] == 600


def test_report_shows_the_map_of_the_catalog(release):
    (one,) = maps(release)
    assert {"U-matrix", "rows in each cell", "mag_g"} <= {p["title"] for p in one["planes"]}
    assert one["topographic"] is not None
    (told,) = explanations(release)["catalogs"]
    assert told["rows"][0]["number"] == ODD
    assert told["rows"][0]["shares"][0]["name"] == "mag_g"


def test_points_of_the_catalog_have_its_values(release):
    (one,) = scatters(release)
    rows = [row for *_, row in one["points"]]
    colours = {colour["name"]: colour["values"] for colour in one["colours"]}
    table = release.catalogs["stars"].read(["redshift", "mag_r"], rows)
    assert np.allclose(colours["mag_r"], np.asarray(table["mag_r"]), rtol=1e-3)
    assert "redshift" in colours
