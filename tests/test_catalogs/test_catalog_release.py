"""A catalog through the whole house: planned, trained, encoded, read back at every level."""

from __future__ import annotations

import json
from pathlib import Path

import conftest_catalogs as made
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits

from flows.job import Job
from skyfold.catalogs.columns import LEVELS
from skyfold.catalogs.library import CatalogLibrary
from skyfold.catalogs.positions import Cone
from skyfold.catalogs.tables import plain_values
from skyfold.errors import (
    CorruptDataError,
    InputError,
    InvalidRequestError,
    LevelNotStoredError,
    UnknownNameError,
)
from storage.catalogs.archive import encode_shard, read_plan


def test_exact_returns_every_bit_in_the_order_of_the_input(galaxies, columns):
    table = galaxies.read()
    assert table.colnames == list(columns)
    for name, values in columns.items():
        found = plain_values(table[name])
        assert found.dtype.kind == values.dtype.kind
        assert found.tobytes() == values.astype(found.dtype).tobytes(), name
    np.testing.assert_array_equal(table.meta["rows"], np.arange(made.ROWS))


def test_bounded_keeps_every_value_within_its_bound(galaxies, columns):
    table = galaxies.read(level="bounded")
    for band in made.BANDS:
        value, error = (
            columns[f"mag_{band}"].astype(float),
            columns[f"mag_err_{band}"].astype(float),
        )
        met = plain_values(table[f"mag_{band}"]).astype(float)
        assert np.all(np.abs(met - value) <= 0.1 * error)
        met = plain_values(table[f"mag_err_{band}"]).astype(float)
        assert np.all(np.abs(met - error) <= error / 64)
    assert np.abs(plain_values(table["size"]).astype(float) - columns["size"]).max() <= 0.005
    for name in ("ra", "dec"):
        assert np.abs(plain_values(table[name]) - columns[name]).max() <= 0.5 / 3.6e6
    np.testing.assert_array_equal(plain_values(table["odd"]), columns["odd"])


@pytest.mark.parametrize("level", LEVELS)
def test_whole_numbers_text_and_positions_pass_at_every_level(galaxies, columns, level):
    table = galaxies.read(["object_id", "flags", "good", "kind", "ra"], level=level)
    for name in ("object_id", "flags", "good", "kind"):
        np.testing.assert_array_equal(plain_values(table[name]), columns[name])
    assert np.abs(plain_values(table["ra"]) - columns["ra"]).max() <= 0.5 / 3.6e6


def test_levels_cost_more_the_more_they_tell(galaxies):
    sizes = [galaxies.info()["levels"][level]["bytes"] for level in LEVELS]
    assert sizes == sorted(sizes)
    folder = Path(galaxies._release.url) / "catalogs" / "galaxies"
    stored = sum(path.stat().st_size for path in folder.rglob("c/**/*") if path.is_file())
    assert sizes[-1] <= stored


def test_latent_is_near_and_map_is_nearer_than_nothing(galaxies, columns):
    for band in made.BANDS:
        value, error = columns[f"mag_{band}"], columns[f"mag_err_{band}"]
        seen = value < 90
        latent = plain_values(galaxies.read(f"mag_{band}", level="latent")[f"mag_{band}"])
        assert np.median(np.abs(latent - value)[seen] / error[seen]) < 0.35
        assert np.all(latent[~seen] == 99)
        coarse = plain_values(galaxies.read(f"mag_{band}", level="map")[f"mag_{band}"])
        assert np.std((coarse - value)[seen]) < 0.4 * np.std(value[seen])


def test_missing_values_are_masked_and_stand_below_the_mask(galaxies, columns):
    for level in ("latent", "bounded", "exact"):
        table = galaxies.read(["mag_g", "odd"], level=level)
        np.testing.assert_array_equal(table["mag_g"].mask, columns["mag_g"] == 99)
        np.testing.assert_array_equal(table["odd"].mask, np.isnan(columns["odd"]))
        assert np.all(plain_values(table["mag_g"])[table["mag_g"].mask] == 99)


@pytest.mark.parametrize("level", LEVELS)
def test_cone_finds_what_is_there(galaxies, columns, level):
    centre = SkyCoord(150.7, 0.4, unit="deg")
    sky = SkyCoord(columns["ra"], columns["dec"], unit="deg")
    inside = np.flatnonzero(sky.separation(centre) <= 5 * u.arcmin)
    table = galaxies.cone(centre, 5 * u.arcmin, level=level, columns=["object_id"])
    np.testing.assert_array_equal(table.meta["rows"], inside)
    np.testing.assert_array_equal(plain_values(table["object_id"]), columns["object_id"][inside])


def test_cone_leaves_far_chunks_unread(galaxies):
    cone = Cone.of(SkyCoord(150.02, 1.95, unit="deg"), 1 * u.arcmin)
    chunks = cone.chunks(galaxies.chunks.low, galaxies.chunks.high)
    assert 0 < len(chunks) < galaxies.description.chunks
    assert len(galaxies.cone(SkyCoord(10, -60, unit="deg"), 1 * u.arcmin)) == 0


def test_cone_spans_the_meridian_and_the_pole(tmp_path):
    rng = np.random.default_rng(3)
    ra, dec = rng.uniform(0, 360, 5000), rng.uniform(80, 90, 5000)
    fits.BinTableHDU.from_columns(
        [fits.Column("RA", "D", array=ra), fits.Column("DEC", "D", array=dec)]
    ).writeto(tmp_path / "polar.fits")
    catalog = made.build(made.write_survey(tmp_path, "polar", ["polar.fits"]), "polar")
    for centre in (SkyCoord(359.9, 85, unit="deg"), SkyCoord(0, 90, unit="deg")):
        inside = SkyCoord(ra, dec, unit="deg").separation(centre) <= 2 * u.deg
        found = catalog.cone(centre, 2 * u.deg).meta["rows"]
        np.testing.assert_array_equal(found, np.flatnonzero(inside))


def test_rows_are_those_of_the_input(galaxies, columns):
    asked = [3, 9_999, 5_000]
    table = galaxies.read(["mag_g"], rows=asked)
    np.testing.assert_array_equal(table.meta["rows"], sorted(asked))
    np.testing.assert_array_equal(plain_values(table["mag_g"]), columns["mag_g"][sorted(asked)])
    assert len(galaxies.read("ra", rows=slice(10, 20))) == 10
    with pytest.raises(InvalidRequestError, match="10000"):
        galaxies.read("ra", rows=[10_000])


def test_cells_of_the_map_hold_all_rows_once(galaxies, columns):
    hits = galaxies.som["hits"]
    assert hits.sum() == made.ROWS
    number = int(hits.argmax())
    table = galaxies.cell(number, columns=["redshift", "mag_r"])
    assert len(table) == hits.max()
    mean = galaxies.som["redshift"].ravel()[number]
    assert plain_values(table["redshift"]).mean(dtype=float) == pytest.approx(mean, rel=1e-6)
    with pytest.raises(InvalidRequestError, match="cells"):
        galaxies.cell(hits.size)


def test_where_finds_what_is_there(galaxies, columns):
    table = galaxies.where("mag_r < 21 and 0.1 < redshift <= 0.3 and flags == 2", columns=["kind"])
    z = columns["redshift"].astype(float)
    want = (columns["mag_r"] < 21) & (z > 0.1) & (z <= 0.3) & (columns["flags"] == 2)
    assert want.sum() > 0
    np.testing.assert_array_equal(table.meta["rows"], np.flatnonzero(want))
    assert len(galaxies.where("mag_g > 90")) == 0  # missing values meet nothing
    north = galaxies.where("dec > 1.99", columns=["dec"])
    assert len(north) == (columns["dec"] > 1.99).sum()


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("mag_r < 21 or dec > 1.9", lambda c: (c["mag_r"] < 21) | (c["dec"] > 1.9)),
        ("not (mag_r < 24 or flags == 2)", lambda c: ~((c["mag_r"] < 24) | (c["flags"] == 2))),
        ("flags in (1, 3) and (dec < 0 or `ra` > 151)", lambda c: np.isin(c["flags"], (1, 3))
         & ((c["dec"] < 0) | (c["ra"] > 151))),
        ("kind == 'spiral' and flags not in [0, 1]", lambda c: (c["kind"] == "spiral")
         & (c["flags"] > 1)),
        ("kind in ('elliptical', 'irrégulière') and size > 1", lambda c: (c["kind"] != "spiral")
         & (c["size"].astype(float) > 1)),
        ("22 > mag_r > 21.5 and kind != 'spiral'", lambda c: (c["mag_r"] < 22)
         & (c["mag_r"] > 21.5) & (c["kind"] != "spiral")),
    ],
)  # fmt: skip
def test_where_joins_denies_and_lists(galaxies, columns, text, chosen):
    seen = (columns["mag_r"] < 90) | ("mag_r" not in text)
    if " or dec" in text:
        seen |= columns["dec"] > 1.9
    want = np.flatnonzero(chosen(columns) & seen)
    assert 0 < len(want) < made.ROWS
    np.testing.assert_array_equal(galaxies.where(text, columns="flags").meta["rows"], want)


def test_where_reads_what_refines_only_where_a_row_may_meet_it(tmp_path, columns, monkeypatch):
    monkeypatch.setattr("storage.catalogs.forms.find_relations", lambda *_: [])  # so it refines
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    pq.write_table(table, tmp_path / "g.parquet")
    survey = made.write_survey(tmp_path, "galaxies", ["g.parquet"], made.GALAXIES)
    galaxies = made.build(survey, "galaxies")
    read = []
    array = type(galaxies)._array
    monkeypatch.setattr(
        type(galaxies), "_array", lambda self, layer: (read.append(layer), array(self, layer))[1]
    )
    refined = [c.name for c in galaxies.description.columns if c.is_refined and c.kind == "scaled"]
    name = refined[0]
    values = np.sort(columns[name][columns[name] < 90].astype(float))
    gap = np.argmax(np.diff(values[:20]))  # among the brightest, whose errors are small
    between = (values[gap] + values[gap + 1]) / 2
    # no row is within its bound of this value, though a chunk has lower and higher ones
    assert len(galaxies.where(f"{name} == {between}", columns=name)) == 0
    assert "bounded" in read
    assert "exact" not in read


@pytest.mark.parametrize(
    "text",
    ["mag_r", "mag_r < 'a'", "mag_r + 1 < 3", "__import__('os')", "1 < 2", "a.b < 1", "mag_r in ()",
     "mag_r < dec", "`mag_r < 3"],
)  # fmt: skip
def test_where_refuses_what_it_does_not_know(galaxies, text):
    with pytest.raises(InvalidRequestError, match="cannot be understood"):
        galaxies.where(text)


def test_requests_that_cannot_be_met_say_so(galaxies):
    with pytest.raises(UnknownNameError, match="no column 'nope'"):
        galaxies.read("nope")
    with pytest.raises(LevelNotStoredError, match="map, latent, bounded, exact"):
        galaxies.read(level="sources")
    for text in ("kind < 3", "mag_r == 'bright'"):
        with pytest.raises(InvalidRequestError, match="compare columns of one number"):
            galaxies.where(text)
    with pytest.raises(InvalidRequestError, match="radius"):
        galaxies.cone(SkyCoord(1, 1, unit="deg"), 3 * u.s)
    with pytest.raises(UnknownNameError, match="galaxies"):
        CatalogLibrary(galaxies._release, ["galaxies"])["stars"]


def test_parquet_holds_the_same(galaxies, columns, tmp_path):
    galaxies.to_parquet(tmp_path / "out.parquet", level="exact")
    table = pq.read_table(tmp_path / "out.parquet")
    for name, values in columns.items():
        assert table[name].null_count == 0
        np.testing.assert_array_equal(table[name].to_numpy(), values)


def test_writing_again_skips_and_gives_the_same_bytes(galaxies, galaxies_survey):
    job = Job(str(galaxies_survey))
    plan = read_plan(job.builder, "galaxies")
    assert plan.info.shards == 3
    assert not any(encode_shard(job.builder, plan, n, options={}) for n in range(3))
    key = f"{galaxies.path}/bounded/c/0/1"
    before = job.builder.store.read(key)
    job.builder.store.delete(key)
    assert encode_shard(job.builder, plan, 1, options={})
    assert job.builder.store.read(key) == before


def test_damage_is_found(galaxies, galaxies_survey, columns):
    store = galaxies._release.store
    for layer, level in (("bounded", "bounded"), ("whole", "map"), ("latent", "latent")):
        key = f"{galaxies.path}/{layer}/c/0/0"
        good = store.read(key)
        bad = bytearray(good)
        bad[40] ^= 1
        store.write(key, bytes(bad))
        with pytest.raises(CorruptDataError):
            galaxies.read(level=level)
        store.write(key, good)
    key = f"{galaxies.path}/checksum/c/0/0/1"  # of `bounded`
    good = store.read(key)
    store.write(key, bytes(len(good)))
    with pytest.raises(CorruptDataError, match="CRC"):
        galaxies.read("mag_r", level="bounded")
    store.write(key, good)


def test_fits_types_and_vectors_come_back(tmp_path):
    rng = np.random.default_rng(5)
    rows = 700
    payload = np.array([0x7FC00123, 0xFFC00000, 0x80000000, 0x7F800000], ">u4").view(">f4")
    values = rng.standard_normal((rows, 3)).astype(">f4")
    values[:4, 0] = payload
    flux = rng.lognormal(3, 1, rows)
    hdu = fits.BinTableHDU.from_columns(
        [
            fits.Column("VEC", "3E", array=values, unit="mJy"),
            fits.Column("FLUX", "D", array=flux, unit="Jy"),
            fits.Column("FLUX_IVAR", "D", array=np.where(flux > 3, 25 / flux, 0), unit="Jy-2"),
            fits.Column("N", "J", array=np.arange(rows), null=5),
            fits.Column("U", "I", bzero=32768, array=np.arange(rows).astype(np.uint16)),
            fits.Column("NAME", "8A", array=np.array([f"s{n}" for n in range(rows)])),
            fits.Column("OK", "L", array=np.arange(rows) % 2 == 0),
        ],
        name="LDAC_OBJECTS",
    )
    head = fits.BinTableHDU.from_columns([fits.Column("H", "80A", array=["x"])], name="LDAC_IMHEAD")
    fits.HDUList([fits.PrimaryHDU(), head, hdu]).writeto(tmp_path / "t.fits")
    survey = made.write_survey(tmp_path, "t", ["t.fits"])
    catalog = made.build(survey, "t")
    table = catalog.read()
    assert plain_values(table["VEC"]).tobytes() == values.tobytes()
    assert table["VEC"].unit == u.mJy
    assert plain_values(table["VEC"]).dtype == np.dtype(">f4")
    assert plain_values(table["FLUX"]).tobytes() == flux.astype(">f8").tobytes()
    assert table["N"].mask.sum() == 1
    assert plain_values(table["U"]).dtype == np.uint16
    assert plain_values(table["NAME"]).tolist() == [f"s{n}".encode() for n in range(rows)]
    np.testing.assert_array_equal(plain_values(table["OK"]), np.arange(rows) % 2 == 0)
    bounded = plain_values(catalog.read("FLUX", level="bounded")["FLUX"])
    sigma = np.where(flux > 3, np.sqrt(flux) / 5, 0)
    assert np.all(np.abs(bounded - flux) <= 0.1 * sigma)
    assert any("zero, negative" in notice for notice in catalog.description.notices)


def test_repeated_ids_are_set_aside_and_named(tmp_path):
    (tmp_path / "d.csv").write_text("id,x\n" + "".join(f"{n % 95},{n / 7}\n" for n in range(100)))
    survey = made.write_survey(tmp_path, "d", ["d.csv"], 'id = "id"')
    catalog = made.build(survey, "d")
    assert len(catalog) == 95
    note = Job(str(survey)).builder.read_note("catalogs/d/settings")
    assert "5 rows have an id" in note["set_aside"][0]["reason"]


def test_a_wrong_column_in_the_configuration_is_named(tmp_path):
    (tmp_path / "d.csv").write_text("id,x\n1,2.5\n")
    for settings, words in (
        ('redshift = "z"', "redshift names the column 'z'"),
        ('errors = { x = "dx" }', "no column 'dx'"),
        ('ra = "a"\ndec = "b"', "no column 'a'"),
        ('errors = { x = "id" }', "only floats have errors"),
    ):
        with pytest.raises(InputError, match=words):
            made.build(made.write_survey(tmp_path, "d", ["d.csv"], settings), "d")


def test_an_empty_column_is_listed(tmp_path):
    (tmp_path / "d.csv").write_text("x,y\n" + "".join(f"{n / 3},nan\n" for n in range(50)))
    catalog = made.build(made.write_survey(tmp_path, "d", ["d.csv"]), "d")
    assert any("'y' holds no value" in notice for notice in catalog.description.notices)
    for level in LEVELS[1:]:
        assert catalog.read("y", level=level)["y"].mask.all()


def test_one_row_is_a_catalog(tmp_path):
    (tmp_path / "d.csv").write_text("x,name\n2.5,a\n")
    catalog = made.build(made.write_survey(tmp_path, "d", ["d.csv"]), "d")
    for level in LEVELS:
        table = catalog.read(level=level)
        assert plain_values(table["name"]).tolist() == ["a"]
    assert plain_values(catalog.read("x")["x"]).tolist() == [2.5]


def test_hostile_descriptions_are_refused(galaxies):
    store = galaxies._release.store
    key = f"{galaxies.path}/catalog.json"
    good = store.read(key)
    for change in ({"chunk_rows": 2**40}, {"rows": -1}, {"shard_rows": 7}):
        store.write(key, json.dumps(json.loads(good) | change).encode())
        with pytest.raises(CorruptDataError, match="is not the description of a catalog"):
            CatalogLibrary(galaxies._release, ["galaxies"])["galaxies"]
    store.write(key, good)
