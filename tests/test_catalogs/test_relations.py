"""Columns told from others: arithmetic, every bit, and finding them."""

from __future__ import annotations

import conftest_catalogs as made
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyfold.catalogs.relations import Relation, from_rest, log2, to_rest
from skyfold.catalogs.tables import plain_values

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
