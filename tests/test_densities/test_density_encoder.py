"""Any density at all keeps its bounds, whatever its shape, scale and grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skyfold.codecs.amplitude import masses
from skyfold.densities.index import FLOORS, LEVELS, Bounds, DensityIndex
from skyfold.densities.rows import decode_rows, to_masses
from storage.densities.encoder import STACK_SHIFT, encode_rows, encode_together, shifted_rows
from storage.densities.shard import encode_shard

from .conftest import make_mixtures


def index_of(stored, normalisation="trapezoid"):
    grid = tuple(np.linspace(0, 3, stored.shape[1]).tolist())
    return DensityIndex("pz", grid, len(stored), stored.dtype.name, normalisation, Bounds(), ())


def check(stored):
    """Encode rows, decode every level, hold it against what is promised."""
    index = index_of(stored)
    shard = encode_shard(stored, index)
    mass, reason = to_masses(stored, index.weights())
    good = np.array([row for row in range(len(stored)) if row not in shard.bad], int)
    assert set(np.flatnonzero(reason != "")) == set(shard.bad)
    for level in LEVELS[1:3]:
        names = ("latent",) if level == "latent" else ("latent", "bounded")
        amplitude = decode_rows({name: shard.layers[name] for name in names}, level, index)[1]
        share = index.bounds.used(level, mass[good], masses(amplitude[good], FLOORS[level]))
        assert share.max(initial=0) <= 1


def hard_rows(points):
    """Spikes at edges and between, nothing but one value, combs, steps, noise, a slope."""
    rng = np.random.default_rng(points)
    x = np.arange(points)
    rows = [np.eye(points)[place] for place in (0, 1, points // 2, points - 1)]
    rows += [np.ones(points), x + 0.0, x % 2 + 0.0, (x > points / 3) + 0.0, rng.random(points)]
    rows += [rng.exponential(size=points) ** 4, np.eye(points)[0] + np.eye(points)[-1]]
    rows += [np.ones(points) + 1e6 * np.eye(points)[2], np.exp(-x / 3.0), 1 / (1 + x**2.0)]
    return np.array(rows)


@pytest.mark.parametrize("points", [4, 5, 7, 33, 200, 1000])
def test_hard_rows(points):
    check(hard_rows(points))


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0])
def test_a_set_without_any_density(value):
    stored = np.full((3, 10), value)
    check(stored)
    assert len(encode_shard(stored, index_of(stored)).bad) == 3


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_scale_does_not_matter(scale):
    rows = hard_rows(50)
    one = encode_shard(rows * scale, index_of(rows))
    assert not one.bad
    check(rows * scale)


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(4, 40)),
        elements=st.floats(-0.125, 1e3, width=32) | st.just(0.0) | st.just(np.nan),
    )
)
def test_whatever_rows_hold(stored):
    check(stored)


def test_nearly_negative_is_zero_and_negative_is_not():
    rows = np.ones((2, 20))
    rows[0, 3], rows[1, 3] = -1e-9, -1e-3
    mass, reason = to_masses(rows, np.ones(20))
    assert reason.tolist() == ["", "is negative"]
    assert mass[0].min() == 0


def test_the_same_rows_give_the_same_numbers_in_any_company():
    rows = hard_rows(64)
    mass = rows / rows.sum(axis=1, keepdims=True)
    whole, alone = encode_rows(mass, Bounds()), encode_rows(mass[5:6], Bounds())
    assert (whole.amplitudes["latent"][5] - alone.amplitudes["latent"][0] == 0).all()


def test_tighter_bounds_cost_more_and_are_kept():
    rows = hard_rows(100)
    mass = rows / rows.sum(axis=1, keepdims=True)
    tight = Bounds(divergence=1e-4, mean_shift=1e-5, hellinger=1e-3)
    loose, strict = encode_rows(mass, Bounds()), encode_rows(mass, tight)
    decoded = masses(strict.amplitudes["latent"], FLOORS["latent"])
    assert tight.used("latent", mass, decoded).max() <= 1
    assert np.abs(strict.latent).sum() > np.abs(loose.latent).sum()


def test_shifts_of_means_do_not_add_up_in_stacks():
    mass = make_mixtures(1500, points=120)[1]
    mass = mass / mass.sum(axis=1, keepdims=True)
    place = np.arange(120) / 120
    one_sided = mass * (1 + 2e-3 * (place - 0.5))
    one_sided /= one_sided.sum(axis=1, keepdims=True)
    rows = shifted_rows(mass, one_sided)
    assert 0 < len(rows) < 1500
    mended = one_sided.copy()
    mended[rows] = mass[rows]
    shift = (mended - mass) @ place
    order = np.argsort(mass @ place)
    for stack in np.array_split(order, 8):
        assert abs(shift[stack].mean()) <= STACK_SHIFT
    assert not len(shifted_rows(mass, mass))
    found = masses(encode_together(mass, Bounds()).amplitudes["latent"], FLOORS["latent"])
    shift = (found - mass) @ place
    for stack in np.array_split(order, 5):
        assert abs(shift[stack].mean()) < 3 * STACK_SHIFT
