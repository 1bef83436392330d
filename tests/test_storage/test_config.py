import hashlib

import pytest

from skyfold.errors import ConfigError
from storage.config import load_config

DESIGN = """
[release]
url = "archive/demo/dr1"
[[images]]
set = "night1"
files = ["raw/night1/*.fits.fz"]
hdu = 1
band = "r"
mask = "raw/night1/{stem}_mask.fits"
[[catalogs]]
name = "galaxies"
files = ["raw/galaxies.parquet"]
id = "object_id"
errors = { mag_r = "mag_err_r" }
missing = [99.0, -99.0]
[[densities]]
name = "pz"
files = ["raw/pz.npy"]
grid = "raw/zgrid.npy"
[training]
minutes = 3
seed = 1
[levels]
step = 0.5
"""
IMAGES = '[release]\nurl = "out/p/r"\n[[images]]\nset = "a"\nfiles = ["*.fits"]\n'


@pytest.fixture
def load(tmp_path):
    def write_and_load(text):
        (tmp_path / "survey.toml").write_text(text)
        return load_config(tmp_path / "survey.toml")

    return write_and_load


def refusal(load, text):
    with pytest.raises(ConfigError) as caught:
        load(text)
    message = str(caught.value)
    assert "survey.toml" in message
    assert len(message.splitlines()) <= 2
    return message


def test_documented_example(load, tmp_path):
    config = load(DESIGN)
    images = config.images[0]
    assert (images.set, images.files, images.hdu, images.band) == (
        "night1",
        ("raw/night1/*.fits.fz",),
        1,
        "r",
    )
    assert images.mask.file == "raw/night1/{stem}_mask.fits"
    assert config.catalogs[0].errors == {"mag_r": "mag_err_r"}
    assert config.catalogs[0].missing == (99.0, -99.0)
    assert config.densities[0].grid == "raw/zgrid.npy"
    assert (config.training.minutes, config.training.steps, config.levels.step) == (3.0, None, 0.5)
    assert config.folder == str(tmp_path)
    assert config.digest == hashlib.sha256((tmp_path / "survey.toml").read_bytes()).hexdigest()
    assert config.resolve("raw/x.fits") == str(tmp_path / "raw" / "x.fits")
    assert config.resolve("/abs/x.fits") == "/abs/x.fits"
    assert config.resolve("s3://bucket/x.fits") == "s3://bucket/x.fits"
    assert config.release.title == "demo/dr1"


def test_defaults(load):
    config = load(IMAGES)
    assert config.images[0].hdu is None
    assert config.images[0].band == "unknown"
    assert (config.training.minutes, config.training.seed, config.training.model) == (
        3.0,
        1,
        "autoencoder",
    )
    assert config.limits.bad_fraction == 0.2
    assert config.storage.options == {}


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("hdu = 'SCI,2'", "hdu", "SCI,2"),
        ("hdu = [1, 'B']", "hdu", (1, "B")),
        ("hdu = 'all'", "hdu", "all"),
        ("gain = 2", "gain", 2.0),
        ("gain = 'header:GAIN'", "gain", "header:GAIN"),
    ],
)
def test_image_fields(load, line, field, value):
    assert getattr(load(IMAGES + line).images[0], field) == value


def test_planes_as_tables(load):
    lines = "mask = {hdu = 'MASK', bits = [0, 3]}\nweight = {replace = ['_i', '_w'], hdu = 2}"
    images = load(IMAGES + lines).images[0]
    assert (images.mask.file, images.mask.hdu, images.mask.bits) == (None, "MASK", (0, 3))
    assert (images.weight.replace, images.weight.hdu) == (("_i", "_w"), 2)


def test_steps_replace_minutes(load):
    training = load(IMAGES + "[training]\nsteps = 10\n").training
    assert (training.steps, training.minutes) == (10, None)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[release\n", ["TOML", "line 1"]),
        ("[[images]]\nset = 'a'\nfiles = ['x']", ["release", "required"]),
        ("[release]\nurl = 'x'", ["no input"]),
        (IMAGES + "colour = 1", ["images[0].colour", "unknown key", "band"]),
        (IMAGES + "[extra]\na = 1", ["extra", "unknown key", "images"]),
        (IMAGES + "mask = {hdu = 1, bit = 1}", ["images[0].mask.bit", "unknown key", "bits"]),
        ("folder = 'x'\n" + IMAGES, ["folder", "unknown key"]),
        (IMAGES.replace('["*.fits"]', "[]"), ["images[0].files", "at least 1"]),
        (IMAGES.replace('["*.fits"]', '"*.fits"'), ["images[0].files", "'*.fits'", "give a list"]),
        (IMAGES.replace('"a"', "3"), ["images[0].set", "'3'", "string"]),
        (IMAGES.replace('"a"', '"a/b"'), ["images[0].set", "'a/b'", "letters"]),
        (IMAGES.replace('"a"', '".a"'), ["images[0].set", "'.a'", "letters"]),
        (IMAGES + "hdu = -1", ["images[0].hdu", "-1", "'all'"]),
        (IMAGES + "hdu = true", ["images[0].hdu", "True"]),
        (IMAGES + "hdu = []", ["images[0].hdu"]),
        (IMAGES + "gain = 0", ["images[0].gain", "0"]),
        (IMAGES + "gain = 'GAIN'", ["images[0].gain", "header:KEYWORD"]),
        (IMAGES + "band = 'header:'", ["images[0].band", "keyword"]),
        (IMAGES + "mask = '{stm}.fits'", ["images[0].mask.file", "stm", "{stem}"]),
        (IMAGES + "mask = {}", ["images[0].mask", "give a file"]),
        (IMAGES + "mask = {hdu = 1, relative = true}", ["images[0]", "mask.relative"]),
        (IMAGES + "weight = {hdu = 1}\nvariance = {hdu = 2}", ["images[0]", "give one"]),
        (IMAGES + "[training]\nminutes = 1\nsteps = 1", ["training", "either"]),
        (IMAGES + "[training]\nminutes = 0", ["training.minutes", "greater than 0"]),
        (IMAGES + "[training]\nmodel = 'vae'", ["training.model", "'vae'", "'pca'"]),
        (IMAGES + "[levels]\nstep = nan", ["levels.step"]),
        (IMAGES + "[levels]\nstep = '0.5'", ["levels.step", "number"]),
        (IMAGES + "[limits]\nbad_fraction = 2", ["limits.bad_fraction", "2"]),
        (DESIGN.replace("id =", "ra ="), ["catalogs[0]", "ra and dec"]),
        (DESIGN.replace("missing", "precision = {mag_r = 1.0}\nmissing"), ["mag_r", "give one"]),
        (DESIGN + "[[catalogs]]\nname='galaxies'\nfiles=['x']", ["catalogs", "galaxies", "twice"]),
        (DESIGN.replace('"raw/zgrid.npy"', "[0, 3]"), ["densities[0].grid", "[start, stop, n]"]),
        (DESIGN.replace('"raw/zgrid.npy"', "[3, 0, 9]"), ["densities[0].grid"]),
        (DESIGN.replace('"raw/zgrid.npy"', "[0, 3, 1]"), ["densities[0].grid", "from 2"]),
    ],
)
def test_refusals_name_file_field_and_reason(load, text, names):
    message = refusal(load, text)
    for name in names:
        assert name in message


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: No such file"):
        load_config(tmp_path / "none.toml")


def test_storage_options(load):
    options = load(IMAGES + "[storage.options]\nanon = true\nendpoint_url = 'http://h:1'").storage
    assert options.options == {"anon": True, "endpoint_url": "http://h:1"}


@pytest.mark.parametrize(
    "lines",
    [
        "[storage.options]\nsecret = 'hush-hush'",
        "[storage.options]\nkey = 'hush-hush'",
        "[storage.options.client_kwargs]\naws_secret_access_key = 'hush-hush'",
        "[storage.options]\nendpoint_url = 'https://me:hush-hush@host'",
        "[[images]]\nset = 'b'\nfiles = ['s3://me:hush-hush@bucket/*.fits']",
        "[[images]]\nset = 'b'\nfiles = ['x']\nmask = 's3://me:hush-hush@bucket/m.fits'",
    ],
)
def test_credentials_are_refused_and_not_shown(load, lines):
    message = refusal(load, IMAGES + lines)
    assert "environment" in message
    assert "hush" not in message


def test_sets_may_repeat_and_config_is_frozen(load):
    config = load(IMAGES + '[[images]]\nset = "a"\nfiles = ["more/*.fits"]\n')
    assert [images.set for images in config.images] == ["a", "a"]
    with pytest.raises(ValueError, match="frozen"):
        config.images[0].band = "g"
