"""docs/format.md is enough to decode a release: a decoder written from it finds the same bits."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import sys
from pathlib import Path

import independent_decoder
import numpy as np
import pytest
import synthetic
from astropy.io import fits
from independent_decoder import Archive, Tables
from small_release import build_release

import storage.images.shards
from skyfold import DataRelease, open_release
from skyfold.compiled import readers
from skyfold.ladder import LEVELS
from storage.objects.tiles import tile_about

TINY = ("night1/g", "night1/r")  # float32 with NaN and padding, and uint16
BOUNDED = {"blank", "floats", "even", "deep", "striped", "bright", "far", "glowing"}
SHAPE = (270, 300)  # edge tiles that reach beyond the image on both sides


@pytest.fixture(scope="module")
def pixels() -> dict[str, np.ndarray]:
    """Stored arrays that take every path of the ladder."""
    sky = synthetic.sky(SHAPE, sources=80, sigma=20.0, background=300, seed=4, flux=(10, 30000))
    blank = sky.round().astype("i2")
    blank[30:50, 100:140] = -32768
    floats = (sky * 1e-13).astype("f4")
    floats[200:210, 250:290] = np.nan
    payload = np.array([0x7FC00123, 0xFFC00001, 0xFF800000], "u4").view("f4")
    floats[5, 7:10] = payload
    wide = sky * 1e7
    wide[96:112, 96:112] += 1e6 * wide.std()  # where the guard needs residues
    wide[0, 0], wide[269, 299] = -0.0, np.inf
    counts = (synthetic.sky(SHAPE, seed=5) > 2).astype("u1")
    cube = np.stack([sky, sky + 4]).round().astype("i4")[:, :140]
    even = (0.85 * sky).round().astype("i4")  # cells of 8 integers, made 9
    deep = sky.astype("f8")
    deep[:128, 64:192] = 300 + 0.3 * (deep[:128, 64:192] - 300)
    striped = sky.round().astype("i4")
    striped[:, 130:] += 160
    striped[:20] += 100
    bright = synthetic.bright_sky(SHAPE).astype("i4")
    far = (sky.round() - 2.0**31).astype("i4")  # of 32 unsigned bits, as FITS stores them
    y, x = np.indices(SHAPE)
    glowing = sky + 8 * np.exp(-((y - 150) ** 2 + (x - 200) ** 2) / (2 * 20**2))
    return {
        "blank": blank, "floats": floats, "wide": wide, "counts": counts, "cube": cube,
        "even": even, "deep": deep, "striped": striped, "bright": bright,
        "far": far, "glowing": glowing.astype("f4"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def ladder_url(pixels, tmp_path_factory) -> str:
    """A release where no image is stored directly only because that is smaller."""
    folder = tmp_path_factory.mktemp("ladder")
    wcs = synthetic.simple_wcs(SHAPE)
    for name, values in pixels.items():
        cards = {"BLANK": -32768} if name == "blank" else {"GAIN": 2.0} if name == "cube" else {}
        cards |= {"GAIN": 1.0} if name == "bright" else {}
        synthetic.write_fits(folder / f"raw/{name}.fits", values, wcs, **cards)
    survey = synthetic.survey_toml(folder, '[[images]]\nset = "all"\nfiles = ["raw/*.fits"]\n')
    url = str(folder / "archive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.images.shards, "DIRECT_GAIN", 0.0)
        assert build_release(survey, url) == []
    return url


@pytest.fixture(scope="module")
def ladder(ladder_url) -> tuple[Archive, DataRelease]:
    return Archive(ladder_url), open_release(ladder_url)


OUTSIDE = {"constriction", "numpy", "onnxruntime", "pcodec", "pyarrow"}


def test_it_shares_no_code():
    files = Path(independent_decoder.__file__).parent.glob("independent_*.py")
    nodes = [node for one in files for node in ast.walk(ast.parse(one.read_text()))]
    plain = [node for node in nodes if isinstance(node, ast.Import)]
    named = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in plain for alias in node.names}
    names |= {node.module or "" for node in named}
    found = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert found - {"independent_interlaced", "independent_kept"} == OUTSIDE


@pytest.mark.parametrize("level", ["bounded", "exact"])
@pytest.mark.parametrize("image_id", TINY)
def test_both_find_the_same_bits(tiny_url, tiny_release, image_id, level):
    found = Archive(tiny_url).decode(image_id, level)
    expected = tiny_release.images.read(image_id, level).values
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "name",
    [
        "blank",
        "floats",
        "wide",
        "counts",
        "cube",
        "even",
        "deep",
        "striped",
        "bright",
        "far",
        "glowing",
    ],
)
def test_it_finds_what_was_archived(ladder, pixels, name):
    archive, _ = ladder
    found = archive.decode(f"all/{name}", "exact")
    assert found.dtype == pixels[name].dtype
    assert found.tobytes() == pixels[name].tobytes()


@pytest.mark.parametrize("name", sorted(BOUNDED))
def test_both_find_the_same_bounded_values(ladder, name):
    archive, release = ladder
    bounded = release.images.read(f"all/{name}", "bounded").values
    assert archive.decode(f"all/{name}", "bounded").tobytes() == bounded.tobytes()


def test_smooth_light_has_a_mesh_of_its_own(ladder):
    """Which `sources` alone adds, compiled or not, to its values and to what its checksum is of."""
    archive, release = ladder
    assert archive.images["all/glowing"]["glowing"]
    entry = release.images.entry("all/glowing")
    assert entry.bytes["glow"] > 0
    assert ["glow" in entry.layers_at(level) for level in LEVELS] == [False, True, False, False]
    with readers(compiled=False):
        plain = release.images.read("all/glowing", "sources")
    with readers(compiled=True):
        window = release.images.read("all/glowing", "sources")
    assert window.values.tobytes() == plain.values.tobytes()
    latent = release.images.read("all/glowing", "latent")
    lit = (window.values - latent.values)[120:180, 170:230] > 0
    assert lit.mean() > 0.5


def test_deeper_parts_have_narrower_cells(ladder, pixels):
    archive, release = ladder
    assert archive.images["all/deep"]["uneven"]
    assert not archive.images["all/floats"]["uneven"]
    window = release.images.read("all/deep", "bounded")
    bound = release.images.entry("all/deep").bound
    error = np.abs(window.values - pixels["deep"]) / bound
    assert (error <= window.sigma).all()
    assert error[32:96, 96:160].max() < 0.35 * 20 < error[32:96, 224:].max()


def test_the_background_may_be_far_from_zero(ladder, pixels):
    archive, release = ladder
    entry = release.images.entry("all/far")
    assert entry.mode != "direct"
    assert archive.images["all/far"]["noise"]["origin"] < -(2**30)
    window = release.images.read("all/far", "bounded")
    error = np.abs(window.values.astype("f8") - pixels["far"]) / entry.bound
    assert (error <= window.sigma).all()
    assert entry.bytes["sources"] < 1.2 * release.images.entry("all/even").bytes["sources"]


def test_light_of_stars_has_its_own_noise_on_a_bright_sky(ladder, pixels):
    archive, release = ladder
    assert archive.images["all/bright"]["noise"]["of_sky"]
    with readers(compiled=False):
        plain = release.images.read("all/bright", "bounded")
    with readers(compiled=True):
        window = release.images.read("all/bright", "bounded")
    assert window.values.tobytes() == plain.values.tobytes()
    assert window.sigma.tobytes() == plain.sigma.tobytes()
    entry = release.images.entry("all/bright")
    error = np.abs(window.values - pixels["bright"].astype("f8")) / entry.bound
    assert (error <= window.sigma).all()


def test_offsets_of_rows_and_columns_are_added(ladder, pixels):
    archive, release = ladder
    assert archive.images["all/striped"]["striped"]
    assert not archive.images["all/even"]["striped"]
    window = release.images.read("all/striped", "latent")
    off = np.median(window.values - pixels["striped"], axis=0)
    assert np.abs(off).max() < 20 < 160
    assert np.abs(np.median(window.values - pixels["striped"], axis=1)).max() < 20


def test_objects_are_looked_at_without_offsets(ladder):
    _, release = ladder
    tile, _ = tile_about(release, "all/striped", 150.0, 135.0)
    assert np.abs(np.median(tile[10:250, 10:250], axis=0)).max() < 2
    assert np.abs(np.median(tile[10:250, 10:250], axis=1)).max() < 2


def test_cells_of_an_even_number_of_integers_hold_one_more(ladder, pixels):
    archive, release = ladder
    assert archive.images["all/even"]["odd_cells"]
    assert not archive.images["all/floats"]["odd_cells"]
    window = release.images.read("all/even", "bounded")
    error = np.abs(window.values.astype(float) - pixels["even"])
    bound = release.images.entry("all/even").bound
    assert (error <= bound * window.sigma).all()
    assert set(np.unique(error[:100, :100])) == {0, 1, 2, 3, 4}


def test_a_raw_array_stored_beside_the_ladder(pixels, tmp_path, monkeypatch):
    synthetic.write_fits(tmp_path / "raw/blank.fits", pixels["blank"], BLANK=-32768)
    survey = synthetic.survey_toml(tmp_path, '[[images]]\nset = "all"\nfiles = ["raw/*.fits"]\n')
    monkeypatch.setattr(storage.images.shards, "DIRECT_GAIN", 10.0)
    monkeypatch.setattr(storage.images.shards, "CLEARLY", 10.0)
    url = str(tmp_path / "archive")
    assert build_release(survey, url) == []
    archive = Archive(url)
    assert archive.images["all/blank"]["mode"] == "ladder+direct"
    assert archive.decode("all/blank", "exact").tobytes() == pixels["blank"].tobytes()
    release = open_release(url)
    found = release.images.read("all/blank", "exact")
    assert found.values.tobytes() == pixels["blank"].tobytes()
    bounded = release.images.read("all/blank", "bounded")
    np.testing.assert_allclose(found.sigma, bounded.sigma, rtol=0.2)


def test_noise_of_few_integers_has_the_levels_below_the_raw_array(tmp_path):
    """Cells of one integer each are no level of their own, but the sources are."""
    sky = synthetic.sky((400, 500), sources=40, sigma=2.0, background=100, seed=3)
    stored = np.rint(sky).astype("i2")
    synthetic.write_fits(tmp_path / "raw/faint.fits", stored)
    survey = synthetic.survey_toml(tmp_path, '[[images]]\nset = "all"\nfiles = ["raw/*.fits"]\n')
    url = str(tmp_path / "archive")
    assert build_release(survey, url) == []
    archive, release = Archive(url), open_release(url)
    entry = release.images.entry("all/faint")
    assert entry.mode == archive.images["all/faint"]["mode"] == "sources+direct"
    assert 2 * entry.bytes_at("sources") < entry.bytes_at("bounded") == entry.bytes_at("exact")
    assert entry.bound == 0
    for level in ("bounded", "exact"):
        window = release.images.read("all/faint", level)
        np.testing.assert_array_equal(window.values, stored)
        np.testing.assert_array_equal(archive.decode("all/faint", level), stored)
        assert np.median(window.sigma) == pytest.approx(2, rel=0.05)
    sources = release.images.read("all/faint", "sources")
    bright = stored > 130
    assert np.abs(sources.values - stored)[bright].max() <= 2 * np.median(sources.sigma)
    assert 0.5 < np.std((sources.values - stored)[~bright] / sources.sigma[~bright]) < 1.1


def test_every_path_was_taken(ladder):
    rows = ladder[0].images
    modes = {name.removeprefix("all/"): row["mode"] for name, row in rows.items()}
    assert modes.pop("counts") == "direct"
    assert set(modes.values()) == {"ladder"}
    assert all(rows[f"all/{name}"]["fills"] for name in ("blank", "floats", "wide"))
    for layer in ("guard", "latent", "sources", "bounded", "exact"):
        assert dict(rows["all/cube"]["bytes"])[layer] > 0
    assert rows["all/cube"]["noise"]["slope"] > 0


def test_details_say_what_shards_say(ladder, tiny_url, tiny_release, tiny_survey):
    archive, _ = ladder
    places, _ = archive.details("all/cube")
    row = archive.images["all/cube"]
    folder = archive.folder / f"images/all/{row['group']}/bounded/c/{row['row']}/0/0"
    shard = folder.read_bytes()
    tiles = 4  # two planes of 140 x 300 pixels
    for tile in range(tiles):
        offset, length = places[4].get(tile, (0, 0))
        stored = independent_decoder.inner_chunk(shard, tile, tiles)
        assert (stored or b"") == shard[offset : offset + length]
    cards = Archive(tiny_url).details("night1/r")[1]
    file = fits.getheader(tiny_survey.parent / "raw/r.fits")
    assert {card.rstrip() for card in cards} >= {str(file.cards["CRVAL1"]).rstrip()}
    assert cards[-1].rstrip() == "END"
    assert len(cards) - 1 == len(tiny_release.images.header("night1/r").cards)


def test_the_manifest_lists_every_object(ladder):
    archive, _ = ladder
    files = [path for path in archive.folder.rglob("*") if path.is_file()]
    assert archive.check_manifest() == len(files) - 1


def test_a_flipped_bit_does_not_pass(ladder_url, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ladder_url, copy)
    row = Archive(copy).images["all/cube"]
    path = copy / f"images/all/{row['group']}/bounded/c/{row['row']}/0/0"
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises((AssertionError, RuntimeError)):  # of the checksum, or of pcodec
        Archive(copy).decode("all/cube", "bounded")


def test_guards_of_every_kind_and_large_latents_occur(ladder):
    archive, _ = ladder
    guards, largest = set(), 0
    for row in archive.images.values():
        if row["mode"] == "ladder":
            image = independent_decoder.Image(archive, row)
            guards |= set(np.unique(image.layer("guard", 0, 0)).tolist())
            largest = max(largest, int(np.abs(image.layer("latent", 0, 0)).max()))
    assert {0, 1, 2} <= guards
    assert max(guards) > 2
    assert largest > 100


@pytest.mark.parametrize("name", ["tile", "uneven"])
def test_golden_latents_are_read_from_their_description(name):
    golden = Path(__file__).parent / "golden"
    path = golden / "skyfold.sparse_latents" / f"{name}.json"
    about = json.loads(path.read_text())
    tables = Tables((golden / "skyfold.latents/tables.bin").read_bytes())
    found = tables.decode(path.with_suffix(".bin").read_bytes(), about["shape"][1:], sparse=True)
    assert hashlib.sha256(found.astype("<i2").tobytes()).hexdigest() == about["sha256"]
