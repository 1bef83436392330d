"""Requests of objects through the client: place, likeness, cell, novelty, pixels."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from skyfold import cli, open_release
from skyfold.errors import CorruptDataError, InvalidRequestError, UnknownNameError
from skyfold.objects.index import KEY

RING = (300.0, 210.0)


@pytest.fixture
def objects(objects_release):
    return objects_release.objects


def test_numbers_are_rows_in_order(objects):
    table = objects.table()
    assert len(objects) == len(table) > 150
    assert np.array_equal(table["object"], np.arange(len(table)))
    asked = [7, 3, 99, 3]
    assert np.array_equal(objects.table(asked)["object"], asked)
    assert len(objects.table([])) == 0
    counts = dict(objects.description.images)
    assert "night1/mask" not in counts
    for name, count in counts.items():
        assert (np.asarray(table["image"]) == name).sum() == count == len(objects.of_image(name))


def test_planted_ring_is_the_most_novel(objects):
    first = objects.novel(1)
    assert str(first["image"][0]) == "night1/r"
    assert np.hypot(first["x"][0].value - RING[0], first["y"][0].value - RING[1]) < 15
    found = objects.novel(30)
    assert np.all(np.diff(found["novelty"]) <= 0)
    assert np.array_equal(found["novelty"], np.sort(objects.novelty)[::-1][:30])


def test_novelty_is_not_brightness(objects):
    table = objects.table(columns=["snr", "novelty"])
    rank = [np.argsort(np.argsort(np.asarray(table[name]))) for name in table.colnames]
    assert abs(np.corrcoef(rank)[0, 1]) < 0.4


def test_novelty_is_as_defined(objects):
    table = objects.table(columns=["snr", "residual", "isolation", "novelty"])
    values = [np.asarray(table[name], float) for name in table.colnames]
    assert np.allclose(objects.model.novelty(*values[:3]), values[3], rtol=1e-3, atol=1e-4)
    vectors = objects.vectors(np.arange(len(objects)))
    cells = objects.model.assign(vectors)
    assert np.array_equal(cells, objects.cells)
    assert np.allclose(objects.model.isolation(vectors), values[2], rtol=1e-5)


def test_similar_is_exact(objects):
    vectors = objects.vectors(np.arange(len(objects))).astype(int)
    for number in (0, 17, len(objects) - 1):
        found = objects.similar(number, 8)
        squares = ((vectors - vectors[number]) ** 2).sum(axis=1)
        expected = np.sort(np.delete(squares, number))[:8]
        assert number not in found["object"]
        assert np.array_equal(np.rint(found["latent_distance"] ** 2), expected)
        assert np.array_equal(squares[found["object"]], expected)


def test_similar_objects_are_alike(objects_release, truth):
    """Of a bright ellipse the nearest are ellipses more often than chance has it."""
    table = objects_release.objects.of_image("night1/r")
    known = truth["night1/r"]
    apart = np.hypot(
        np.asarray(table["x"])[:, None] - known["x"], np.asarray(table["y"])[:, None] - known["y"]
    )
    kind = np.where(apart.min(axis=1) < 2, known["extended"][apart.argmin(axis=1)], -1)
    kinds = dict(zip(np.asarray(table["object"]).tolist(), kind.tolist(), strict=True))
    bright = [
        int(row["object"])
        for row, one in zip(table, kind, strict=True)
        if one == 1 and row["snr"] > 80
    ]
    near = [
        kinds.get(int(n), -1)
        for one in bright
        for n in objects_release.objects.similar(one, 3)["object"]
    ]
    share = np.mean([one == 1 for one in near if one >= 0])
    assert share > 1.5 * known["extended"].mean()


def test_similar_to_a_position(objects):
    row = objects.of_image("night1/r")[5]
    number = int(row["object"])
    position = SkyCoord(row["ra"], row["dec"])
    assert objects.at(position) == number
    assert np.array_equal(
        objects.similar(position, 4)["object"], objects.similar(number, 4)["object"]
    )
    with pytest.raises(InvalidRequestError, match="no object within"):
        objects.similar(SkyCoord(10, -40, unit="deg"))


def test_cells_hold_every_object_once(objects):
    shape = objects.description.som["shape"]
    found = [objects.cell(cell, columns=["object", "cell"]) for cell in range(int(np.prod(shape)))]
    numbers = np.concatenate([np.asarray(one["object"]) for one in found])
    assert np.array_equal(np.sort(numbers), np.arange(len(objects)))
    assert all((one["cell"] == cell).all() for cell, one in enumerate(found))
    assert np.array_equal(objects.som["hits"].ravel(), [len(one) for one in found])
    with pytest.raises(InvalidRequestError, match="cells, from 0"):
        objects.cell(10_000)


def test_cone_is_that_of_the_positions(objects):
    table = objects.of_image("night1/r")
    sky = SkyCoord(table["ra"], table["dec"])
    centre = sky[20]
    found = objects.cone(centre, 15 * u.arcsec)
    expected = np.asarray(table["object"])[sky.separation(centre) <= 15 * u.arcsec]
    assert set(expected) <= set(np.asarray(found["object"]))
    assert (SkyCoord(found["ra"], found["dec"]).separation(centre) <= 15 * u.arcsec).all()


def test_cutouts_are_the_stored_pixels(objects, objects_release):
    numbers = [3, 0, 40]
    table = objects.table(numbers)
    stamps = objects.cutouts(table, "exact", size=21)
    assert [one.meta["object"] for one in stamps] == numbers
    for stamp, row in zip(stamps, table, strict=True):
        whole = objects_release.images.read(str(row["image"]), "exact").values
        x, y = round(row["x"].value), round(row["y"].value)
        if 10 <= x < whole.shape[1] - 10 and 10 <= y < whole.shape[0] - 10:
            expected = whole[y - 10 : y + 11, x - 10 : x + 11]
            assert np.array_equal(np.asarray(stamp.data, whole.dtype), expected, equal_nan=True)
    assert objects.cutouts(objects.of_image("night1/nowcs")[:1], "latent")[0].wcs is None
    with pytest.raises(InvalidRequestError, match="pixels a side"):
        objects.cutouts([0], size=0)


def test_drawn_and_explained(objects):
    rows, places = objects.tsne()
    assert np.isfinite(places).all()
    assert np.array_equal(np.unique(rows), rows)
    told = objects.explained()
    assert np.array_equal(told["rows"], objects.novel(len(told["rows"]))["object"])
    assert told["occlusion"].shape[1:] == (8, 8)


def test_occlusion_is_where_the_object_is(objects):
    """Hiding blocks that hold the ring changes its distance; blocks far from it hardly do."""
    told = objects.explained()["occlusion"][0]
    inner, outer = np.abs(told[2:6, 2:6]), np.abs(told)
    assert inner.sum() > 0.7 * outer.sum() > 0


def test_pickled_for_workers(objects):
    again = pickle.loads(pickle.dumps(objects))
    assert np.array_equal(again.novel(3)["object"], objects.novel(3)["object"])


def test_wrong_requests_say_what_is_allowed(objects):
    with pytest.raises(InvalidRequestError, match="numbered from 0"):
        objects.similar(10**6)
    for place in ((150.0, 2.0), "M 13", 1.5, True):
        with pytest.raises(InvalidRequestError, match="SkyCoord"):
            objects.similar(place)
    with pytest.raises(InvalidRequestError, match="one object at least"):
        objects.novel(0)
    with pytest.raises(UnknownNameError, match="was not searched"):
        objects.of_image("night1/mask")
    with pytest.raises(UnknownNameError, match="no column"):
        objects.table(columns=["magnitude"])


def test_release_without_objects_says_so(tiny_release):
    assert len(tiny_release.objects) == 0
    with pytest.raises(UnknownNameError, match="holds no objects"):
        tiny_release.objects.novel()


@pytest.mark.parametrize("damage", ["cut", "rows", "format", "not json"])
def test_damaged_description_raises(objects_url, tmp_path, damage):
    copy = Path(shutil.copytree(objects_url, tmp_path / "dr1"))
    text = (copy / KEY).read_text()
    plain = json.loads(text)
    changed = {
        "cut": text[:100],
        "rows": json.dumps(plain | {"rows": plain["rows"] + 1}),
        "format": json.dumps(plain | {"format": 99}),
        "not json": "<html>",
    }[damage]
    (copy / KEY).write_text(changed)
    with pytest.raises(CorruptDataError, match=r"objects\.json"):
        len(open_release(copy).objects)


def test_damaged_vectors_raise(objects_url, tmp_path):
    copy = Path(shutil.copytree(objects_url, tmp_path / "dr1"))
    shard = copy / "objects/vectors/c/0/0"
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(CorruptDataError):
        open_release(copy).objects.similar(0)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    return int(end.value.code or 0)


@pytest.mark.parametrize("command", [("objects",), ("catalog", "stars")])
def test_rows_go_to_files_called_parquet(objects_url, tmp_path, capsys, command):
    out = tmp_path / "t.csv"
    assert run(command[0], objects_url, *command[1:], "-o", str(out)) == 2
    assert "written as Parquet" in capsys.readouterr().err
    assert not out.exists()


def test_command_line(objects_url, tmp_path, capsys):
    out = tmp_path / "t.parquet"
    assert run("objects", objects_url, "-o", str(out)) == 0
    every = pq.read_table(out)
    assert every.num_rows == len(open_release(objects_url).objects)
    assert run("objects", objects_url, "--novel", "5", "-o", str(out)) == 0
    assert pq.read_table(out).num_rows == 5
    assert run("objects", objects_url, "--similar", "4", "-n", "3", "-o", str(out)) == 0
    assert "latent_distance" in pq.read_table(out).column_names
    assert run("objects", objects_url, "--cell", "0", "-o", str(out)) == 0
    assert run("objects", objects_url, "--cone", "150,2,0.003", "-o", str(out)) == 0
    capsys.readouterr()
    assert run("objects", objects_url, "--novel", "2", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["object"] for row in rows] == open_release(objects_url).objects.novel(2)[
        "object"
    ].tolist()
    assert run("objects", objects_url, "--novel", "5", "--cell", "1") == 2


def test_describing_again_gives_the_same_bytes(objects_survey, objects_url, tmp_path):
    """Over what a run left that was stopped before the end."""
    from flows.objects import describe_objects, keep_objects
    from skyfold.access.store import Store
    from storage.builder import ReleaseBuilder
    from storage.objects.writer import ObjectWriter

    copy = Path(shutil.copytree(objects_url, tmp_path / "dr1"))
    expected = {
        path.relative_to(copy): path.read_bytes()
        for path in sorted((copy / "objects").rglob("*"))
        if path.is_file()
    }
    (copy / "manifest.json").unlink()
    (copy / KEY).unlink()
    builder = ReleaseBuilder(Store(str(copy)))
    release = open_release(str(copy), unsealed=True)
    writer = ObjectWriter(builder, release)
    for entry in writer.entries:
        keep_objects(writer, release, entry.id)
    assert describe_objects(builder, release, 1) == sum(writer.counts().values())
    for path, content in expected.items():
        assert (copy / path).read_bytes() == content, path


def test_pictures_of_the_map(objects_release):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    image = objects_release.plot_som(plane="hits")
    assert np.array_equal(image.get_array(), objects_release.objects.som["hits"])
    with pytest.raises(InvalidRequestError, match="no plane"):
        objects_release.plot_som(plane="magnitude")
