"""Large images, which are looked at in strips and never held whole."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import synthetic
import zarr
from astropy.io import fits

import storage.images.prepared
from skyfold.fidelity.holdout import HoldOut
from skyfold.images.window import decode_window
from skyfold.ladder import LEVELS
from storage.images import archive, predicted
from storage.images.archive import training_image
from storage.images.encoder import encode_image
from storage.images.entries import describe_image, plan_groups
from storage.images.image_input import SurveyImage, read_image
from storage.images.predicted import Predicted, _joined, _neighbours
from storage.images.prepared import prepare
from storage.images.shards import make_shards
from storage.survey import ImageRef

SHAPE = (1100, 500)  # five rows of two tiles


def survey_image(stored: np.ndarray) -> SurveyImage:
    ref = ImageRef(id="s/a", set="s", band="r", file="a.fits", url="a.fits", hdu=0)
    facts = dict.fromkeys(("blank", "mask", "variance", "gain", "time"))
    facts |= {"bscale": 1.0, "bzero": 0.0, "quant_step": None, "quant_method": None, "digest": ""}
    return SurveyImage(ref=ref, stored=stored, shape=stored.shape, header=fits.Header(), **facts)


@pytest.fixture(params=["i2", "f4"])
def image(request) -> SurveyImage:
    sky = synthetic.sky(SHAPE, sources=700, sigma=11.0, background=500, seed=3, flux=(80, 4000))
    if request.param == "i2":
        return survey_image(np.rint(sky).astype("i2"))
    sky[400:420, 30:60] = np.nan
    return survey_image(sky.astype("f4"))


@pytest.fixture
def in_strips(monkeypatch):
    """Strips of one row of tiles."""
    monkeypatch.setattr(predicted, "TOGETHER", 2)


def decoded(image, encoded) -> dict[str, np.ndarray]:
    entry = encoded.described(describe_image(image, model="m", step=0.5))
    whole = tuple(slice(0, side) for side in image.shape)
    read = lambda names, tiles_y, tiles_x: {name: encoded.layers[name] for name in names}  # noqa: E731
    return {
        level: decode_window(entry, level, *whole, read=read, network=encoded.network).values
        for level in LEVELS
    }


def test_strips_are_encoded_as_a_whole_image_is(image, network, in_strips, monkeypatch):
    strips = encode_image(image, network, 0.5)
    monkeypatch.undo()
    whole = encode_image(image, network, 0.5)
    assert (strips.noise, strips.dithered) == (whole.noise, whole.dithered)
    assert (strips.odd_cells, strips.coarse) == (whole.odd_cells, whole.coarse)
    assert strips.fwhm_pix == pytest.approx(whole.fwhm_pix, rel=0.03)
    assert strips.layers.keys() == whole.layers.keys()
    kept, as_whole = (one.layers["bounded"] & 1 for one in (strips, whole))
    assert 0.05 < as_whole.mean() < 0.5
    assert (kept != as_whole).mean() < 0.01
    assert (strips.layers["latent"] != whole.layers["latent"]).mean() < 0.01
    off = strips.layers["background"] - whole.layers["background"]
    off = off * (whole.noise.background_step / whole.noise.sigma)
    assert np.sqrt(np.mean(off**2)) < 0.02
    assert np.abs(off).max() < 0.2  # what is just glow in one of them is in the mesh of the other
    for one in (strips, whole):
        one.network = network
    found, expected = decoded(image, strips), decoded(image, whole)
    np.testing.assert_array_equal(found["exact"], image.stored)
    bound = 0.25 * whole.noise.sigma * 2.0**whole.noise.grid_exponent
    good = np.isfinite(image.stored)
    assert np.abs(found["bounded"] - image.stored)[good].max() <= 1.5 * bound
    kept = (kept == 1) & (as_whole == 1)
    for level in ("latent", "sources"):
        rms, other = (
            np.nanstd((one[level] - image.stored)[kept[:1100, :500]]) for one in (found, expected)
        )
        assert rms == pytest.approx(other, rel=0.02)


def test_a_strip_that_cannot_be_refined_sends_the_image_to_direct_storage(
    network, in_strips, monkeypatch
):
    """A pixel whose number of cells a layer has no room for, in the last strip."""
    monkeypatch.setattr(storage.images.prepared, "FARTHEST", np.inf)
    sky = synthetic.sky(SHAPE, sources=100, sigma=1.0, background=5, seed=5)
    sky += np.linspace(0, 1000, SHAPE[0])[
        :, np.newaxis
    ]  # values that spread by far more than noise
    sky[-10, 40] = 1e10
    image = survey_image(sky)
    described = [describe_image(image, model="m", step=0.5)]
    placed, groups = plan_groups(described, network.channels, network.tables)
    arrays: dict = {}
    next(iter(groups.values())).create(zarr.storage.MemoryStore(arrays), "g")
    documents = {
        key.split("/")[1]: bytes(data.to_bytes()) for key, data in arrays.items() if "/" in key
    }
    encoded = encode_image(image, network, 0.5)
    assert encoded.mode == "ladder"  # as far as is seen
    mode, shards = make_shards(placed[0], encoded, documents)
    assert mode == "direct"
    assert shards.keys() == {"direct", "checksum"}


def test_neighbours_and_their_rows():
    planes = [np.full((4, 1), number) for number in range(3)]
    met = [(three, _joined(three, lambda one: one, 2)) for three in _neighbours(planes)]
    assert [len(plane) for _, (plane, _) in met] == [6, 8, 6]
    assert [(inner.start, inner.stop) for _, (_, inner) in met] == [(0, 4), (2, 6), (2, 6)]
    for (_, own, _), (plane, inner) in met:
        np.testing.assert_array_equal(plane[inner], own)
    assert list(_neighbours([])) == []


def test_what_strips_hold_does_not_grow_with_the_image(network, in_strips, monkeypatch):
    """No more strips are alive at once in an image of ten than in one of five."""
    alive, most = set(), []
    look = Predicted._new_look

    def counted(self, first, last):
        found = look(self, first, last)
        alive.add(id(found))
        weakref.finalize(found, alive.discard, id(found))
        most.append(len(alive))
        return found

    monkeypatch.setattr(Predicted, "_new_look", counted)
    highest = []
    for rows in (5, 10):
        most.clear()
        sky = np.random.default_rng(rows).normal(50, 9, (256 * rows, 300)).round().astype("i2")
        Predicted(prepare(survey_image(sky)), network)
        highest.append(max(most))
    assert highest[0] == highest[1] <= 4


@pytest.mark.parametrize("pixels", [10**7, 200_000])
def test_training_sees_a_window_of_a_large_image(tmp_path, pixels):
    sky = synthetic.sky(SHAPE, sources=100, sigma=11.0, background=500, seed=3)
    sky[:700] = 0  # padding: no window there is the best
    synthetic.write_fits(tmp_path / "a.fits", sky.astype("f4"))
    ref = ImageRef("s/a", "s", "r", "a.fits", str(tmp_path / "a.fits"), 0)
    rule = HoldOut(seed=1, order=10, threshold=0.0)
    rng = np.random.default_rng(3)
    y, bad = training_image(ref, rule, options={}, pixels=pixels, rng=rng)
    assert y.shape == bad.shape
    assert y.size <= pixels
    if pixels > sky.size:
        assert y.shape == SHAPE
        whole = prepare(read_image(ref, storage_options={})).whole()
        expected = whole.noise_units().reshape(5, 2, 256, 256).transpose(0, 2, 1, 3)
        np.testing.assert_array_equal(y, expected.reshape(1280, 512)[:1100, :500])
        np.testing.assert_array_equal(bad, sky == 0)
    else:
        assert bad.mean() < 0.7 * (sky == 0).mean()
    assert np.abs(np.median(y[~bad])) < 0.2
    assert archive.WINDOWS > 1


def test_training_sees_offsets_of_rows_and_columns(tmp_path):
    """A network that never saw a dead column does not draw one that ends in an image."""
    sky = synthetic.sky(SHAPE, sources=100, sigma=11.0, background=500, seed=3)
    sky[:, 300] -= 200
    synthetic.write_fits(tmp_path / "a.fits", sky.astype("f4"))
    ref = ImageRef("s/a", "s", "r", "a.fits", str(tmp_path / "a.fits"), 0)
    assert prepare(read_image(ref, storage_options={})).stripes is not None
    rule, rng = HoldOut(seed=1, order=10, threshold=0.0), np.random.default_rng(3)
    y, _ = training_image(ref, rule, options={}, pixels=10**7, rng=rng)
    assert np.median(y[:, 300]) < -15
