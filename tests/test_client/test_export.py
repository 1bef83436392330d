"""Exports: other readers find the same pixels and rows."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable
from hypothesis import given
from hypothesis import strategies as st

from skyfold import errors
from skyfold.access.parquet import OutColumn, read_columns, read_metadata, write_columns
from skyfold.export import export_catalog, export_image, healpix_of, partitions


@pytest.mark.parametrize("level", ["exact", "bounded", "latent"])
@pytest.mark.parametrize("image_id", ["night1/g", "night1/r"])
def test_exported_images_hold_the_same_pixels(tiny_release, tmp_path, image_id, level):
    path = tmp_path / "a/b.fits.fz"
    export_image(tiny_release, image_id, path, level)
    plain = tmp_path / "plain.fits"
    tiny_release.images.hdu(image_id, level).writeto(plain)
    with fits.open(path) as packed, fits.open(plain) as expected:
        np.testing.assert_array_equal(packed[1].data, expected[0].data)
        assert packed[1].header["HIERARCH SKYFOLD LEVEL"] == level
        for card in ("CRVAL1", "CTYPE1", "FILTER", "BUNIT"):
            assert packed[1].header.get(card) == expected[0].header.get(card)
        flags = tiny_release.images.read(image_id, level).flags
        assert ("MASK" in packed) == flags.any()
        if flags.any():
            np.testing.assert_array_equal(packed["MASK"].data, flags != 0)
    with fits.open(path, disable_image_compression=True) as stored:
        assert stored[1].header["ZCMPTYPE"] == (
            "GZIP_2" if level == "latent" or image_id.endswith("g") else "RICE_1"
        )


def test_the_command_exports_a_whole_release(tiny_url, tmp_path):
    command = [
        sys.executable,
        "-m",
        "skyfold",
        "export",
        tiny_url,
        str(tmp_path),
        "--level",
        "bounded",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3 files at bounded" in done.stdout
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.fz"))
    assert found == [f"images/night1/{band}.fits.fz" for band in ("g", "i", "r")]
    assert not list(tmp_path.rglob(".*"))


@given(st.lists(st.integers(0, 12 * 4**29 - 1), max_size=60), st.integers(1, 20))
def test_partitions_hold_every_row_once(cells, rows):
    ordered = np.sort(np.array(cells, np.int64))
    parts = list(partitions(ordered, rows))
    held = np.concatenate([np.arange(p.start, p.stop) for _, _, p in parts] or [np.arange(0)])
    np.testing.assert_array_equal(np.sort(held), np.arange(len(cells)))
    for order, pixel, part in parts:
        assert (ordered[part] >> 2 * (29 - order) == pixel).all()
        assert part.stop - part.start <= rows or order == 29


def test_positions_have_their_pixel():
    ra, dec = np.array([0.5, 89.9, 10.0, np.nan]), np.array([0.0, 0.0, 90.0, 1.0])
    cells = healpix_of(ra, dec)
    assert cells[0] >> 58 == 4
    assert cells[1] >> 58 == 5
    assert cells[2] == 4**29 - 1
    assert cells[3] == 0


def test_catalogs_become_hats_partitions(tmp_path):
    rng = np.random.default_rng(0)
    table = QTable(
        {"ra": rng.uniform(0, 360, 900) * u.deg, "dec": rng.uniform(-90, 90, 900) * u.deg}
    )
    table["mag"] = rng.normal(22, 1, 900).astype("f4")
    table["kind"] = np.where(np.arange(900) % 2, "spiral", "irregular")
    facts = SimpleNamespace(ra="ra", dec="dec")
    catalog = SimpleNamespace(name="galaxies", description=facts, read=lambda level: table)
    paths = export_catalog(catalog, tmp_path, rows=100)
    partitions = (tmp_path / "partition_info.csv").read_text().splitlines()
    assert partitions[0] == "Norder,Npix"
    assert len(partitions) == len(paths) + 1
    rows = 0
    for line, path in zip(partitions[1:], paths, strict=True):
        order, pixel = map(int, line.split(","))
        assert path == tmp_path / f"dataset/Norder={order}/Dir=0/Npix={pixel}.parquet"
        part = pq.read_table(path)
        cells = part["_healpix_29"].to_numpy()
        assert (np.diff(cells) >= 0).all()
        assert (cells >> 2 * (29 - order) == pixel).all()
        assert set(part["kind"].to_pylist()) <= {"spiral", "irregular"}
        rows += len(part)
    assert rows == 900
    properties = (tmp_path / "hats.properties").read_text()
    assert "hats_nrows=900\n" in properties
    assert "hats_col_ra=ra\n" in properties
    assert pq.read_schema(tmp_path / "dataset/_common_metadata").field("ra").metadata == {
        b"unit": b"deg"
    }
    facts.ra = None
    assert export_catalog(catalog, tmp_path / "plain") == [tmp_path / "plain/catalog.parquet"]
    assert pq.read_table(tmp_path / "plain/catalog.parquet")["mag"].to_pylist() == list(
        table["mag"]
    )
    with pytest.raises(errors.InvalidRequestError, match="1 or more"):
        export_catalog(catalog, tmp_path, rows=0)


def test_other_libraries_read_what_is_written(tmp_path):
    rng = np.random.default_rng(0)
    nulls = np.array([False, True, False])
    columns = [
        OutColumn("vector", rng.normal(size=(3, 2)).astype("f4"), None, {"unit": "mag"}),
        OutColumn("name", np.array(["a", "", "ü"])),
        OutColumn("bytes", np.array([b"x", b"yy", b""])),
        OutColumn("count", np.array([1, 2, 3], "i2"), nulls),
        OutColumn("day", np.array(["2026-01-01", "2026-01-02", "NaT"], "M8[D]")),
        OutColumn("good", np.array([True, False, True]), nulls),
    ]
    path = tmp_path / "t.parquet"
    write_columns(columns, path, metadata={"grid": "1,2"})
    table = pq.read_table(path)
    assert table.schema.field("vector").metadata == {b"unit": b"mag"}
    np.testing.assert_array_equal(table["vector"].to_pylist(), columns[0].values)
    assert table["name"].to_pylist() == ["a", "", "ü"]
    assert table["bytes"].to_pylist() == ["x", "yy", ""]
    assert table["count"].to_pylist() == [1, None, 3]
    assert table["good"].to_pylist() == [True, None, True]
    assert str(table["day"].to_pylist()[0])[:10] == "2026-01-01"
    assert table["day"].to_pylist()[2] is None
    back = read_columns(path.read_bytes(), ["count", "name"])
    assert back == {"count": [1, None, 3], "name": ["a", "", "ü"]}
    assert read_metadata(path.read_bytes())[b"grid"] == b"1,2"
