"""A release as its reader finds it: bits, bounds, cutouts, choice, damage."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import synthetic
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData

import skyfold
from skyfold import errors, open_release
from skyfold.ladder import LEVELS

IMAGES = ("night1/g", "night1/i", "night1/r")


def raw(survey: Path, image_id: str) -> np.ndarray:
    path = survey.parent / "raw" / f"{image_id.rsplit('/', 1)[-1]}.fits"
    with fits.open(path, do_not_scale_image_data=True) as hdus:
        data = hdus[0].data
        return data.astype(data.dtype.newbyteorder("="))


@pytest.mark.parametrize("image_id", IMAGES)
def test_exact_returns_every_bit(tiny_release, tiny_survey, image_id):
    window = tiny_release.images.read(image_id, "exact")
    expected = raw(tiny_survey, image_id)
    assert window.values.dtype == expected.dtype
    assert window.values.tobytes() == expected.tobytes()


def test_whole_numbers_of_64_bits_return_wherever_they_lie(tmp_path):
    from small_release import build_release

    sky = np.rint(synthetic.sky((270, 300), sources=80, sigma=20.0, flux=(10, 30000))).astype("i8")
    pixels = {
        "near": sky,
        "far": sky + (5 << 30),
        "further": sky - (1 << 50),
        "extreme": np.clip(sky, 0, None) + (np.iinfo("i8").max - 300_000),
        "any": np.random.default_rng(1).integers(-(1 << 62), 1 << 62, sky.shape),
    }
    for name, values in pixels.items():
        synthetic.write_fits(tmp_path / f"raw/{name}.fits", values)
    survey = synthetic.survey_toml(tmp_path, '[[images]]\nset = "all"\nfiles = ["raw/*.fits"]\n')
    assert build_release(survey, str(tmp_path / "archive")) == []
    release = open_release(str(tmp_path / "archive"))
    for name, values in pixels.items():
        np.testing.assert_array_equal(release.images.read(f"all/{name}", "exact").values, values)


def test_pixels_and_skies_far_from_all_others_return(tmp_path):
    """An absurd pixel costs the others nothing; a sky too far away is stored directly."""
    from small_release import build_release

    sky = synthetic.sky((270, 300), sources=80, sigma=20.0, background=300, flux=(10, 30000))
    pixels = {}
    for power in (6, 9, 12, 15, 30):
        pixels[f"pixel{power}"] = sky.astype("f4")
        pixels[f"pixel{power}"][100, 100] = -(10.0**power)
        pixels[f"pixel{power}slope"] = sky + 40 * np.arange(300) + 0.0
        pixels[f"pixel{power}slope"][100, 100] = 10.0**power
        pixels[f"sky{power}"] = sky + 10.0**power
    for name, values in pixels.items():
        synthetic.write_fits(tmp_path / f"raw/{name}.fits", values)
    survey = synthetic.survey_toml(tmp_path, '[[images]]\nset = "all"\nfiles = ["raw/*.fits"]\n')
    set_aside = {Path(one.file).stem for one in build_release(survey, str(tmp_path / "archive"))}
    assert set_aside <= {"sky30"}  # one value, and no noise
    release = open_release(str(tmp_path / "archive"))
    for name, values in pixels.items():
        if name not in set_aside:
            window = release.images.read(f"all/{name}", "exact")
            np.testing.assert_array_equal(window.values, values)
        if name.startswith("pixel"):
            assert release.images.entry(f"all/{name}").mode != "direct"


@pytest.mark.parametrize("peak", [1e5, 1e7, 4e7])
def test_bounded_keeps_its_bound_where_steps_of_floats_are_wide(tmp_path, peak):
    """Above 10^6 times the noise a float32 has steps as wide as cells."""
    from independent_decoder import Archive
    from small_release import build_release

    bright = (peak, 30 * peak)
    sky = synthetic.sky((270, 300), sources=60, sigma=20.0, background=300, flux=bright)
    stored = sky.astype("f4")
    synthetic.write_fits(tmp_path / "raw/a.fits", stored)
    survey = synthetic.survey_toml(tmp_path, '[[images]]\nset = "all"\nfiles = ["raw/*.fits"]\n')
    assert build_release(survey, str(tmp_path / "archive")) == []
    images = open_release(str(tmp_path / "archive")).images
    bounded = images.read("all/a", "bounded")
    off = np.abs(bounded.values.astype("f8") - stored) / bounded.sigma
    assert off.max() <= images.entry("all/a").step / 2
    assert images.read("all/a", "exact").values.tobytes() == stored.tobytes()
    other = Archive(str(tmp_path / "archive")).decode("all/a", "bounded")
    np.testing.assert_array_equal(other, bounded.values)


@pytest.mark.parametrize(
    ("dtype", "sigma"), [("f4", 1e-44), ("f4", 1e-41), ("f8", 1e-320), ("f8", 1e301), ("f8", 1e305)]
)
def test_at_the_ends_of_what_floats_can_hold_bits_return_and_bounds_hold(tmp_path, dtype, sigma):
    from small_release import build_release

    stored = (np.random.default_rng(3).normal(size=(270, 300)) * sigma).astype(dtype)
    synthetic.write_fits(tmp_path / "raw/a.fits", stored)
    survey = synthetic.survey_toml(tmp_path, '[[images]]\nset = "all"\nfiles = ["raw/*.fits"]\n')
    assert build_release(survey, str(tmp_path / "archive")) == []
    images = open_release(str(tmp_path / "archive")).images
    assert images.read("all/a", "exact").values.tobytes() == stored.tobytes()
    bounded, entry = images.read("all/a", "bounded"), images.entry("all/a")
    if entry.mode == "direct":
        assert bounded.values.tobytes() == stored.tobytes()
        return
    off = np.abs(bounded.values.astype("f8") - stored)
    assert (off <= entry.step / 2 * bounded.sigma).all()


@pytest.mark.parametrize("image_id", IMAGES)
def test_bounded_keeps_its_bound(tiny_release, tiny_survey, image_id):
    window = tiny_release.images.read(image_id, "bounded")
    expected = raw(tiny_survey, image_id).astype("f8")
    good = window.flags < 2
    error = np.abs(window.values[good] - expected[good]) / window.sigma[good]
    assert 0.2 < error.max() <= tiny_release.info()["images"]["night1"]["bound"] == 0.25
    np.testing.assert_array_equal(np.isnan(window.values), np.isnan(expected))
    assert (window.values[expected == 0] == 0).all()


@pytest.mark.parametrize("image_id", IMAGES)
def test_every_level_refines(tiny_release, tiny_survey, image_id):
    expected = raw(tiny_survey, image_id).astype("f8")
    rms = []
    for level in LEVELS:
        window = tiny_release.images.read(image_id, level)
        good = window.flags == 0
        sigma = tiny_release.images.read(image_id, "bounded").sigma[good]
        rms.append(np.std((window.values[good] - expected[good]) / sigma))
    assert rms[0] > rms[1] > rms[2] > rms[3] == 0
    entry = tiny_release.images.entry(image_id)
    sizes = [entry.bytes_at(level) for level in LEVELS]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("level", LEVELS)
def test_a_window_is_a_part_of_the_whole(tiny_release, level):
    whole = tiny_release.images.read("night1/g", level).values
    part = tiny_release.images.read("night1/g", level, slice(37, 299), slice(250, 333)).values
    same = np.isclose(part, whole[37:299, 250:333], rtol=2e-6, atol=0, equal_nan=True)
    assert same.all()
    if level in ("bounded", "exact"):
        np.testing.assert_array_equal(part, whole[37:299, 250:333])


def test_decode_gives_the_file_back(tiny_release, tiny_survey, tmp_path):
    tiny_release.images.hdu("night1/r").writeto(tmp_path / "r.fits")
    path = tiny_survey.parent / "raw/r.fits"
    np.testing.assert_array_equal(fits.getdata(tmp_path / "r.fits"), fits.getdata(path))
    header, expected = fits.getheader(tmp_path / "r.fits"), fits.getheader(path)
    assert {card: header.get(card) for card in expected} == dict(expected)


def test_cutout_is_ccddata_with_wcs_mask_uncertainty(tiny_release):
    centre = SkyCoord(150.0, 2.0, unit="deg")
    cutout = tiny_release.images.cutout(centre, 8 * u.arcsec, band="r", level="bounded")
    assert isinstance(cutout, CCDData)
    assert cutout.shape == (40, 40)
    assert cutout.meta["level"] == "bounded"
    assert cutout.meta["bound"] == 0.25
    x, y = cutout.wcs.world_to_pixel(centre)
    assert abs(x - 19.5) <= 0.5 + 1e-6
    assert abs(y - 19.5) <= 0.5 + 1e-6
    exact = tiny_release.images.cutout(centre, 8 * u.arcsec, band="r", level="exact")
    error = np.abs(cutout.data - exact.data) / cutout.uncertainty.array
    assert error.max() <= 0.25
    assert cutout.unit == u.adu
    assert not cutout.mask.any()
    assert abs(np.median(exact.data) - 400) < 10  # BZERO applied


def test_cutout_across_the_edge_is_padded_and_masked(tiny_release):
    entry = tiny_release.images.entry("night1/g")
    from skyfold.sky import read_wcs

    corner = read_wcs(entry.fits_header()).pixel_to_world(1.0, 1.0)
    cutout = tiny_release.images.cutout(corner, (20, 30), image_id="night1/g", level="exact")
    assert cutout.shape == (20, 30)
    assert cutout.mask[:8].all()
    assert np.isnan(cutout.data[:8]).all()


def test_positions_bands_and_levels_that_do_not_exist(tiny_release):
    images = tiny_release.images
    here = SkyCoord(150.0, 2.0, unit="deg")
    with pytest.raises(errors.OutsideFootprintError, match="covers"):
        images.cutout(SkyCoord(10.0, 2.0, unit="deg"), 5 * u.arcsec)
    with pytest.raises(errors.UnknownNameError, match="bands are g, i, r"):
        images.cutout(here, 5 * u.arcsec, band="K")
    with pytest.raises(errors.LevelNotStoredError, match="latent, sources, bounded, exact"):
        images.cutout(here, 5 * u.arcsec, level="best")
    with pytest.raises(errors.InvalidRequestError, match="positive"):
        images.cutout(here, -5 * u.arcsec)
    with pytest.raises(errors.InvalidRequestError, match="angle"):
        images.cutout(here, 5 * u.kg)
    with pytest.raises(errors.UnknownNameError, match="night1/g"):
        images.read("night1/x")
    with pytest.raises(errors.InvalidRequestError, match="rows"):
        images.read("night1/g", "exact", slice(0, 301), slice(0, 10))


def test_record_and_choice(tiny_release):
    rows = tiny_release.fidelity.rows()
    assert {row["level"] for row in rows} == set(LEVELS)
    assert {"photometry", "detection", "astrometry", "shapes"} <= {row["case"] for row in rows}
    exact = [row for row in rows if row["level"] == "exact" and row["n"] > 0]
    assert all(row["high"] in (0, None) for row in exact)
    level = tiny_release.choose("photometry", "5 sigma", band="r")
    assert level in LEVELS
    assert tiny_release.choose("photometry", "1e-9 sigma") == "exact"
    with pytest.raises(errors.UnknownNameError, match="photometry"):
        tiny_release.choose("astrology", "1 sigma")


def test_a_release_pickles(tiny_release):
    again = pickle.loads(pickle.dumps(tiny_release))
    before = tiny_release.images.read("night1/r", "sources").values
    np.testing.assert_array_equal(again.images.read("night1/r", "sources").values, before)


def test_what_is_not_a_release(tmp_path, tiny_url, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.ReleaseNotFoundError, match=f"{tmp_path.name}/nothing: it has no"):
        open_release("nothing")
    (tmp_path / "zarr.json").write_text("{}")
    with pytest.raises(errors.ReleaseNotFoundError, match="does not describe"):
        open_release(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_url, copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(errors.UnsealedReleaseError, match="not sealed"):
        open_release(copy)
    root = json.loads((copy / "zarr.json").read_text())
    root["attributes"]["skyfold"]["format"] = 99
    (copy / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(errors.FormatVersionError, match="upgrade"):
        open_release(copy)


def damage(path: Path, rng: np.random.Generator) -> None:
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(data))


def test_verify_names_every_damaged_object(tiny_url, tmp_path):
    rng = np.random.default_rng(0)
    keys = sorted(str(p.relative_to(tiny_url)) for p in Path(tiny_url).rglob("*") if p.is_file())
    assert open_release(tiny_url).verify() == {}
    for key in keys:
        if key in ("zarr.json", "manifest.json"):
            continue
        copy = tmp_path / "copy"
        shutil.copytree(tiny_url, copy)
        damage(copy / key, rng)
        assert list(open_release(copy).verify()) == [key]
        shutil.rmtree(copy)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_url, copy)
    (copy / keys[3]).unlink()
    (copy / "stray").write_text("x")
    assert set(open_release(copy).verify()) == {keys[3], "stray"}


def test_damaged_pixels_never_come_back_quietly(tiny_url, tmp_path):
    """Flip bits of layers: reading raises, or gives the very same pixels."""
    rng = np.random.default_rng(1)
    reference = open_release(tiny_url)
    shards = [
        p.relative_to(tiny_url) for p in Path(tiny_url).glob("images/**/c/**/*") if p.is_file()
    ]
    detected = 0
    for n in range(27):
        copy = tmp_path / str(n)
        shutil.copytree(tiny_url, copy)
        damage(copy / shards[n % len(shards)], rng)
        release = open_release(copy)
        for image_id in IMAGES:
            for level in LEVELS:
                try:
                    met = release.images.read(image_id, level)
                except errors.CorruptDataError:
                    detected += 1
                    continue
                expected = reference.images.read(image_id, level)
                np.testing.assert_array_equal(met.values, expected.values)
                np.testing.assert_array_equal(met.flags, expected.flags)
        shutil.rmtree(copy)
    assert detected > 27


def test_public_names():
    assert skyfold.__all__ == sorted(skyfold.__all__)
    assert all(hasattr(skyfold, name) for name in skyfold.__all__)


@pytest.mark.parametrize("level", LEVELS)
def test_a_whole_image_is_written_in_strips(tiny_release, level, tmp_path, monkeypatch):
    """Rows of tiles one after the other make the file that one image would."""
    monkeypatch.setattr("skyfold.images.fits._PIXELS", 1)
    for number, image_id in enumerate(tiny_release.images):
        whole, strips = tmp_path / f"{number}.fits", tmp_path / f"strips{number}.fits"
        hdu = tiny_release.images.hdu(image_id, level)
        hdu.writeto(whole, output_verify="silentfix")
        tiny_release.images.write_fits(image_id, strips, level)
        assert strips.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob(".*"))
