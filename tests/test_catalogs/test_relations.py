"""Columns told from others: arithmetic, every bit, and finding them."""

from __future__ import annotations

import json
from typing import Any

import conftest_catalogs as made
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Column, Table

from skyfold.catalogs.index import CatalogInfo
from skyfold.catalogs.relations import Relation, from_rest, log2, to_rest
from skyfold.catalogs.tables import plain_values
from skyfold.codecs.columns import encode_numbers
from skyfold.errors import CorruptDataError
from storage.catalogs.pairs import find_angles
from storage.catalogs.reader import InputColumn

ROWS = 3000


def test_logarithm_is_that_of_the_library():
    values = np.concatenate([np.geomspace(1e-300, 1e300, 4001), [1.0, 2.0, np.sqrt(0.5), 5e-324]])
    np.testing.assert_allclose(log2(values), np.log2(values), rtol=3e-16, atol=3e-16)
    assert np.isnan(log2(np.array([0.0, -1.0, np.nan, np.inf]))).all()
    assert log2(np.array([8.0]))[0] == 3.0


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_every_bit_comes_back_whatever_is_predicted(dtype):
    rng = np.random.default_rng(2)
    size = np.dtype(dtype).itemsize
    values = rng.integers(0, 256, 4000 * size).astype(np.uint8).view(dtype)  # every kind of NaN
    with np.errstate(invalid="ignore"):  # of NaN that signal
        near = np.nan_to_num(values.astype(float))
    predicted = np.where(rng.random(4000) < 0.5, near, 1e300)
    rest = to_rest(values, predicted)
    assert rest.dtype == np.dtype(f"u{size}")
    assert from_rest(rest, predicted, np.dtype(dtype)).tobytes() == values.tobytes()
    told = np.isfinite(values) & (predicted == near) & (values != 0)
    assert told.any()
    assert not rest[told].any()


def test_what_has_no_value_predicts_zero():
    zero, one = np.zeros(1), np.ones(1)
    assert Relation("ratio", ("a", "b"), (1.0,)).predict([one, zero]) == 0
    assert Relation("log", ("a",), (1.0,)).predict([-one]) == 0
    assert Relation("sum", ("a", "b"), (2.0, -1.0), 0.5).predict([one, one]) == 1.5


@pytest.mark.parametrize(
    "change", [{"operation": "power"}, {"columns": ["a", "b", "c"]}, {"factors": []}]
)
def test_what_is_no_relation_is_refused(change):
    row = {"operation": "sum", "columns": ["a"], "factors": [1.0], "offset": 0.0}
    assert Relation.from_json(row) == Relation("sum", ("a",), (1.0,))
    with pytest.raises(ValueError, match="not a relation"):
        Relation.from_json(row | change)


def test_what_a_survey_computed_is_found_and_costs_little(tmp_path):
    rng = np.random.default_rng(4)
    flux = rng.lognormal(3, 2, ROWS)
    noise = np.sqrt(flux + 5)
    columns = {
        "flux": flux,
        "noise": noise,
        "mag": (-2.5 * np.log10(flux) + 27).astype("f4"),
        "ratio": 1.0857362 * noise / flux,
        "shift": flux + 3e-7 * rng.standard_normal(ROWS),
        "other": rng.standard_normal(ROWS),
    }
    columns["mag"][:7] = np.nan
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    catalog = made.build(made.write_survey(tmp_path, "t", ["t.parquet"]), "t")
    told = {c.name: c.relation for c in catalog.description.columns if c.relation is not None}
    assert told["mag"].operation == "log"
    assert told["ratio"].operation == "ratio"
    assert len(told) == 3  # one of the nearly equal ones, and the two that follow from them
    assert "other" not in told
    for level in ("bounded", "exact"):
        for name, values in columns.items():
            found = plain_values(catalog.read(name, level=level)[name])
            assert found.tobytes() == values.tobytes(), name
    # three columns as they are, half of one that shares its leading digits, nothing of the rest
    assert catalog.info()["levels"]["exact"]["bytes_per_row"] < 3.5 * 8


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[dict[str, np.ndarray], Any]:
    """Fluxes, and what a survey computes from them: magnitudes, their errors; two positions."""
    rng = np.random.default_rng(5)
    true = rng.lognormal(4, 1, (ROWS, 3))
    noise = np.sqrt(true + 20) * rng.uniform(0.9, 1.1, (ROWS, 3))
    flux = true + noise * rng.standard_normal((ROWS, 3))
    flux[:9] = np.nan
    ra, dec = 150 + rng.random(ROWS), 2 + rng.random(ROWS)
    with np.errstate(invalid="ignore"):
        mag = 27 - 2.5 * np.log10(np.maximum(flux, 1e-3))
    columns = {
        "FLUX_APER": flux.astype("f4"),
        "FLUXERR_APER": noise.astype("f4"),
        "MAG_APER": mag.astype("f4"),
        "MAGERR_APER": (1.0857362 * noise / np.maximum(flux, 1e-3)).astype("f4"),
        "ALPHA_J2000": ra,
        "DELTA_J2000": dec,
        "ALPHAWIN_J2000": ra + 1e-6 * rng.standard_normal(ROWS),
        "DELTAWIN_J2000": dec + 1e-6 * rng.standard_normal(ROWS),
    }
    folder = tmp_path_factory.mktemp("measured")
    angles = {name: Column(columns[name], unit="deg") for name in columns if "2000" in name}
    Table(columns | angles).write(folder / "t.fits")
    return columns, made.build(made.write_survey(folder, "t", ["t.fits"]), "t")


def test_cells_are_counted_from_what_other_columns_say(measured):
    catalog = measured[1]
    info = catalog.description
    centres = {c.name: c.centre for c in info.columns if c.centre is not None}
    assert centres["ALPHAWIN_J2000"].columns == ("ALPHA_J2000",)
    assert centres["DELTAWIN_J2000"].columns == ("DELTA_J2000",)
    assert centres.keys() & {"FLUX_APER", "MAG_APER"}
    for column in info.columns:
        for name in column.centre.columns if column.centre else ():
            assert info.column(name).centre is None
    sizes = {c.name: _cell_bytes(catalog, c) for c in info.columns}
    told = min(sizes["FLUX_APER"], sizes["MAG_APER"])
    assert told < 0.5 * max(sizes["FLUX_APER"], sizes["MAG_APER"])
    assert sizes["ALPHAWIN_J2000"] < 0.6 * sizes["ALPHA_J2000"]
    assert CatalogInfo.from_json(info.to_json(), "x") == info


def _cell_bytes(catalog: Any, column: Any) -> int:
    rows = np.asarray(catalog._array("bounded")[column.first : column.first + column.elements])
    return len(encode_numbers(rows))


def test_told_cells_keep_their_bounds_one_by_one_and_together(measured):
    columns, catalog = measured
    whole = catalog.read(level="bounded")
    for name, values in columns.items():
        alone = plain_values(catalog.read(name, level="bounded")[name])
        assert alone.tobytes() == plain_values(whole[name]).tobytes(), name
        error = columns.get(name.replace("_", "ERR_", 1))
        bound = 0.1 * error if error is not None else np.abs(values) / 64
        bound = 0.5e-3 / 3600 if "2000" in name else bound
        far = np.abs(alone.astype("f8") - values.astype("f8")) > bound
        assert not far.any(), name
        exact = plain_values(catalog.read(name)[name])
        assert exact.astype(values.dtype).tobytes() == values.tobytes(), name
    some = catalog.where("ALPHAWIN_J2000 < 150.2", columns=["ALPHAWIN_J2000"])
    assert len(some) == (columns["ALPHAWIN_J2000"] < 150.2).sum()


def test_a_column_without_cells_tells_none(tmp_path):
    rng = np.random.default_rng(6)
    noise = np.repeat([896.6, 927.8], [257, 230])  # of two images
    flux = rng.lognormal(2, 1, 487) * noise
    columns = {"flux_1fwhm": flux, "flux_1fwhm_error": noise, "snr": flux / noise}
    columns = {name: values.astype("f4") for name, values in columns.items()}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    survey = made.write_survey(tmp_path, "t", ["t.parquet"], "precision = { snr = 0.01 }")
    catalog = made.build(survey, "t")
    kind = {c.name: c.kind for c in catalog.description.columns}
    assert kind["flux_1fwhm_error"] == "plain"  # their bits are less than cells
    assert kind["snr"] == "fixed"
    told = [c.centre.columns for c in catalog.description.columns if c.centre is not None]
    assert all(kind[name] != "plain" for names in told for name in names)
    for name, values in columns.items():
        assert plain_values(catalog.read(name)[name]).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("FLUX_APER", {"centre": ["MAG_APER"]}),  # and that from this one
        ("FLUXERR_APER", {"centre": ["FLUX_APER"]}),  # whose error it is
        ("ALPHA_J2000", {"centre": ["DELTA_J2000"]}),  # which every cone reads
        ("FLUXERR_APER", {"centre": ["nothing"]}),
        ("FLUX_APER", {"partner": "FLUX_APER"}),
    ],
)
def test_cells_that_would_be_told_in_a_circle_are_refused(measured, name, change):
    plain = json.loads(measured[1].description.to_json())
    for row in plain["columns"]:
        row["centre"] = None
        if row["name"] == "MAG_APER":
            row["centre"] = _sum_of(["FLUX_APER"])
        if row["name"] == name:
            told = {"centre": _sum_of(change["centre"])} if "centre" in change else change
            row.update(told)
    with pytest.raises(CorruptDataError):
        CatalogInfo.from_json(json.dumps(plain).encode(), "catalog.json")


def _sum_of(names: list[str]) -> dict[str, Any]:
    return {"operation": "sum", "columns": names, "factors": [1.0] * len(names), "offset": 0.0}


def test_positions_of_every_kind_are_found():
    def column(name: str, unit: str | None = "deg") -> InputColumn:
        return InputColumn(name, "<f8", unit=unit)

    pairs = [("ALPHAWIN_J2000", "DELTAWIN_J2000"), ("ra_psf", "dec_psf"), ("RAJ2000", "DEJ2000")]
    columns = [column(name) for pair in pairs for name in pair]
    assert find_angles(columns) == pairs
    others = [("ra_error", "dec_error"), ("pm_ra", "pm_dec"), ("alpha_x", "beta_x"), ("ra_b", "x")]
    assert find_angles([column(name) for pair in others for name in pair]) == []
    assert find_angles([column("ra_off", "arcsec"), column("dec_off", "arcsec")]) == []
    assert find_angles([column("ra_a", None), column("dec_a", None)]) == []
