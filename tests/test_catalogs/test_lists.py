"""Lists of changing length: from every format that has them, bit for bit at every level."""

from __future__ import annotations

from pathlib import Path

import conftest_catalogs as made
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from skyfold.catalogs.columns import LEVELS
from skyfold.codecs.columns import ListsCodec
from skyfold.errors import CorruptDataError, InputError, InvalidRequestError
from storage.catalogs.reader import open_catalog

ROWS = 500
RNG = np.random.default_rng(4)
LENGTHS = RNG.integers(0, 9, ROWS)
TIMES = [np.sort(RNG.uniform(58000, 59000, n)) for n in LENGTHS]
MAGS = [RNG.normal(20, 1, n).astype(np.float32) for n in LENGTHS]
FLAGS = [RNG.integers(-3, 4, n).astype(np.int16) for n in LENGTHS]
MAGS[3][:] = np.nan
SCALARS = {"object": np.arange(ROWS), "mean": RNG.normal(20, 1, ROWS)}
LISTS = {"times": TIMES, "mags": MAGS, "flags": FLAGS}


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table(SCALARS | LISTS), path, row_group_size=128)


def write_fits(path: Path) -> None:
    columns = [fits.Column("object", "K", array=SCALARS["object"])]
    columns.append(fits.Column("mean", "D", array=SCALARS["mean"]))
    for (name, lists), form in zip(LISTS.items(), ("PD()", "QE()", "PI()"), strict=True):
        held = np.empty(ROWS, object)
        held[:] = lists
        columns.append(fits.Column(name, form, array=held))
    fits.BinTableHDU.from_columns(columns).writeto(path)


def write_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, values in SCALARS.items():
            file[f"curves/{name}"] = values
        for name, lists in LISTS.items():
            kept = file["curves"].create_dataset(name, (ROWS,), h5py.vlen_dtype(lists[0].dtype))
            for row, values in enumerate(lists):
                kept[row] = values


WRITERS = {"t.parquet": write_parquet, "t.fits": write_fits, "t.hdf5": write_hdf5}


@pytest.fixture(scope="module", params=sorted(WRITERS))
def catalog(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    WRITERS[request.param](folder / request.param)
    survey = made.write_survey(folder, "curves", [request.param], 'id = "object"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.catalogs.order.SHARD_BYTES", 1)
        patch.setattr("storage.catalogs.order.CHUNK_ROWS", 200)
        yield made.build(survey, "curves")


def require_same(found, lists) -> None:
    assert len(found) == len(lists)
    for one, other in zip(found, lists, strict=True):
        assert one.dtype.newbyteorder("=") == other.dtype
        assert one.astype(other.dtype).tobytes() == other.tobytes()


@pytest.mark.parametrize("level", LEVELS)
def test_lists_come_back_bit_for_bit_at_every_level(catalog, level):
    assert catalog.description.shards == 3
    table = catalog.read(level=level)
    for name, lists in LISTS.items():
        require_same(table[name], lists)


def test_lists_of_some_rows_are_read(catalog):
    some = catalog.read(["mags"], rows=[3, 250, 499])
    require_same(some["mags"], [MAGS[3], MAGS[250], MAGS[499]])
    bright = catalog.where("mean < 19", columns=["times"])
    require_same(bright["times"], [TIMES[row] for row in np.flatnonzero(SCALARS["mean"] < 19)])
    with pytest.raises(InvalidRequestError, match="that column holds lists"):
        catalog.where("mags < 20")


def test_lists_are_written_to_parquet(catalog, tmp_path):
    catalog.to_parquet(tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    for name, lists in LISTS.items():
        require_same([np.array(one, lists[0].dtype) for one in table[name].to_pylist()], lists)


def test_absent_lists_stay_absent(tmp_path):
    lists = pa.array([[1, 2], None, [], [3]], pa.list_(pa.int64()))
    pq.write_table(pa.table({"x": [1.0, 2.0, 3.0, 4.0], "n": lists}), tmp_path / "t.parquet")
    catalog = made.build(made.write_survey(tmp_path, "few", ["t.parquet"]), "few")
    column = catalog.read()["n"]
    assert column.mask.tolist() == [False, True, False, False]
    catalog.to_parquet(tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["n"].to_pylist() == lists.to_pylist()


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (pa.array([["a"], ["b", "c"]]), "'n' is of type list<"),
        (pa.array([[[1]], [[2], [3]]]), "'n' is of type list<"),
    ],
)
def test_lists_of_other_things_are_left_out_and_listed(tmp_path, lists, words):
    pq.write_table(pa.table({"x": [1.0, 2.0], "n": lists}), tmp_path / "t.parquet")
    source = open_catalog("t", str(tmp_path / "t.parquet"), None, {})
    assert [column.name for column in source.columns] == ["x"]
    assert words in source.notices[0]


def test_lists_that_cannot_be_kept_are_an_error(tmp_path, monkeypatch):
    holes = pa.table({"x": [1.0, 2.0], "n": pa.array([[1, None], [2]])})
    pq.write_table(holes, tmp_path / "t.parquet")
    survey = made.write_survey(tmp_path, "t", ["t.parquet"])
    with pytest.raises(InputError, match="lists with nulls inside"):
        made.build(survey, "t")
    write_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="'times' holds several values in each row"):
        made.build(made.write_survey(tmp_path, "named", ["t.parquet"], 'id = "times"'), "named")
    monkeypatch.setattr("storage.catalogs.kinds.MAX_LIST_CHUNK_BYTES", 64 * 8 * 5)
    with pytest.raises(InputError, match="lists of up to 8 values; up to 4 are archived"):
        made.build(survey, "t")


def test_a_chunk_of_lists_is_checked():
    codec = ListsCodec()
    chunk = np.zeros((3, 5), np.int64)
    chunk[0, :3], chunk[2] = (2, 7, -1), (4, 1, 2, 3, 0)
    data = codec.encode_chunk(chunk)
    np.testing.assert_array_equal(codec.decode_chunk(data, (3, 5), chunk.dtype), chunk)
    with pytest.raises(CorruptDataError, match="a list of 4 values where 3 fit"):
        codec.decode_chunk(data, (3, 4), chunk.dtype)
    for place in range(4, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(CorruptDataError, match="does not match its checksum"):
            codec.decode_chunk(bytes(damaged), (3, 5), chunk.dtype)
