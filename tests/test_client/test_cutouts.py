"""Subsets of images: lists of positions, epochs, sections, refining; on any part of the sky."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import skycoord_to_pixel

from skyfold import errors, sky
from skyfold.images.cutouts import unit_of

SIZE = 6 * u.arcsec


def centre(release, name: str) -> SkyCoord:
    entry = release.images.entry(f"sky/{name}")
    return SkyCoord(entry.ra, entry.dec, unit="deg")


def test_many_positions_are_as_one_by_one(sky_release):
    rng = np.random.default_rng(3)
    around = centre(sky_release, "early")
    positions = around.directional_offset_by(
        rng.uniform(0, 360, 40) * u.deg, rng.uniform(0, 25, 40) * u.arcsec
    )
    seen = []
    found = sky_release.images.cutouts(
        positions, SIZE, level="bounded", progress=lambda done, total: seen.append((done, total))
    )
    assert found.failures == {}
    assert seen[-1] == (40, 40)
    for position, cutout in zip(positions, found, strict=True):
        alone = sky_release.images.cutout(position, SIZE, level="bounded")
        np.testing.assert_array_equal(cutout.data, alone.data)
        np.testing.assert_array_equal(cutout.mask, alone.mask)
        assert cutout.meta == alone.meta
        assert np.allclose(skycoord_to_pixel(position, cutout.wcs), 14.5, atol=0.5 + 1e-6)


def test_failures_are_told_for_each_position(sky_release):
    positions = SkyCoord([150.0, 77.0, 0.001], [2.0, 5.0, -20.0], unit="deg")
    found = sky_release.images.cutouts(positions, SIZE)
    assert [cutout is None for cutout in found] == [False, True, False]
    assert isinstance(found.failures[1], errors.OutsideFootprintError)
    assert "77 5" in str(found.failures[1])
    assert repr(found) == "<Cutouts: 2 of 3 positions>"
    with pytest.raises(errors.OutsideFootprintError, match="77 5"):
        sky_release.images.cutouts(positions, SIZE, on_error="raise")
    with pytest.raises(errors.InvalidRequestError, match="keep, raise"):
        sky_release.images.cutouts(positions, SIZE, on_error="ignore")
    assert list(sky_release.images.cutouts(positions[:0], SIZE)) == []
    for get in (sky_release.images.cutout, sky_release.images.cutouts, sky_release.images.epochs):
        with pytest.raises(
            errors.InvalidRequestError, match="is a tuple: give an astropy SkyCoord"
        ):
            get((150.0, 2.0), SIZE)


@pytest.mark.parametrize("offset", [-10.05, -1.05, 0.05, 1.05, 10.05])
def test_right_ascension_wraps_at_zero(sky_release, sky_pixels, offset):
    position = SkyCoord((offset / 3600) % 360, -20, unit="deg")
    cutout = sky_release.images.cutout(position, SIZE, level="exact")
    x, y = sky_release.images.entry("sky/wrap").celestial_wcs().world_to_pixel(position)
    at = sky_pixels["sky/wrap"][round(float(y)), round(float(x))]
    inside = tuple(round(float(v)) for v in cutout.wcs.world_to_pixel(position)[::-1])
    assert cutout.meta["image"] == "sky/wrap"
    assert cutout.data[inside] == at


@pytest.mark.parametrize("ra", [0, 90, 123.4, 270])
def test_the_pole_is_a_place_like_others(sky_release, ra):
    position = SkyCoord(ra, 90 - 5 / 3600, unit="deg")
    cutout = sky_release.images.cutout(position, SIZE, level="exact")
    assert cutout.meta["image"] == "sky/pole"
    assert np.allclose(skycoord_to_pixel(position, cutout.wcs), 14.5, atol=0.5 + 1e-6)
    assert sky_release.images.covering(SkyCoord(0, -90, unit="deg")) == []


def test_positions_of_other_frames(sky_release):
    position = SkyCoord(150.0, 2.0, unit="deg")
    here = sky_release.images.cutout(position, SIZE)
    there = sky_release.images.cutout(position.galactic, SIZE)
    np.testing.assert_array_equal(here.data, there.data)


def test_epochs_are_every_image_that_covers_in_order_of_time(sky_release):
    position = SkyCoord(150.0015, 2.0, unit="deg")
    stack = sky_release.images.epochs(position, SIZE, band="r", level="bounded")
    assert [one.meta["image"] for one in stack] == ["sky/late", "sky/early"]
    assert stack[0].meta["time"] < stack[1].meta["time"]
    assert {one.shape for one in stack} == {(30, 30)}
    for one in stack:
        corners = SkyCoord(one.wcs.calc_footprint(), unit="deg")
        assert (corners.separation(position) < 5 * u.arcsec).all()
    with pytest.raises(errors.OutsideFootprintError):
        sky_release.images.epochs(SkyCoord(40, 2, unit="deg"), SIZE)


def test_epochs_that_reach_the_box_in_part(sky_release):
    entry = sky_release.images.entry("sky/early")
    beyond = entry.celestial_wcs().pixel_to_world(310.0, 140.0)  # 10.5 pixels beyond the edge
    assert {e.id for e in sky_release.images.covering(beyond)} <= {"sky/late"}
    partly = sky_release.images.epochs(beyond, (20, 40), partly=True, level="exact")
    assert "sky/early" in {one.meta["image"] for one in partly}
    cut = next(one for one in partly if one.meta["image"] == "sky/early")
    assert cut.wcs.array_shape == cut.shape == (20, 40)
    assert cut.mask[:, -11:].all()
    assert not cut.mask[:, :9].any()


def test_sections_by_id(sky_release, sky_pixels):
    window = (slice(250, 280), slice(100, 290))
    section = sky_release.images.section("sky/wrap", *window, level="exact")
    np.testing.assert_array_equal(section.data, sky_pixels["sky/wrap"][window])
    assert section.unit == u.electron
    whole = sky_release.images.section("sky/wrap", level="exact")
    assert whole.shape == (280, 300)
    place = section.wcs.pixel_to_world(0, 0)
    assert np.allclose(skycoord_to_pixel(place, whole.wcs), (100, 250), atol=1e-6)
    with pytest.raises(errors.InvalidRequestError, match="step"):
        sky_release.images.section("sky/pole", slice(0, 10, 2))


def test_a_cutout_can_be_refined_and_written(sky_release, tmp_path):
    rough = sky_release.images.cutout(SkyCoord(150, 2, unit="deg"), (40, 500), level="latent")
    fine = sky_release.images.refine(rough, "exact")
    assert fine.shape == rough.shape
    assert fine.meta == rough.meta | {"level": "exact", "bound": 0.0}
    for cutout, bound in ((rough, "none"), (fine, 0.0)):
        cutout.write(tmp_path / "cut.fits", overwrite=True)
        header = fits.getheader(tmp_path / "cut.fits")
        assert header["HIERARCH SKYFOLD bound"] == bound
        assert header["HIERARCH SKYFOLD image"] == fine.meta["image"]
        back = CCDData.read(tmp_path / "cut.fits")
        np.testing.assert_array_equal(back.data, cutout.data)
    rough.meta["release"] = "elsewhere"
    with pytest.raises(errors.InvalidRequestError, match="elsewhere"):
        sky_release.images.refine(rough, "exact")


def test_a_size_in_the_wrong_unit_is_refused(sky_release):
    with pytest.raises(errors.InvalidRequestError, match="at most"):
        sky_release.images.cutout(SkyCoord(150, 2, unit="deg"), 6 * u.deg)


@pytest.mark.parametrize(
    ("card", "unit"),
    [
        ("", u.adu),
        ("ADU", u.adu),
        ("electron", u.electron),
        ("ELECTRONS", u.electron),
        ("ELECTRONS/S", u.electron / u.s),
        ("e-/s", u.electron / u.s),
        ("counts s-1", u.count / u.s),
        ("DN/S", u.DN / u.s),
        ("MJy/sr", u.MJy / u.sr),
        ("mJy", u.mJy),
        ("10^-20 erg/s/cm2", u.Unit(1e-20 * u.erg / u.s / u.cm**2)),
    ],
)
def test_units_as_surveys_spell_them(sky_release, card, unit):
    entry = next(iter(sky_release.images.entries.values()))
    assert unit_of(replace(entry, unit=card)).to(unit) == 1


def test_an_unknown_unit_is_one_by_itself(sky_release, tmp_path):
    entry = next(iter(sky_release.images.entries.values()))
    unit, other = (unit_of(replace(entry, unit=card)) for card in ("ZORKMID/X", "ARB"))
    assert unit.to_string() == "ZORKMID/X"
    assert unit == unit_of(replace(entry, unit=" ZORKMID/X"))
    assert unit not in (u.adu, other)
    cutout = CCDData(np.ones((2, 2)), unit=unit)
    assert cutout.subtract(cutout).unit == unit
    assert str(pickle.loads(pickle.dumps(cutout)).unit) == "ZORKMID/X"
    cutout.write(tmp_path / "c.fits")
    assert fits.getval(tmp_path / "c.fits", "BUNIT") == "ZORKMID/X"


def test_the_header_is_that_of_the_file(sky_release, sky_survey):
    expected = fits.getheader(sky_survey.parent / "raw/wrap.fits")
    found = sky_release.images.header("sky/wrap")
    assert {card: found.get(card) for card in expected} == dict(expected)


DISTORTED = {
    "CTYPE1": "RA---TAN-SIP",
    "CTYPE2": "DEC--TAN-SIP",
    "A_ORDER": 2,
    "B_ORDER": 2,
    "A_2_0": 1.2345678901234e-5,
    "B_0_2": -2.5e-6,
}
TPV = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV"} | {
    f"PV{axis}_{n}": v for axis in (1, 2) for n, v in ((0, 1e-6), (1, 1.0), (4, 3.3e-3), (7, 1e-4))
}
OLD = {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "RADECSYS": "FK4", "EQUINOX": 1950.0}


@pytest.mark.parametrize("cards", [DISTORTED, TPV, OLD, {"LONPOLE": 170.0}, {"CROTA2": 12.0}])
def test_the_index_keeps_what_places_pixels(cards):
    header = fits.PrimaryHDU(np.zeros((50, 60))).header
    header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": -5.0})
    header.update({"CRPIX1": 20.0, "CRPIX2": 30.0, "CDELT1": -1e-4, "CDELT2": 1e-4})
    header.update({"OBSERVER": "E. P. Hubble", "EXPTIME": 30.0} | cards)
    text = sky.wcs_cards(header)
    assert "Hubble" not in text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        few, whole = sky.cards_wcs(text), WCS(header)
    x, y = np.meshgrid(np.arange(0, 60, 7.0), np.arange(0, 50, 7.0))
    for one, other in zip(few.all_pix2world(x, y, 0), whole.all_pix2world(x, y, 0), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sky.wcs_cards(fits.Header({"OBJECT": "no place"})) == ""
