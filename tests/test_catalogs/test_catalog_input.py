"""Catalog files in: every format gives the same columns, and damage gives a named error."""

from __future__ import annotations

import gzip
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table

from skyfold.errors import InputError
from storage.catalogs.pairs import find_errors, find_positions
from storage.catalogs.reader import InputColumn, join, open_catalog

ROWS = 300
X = np.random.default_rng(1).normal(20, 3, ROWS)
N = np.arange(ROWS) * 7 - 100
NAMES = np.array([f"object {n % 50}" for n in range(ROWS)])


def write_fits(path: Path) -> None:
    Table({"x": X, "n": N, "name": NAMES}).write(path)


def write_parquet(path: Path) -> None:
    table = pa.table({"x": X, "n": N, "name": NAMES.tolist()})
    pq.write_table(table, path, row_group_size=64)


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, values in (("x", X), ("n", N), ("name", NAMES.astype("S"))):
            file[f"photometry/{name}"] = values
        file["photometry/x"].attrs["units"] = "mag"


def write_csv(path: Path) -> None:
    lines = [f"{x!r},{n},{name}" for x, n, name in zip(X.tolist(), N, NAMES, strict=True)]
    path.write_text("x,n,name\n" + "\n".join(lines) + "\n")


def write_ecsv(path: Path) -> None:
    Table({"x": X, "n": N, "name": NAMES}).write(path, format="ascii.ecsv")


def write_votable(path: Path) -> None:
    Table({"x": X, "n": N, "name": NAMES}).write(path, format="votable")


def write_text(path: Path) -> None:
    lines = [f"{x!r} {n} {name}" for x, n, name in zip(X.tolist(), N, _joined(), strict=True)]
    path.write_text("# made by hand\n#x n name\n" + "\n".join(lines) + "\n")


def _joined() -> list[str]:
    return [name.replace(" ", "_") for name in NAMES.tolist()]


WRITERS = {
    "t.fits": write_fits,
    "t.parquet": write_parquet,
    "t.hdf5": write_hdf5,
    "t.csv": write_csv,
    "t.ecsv": write_ecsv,
    "t.vot": write_votable,
    "t.dat": write_text,
}


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_format_gives_the_same_columns(tmp_path, name):
    WRITERS[name](tmp_path / name)
    source = open_catalog(name, str(tmp_path / name), None, {})
    assert source.rows == ROWS
    assert {column.name for column in source.columns} == {"x", "n", "name"}
    batch = join([batch for _, batch in source.batches()])
    np.testing.assert_array_equal(batch["x"][0], X)
    np.testing.assert_array_equal(batch["n"][0], N)
    text = [one.decode().replace("_", " ") for one in batch["name"][0].tolist()]
    assert text == NAMES.tolist()
    rows = np.array([0, 63, 64, 299])
    np.testing.assert_array_equal(source.take(rows)["x"][0], X[rows])


def test_packed_fits_is_read(tmp_path):
    write_fits(tmp_path / "t.fits")
    (tmp_path / "t.fits.gz").write_bytes(gzip.compress((tmp_path / "t.fits").read_bytes()))
    source = open_catalog("t", str(tmp_path / "t.fits.gz"), None, {})
    np.testing.assert_array_equal(source.read("x", 5, 9)[0], X[5:9])


def test_nulls_are_where_the_file_has_none(tmp_path):
    table = pa.table(
        {
            "f": pa.array([1.5, None, float("nan")]),
            "i": pa.array([None, 2, 3], pa.int64()),
            "s": pa.array(["a", None, ""]),
            "v": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
            "b": pa.array([True, None, False]),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    batch = open_catalog("t", str(tmp_path / "t.parquet"), None, {}).take(np.arange(3))
    assert [
        None if m is None else np.asarray(m).any(axis=-1).tolist() if m.ndim > 1 else m.tolist()
        for _, m in batch.values()
    ] == [
        [False, True, False],
        [True, False, False],
        [False, True, False],
        [False, True, False],
        [False, True, False],
    ]
    assert np.isnan(batch["f"][0][2])
    assert batch["v"][0].shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.dat", b"# a b\n1 2 3\n", "names 2 columns, and row 1 has 3"),
        ("t.csv", b"a,b\n1,2,3\n", "Expected 2 columns, got 3"),
        ("t.csv", b"a,b\n", "no rows"),
        ("t.csv", b"a,a\n1,2\n", "named twice"),
        ("t.parquet", b"PAR1 but not really", "not a readable catalog"),
        ("t.fits", b"SIMPLE  =", "not a readable catalog"),
        ("t.hdf5", b"no", "not a readable catalog"),
        ("t.vot", b"<VOTABLE>", "not a readable catalog"),
        ("t.dat", b"", "no rows"),
    ],
)
def test_damage_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        open_catalog(name, str(tmp_path / name), None, {})


def test_truncated_fits_and_wrong_keys_are_named(tmp_path):
    write_fits(tmp_path / "t.fits")
    whole = (tmp_path / "t.fits").read_bytes()
    (tmp_path / "short.fits").write_bytes(whole[:8000])
    with pytest.raises(InputError, match="truncated"):
        open_catalog("short", str(tmp_path / "short.fits"), None, {})
    with pytest.raises(InputError, match="no table 'NOPE'; there are: 1"):
        open_catalog("t", str(tmp_path / "t.fits"), "NOPE", {})
    write_hdf5(tmp_path / "t.hdf5")
    with pytest.raises(InputError, match="no key 'nope'; there are photometry"):
        open_catalog("t", str(tmp_path / "t.hdf5"), "nope", {})
    with pytest.raises(InputError, match="no such file"):
        open_catalog("t", str(tmp_path / "absent.fits"), None, {})


def test_the_objects_of_an_ldac_file_are_its_table(tmp_path):
    head = fits.BinTableHDU.from_columns([fits.Column("H", "9A", array=["x"])], name="LDAC_IMHEAD")
    body = fits.BinTableHDU.from_columns([fits.Column("X", "E", array=[1, 2])], name="LDAC_OBJECTS")
    fits.HDUList([fits.PrimaryHDU(), head, body]).writeto(tmp_path / "t.cat.fits")
    assert open_catalog("t", str(tmp_path / "t.cat.fits"), None, {}).rows == 2


def floats(*names: str, unit: str | None = None) -> list[InputColumn]:
    return [InputColumn(name, "<f4", unit=unit) for name in names]


@pytest.mark.parametrize(
    ("value", "error", "inverse"),
    [
        ("mag_u_lsst", "mag_err_u_lsst", False),
        ("MAG_AUTO", "MAGERR_AUTO", False),
        ("Jmag", "e_Jmag", False),
        ("parallax", "parallax_error", False),
        ("u_gaap1p0Flux", "u_gaap1p0FluxErr", False),
        ("PSFFLUX", "PSFFLUX_IVAR", True),
        ("FLUX_G", "FLUX_IVAR_G", True),
        ("u-g", "eu-g", False),
    ],
)
def test_errors_are_found_by_their_usual_names(value, error, inverse):
    pairs = find_errors(floats(value, error), {})
    assert pairs == {value: (error, 1.0, inverse)}


def test_variances_of_positions_are_not_errors_of_moments():
    assert find_errors(floats("X2_IMAGE", "ERRX2_IMAGE"), {}) == {}


def test_units_of_an_error_are_those_of_its_value_or_turned_into_them():
    columns = floats("ra", unit="deg") + floats("ra_error", unit="mas")
    assert find_errors(columns, {})["ra"][1] == pytest.approx(1 / 3.6e6)
    with pytest.raises(InputError, match="cannot be the error"):
        find_errors(floats("a", unit="mag") + floats("b", unit="Jy"), {"a": "b"})


def test_positions_are_found_by_their_usual_names():
    assert find_positions(floats("RAJ2000", "DEJ2000"), None, None) == ("RAJ2000", "DEJ2000")
    assert find_positions(floats("l", "b"), None, None) is None
