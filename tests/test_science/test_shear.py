"""Biases of shear, on copies of an image whose galaxies responded by a known amount too little."""

from dataclasses import replace

import numpy as np
import pytest

from skyfold.errors import InvalidRequestError, NeedNotMetError
from skyfold.fidelity.record import FidelityRecord
from skyfold.science import ImageContext, galaxies, get_case
from skyfold.science.bins import limits
from skyfold.science.summary import summarise

FWHM = 4.0
SHAPE = (512, 384)
FREE = np.ones(SHAPE, bool)
FREE[:, :100] = False
LIGHT = {"fwhm": FWHM, "slope": 0.01, "step": None, "seed": 3}


def copies(shear=galaxies.SHEAR, seed=1):
    """Both copies one above the other, their noise, and the galaxies."""
    sky = np.random.default_rng(seed).normal(300, 1, SHAPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(galaxies, "SHEAR", shear)
        both, sigma, pairs = galaxies.inject_sheared(sky, np.ones(SHAPE), FREE, **LIGHT)
    return np.concatenate(both), sigma, pairs


@pytest.fixture(scope="module")
def scene():
    raw, sigma, pairs = copies()
    everywhere = np.ones(raw.shape, bool)
    context = ImageContext(
        sigma, ~everywhere, everywhere, 1, FWHM, product="sheared", injected=pairs
    )
    return raw, context


def values(raw, decoded, context):
    return {(s.measure, s.bin): s.values for s in get_case("shear").measure(raw, decoded, context)}


def test_galaxies_come_in_pairs_of_opposite_shear_where_there_is_room(scene):
    raw, context = scene
    first, second = context.injected.reshape(2, -1)
    assert len(first) > 50
    assert np.array_equal(first["x"], second["x"])
    assert np.array_equal(first["y"] + SHAPE[0], second["y"])
    assert np.hypot(first["g1"], first["g2"]) == pytest.approx(galaxies.SHEAR)
    assert np.array_equal(first["g1"], -second["g1"])
    assert np.array_equal(first["g2"], -second["g2"])
    assert first["x"].min() > 99
    # sky and noise are the same, and the light only differs by its shear
    apart = raw[: SHAPE[0]] - raw[SHAPE[0] :]
    assert np.all(apart[:, :80] == 0)
    assert abs(apart.sum()) < 0.02 * (raw[: SHAPE[0]] - 300).sum()
    again, *_ = copies()
    assert np.array_equal(raw, again)


def test_signal_to_noise_is_that_of_an_ideal_filter():
    both, _, pairs = copies(seed=2)
    light = both[: SHAPE[0]] - np.random.default_rng(2).normal(300, 1, SHAPE)
    half = 13
    for galaxy in pairs[: len(pairs) // 2]:
        x, y = round(galaxy["x"]), round(galaxy["y"])
        if min(x, y) > half and x < SHAPE[1] - half and y < SHAPE[0] - half:
            stamp = light[y - half : y + half + 1, x - half : x + half + 1]
            assert np.sqrt((stamp**2).sum()) == pytest.approx(galaxy["snr"], rel=0.1)


def test_copies_that_lose_nothing_have_no_bias(scene):
    raw, context = scene
    found = values(raw, raw.copy(), context)
    assert set(found) == {(m, b) for m in ("m", "c1", "c2") for b in ("20-50", ">50", ">=20")}
    assert all(np.all(one == 0) for one in found.values())
    assert len(found["m", ">=20"]) == len(found["m", "20-50"]) + len(found["m", ">50"]) > 50


@pytest.mark.parametrize("bias", [0.05, -0.1])
def test_a_response_that_is_off_is_the_multiplicative_bias(scene, bias):
    raw, context = scene
    decoded, *_ = copies(galaxies.SHEAR * (1 + bias))
    (row,) = (
        row
        for row in summarise([{"shear": get_case("shear").measure(raw, decoded, context)}], seed=1)
        if (row["measure"], row["bin"]) == ("m", ">=20")
    )
    assert row["bias"] == pytest.approx(bias, rel=0.1)
    assert row["low"] <= row["bias"] <= row["high"]
    assert row["high"] - row["low"] < 0.05


def test_the_same_change_of_both_copies_is_the_additive_bias(scene):
    raw, context = scene
    # light that is smeared along x makes every galaxy longer there, whatever its shear
    light = raw - 300
    decoded = raw + 0.1 * (np.roll(light, 1, axis=1) + np.roll(light, -1, axis=1) - 2 * light)
    found = values(raw, decoded, context)
    assert found["c1", ">50"].mean() > 0.005
    assert abs(found["c2", ">50"].mean()) < 0.1 * found["c1", ">50"].mean()
    assert abs(found["m", ">50"].mean()) < 0.1


def test_galaxies_that_are_gone_do_not_respond(scene):
    raw, context = scene
    found = values(raw, np.full(raw.shape, 300.0), context)
    assert np.all(found["m", ">=20"] == -1)
    assert found["c1", ">=20"].size == 0


def test_only_galaxies_on_sky_that_counts(scene):
    raw, context = scene
    counted = np.zeros(raw.shape, bool)
    counted[:, 200:] = True
    fewer = values(raw, raw, replace(context, counted=counted))["m", ">=20"]
    assert 0 < len(fewer) < len(values(raw, raw, context)["m", ">=20"])
    with pytest.raises(InvalidRequestError, match="holds no galaxies"):
        values(raw, raw, replace(context, injected=None))


def test_a_level_is_chosen_by_its_multiplicative_bias(scene):
    raw, context = scene
    about = {"kind": "images", "set": "s", "band": "r", "held_out": True}
    rows = []
    for level, size, bias in (("latent", 10, 0.2), ("sources", 50, 0.01), ("exact", 100, 0)):
        decoded, *_ = copies(galaxies.SHEAR * (1 + bias))
        samples = [{"shear": get_case("shear").measure(raw, decoded, context)}]
        stored = {"level": level, "bytes": size, "bpp": size / 10}
        found = summarise(samples, seed=1, lossless=level == "exact")
        rows += [about | stored | row for row in found]
    record = FidelityRecord.from_rows(rows)
    assert record.choose("shear", "|m| < 0.02").level == "sources"
    assert record.choose("shear", "|m| < 0.02 at S/N 100").level == "sources"
    assert record.choose("shear", ["|m| < 1e-3", "|c1| < 1e-3"]).level == "exact"
    with pytest.raises(NeedNotMetError, match=r"\|m\| <= 0.001.*nearest is sources"):
        record.choose("shear", "|m| < 1e-3", levels=["latent", "sources"])
    assert min(limits(row["bin"])[0] for row in rows) == 20
