"""Legal but unusual columns: every one comes back as it was, or is named with the reason."""

from __future__ import annotations

from pathlib import Path

import conftest_catalogs as made
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import QTable
from astropy.time import Time

from skyfold.catalogs.columns import LEVELS
from skyfold.catalogs.tables import plain_values
from skyfold.errors import InputError
from storage.catalogs.reader import open_catalog

ROWS = 40
X = np.random.default_rng(3).normal(0, 1, ROWS)
TEXTS = np.array(["é", "日本", "", " naïve "] * (ROWS // 4))
BYTES = np.array([b"ab  ", b"c", b"", b"\xff\xfe"] * (ROWS // 4))
TIMES = np.datetime64("2024-01-01", "us") + np.arange(ROWS) * np.timedelta64(86_400_000_123, "us")
LARGE = np.array([0, 2**64 - 1, 2**63, 1] * (ROWS // 4), np.uint64)
MATRIX = np.random.default_rng(4).normal(0, 1, (ROWS, 3, 2)).astype(np.float32)
COMPLEX = X + 1j


def parquet(path: Path) -> dict[str, np.ndarray]:
    columns = {"large": LARGE, "half": X.astype(np.float16), "text": TEXTS, "times": TIMES}
    table = pa.table(
        {name: values.tolist() if name == "text" else values for name, values in columns.items()}
        | {"bytes": pa.array(BYTES.tolist(), pa.binary()), "days": TIMES.astype("M8[D]")}
    )
    pq.write_table(table, path)
    return columns | {"bytes": BYTES, "days": TIMES.astype("M8[D]")}


def hdf5(path: Path) -> dict[str, np.ndarray]:
    columns = {"large": LARGE, "half": X.astype(">f2"), "bytes": BYTES, "matrix": MATRIX}
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
        file["text"] = TEXTS.tolist()
        file["complex"] = COMPLEX
        file["long"] = X.astype(np.longdouble)
    return columns | {"text": TEXTS}


def records(path: Path) -> dict[str, np.ndarray]:
    columns = {"large": LARGE.astype(">u8"), "x": X.astype(">f4")}
    with h5py.File(path, "w") as file:
        file["table"] = np.rec.fromarrays([*columns.values()], names=[*columns])
    return columns


def fits_table(path: Path) -> dict[str, np.ndarray]:
    columns = [
        fits.Column("Flux", "D", array=X, unit="furlong/(fortnight"),
        fits.Column("second", "D", array=2 * X),
        fits.Column("matrix", "6E", dim="(2,3)", array=MATRIX),
        fits.Column("complex", "M", array=COMPLEX),
        fits.Column("bits", "11X", array=np.tile(X[:, None] > 0, 11)),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(path)
    fits.setval(path, "TTYPE2", value="flux", ext=1)  # differs from the first in case alone
    wide = X.astype(">f8")
    return {
        "Flux": wide,
        "flux": (2 * X).astype(">f8"),
        "matrix": MATRIX.astype(">f4"),
        "bits": np.tile(X[:, None] > 0, 11),
    }


def ecsv(path: Path) -> dict[str, np.ndarray]:
    time, sky = Time(TIMES, scale="utc"), SkyCoord(np.arange(ROWS), np.arange(ROWS), unit="deg")
    QTable({"time": time, "sky": sky, "x": X}).write(path)
    return {"sky.ra": sky.ra.deg, "sky.dec": sky.dec.deg, "time.jd1": time.jd1, "x": X}


KINDS = {
    "a.parquet": parquet,
    "b.hdf5": hdf5,
    "c.hdf5": records,
    "d.fits": fits_table,
    "e.ecsv": ecsv,
}


@pytest.mark.parametrize("name", KINDS)
def test_unusual_columns_come_back_as_they_were(tmp_path, name):
    expected = KINDS[name](tmp_path / name)
    catalog = made.build(made.write_survey(tmp_path, "odd", [name]), "odd")
    table = catalog.read(level="exact")
    for column, values in expected.items():
        found = plain_values(table[column])
        assert found.dtype.kind == values.dtype.kind, column
        assert found.dtype.kind == "U" or found.dtype == values.dtype, column
        assert np.array_equal(found, values), column
    for level in LEVELS:
        catalog.to_parquet(tmp_path / "out.parquet", level)
        assert pq.read_table(tmp_path / "out.parquet").column_names == table.colnames
    left = {text.split("'")[1] for text in catalog.description.notices}
    assert left == {"b.hdf5": {"complex", "long"}, "d.fits": {"complex"}}.get(name, set())


def test_bytes_that_are_no_text_stay_bytes_in_parquet(tmp_path):
    parquet(tmp_path / "a.parquet")
    catalog = made.build(made.write_survey(tmp_path, "odd", ["a.parquet"]), "odd")
    catalog.to_parquet(tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["bytes"].to_pylist() == BYTES.tolist()


def test_nulls_of_vectors_and_texts(tmp_path):
    vectors = pa.array(
        [[[1, 2], [3, 4]], None, [[5, None], None]], pa.list_(pa.list_(pa.int32(), 2), 2)
    )
    texts = pa.array([["a", None], None, ["b", "é"]], pa.list_(pa.string(), 2))
    pq.write_table(pa.table({"v": vectors, "s": texts}), tmp_path / "t.parquet")
    source = open_catalog("t", str(tmp_path / "t.parquet"), None, {})
    values, nulls = source.read("v", 0, 3)
    assert values[0].tolist() == [[1, 2], [3, 4]]
    assert values[2, 0, 0] == 5
    assert nulls.reshape(3, 4).tolist() == [[False] * 4, [True] * 4, [False, True, True, True]]
    assert source.read("s", 0, 3)[1].tolist() == [[False, True], [True, True], [False, False]]


def test_rows_without_id_are_kept_and_counted(tmp_path):
    ids = pa.array([None, None, 0, 0, *range(4, ROWS)])
    pq.write_table(pa.table({"id": ids, "x": X}), tmp_path / "t.parquet")
    catalog = made.build(made.write_survey(tmp_path, "t", ["t.parquet"], 'id = "id"'), "t")
    assert len(catalog) == ROWS - 1  # one of the two that are 0
    assert catalog.description.notices == ("2 rows have no id (id); they are kept",)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", ",x\n0,1\n", "column 1 of 2 has no name"),
        ("t.csv", "a;b\n1;2\n", "divided by commas"),
        ("t.csv", "a\tb\n1\t2\n", "divided by commas"),
        ("t.csv", "a,b\n", "no rows"),
        ("t.dat", "", "no rows"),
    ],
)
def test_text_that_is_no_table_is_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        open_catalog(name, str(tmp_path / name), None, {})


@pytest.mark.parametrize(("role", "column"), [("id", "v"), ("redshift", "v"), ("redshift", "s")])
def test_roles_need_one_value_a_row(tmp_path, role, column):
    pq.write_table(
        pa.table(
            {"v": pa.array([[1.0, 2.0]] * ROWS, pa.list_(pa.float64(), 2)), "s": TEXTS.tolist()}
        ),
        tmp_path / "t.parquet",
    )
    survey = made.write_survey(tmp_path, "t", ["t.parquet"], f'{role} = "{column}"')
    with pytest.raises(InputError, match=f"'{column}' holds .*, and cannot be"):
        made.build(survey, "t")


def test_cones_pass_over_positions_that_are_none(tmp_path):
    ra, dec = 100 + X, 2 * X
    dec[:3], ra[3], dec[4] = (95, -999, np.nan), np.nan, 90.5
    pq.write_table(pa.table({"ra": ra, "dec": dec, "x": X}), tmp_path / "t.parquet")
    catalog = made.build(made.write_survey(tmp_path, "t", ["t.parquet"]), "t")
    centre = SkyCoord(100, 0, unit="deg")
    inside = [row for row in range(5, ROWS) if np.hypot(ra[row] - 100, dec[row]) < 2]
    for level in LEVELS:
        found = catalog.cone(centre, 2 * u.deg, level=level).meta["rows"]
        assert found.tolist() == inside


def test_a_pole_that_many_rows_share_is_a_place(tmp_path):
    """And numbers beyond the sky are none."""
    rng = np.random.default_rng(6)
    dec = np.r_[np.full(20, 90.0), rng.uniform(-0.01, 0.01, 60), np.full(5, -99.0)]
    ra = np.r_[np.full(20, 99.0), rng.uniform(200, 201, 60), np.full(5, -999.0)]
    pq.write_table(
        pa.table({"ra": ra, "dec": dec, "x": rng.normal(size=85)}), tmp_path / "t.parquet"
    )
    survey = made.write_survey(tmp_path, "t", ["t.parquet"], 'ra = "ra"\ndec = "dec"')
    catalog = made.build(survey, "t")
    assert len(catalog.where("dec > 89.9")) == 20
    assert len(catalog.where("ra < 100")) == 20
    table = catalog.read(level="exact")
    assert table["dec"].mask.sum() == table["ra"].mask.sum() == 5
    assert len(catalog.cone(SkyCoord(99, 90, unit="deg"), 1 * u.arcsec)) == 20


def test_columns_may_be_named_as_python_names_its_own(tmp_path):
    table = pa.table({"class": ["a", "b", "a"], "from": [1.0, 2.0, 3.0], "if not": [1, 2, 3]})
    pq.write_table(table, tmp_path / "t.parquet")
    catalog = made.build(made.write_survey(tmp_path, "odd", ["t.parquet"]), "odd")
    found = catalog.where("class == 'a' and from > 1")
    assert found["from"].tolist() == [3.0]
    assert catalog.where("class in ('b', 'class')")["from"].tolist() == [2.0]
    assert catalog.where("not class == 'a' or `if not` == 1")["from"].tolist() == [1.0, 2.0]


def test_swapped_positions_are_refused(tmp_path):
    sky = pa.table({"ra": np.linspace(100, 200, 40), "dec": np.linspace(-10, 10, 40)})
    pq.write_table(sky, tmp_path / "t.parquet")
    path = made.write_survey(tmp_path, "odd", ["t.parquet"], 'ra = "dec"\ndec = "ra"\n')
    with pytest.raises(InputError, match=r"40 of 40 rows .* ra is 'dec' and dec 'ra'"):
        made.build(path, "odd")


def test_rows_without_a_position_are_kept_however_many(tmp_path):
    ra, dec = np.full(40, -99.0), np.full(40, -99.0)
    ra[:5], dec[:5] = np.linspace(100, 200, 5), np.linspace(-10, 10, 5)
    pq.write_table(pa.table({"ra": ra, "dec": dec}), tmp_path / "t.parquet")
    catalog = made.build(made.write_survey(tmp_path, "odd", ["t.parquet"]), "odd")
    assert len(catalog.read()) == 40
    assert len(catalog.cone(SkyCoord(150, 0, unit="deg"), 60 * u.deg)) == 5
