"""Properties of the ladder's arithmetic, for every dtype and scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyfold import ladder
from skyfold.errors import CorruptDataError
from skyfold.noise import NoiseModel, background_at, noise_at

SHAPE = (256, 256)


def made(dtype: str, sigma: float, slope: float, offset: float, seed: int):
    """Stored pixels of a dtype, their noise model, and a prediction wrong here and there."""
    rng = np.random.default_rng(seed)
    values = rng.normal(offset * sigma, sigma, SHAPE)
    values[rng.integers(0, 256, 50), rng.integers(0, 256, 50)] += sigma * 10 ** rng.uniform(
        1, 5, 50
    )
    if np.dtype(dtype).kind != "f":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    stored = values.astype(dtype)
    noise = NoiseModel.from_stored_units(sigma, slope, integer=stored.dtype.kind != "f")
    mesh = np.full((4, 4), round(offset * noise.sigma / noise.background_step), np.int32)
    background = background_at(mesh, noise.background_step, slice(0, 256), slice(0, 256))
    grid = ladder.to_grid(stored, noise)
    y = noise.to_noise_units(grid - background) + rng.normal(0, 1, SHAPE).astype("f4")
    return stored, noise, background, grid, y


cases = given(
    dtype=st.sampled_from(["u1", "i2", "u2", "i4", "f4", "f8"]),
    exponent=st.floats(-12, 3),
    slope=st.floats(0, 2),
    offset=st.floats(-50, 50),
    step=st.sampled_from([0.25, 0.5, 1.0, 4.0]),
    seed=st.integers(0, 2**32 - 1),
)


@settings(max_examples=60, deadline=None)
@cases
def test_every_level_keeps_its_promise(dtype, exponent, slope, offset, step, seed):
    sigma = 10**exponent if np.dtype(dtype).kind == "f" else 0.5 + 10 ** max(exponent, -1)
    stored, noise, background, grid, y = made(dtype, sigma, slope * sigma, offset, seed)
    guard = ladder.find_guard(y, background + noise.to_signal(y), noise, 2e-6)
    predicted = ladder.predict(y, background, noise, guard)
    odd = seed % 2 == 1
    width = ladder.cell_width(
        predicted, noise.pixel_sigma(predicted - background), step, stored.dtype, odd=odd
    )
    assert not odd or stored.dtype.kind == "f" or (width % 2 == 1).all()
    shifted = predicted + (ladder.dither(width) if seed % 3 else 0)
    cells = ladder.to_cells(grid, shifted, width)
    centres = ladder.from_cells(cells, shifted, width)
    bounded = ladder.from_grid(centres, noise, stored.dtype)
    unit = np.ldexp(1.0, noise.grid_exponent)
    error = np.abs(bounded.astype("f8") - stored.astype("f8"))
    allowed = step / 2 * noise.pixel_sigma(predicted - background) * unit
    if stored.dtype.kind == "f":
        smallest = np.abs(np.spacing(stored)).astype("f8")  # a float image cannot say less
        allowed = np.maximum(allowed, smallest)
    assert (error <= allowed * (1 + 1e-12)).all()
    rest = ladder.remainder(stored, centres, width, bounded)
    exact = ladder.apply_remainder(rest, centres, width, bounded)
    assert exact.tobytes() == stored.tobytes()
    if stored.dtype.kind != "f":
        assert rest.min() >= 0
        assert (rest < width).all()


@pytest.mark.parametrize("uneven", [False, True])
@settings(max_examples=30, deadline=None)
@cases
def test_guard_makes_other_machines_agree(uneven, dtype, exponent, slope, offset, step, seed):
    sigma = 10**exponent if np.dtype(dtype).kind == "f" else 0.5 + 10 ** max(exponent, -1)
    _, noise, background, grid, y = made(dtype, sigma, slope * sigma, offset, seed)
    tolerance, factor = 4e-6, None
    rng = np.random.default_rng(seed)
    if uneven:
        mesh = np.rint(256 * (2.0 ** rng.uniform(-4, 4, (8, 8)) - 1)).astype(np.int32)
        factor = noise_at(mesh, slice(0, 256), slice(0, 256))
        y = noise.to_noise_units(grid - background, factor) + (y - np.rint(y))
    reach = tolerance * 0.4 * (1 + np.abs(y))
    other = (y + rng.uniform(-1, 1, SHAPE) * reach).astype("f4")
    smooth = background + noise.to_signal(y, factor)
    guard = ladder.find_guard(y, smooth, noise, tolerance, factor)
    here = ladder.predict(y, background, noise, guard, factor)
    there = ladder.predict(other, background, noise, guard, factor)
    np.testing.assert_array_equal(here, there)


def test_predictions_that_may_be_too_far_apart_have_no_guard():
    """A residue tells 126 steps: of the brightest pixels where light is of few electrons."""
    noise = NoiseModel.from_stored_units(1.0, 3.0, integer=False)
    y = np.full(SHAPE, 2048, "f4")
    with pytest.raises(OverflowError, match=r"steps apart; 100 can be told"):
        ladder.find_guard(y, noise.to_signal(y), noise, 1e-5)
    ladder.find_guard(y / 2, noise.to_signal(y / 2), noise, 1e-5)


def test_a_factor_of_noise_is_above_zero():
    mesh = np.zeros((4, 4), np.int32)
    mesh[2, 3] = -256
    with pytest.raises(CorruptDataError, match=r"factor of 0\.0; it is above 0"):
        noise_at(mesh, slice(0, 64), slice(0, 64))


def test_without_the_guard_machines_would_disagree():
    _, noise, background, _, y = made("i2", 12.0, 0.6, 3.0, 7)
    reach = 1e-5 * (1 + np.abs(y))
    nothing = np.zeros(SHAPE, np.uint8)
    here = ladder.predict(y, background, noise, nothing)
    apart = sum(
        int(
            (
                here != ladder.predict((y + sign * reach).astype("f4"), background, noise, nothing)
            ).sum()
        )
        for sign in (-1, 1)
    )
    assert 0 < apart < 100  # a few in a tile of 65,536


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_every_bit_of_floats_returns(dtype):
    unsigned = f"u{np.dtype(dtype).itemsize}"
    rng = np.random.default_rng(3)
    bits = rng.integers(0, np.iinfo(unsigned).max, SHAPE, dtype=unsigned, endpoint=True)
    stored = bits.view(dtype)  # all NaN payloads, infinities, subnormals
    with np.errstate(invalid="ignore"):
        bounded = np.nan_to_num(rng.normal(0, 1, SHAPE)).astype(dtype)
    nowhere = np.zeros(SHAPE, np.int64)
    rest = ladder.remainder(stored, nowhere, nowhere + 1, bounded)
    back = ladder.apply_remainder(rest, nowhere, nowhere + 1, bounded)
    assert back.tobytes() == stored.tobytes()


def test_background_is_exact_and_continuous_over_tiles():
    rng = np.random.default_rng(0)
    mesh = rng.integers(-(2**30), 2**30, (8, 8), dtype=np.int32)
    whole = background_at(mesh, 2, slice(0, 512), slice(0, 512))
    part = background_at(mesh, 2, slice(256, 512), slice(128, 384))
    np.testing.assert_array_equal(whole[256:, 128:384], part)
    np.testing.assert_array_equal(whole[0, 0], 2 * mesh[0, 0])
    assert (np.ldexp(whole, 14) == np.rint(np.ldexp(whole, 14))).all()


def test_noise_units_have_unit_noise_and_return():
    noise = NoiseModel.from_stored_units(12.0, 3.5, integer=True)
    rng = np.random.default_rng(1)
    signal = 4000.0 + rng.normal(0, noise.pixel_sigma(np.array(4000.0)), 100_000)
    y = noise.to_noise_units(signal)
    assert abs(np.std(y) - 1) < 0.02
    np.testing.assert_allclose(noise.to_signal(y), signal, rtol=1e-5)


@pytest.mark.parametrize(("sigma", "slope"), [(0, 0), (-1, 0), (np.nan, 0), (1, -1), (np.inf, 1)])
def test_noise_model_refuses_what_is_no_noise(sigma, slope):
    with pytest.raises(ValueError, match="sigma"):
        NoiseModel.from_stored_units(sigma, slope, integer=False)


@pytest.mark.parametrize("width", [1, 2, 7, 8, 1000])
def test_shifts_of_cells_are_spread_evenly(width):
    shift = ladder.dither(np.full((256, 256), width))
    assert set(np.unique(shift)) == set(range(-(width // 2), width - width // 2))
    counts = np.bincount((shift + width // 2).ravel(), minlength=width)
    assert np.ptp(counts) <= 2 * np.sqrt(counts.mean())  # white ones: about 6
    box = shift[40:48, 100:108]
    assert abs(box.mean() + (width % 2 == 0) / 2) < 0.05 * width  # white ones scatter by 0.036


def test_a_median_of_dithered_cells_stays_within_its_error():
    """Of level sky and of cells half its noise wide, in boxes of 64 x 64 pixels."""
    rng = np.random.default_rng(3)
    sigma, flat = 200.0, np.zeros((256, 256), np.int64)
    width = flat + 100
    off = {True: [], False: []}
    for _ in range(8):
        grid = np.rint(rng.normal(rng.uniform(-50, 50), sigma, flat.shape)).astype(np.int64)
        for dithered, errors in off.items():
            start = flat + ladder.dither(width) if dithered else flat
            decoded = ladder.from_cells(ladder.to_cells(grid, start, width), start, width)
            raw, met = (one.reshape(4, 64, 4, 64).swapaxes(1, 2) for one in (grid, decoded))
            errors += list((np.median(met, axis=(2, 3)) - np.median(raw, axis=(2, 3))).ravel())
    error = 1.25 * sigma / 64
    assert np.std(off[False]) > 3 * error  # what it would be
    assert np.std(off[True]) < 0.5 * error
