"""Sky that training never sees: a share of any field, large or small."""

from types import SimpleNamespace

import numpy as np
import pytest
import synthetic
from astropy.io import fits

from skyfold.fidelity.holdout import FRACTION, HoldOut, order_for
from storage.images.archive import plan_hold_out

SCALE = 0.2 / 3600  # degrees a pixel, of `synthetic.simple_wcs`


def held_out(rule, images):
    return np.mean(np.concatenate([rule.is_held_out(*one).ravel() for one in images]))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("side", [300, 512, 1000])
@pytest.mark.parametrize("has_wcs", [False, True])
def test_a_small_field_holds_out_its_share(seed, side, has_wcs):
    wcs = synthetic.simple_wcs((side, side)) if has_wcs else None
    images = [("g", (side, side), wcs)] * 3  # of the same sky
    rule = HoldOut(seed, order_for(SCALE)).with_its_share(images)
    share = held_out(rule, images)
    if side == 300:  # cells of 256 pixels: one of them is most of the image
        assert 0 < share < 0.8
    else:
        assert 0.08 < share < 0.55


def test_a_large_field_keeps_the_rule():
    images = [("g", (4000, 4000), None)]
    rule = HoldOut(3, 0)
    assert rule.with_its_share(images) == rule
    assert held_out(rule, images) == pytest.approx(FRACTION, abs=0.06)


def test_one_cell_is_all_for_training():
    images = [("g", (200, 200), None)]
    rule = HoldOut(3, 0).with_its_share(images)
    assert rule.threshold == 0
    assert held_out(rule, images) == 0


def test_a_model_of_a_base_is_measured_on_the_sky_that_the_base_held_out():
    def entries(name, side):
        return [SimpleNamespace(set=name, plane=(side, side), fits_header=fits.Header)]

    base = {"g": HoldOut(5, 0, 0.11).to_dict()}
    both = entries("g", 3000) + entries("new", 3000)
    rules = plan_hold_out(both, seed=9, base=base)
    assert rules["g"] == HoldOut(5, 0, 0.11)
    assert rules["new"] == HoldOut(9, 0, FRACTION)
    trained = plan_hold_out(entries("g", 520), seed=9)["g"]
    assert (trained.seed, trained.order) == (9, 0)
    assert 0 < held_out(trained, [("g", (520, 520), None)]) < 1
