import bz2
import gzip
import hashlib
import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skyfold.errors import ConfigError, InputError, StoreUnavailableError
from storage.config import load_config
from storage.images.mapped import LARGE, part_of
from storage.survey import ImageRef, PlaneRef, find_images, read_image

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
RANDOM = np.random.default_rng(20)
NOISE = RANDOM.normal(10.0, 1.0, (20, 30)).astype(np.float32)


def fits_bytes(*hdus):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is written wrongly here is what is to be read
        fits.HDUList(list(hdus)).writeto(buffer, output_verify="ignore")
    return buffer.getvalue()


def image_hdu(array, name=None, **cards):
    hdu = fits.ImageHDU(array, name=name)
    hdu.header.update({key.replace("_", "-"): value for key, value in cards.items()})
    return hdu


def plain(array, **cards):
    primary = fits.PrimaryHDU(array)
    primary.header.update({key.replace("_", "-"): value for key, value in cards.items()})
    return fits_bytes(primary)


@pytest.fixture
def survey(tmp_path):
    """Write files and a configuration; gives the configuration."""

    def make(files, tables, options=""):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        text = '[release]\nurl = "out/p/r"\n' + options
        for table in [tables] if isinstance(tables, str) else tables:
            text += f"[[images]]\n{table}\n"
        (tmp_path / "survey.toml").write_text(text)
        return load_config(tmp_path / "survey.toml")

    return make


@pytest.fixture(params=["read", "mapped"])
def read_one(survey, request, monkeypatch):
    """Read an image, also as if its file were a large one."""
    if request.param == "mapped":
        monkeypatch.setattr("storage.images.fetching.LARGE", 1)

    def read(content, lines="", name="x.fits", **more):
        config = survey({name: content, **more}, f"set = 's'\nfiles = ['{name}']\n{lines}")
        refs, aside = find_images(config)
        assert aside == []
        return read_image(refs[0], storage_options={})

    return read


def reference(path, hdu=0, **planes):
    return ImageRef("s/x", "s", "r", path.name, str(path), hdu, **planes)


def refused(path, content, hdu=0):
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_image(reference(path, hdu), storage_options={})
    assert path.name in str(caught.value)
    return str(caught.value)


# finding


def test_ids_order_and_paths(survey, tmp_path):
    files = dict.fromkeys(["raw/b.fits", "raw/a c.fit.gz", "raw/sub/d.fts"], plain(NOISE))
    config = survey(files, "set = 's'\nfiles = ['raw/*.fit*', 'raw/**/*.f*']\nhdu = 0\nband='r'")
    refs, aside = find_images(config)
    assert aside == []
    assert [(ref.id, ref.file, ref.band, ref.hdu) for ref in refs] == [
        ("s/a_c", "raw/a c.fit.gz", "r", 0),
        ("s/b", "raw/b.fits", "r", 0),
        ("s/d", "raw/sub/d.fts", "r", 0),
    ]
    assert refs[1].url == str(tmp_path / "raw" / "b.fits")
    assert find_images(config) == (refs, aside)


def test_colliding_names_get_parents_then_marks(survey):
    names = ["n1/a/x.fits", "n2/a/x.fits", "n2/y.fits", "n2/y.fits.gz", "n3/z.fits"]
    config = survey(
        dict.fromkeys(names, plain(NOISE)), "set='s'\nfiles=['**/*.fits*']\nhdu = 0\nband = 'r'"
    )
    ids = [ref.id for ref in find_images(config)[0]]
    assert ids[:2] == ["s/n1-a-x", "s/n2-a-x"]
    assert ids[4] == "s/z"
    assert len(set(ids)) == 5
    assert all(name.startswith("s/n2-y-") for name in ids[2:4])


def test_sets_merge_and_may_share_stems(survey):
    files = dict.fromkeys(["a/x.fits", "b/x.fits"], plain(NOISE))
    tables = ["set='s'\nfiles=['a/*']", "set='t'\nfiles=['b/*']", "set='s'\nfiles=['b/*']"]
    ids = [ref.id for ref in find_images(survey(files, tables))[0]]
    assert ids == ["s/a-x", "t/x", "s/b-x"]


@pytest.mark.parametrize(
    ("hdu", "expected"),
    [
        ("", [2]),
        ("hdu = 3", [3]),
        ("hdu = 'b'", [3]),
        ("hdu = 'A,2'", [4]),
        ("hdu = 'a'", [2, 4]),
        ("hdu = [4, 'A']", [4, 2]),
        ("hdu = ['A,1', 'A,2']", [2, 4]),
        ("hdu = 'all'\nmask = {hdu = 'A'}", [1, 3]),
        ("hdu = 'all'", [1, 2, 3, 4]),
        ("hdu = 'all'\nmask = {hdu = 'B'}", [1, 2, 4]),
    ],
)
def test_hdus_by_number_name_list_and_all(survey, hdu, expected):
    table = fits.BinTableHDU.from_columns([fits.Column("c", "E", array=np.ones(3))])
    second = image_hdu(NOISE, "A")
    second.ver = 2
    line = image_hdu(NOISE[0], "LINE")
    content = fits_bytes(
        fits.PrimaryHDU(), line, image_hdu(NOISE, "A"), image_hdu(NOISE, "B"), second, table
    )
    refs, aside = find_images(survey({"m.fits": content}, f"set='s'\nfiles=['m.fits']\n{hdu}"))
    assert aside == []
    assert [ref.hdu for ref in refs] == expected
    several = len(expected) > 1
    assert [ref.id for ref in refs] == [f"s/m/{n}" if several else "s/m" for n in expected]


def versions(name, *values):
    """HDUs of one name, versions 1, 2 and so on, filled with a value each."""
    out = []
    for number, value in enumerate(values, 1):
        hdu = image_hdu(np.full(NOISE.shape, value, "f4"), name)
        hdu.ver = number
        out.append(hdu)
    return out


def test_planes_of_several_versions_are_those_of_the_image(survey):
    images = versions("SCI", 10.0, 20.0)
    for number, hdu in enumerate(images):
        hdu.data += NOISE * (1 + number)
    masks = versions("DQ", 0.0, 0.0)
    masks[1].data[3, 4] = 1
    order = [images[0], *versions("VAR", 4.0, 9.0), masks[0], images[1], masks[1]]
    files = {"m.fits": fits_bytes(fits.PrimaryHDU(), *order)}
    lines = "set = 's'\nfiles = ['m.fits']\nmask = {hdu = 'DQ'}\nvariance = {hdu = 'VAR'}\n"
    for hdu in ("hdu = 'SCI'", "hdu = [1, 5]", "hdu = 'all'", "hdu = ['SCI,1', 'SCI,2']"):
        refs, _ = find_images(survey(files, lines + hdu))
        assert [ref.hdu for ref in refs] == [1, 5]
        first, second = (read_image(ref, storage_options={}) for ref in refs)
        assert np.nanmedian(first.variance) == 4
        assert np.nanmedian(second.variance) == 9
        assert not first.mask.any()
        assert np.argwhere(second.mask).tolist() == [[3, 4]]


def test_a_plane_of_several_versions_that_are_not_the_images_is_refused(survey):
    third = versions("SCI", 1.0, 2.0, 3.0)[2]
    third.data += NOISE
    content = fits_bytes(fits.PrimaryHDU(), third, *versions("DQ", 0.0, 0.0))
    lines = "set = 's'\nfiles = ['m.fits']\nhdu = 'SCI'\nmask = {hdu = 'DQ'}"
    (ref,), _ = find_images(survey({"m.fits": content}, lines))
    with pytest.raises(InputError, match=r"2 HDUs are called 'DQ', of versions \(EXTVER\) 1, 2"):
        read_image(ref, storage_options={})
    (ref,), _ = find_images(survey({"m.fits": content}, lines.replace("'DQ'", "'DQ,2'")))
    assert not read_image(ref, storage_options={}).mask.any()


def test_band_from_image_or_primary_header(survey):
    first, second = image_hdu(NOISE, FILTER="i "), image_hdu(NOISE)
    primary = fits.PrimaryHDU()
    primary.header["FILTER"] = "r"
    config = survey(
        {"m.fits": fits_bytes(primary, first, second), "n.fits": plain(NOISE)},
        "set = 's'\nfiles = ['*.fits']\nhdu = 'all'\nband = 'header:FILTER'",
    )
    refs, aside = find_images(config)
    assert [ref.band for ref in refs] == ["i", "r"]
    assert [item.file for item in aside] == ["n.fits"]
    assert "FILTER" in aside[0].reason


def test_bad_files_are_set_aside_with_reasons(survey):
    table = fits.BinTableHDU.from_columns([fits.Column("c", "E", array=np.ones(3))])
    files = {
        "1good.fits": plain(NOISE),
        "2empty.fits": b"",
        "3html.fits": b"<html>no such file</html>" * 200,
        "4table.fits": fits_bytes(fits.PrimaryHDU(), table),
        "5zero.fits": plain(np.zeros((0, 5), np.float32)),
        "6cut.fits.gz": gzip.compress(plain(NOISE))[:100],
    }
    config = survey(files, "set = 's'\nfiles = ['*.fits*']")
    refs, aside = find_images(config)
    assert [ref.file for ref in refs] == ["1good.fits"]
    assert [item.file for item in aside] == sorted(files)[1:]
    assert all(item.set == "s" and item.file in item.reason for item in aside)
    assert "no image" in aside[2].reason
    config = survey(files, "set = 's'\nfiles = ['1good.fits', '4table.fits']\nhdu = 'SCI'")
    reasons = [item.reason for item in find_images(config)[1]]
    assert all("no HDU 'SCI'" in reason for reason in reasons)
    assert len(reasons) == 2


def test_configuration_mistakes_stop(survey):
    with pytest.raises(ConfigError, match=r"images\[0\]\.files of set 's'.*'none/\*\.fits'"):
        find_images(survey({}, "set = 's'\nfiles = ['none/*.fits']"))
    files = {"a.fits": plain(NOISE)}
    with pytest.raises(ConfigError, match=r"HDU 0 of a\.fits twice"):
        find_images(survey(files, ["set='s'\nfiles=['a.fits']", "set='s'\nfiles=['*.fits']"]))


def test_file_with_a_known_hdu_is_not_opened(survey):
    config = survey({"a.fits": b"not FITS"}, "set = 's'\nfiles = ['a.fits']\nhdu = 0")
    assert [ref.id for ref in find_images(config)[0]] == ["s/a"]


# reading pixels


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
def test_every_bitpix_and_dimension(read_one, dtype, shape):
    array = RANDOM.integers(0, 200, shape).astype(dtype)
    image = read_one(plain(array))
    whole = part_of(image.stored, slice(None))
    assert whole.dtype == np.dtype(dtype)
    assert whole.dtype.isnative
    assert image.stored.shape == (array.size // 7, 7)
    assert image.shape == shape
    np.testing.assert_array_equal(image.stored.reshape(shape), array)
    assert (image.bscale, image.bzero, image.blank, image.mask, image.variance) == (
        1.0,
        0.0,
        None,
        None,
        None,
    )


def test_nan_payloads_survive(read_one):
    bits = NOISE.view(np.uint32).copy()
    bits[0, :4] = [0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000]
    header = fits.PrimaryHDU(NOISE).header.tostring().encode()
    content = header + bits.astype(">u4").tobytes().ljust(2880, b"\0")
    stored = part_of(read_one(content).stored, slice(None))
    np.testing.assert_array_equal(stored.view(np.uint32), bits)


def test_integers_stay_unscaled(read_one):
    unsigned = RANDOM.integers(0, 65535, (20, 30)).astype(np.uint16)
    image = read_one(plain(unsigned))
    assert image.stored.dtype.newbyteorder("=") == np.int16
    assert (image.bscale, image.bzero) == (1.0, 32768.0)
    np.testing.assert_array_equal(image.stored * image.bscale + image.bzero, unsigned)
    packed = read_one(fits_bytes(fits.PrimaryHDU(), fits.CompImageHDU(unsigned)), name="y.fits")
    np.testing.assert_array_equal(packed.stored, image.stored)
    assert packed.stored.dtype == np.int16
    assert packed.bzero == 32768.0


def test_scale_and_blank(read_one):
    array = RANDOM.integers(0, 99, (6, 7)).astype(np.int16)
    image = read_one(plain(array, BSCALE=0.25, BZERO=7.0, BLANK=-32768, OBJECT="M 67"))
    assert (image.bscale, image.bzero, image.blank) == (0.25, 7.0, -32768)
    assert (image.header["BSCALE"], image.header["OBJECT"]) == (0.25, "M 67")
    assert image.stored.dtype.newbyteorder("=") == np.int16


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, bytes])
def test_compression_is_seen_from_the_bytes_not_the_suffix(read_one, pack):
    content = pack(plain(NOISE))
    image = read_one(content, name="x.fits.fz")
    np.testing.assert_array_equal(image.stored, NOISE)
    assert image.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("method", "name"), [(-1, "NO_DITHER"), (1, "SUBTRACTIVE_DITHER_1")])
def test_tile_compressed_floats(read_one, dtype, method, name):
    packed = fits.CompImageHDU(NOISE.astype(dtype), quantize_level=4, quantize_method=method)
    content = fits_bytes(fits.PrimaryHDU(), packed)
    image = read_one(content)
    with fits.open(io.BytesIO(content)) as hdus:
        np.testing.assert_array_equal(image.stored, hdus[1].data)
    with fits.open(io.BytesIO(content), disable_image_compression=True) as hdus:
        assert image.quant_step == np.median(hdus[1].data["ZSCALE"])
    assert image.stored.dtype == np.dtype(dtype)
    assert image.quant_method == name
    assert image.header["NAXIS1"] == 30
    assert "ZIMAGE" not in image.header


def test_lossless_tiles_are_no_quantisation(read_one):
    packed = fits.CompImageHDU(NOISE, quantize_level=0, compression_type="GZIP_2")
    image = read_one(fits_bytes(fits.PrimaryHDU(), packed))
    np.testing.assert_array_equal(image.stored, NOISE)
    assert image.quant_step is None


# refusals


WHOLE = fits_bytes(fits.PrimaryHDU(), image_hdu(NOISE, "A"), image_hdu(NOISE, "B"))
FIRST_END = 2880 + 2880 + 2880


@pytest.mark.filterwarnings("default", "error::ResourceWarning")
@pytest.mark.parametrize("length", [FIRST_END - 600, FIRST_END + 1000, len(WHOLE) - 2000, 1000, 5])
def test_truncated_files(tmp_path, length):
    # Not even an undamaged first image is taken: what else the file held is unknown.
    message = refused(tmp_path / "cut.fits", WHOLE[:length], hdu=1)
    assert any(word in message for word in ("truncated", "cut off", "not a readable FITS"))


def test_only_padding_cut_off_or_bytes_added_is_whole(tmp_path):
    for content in (WHOLE[: len(WHOLE) - 400], WHOLE + b"\0" * 500):
        path = tmp_path / "x.fits"
        path.write_bytes(content)
        image = read_image(reference(path, 2), storage_options={})
        np.testing.assert_array_equal(image.stored, NOISE)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_truncated_archives(tmp_path, pack):
    whole = pack(plain(NOISE))
    for length in (len(whole) // 2, len(whole) - 3, 12):
        assert "not a readable FITS" in refused(tmp_path / "x.fits", whole[:length])


def test_truncated_and_damaged_tiles(tmp_path):
    whole = fits_bytes(fits.PrimaryHDU(), fits.CompImageHDU((NOISE * 100).astype(np.int32)))
    with fits.open(io.BytesIO(whole), disable_image_compression=True) as hdus:
        start, size = hdus[1].fileinfo()["datLoc"], hdus[1].size
    assert "truncated" in refused(tmp_path / "x.fits", whole[: start + size - 1], hdu=1)
    broken = bytearray(whole)
    broken[start : start + 160] = b"\x7f" * 160  # lengths and offsets of the tiles
    assert "not a readable FITS" in refused(tmp_path / "x.fits", bytes(broken), hdu=1)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"BITPIX  =                  -32", b"BITPIX  =                   12", "BITPIX 12"),
        (b"BITPIX  =                  -32", b"BITPIX  =                'abc'", "x.fits"),
        (b"NAXIS1  =                   30", b"NAXIS1  =            900000000", "truncated"),
        (b"NAXIS1  =                   30", b"NAXIS1  =                  -30", "x.fits"),
        (b"SIMPLE  =", b"SIMPLF  =", "not a readable FITS"),
    ],
)
def test_broken_headers(tmp_path, old, new, reason):
    content = plain(NOISE)
    assert content.count(old) == 1
    assert reason in refused(tmp_path / "x.fits", content.replace(old, new))
    extension = fits_bytes(fits.PrimaryHDU(), image_hdu(NOISE))
    if not old.startswith(b"SIMPLE"):
        refused(tmp_path / "x.fits", extension.replace(old, new), hdu=1)


def test_random_damage_is_an_input_error_or_harmless(tmp_path):
    floats = fits_bytes(fits.PrimaryHDU(), fits.CompImageHDU(NOISE))
    path = tmp_path / "x.fits"
    random = np.random.default_rng(3)
    letters = np.frombuffer(b"0123456789 'TF=-E.", np.uint8)
    for whole in (fits_bytes(fits.PrimaryHDU(), image_hdu(NOISE)), floats) * 75:
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(0, 6000, 2)] = random.choice(letters, 2)
        path.write_bytes(damaged.tobytes())
        try:
            image = read_image(reference(path, 1), storage_options={})
        except InputError as error:
            assert "x.fits" in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert image.stored.ndim == 2


@pytest.mark.parametrize(
    ("content", "hdu", "reason"),
    [
        (b"", 0, "not a readable FITS"),
        (plain(NOISE), 3, "no HDU 3"),
        (plain(None), 0, "no pixels"),
        (plain(np.zeros((0, 4), np.int16)), 0, "no pixels"),
        (
            fits_bytes(
                fits.PrimaryHDU(),
                fits.BinTableHDU.from_columns([fits.Column("c", "E", array=np.ones(3))]),
            ),
            1,
            "is a table",
        ),
        (plain(np.full((5, 5), np.nan)), 0, "all 25 pixels are NaN"),
        (plain(np.full((5, 5), -9, np.int16), BLANK=-9), 0, "all 25 pixels are BLANK"),
        (plain(np.full((5, 5), 4e-12)), 0, "stored values are 4e-12"),
        (plain(np.full((5, 5), 17, np.int16)), 0, "stored values are 17"),
        (plain(NOISE, BSCALE=0.0), 0, "BSCALE 0.0"),
    ],
)
def test_unusable_images(tmp_path, content, hdu, reason):
    assert reason in refused(tmp_path / "x.fits", content, hdu)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(InputError, match=r"gone\.fits: there is no such file"):
        read_image(reference(tmp_path / "gone.fits"), storage_options={})
    with pytest.raises(InputError, match="cannot be read"):
        read_image(reference(tmp_path), storage_options={})


# planes and facts


def test_mask_weight_and_names_of_planes(read_one):
    flags = np.zeros((20, 30), np.int16)
    flags[0, :3] = [1, 2, 5]
    weight = np.full((20, 30), 4.0, np.float32)
    weight[1, :3] = [0.0, -1.0, np.nan]
    lines = "mask = 'm/{stem}_{hdu}.fits'\nweight = {replace = ['x_i', 'x_w']}"
    planes = {"m/x_i_0.fits": plain(flags), "x_w.fits.gz": gzip.compress(plain(weight))}
    image = read_one(plain(NOISE), lines, name="x_i.fits.gz", **planes)
    bad = np.zeros((20, 30), bool)
    bad[:2, :3] = True
    np.testing.assert_array_equal(image.mask, bad)
    np.testing.assert_array_equal(np.isnan(image.variance), weight != 4)
    assert np.all(image.variance[weight == 4] == 0.25)


def test_planes_of_the_same_file_and_mask_bits(read_one):
    flags = np.zeros((20, 30), np.uint16)
    flags[0, :3] = [1, 32, 33]
    variance = np.full((20, 30), 1.6e-23)
    content = fits_bytes(
        fits.PrimaryHDU(),
        image_hdu(NOISE, "SCI"),
        image_hdu(flags, "MASK"),
        image_hdu(variance, "VAR"),
    )
    lines = "hdu = 'SCI'\nvariance = {hdu = 'VAR'}\nmask = {hdu = 'MASK'"
    assert np.argwhere(read_one(content, lines + "}").mask).tolist() == [[0, 0], [0, 1], [0, 2]]
    image = read_one(content, lines + ", bits = [0]}")
    assert np.argwhere(image.mask).tolist() == [[0, 0], [0, 2]]
    assert np.all(image.variance == 1.6e-23)


def test_scaled_plane_and_relative_weight(read_one):
    stored = np.full((20, 30), 2, np.int16)
    stored[3, 4] = 0
    planes = {"w.fits": plain(stored, BSCALE=0.5)}
    image = read_one(plain(NOISE), "weight = 'w.fits'", **planes)
    assert image.variance[0, 0] == 1.0
    image = read_one(plain(NOISE), "weight = {file = 'w.fits', relative = true}", **planes)
    assert image.variance is None
    assert image.relative_variance[0, 0] == 1.0
    assert np.isnan(image.relative_variance[3, 4])
    assert np.argwhere(image.mask).tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("plane", "reason"),
    [
        (plain(np.ones((20, 31))), r"p\.fits: the plane has shape \(20, 31\).*x\.fits.*\(20, 30\)"),
        (plain(np.full((20, 30), -1.0)), r"p\.fits: no pixel of the weight or variance"),
        (plain(np.full((20, 30), np.nan)), r"p\.fits: no pixel of the weight or variance"),
        (b"", r"p\.fits: not a readable FITS"),
        (None, r"p\.fits: there is no such file"),
    ],
)
@pytest.mark.parametrize("role", ["variance", "weight"])
def test_bad_planes(tmp_path, plane, reason, role):
    (tmp_path / "x.fits").write_bytes(plain(NOISE))
    if plane is not None:
        (tmp_path / "p.fits").write_bytes(plane)
    ref = PlaneRef("p.fits", str(tmp_path / "p.fits"))
    with pytest.raises(InputError, match=reason):
        read_image(reference(tmp_path / "x.fits", **{role: ref}), storage_options={})


def test_replace_that_does_not_apply_sets_aside(survey):
    config = survey(
        {"a.fits": plain(NOISE)}, "set = 's'\nfiles = ['*.fits']\nmask = {replace = ['oi', 'od']}"
    )
    refs, aside = find_images(config)
    assert refs == []
    assert "'oi'" in aside[0].reason


@pytest.mark.parametrize(
    ("cards", "lines", "gain"),
    [
        ({"GAIN": 1.9}, "", 1.9),
        ({"GAIN": 1.9, "BUNIT": "ADU"}, "", 1.9),
        ({"EGAIN": 2}, "", 2.0),
        ({"GAIN": 3.7, "BUNIT": "MJy/sr"}, "", None),
        ({"GAIN": 0.0}, "", None),
        ({"GAIN": "1.6 3.3"}, "", None),
        ({}, "", None),
        ({"GAIN": 1.9}, "gain = 5", 5.0),
        ({"MYGAIN": 2.5}, "gain = 'header:MYGAIN'", 2.5),
    ],
)
def test_gain(read_one, cards, lines, gain):
    assert read_one(plain(NOISE, **cards), lines).gain == gain


@pytest.mark.parametrize(
    ("cards", "lines", "when"),
    [
        ({"DATE_OBS": "2017-09-16T04:50:42.640012"}, "", "2017-09-16T04:50:42.640012"),
        ({"DATE_OBS": "2003-12-22", "TIME_OBS": "20:33:24"}, "", "2003-12-22T20:33:24"),
        ({"DATE_OBS": "29/11/51"}, "", "1951-11-29T00:00:00"),
        ({"DATE_OBS": "26/10/92", "MJD_OBS": 48921.5}, "", "1992-10-26T12:00:00"),
        ({"MJD_OBS": 0.25}, "", "1858-11-17T06:00:00"),
        ({"DATE_OBS": "last night"}, "", None),
        ({"MJD_OBS": 1e12}, "", None),
        ({}, "", None),
        ({}, "time = '2020-01-02T03:04:05Z'", "2020-01-02T03:04:05"),
        ({"MJD": 51544.0}, "time = 'header:MJD'", "2000-01-01T00:00:00"),
    ],
)
def test_time(read_one, cards, lines, when):
    assert read_one(plain(NOISE, **cards), lines).time == when


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("gain = 'header:G'", r"x\.fits\[0\]: G is None"),
        ("time = 'header:T'", r"x\.fits\[0\]: time"),
    ],
)
def test_configured_keywords_must_be_there(survey, lines, reason):
    config = survey({"x.fits": plain(NOISE)}, f"set = 's'\nfiles = ['x.fits']\n{lines}")
    ref = find_images(config)[0][0]
    with pytest.raises(InputError, match=reason):
        read_image(ref, storage_options={})


# object storage


@pytest.fixture(scope="module")
def s3_endpoint():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        url = f"http://127.0.0.1:{port}"
        for _ in range(150):
            try:
                urllib.request.urlopen(url, timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
        server.terminate()


@pytest.fixture
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-access-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-key")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.mark.s3
@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize("large", [LARGE, 1])
def test_images_on_object_storage(survey, s3_endpoint, large, monkeypatch):
    import s3fs

    monkeypatch.setattr("storage.images.fetching.LARGE", large)

    store = s3fs.S3FileSystem(endpoint_url=s3_endpoint)
    store.makedirs("sky", exist_ok=True)
    mask = np.zeros(NOISE.shape, np.uint8)
    mask[0, 0] = 1
    store.pipe("sky/n1/a.fits", fits_bytes(fits.PrimaryHDU(), image_hdu(NOISE, FILTER="g")))
    store.pipe("sky/n1/b.fits.gz", gzip.compress(plain(2 * NOISE, FILTER="r")))
    store.pipe("sky/n1/c.fits", b"broken")
    store.pipe("sky/n1/masks/a.fits", plain(mask))
    store.pipe("sky/n1/masks/b.fits", plain(mask))
    lines = (
        "set = 's'\nfiles = ['s3://sky/n1/*.fits*']\nband = 'header:FILTER'\n"
        "mask = 's3://sky/n1/masks/{stem}.fits'"
    )
    config = survey({}, lines, f"[storage.options]\nendpoint_url = '{s3_endpoint}'\n")
    refs, aside = find_images(config)
    assert [(ref.id, ref.band, ref.hdu, ref.file) for ref in refs] == [
        ("s/a", "g", 1, "s3://sky/n1/a.fits"),
        ("s/b", "r", 0, "s3://sky/n1/b.fits.gz"),
    ]
    assert [item.file for item in aside] == ["s3://sky/n1/c.fits"]
    for ref, factor in zip(refs, (1, 2), strict=True):
        image = read_image(ref, storage_options=config.storage.options)
        np.testing.assert_array_equal(image.stored, factor * NOISE)
        np.testing.assert_array_equal(image.mask, mask)
    store.rm("sky/n1/a.fits")
    with pytest.raises(InputError, match=r"s3://sky/n1/a\.fits: there is no such file or object"):
        read_image(refs[0], storage_options=config.storage.options)
    with pytest.raises(ConfigError, match="no file matches 's3://sky/n9/"):
        find_images(survey({}, lines.replace("n1/*", "n9/*"), config_options(s3_endpoint)))


def config_options(endpoint):
    return (
        f"[storage.options]\nendpoint_url = '{endpoint}'\n"
        "[storage.options.config_kwargs]\nconnect_timeout = 1\nretries = {max_attempts = 0}\n"
    )


@pytest.mark.s3
@pytest.mark.usefixtures("credentials")
def test_store_that_does_not_answer(survey):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        config = survey({}, "set='s'\nfiles=['s3://sky/*.fits']", config_options(endpoint))
        with pytest.raises(StoreUnavailableError, match="s3://sky") as caught:
            find_images(config)
        assert "a-secret-key" not in str(caught.value)
        ref = ImageRef("s/x", "s", "r", "s3://sky/x.fits", "s3://sky/x.fits", 0)
        with pytest.raises(StoreUnavailableError, match=r"s3://sky/x\.fits"):
            read_image(ref, storage_options=config.storage.options)


# real files


needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the survey files in {DATA}")


@pytest.fixture(scope="module")
def real_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    sets = sorted({path.relative_to(DATA).parts[0] for path in DATA.rglob("*.fit*")})
    tables = [
        f"[[images]]\nset = '{name}'\nfiles = ['{DATA}/{name}/**/*.fit*']\nhdu = 'all'\n"
        for name in sets
    ]
    (folder / "survey.toml").write_text("[release]\nurl = 'o/p/r'\n" + "".join(tables))
    return find_images(load_config(folder / "survey.toml"))


@pytest.mark.survey
@needs_data
def test_real_files_keep_their_stored_bits(real_images):
    refs, aside = real_images
    assert len(refs) > 100
    assert len({ref.id for ref in refs}) == len(refs)
    assert all("no image" in item.reason for item in aside)  # catalogs
    by_file = {}
    for ref in refs:
        by_file.setdefault(ref.url, []).append(ref)
    for url, images in by_file.items():
        opener = {"gz": gzip.open, "bz2": bz2.open}.get(url.rsplit(".")[-1], open)
        with opener(url, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with fits.open(file, do_not_scale_image_data=True, memmap=False) as hdus:
                for ref in images[:5]:
                    same_as_astropy(ref, hdus[ref.hdu].data)


def same_as_astropy(ref, expected):
    if np.all(expected == expected.flat[0]):
        with pytest.raises(InputError, match="constant"):
            read_image(ref, storage_options={})
        return
    image = read_image(ref, storage_options={})
    assert image.shape == expected.shape
    assert image.stored.dtype == expected.dtype.newbyteorder("=")
    swapped = expected.astype(expected.dtype.newbyteorder("="))
    assert np.ascontiguousarray(swapped).tobytes() == image.stored.tobytes()


@pytest.mark.survey
@needs_data
def test_real_quantised_sets_are_recognised(real_images):
    science = {
        "kids_viking": ("/r.fits", 1.01e-12, "SUBTRACTIVE_DITHER_1"),
        "legacysurvey_coadd": ("image-g.fits.fz", 1.0e-4, "SUBTRACTIVE_DITHER_2"),
        "mosaic3_90prime": (
            "k4m_160319_075112_ooi_zd_ls9.CCD3.fits",
            0.169,
            "SUBTRACTIVE_DITHER_1",
        ),
        "spitzer": (".fits", None, None),
        "radio": (".fits", None, None),
        "m13": (".fits", None, None),
    }
    for name, (suffix, step, method) in science.items():
        ref = next(r for r in real_images[0] if r.set == name and r.file.endswith(suffix))
        image = read_image(ref, storage_options={})
        assert image.quant_step == (None if step is None else pytest.approx(step, rel=0.01))
        assert image.quant_method == method


@pytest.mark.survey
@needs_data
def test_real_planes(tmp_path):
    text = "[release]\nurl = 'o/p/r'\n"
    text += f"[[images]]\nset = 'hsc'\nfiles = ['{DATA}/hsc/*.fits']\nhdu = 1\n"
    text += "mask = {hdu = 2, bits = [0, 1, 8]}\nvariance = {hdu = 3}\n"
    text += f"[[images]]\nset = 'decam'\nfiles = ['{DATA}/decam/testcase6/c4d_15*_ooi_*.fits']\n"
    text += "mask = {replace = ['_ooi_', '_ood_']}\nweight = {replace = ['_ooi_', '_oow_']}\n"
    (tmp_path / "survey.toml").write_text(text)
    refs, _ = find_images(load_config(os.fspath(tmp_path / "survey.toml")))
    hsc, decam = (read_image(ref, storage_options={}) for ref in refs)
    assert hsc.variance.shape == hsc.stored.shape == (200, 200)
    assert 0.5 < np.nanmedian(hsc.variance) / 22.3**2 < 2  # the noise measured from the pixels
    assert hsc.mask.mean() < 0.1
    assert 0.16 < decam.mask.mean() < 0.18
    assert np.isnan(decam.variance).sum() <= decam.mask.sum()
