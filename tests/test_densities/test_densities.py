"""Densities written and read back through the client: bounds, bits, damage, repetition."""

import contextlib
import pickle
import sys
import warnings

import numpy as np
import pytest

from skyfold.codecs.amplitude import hellinger
from skyfold.densities.index import LEVELS, DensityIndex, read_index, write_index
from skyfold.densities.rows import to_masses
from skyfold.errors import (
    CorruptDataError,
    InputError,
    InvalidRequestError,
    LevelNotStoredError,
    MissingDependencyError,
    UnknownNameError,
)
from skyfold.release import open_release
from storage.densities.writer import archive_shard, describe_bad

from .conftest import build, make_mixtures, open_densities_of, write_survey


@pytest.mark.parametrize("name", ["smooth", "bad", "counts"])
def test_exact_is_every_bit(archive, name):
    got = archive.densities[name].read(level="exact")
    assert got.dtype == archive.raw[name].dtype
    assert got.tobytes() == archive.raw[name].tobytes()


@pytest.mark.parametrize("name", ["smooth", "bad"])
@pytest.mark.parametrize("level", ["latent", "bounded"])
def test_every_row_keeps_the_bounds(archive, name, level):
    one = archive.densities[name]
    mass, reason = to_masses(archive.raw[name], one.index.weights())
    got = one.read(level=level)
    good = reason == ""
    decoded = got[good].astype(np.float64) * one.index.weights()
    share = one.index.bounds.used(level, mass[good], decoded / decoded.sum(axis=1, keepdims=True))
    assert share.max() <= 1.00001  # float32 rounds what was checked in float64
    assert share.max() > 0.5  # and is not wasteful
    assert (got[good] > 0).all()
    np.testing.assert_allclose(np.trapezoid(got[good], one.grid, axis=1), 1, rtol=1e-5)


def test_bad_rows_are_listed_and_are_nan(archive):
    one = archive.densities["bad"]
    assert one.bad_rows() == {
        3: "holds NaN",
        7: "sums to zero",
        11: "is negative",
        20: "holds infinity",
    }
    got = one.read(level="latent")
    assert np.isnan(got[[3, 7, 11, 20]]).all()
    assert np.isfinite(np.delete(got, [3, 7, 11, 20], axis=0)).all()
    assert one.info()["bad_rows"] == 4
    assert describe_bad(list(one.index.shards))["is negative"] == (1, 11)


def test_counts_are_smaller_than_any_model_of_them(archive):
    one = archive.densities["counts"]
    assert "latent" not in one.index.shards[0].bytes
    sizes = {level: one.info()["levels"][level]["bytes"] for level in LEVELS[1:]}
    assert len(set(sizes.values())) == 1
    got = one.read(level="latent")
    total = got @ one.index.weights()
    np.testing.assert_allclose(total, 1)
    np.testing.assert_allclose(
        got[5] / got[5].max(), archive.raw["counts"][5] / archive.raw["counts"][5].max()
    )


@pytest.mark.parametrize(
    "rows", [slice(3, 9), [5, 1, 5, -1], np.array([299]), slice(None, None, 50), [], np.int64(4)]
)
@pytest.mark.parametrize("level", LEVELS)
def test_rows_are_those_of_the_whole(archive, rows, level):
    one = archive.densities["smooth"]
    whole = one.read(level=level)
    expected = whole[np.atleast_1d(rows)] if not isinstance(rows, (slice, list)) else whole[rows]
    assert np.array_equal(one.read(rows, level), expected.reshape(-1, 101))


def test_a_mask_chooses_rows(archive):
    one = archive.densities["smooth"]
    chosen = np.arange(300) % 7 == 0
    assert np.array_equal(one.read(chosen), one.read(np.flatnonzero(chosen)))


def test_wrong_requests_name_what_is_allowed(archive):
    one = archive.densities["smooth"]
    with pytest.raises(LevelNotStoredError, match="map, latent, bounded, exact"):
        one.read(level="sources")
    with pytest.raises(InvalidRequestError, match="0 to 299"):
        one.read([300])
    with pytest.raises(InvalidRequestError, match="row numbers"):
        one.read([0.5])
    with pytest.raises(UnknownNameError, match="smooth"):
        archive.densities["none"]
    assert "none" not in archive.densities
    assert list(archive.densities) == ["smooth", "bad", "counts"]


def test_info_counts_the_bytes_of_the_objects(archive):
    one = archive.densities["smooth"]
    info, sizes = one.info(), archive.made.builder.store.sizes("densities/smooth")
    assert (info["rows"], info["columns"]) == (300, 101)
    stored = {
        layer: sum(size for key, size in sizes.items() if f"/{layer}/c/" in key)
        for layer in ("prototypes", "map", "latent", "bounded", "exact", "checksum")
    }
    assert info["levels"]["map"]["bytes"] == sum(
        stored[layer] for layer in ("prototypes", "map", "checksum")
    )
    assert info["levels"]["latent"]["bytes"] == stored["latent"] + stored["checksum"]
    assert info["levels"]["exact"]["bytes"] == stored["exact"] + stored["checksum"]
    assert info["levels"]["latent"]["bytes_per_row"] <= 20


def test_writing_again_writes_nothing_and_the_same(archive, tmp_path):
    again = build(archive.survey)
    assert again.new == {"smooth": [False], "bad": [False], "counts": [False]}
    assert again.indexes == archive.made.indexes
    x, smooth = make_mixtures(300)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "smooth.npy", smooth.astype(np.float32))
    text = '[[densities]]\nname = "smooth"\nfiles = ["smooth.npy"]\ngrid = "x.npy"\n'
    other = build(write_survey(tmp_path, text))
    for key, size in other.builder.store.sizes("densities/smooth").items():
        data = other.builder.store.read(key)
        assert len(data) == size
        assert data == archive.made.builder.store.read(key), key


def test_a_lost_object_is_written_again(tmp_path):
    x, smooth = make_mixtures(60)
    np.save(tmp_path / "p.npy", np.concatenate([smooth, x[np.newaxis]]))
    text = '[[densities]]\nname = "pz"\nfiles = ["p.npy"]\ngrid = "last-row"\n'
    survey = write_survey(tmp_path, text)
    made = build(survey)
    key = made.indexes["pz"].shard_key("bounded", 0)
    before = made.builder.store.read(key)
    made.builder.store.delete(key)
    assert build(survey).new["pz"] == [True]
    assert made.builder.store.read(key) == before


@pytest.mark.parametrize("layer", ["map", "latent", "bounded", "exact", "checksum"])
def test_a_flipped_byte_never_passes(tmp_path, layer):
    x, smooth = make_mixtures(60)  # the map of fewer is one cell, whose number takes no byte
    np.save(tmp_path / "p.npy", np.concatenate([smooth, x[np.newaxis]]))
    text = '[[densities]]\nname = "pz"\nfiles = ["p.npy"]\ngrid = "last-row"\n'
    made = build(write_survey(tmp_path, text))
    one = open_densities_of(made.builder)["pz"]
    expected = {level: one.read(level=level) for level in LEVELS}
    passed = 0
    key = made.indexes["pz"].shard_key(layer, 0)
    good = made.builder.store.read(key)
    for place in np.linspace(0, len(good) - 1, 12).astype(int).tolist():
        bad = bytearray(good)
        bad[place] ^= 0x41
        made.builder.store.write(key, bytes(bad))
        one = open_densities_of(made.builder)["pz"]
        level = layer if layer in LEVELS else "latent"
        with contextlib.suppress(CorruptDataError):
            # a byte that this level does not look at changes nothing
            assert np.array_equal(one.read(level=level), expected[level])
            passed += 1
    assert passed <= 9


def test_shards_of_many_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("skyfold.densities.index.CHUNK_ROWS", 16)
    monkeypatch.setattr("skyfold.densities.index.SHARD_CHUNKS", 2)
    x, smooth = make_mixtures(75, points=32)
    np.save(tmp_path / "p.npy", np.concatenate([smooth, x[np.newaxis]]))
    text = '[[densities]]\nname = "pz"\nfiles = ["p.npy"]\ngrid = "last-row"\n'
    made = build(write_survey(tmp_path, text))
    index = made.indexes["pz"]
    assert index.spans == [(0, 32), (32, 64), (64, 75)]
    one = open_densities_of(made.builder)["pz"]
    assert one.read(level="exact").tobytes() == smooth.tobytes()
    assert np.array_equal(one.read([70, 2, 40]), one.read()[[70, 2, 40]])


def test_changed_input_is_refused(archive, tmp_path):
    index = archive.made.indexes["smooth"]
    with pytest.raises(InputError, match="run train again"):
        archive_shard(archive.made.builder, index, archive.made.sources["bad"], 0)


def test_the_map_gives_each_row_the_mean_density_of_its_cell(archive):
    one, raw = archive.densities["smooth"], archive.raw["smooth"].astype(float)
    som, cells = one.som, one.cells()
    assert som["density"].shape == (*one.index.map_shape, 101)
    assert som["hits"].sum() == len(raw) == len(cells)
    assert som["u_matrix"].shape == som["hits"].shape
    coarse = one.read(level="map")
    np.testing.assert_allclose(np.trapezoid(coarse, one.grid, axis=1), 1, rtol=1e-5)
    flat = som["density"].reshape(-1, 101)
    np.testing.assert_allclose(coarse, flat[cells], rtol=1e-6)
    width = one.index.weights()
    apart = [hellinger(raw * width, np.roll(other, 7, axis=0) * width).mean() for other in (raw,)]
    assert hellinger(raw * width, coarse * width).mean() < 0.7 * apart[0]
    number = int(som["hits"].argmax())
    rows, values = one.cell(number, level="exact")
    assert len(rows) == som["hits"].max()
    np.testing.assert_array_equal(values, archive.raw["smooth"][rows])
    with pytest.raises(InvalidRequestError, match="cells"):
        one.cell(som["hits"].size)


def test_rows_that_are_no_densities_have_no_cell(archive):
    one = archive.densities["bad"]
    bad = sorted(one.bad_rows())
    np.testing.assert_array_equal(np.flatnonzero(one.cells() < 0), bad)
    assert np.isnan(one.read(bad, level="map")).all()
    assert one.som["hits"].sum() == len(one) - len(bad)


def test_index_survives_its_file(archive):
    index = archive.made.indexes["bad"]
    data = write_index(index)
    assert read_index(data, "key") == index
    assert write_index(read_index(data, "key")) == data
    for bad in (b"", data[:-30], data[:50]):
        with pytest.raises(CorruptDataError, match="key"):
            read_index(bad, "key")
    short = DensityIndex(**{**vars(index), "rows": index.rows + 1})
    with pytest.raises(CorruptDataError, match="do not cover"):
        read_index(write_index(short), "key")


def test_a_library_travels_to_other_processes(archive):
    again = pickle.loads(pickle.dumps(archive.densities["smooth"]))
    assert np.array_equal(again.read([1]), archive.densities["smooth"].read([1]))


def test_an_ensemble_of_qp_has_the_same_densities(archive):
    pytest.importorskip("qp")
    one = archive.densities["smooth"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ensemble = one.to_qp(level="latent", rows=slice(3, 9))
        found = ensemble.pdf(one.grid)
    assert ensemble.npdf == 6
    np.testing.assert_allclose(found, one.read(slice(3, 9), "latent"), rtol=1e-4, atol=1e-6)


def test_ensemble_needs_qp(archive, monkeypatch):
    monkeypatch.setitem(sys.modules, "qp", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        archive.densities["smooth"].to_qp()


def test_release_is_found_by_its_url(archive):
    assert open_release(archive.made.builder.store.url, unsealed=True).about["densities"]
