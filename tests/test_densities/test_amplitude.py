"""The arithmetic of amplitudes: truth is analytic, or the same numbers in another order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfold.codecs import amplitude as amp


@pytest.mark.parametrize("points", [4, 5, 9, 64, 200, 201, 513])
def test_every_row_is_a_sum_of_wavelets(points):
    transform = amp.wavelet(points)
    rows = np.random.default_rng(points).normal(size=(5, points))
    back = (rows @ transform.analysis) @ transform.synthesis / (1 << 14)
    np.testing.assert_allclose(back, rows, atol=1e-9)


def test_a_constant_needs_no_details():
    transform = amp.wavelet(100)
    coefficients = np.ones(100) @ transform.analysis
    assert np.abs(coefficients[amp.COARSEST :]).max() < 1e-3
    assert np.linalg.cond(transform.synthesis) < 3  # near an orthogonal one


def test_relations_point_to_coefficients_known_before():
    transform = amp.wavelet(201)
    column = np.arange(201)
    assert (transform.before < column).all()
    assert (transform.parent < column).all()
    used = transform.parent >= 0
    apart = np.abs(transform.centre - transform.centre[transform.parent])[used]
    assert (apart <= 2 * amp.BIN << transform.level[used]).all()


def test_wavelet_sums_do_not_depend_on_their_order():
    transform = amp.wavelet(201)
    rng = np.random.default_rng(3)
    whole = rng.integers(-(2**26), 2**26, (50, 201))
    order = rng.permutation(201)
    shuffled = whole[:, order].astype(np.float64) @ transform.synthesis[order]
    expected = whole.astype(object) @ transform.synthesis.astype(np.int64).astype(object)
    assert (shuffled == expected.astype(np.float64)).all()
    assert (transform.on_grid(whole) == (expected + (1 << 13)) // (1 << 14)).all()


@pytest.mark.parametrize(("place", "width"), [(50.0, 8), (100.25, 16), (99.6, 27), (120.0, 36)])
def test_core_of_the_first_shape_is_a_gaussian(place, width):
    step = int(amp.position_step(np.array(width)))
    one = round(amp.UNIT / amp.SHAPE_STEP)
    core = np.array([[round(place * amp.BIN / step), width, one]])
    got = amp.core_amplitude(core, amp.hermite_shapes(1), 201)[0] / amp.UNIT
    x, sd = np.arange(201), 2 ** (width / 8)
    mean = core[0, 0] * step / amp.BIN
    expected = np.exp(-(((x - mean) / sd) ** 2) / 4) / (2 * np.pi) ** 0.25 / np.sqrt(sd)
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_shapes_are_orthonormal():
    shapes = amp.hermite_shapes(4) / amp.SHAPE_UNIT
    np.testing.assert_allclose(shapes @ shapes.T / amp.SHAPE_DENSITY, np.eye(4), atol=1e-3)


def test_responses_are_what_one_step_gives():
    core = np.array([[300, 12, 0, 0, 0, 0], [90, 30, 0, 0, 0, 0]])
    shapes = amp.hermite_shapes(4)
    responses = amp.core_responses(core, shapes, 64)
    for number in range(4):
        many = core.copy()
        many[:, 2 + number] = 4096
        direct = amp.core_amplitude(many, shapes, 64) / (4096 * amp.UNIT)
        assert (responses[number] == direct).all()


@given(st.integers(amp.MIN_WIDTH, amp.MAX_WIDTH))
def test_widths_are_powers_of_two(width):
    assert int(amp.width_units(np.array(width))) == pytest.approx(
        2 ** (16 + width / 8), rel=2e-5, abs=1
    )


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([4, 30, 200]))
def test_masses_are_positive_and_sum_to_one(seed, points):
    whole = np.random.default_rng(seed).integers(-(2**20), 2**20, (3, points))
    whole[0] = 0
    mass = amp.masses(whole, 1e-5)
    assert (mass > 0).all()
    np.testing.assert_allclose(mass.sum(axis=1), 1, rtol=1e-13)


def test_distances_of_gaussians_are_those_of_theory():
    x = np.linspace(-12, 12, 2401)
    one, other = (np.exp(-((x - d) ** 2) / 2)[np.newaxis] for d in (0.0, 0.3))
    one, other = one / one.sum(), other / other.sum()
    assert amp.divergence(one, other)[0] == pytest.approx(0.3**2 / 2, rel=1e-6)
    assert amp.hellinger(one, other)[0] ** 2 == pytest.approx(1 - np.exp(-(0.3**2) / 8), rel=1e-6)
    assert amp.divergence(one, one)[0] == 0


@pytest.mark.parametrize(("mean", "sd"), [(40.0, 1.5), (101.3, 6.0), (150.0, 20.0)])
def test_the_main_peak_is_found_beside_a_smaller_one(mean, sd):
    x = np.arange(400)
    peak = np.exp(-(((x - mean) / sd) ** 2) / 2)
    mass = (peak + 0.3 * np.exp(-(((x - 330) / sd) ** 2) / 2))[np.newaxis]
    place, width = amp.find_cores(mass / mass.sum())
    assert place[0] == pytest.approx(mean, abs=0.1)
    assert 2 ** (width[0] / 8) == pytest.approx(sd, rel=0.15)
