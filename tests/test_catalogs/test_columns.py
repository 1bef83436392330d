"""The arithmetic of table columns: bounds, bits, and sums that no order of additions changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.som import quantization_error, side_for, topographic_error, train_som, u_matrix
from models.table_model import train_table
from skyfold.access.model_files import files_digest
from skyfold.catalogs import columns as cells
from skyfold.catalogs.index import CatalogInfo, Column
from skyfold.catalogs.model import LATENT_LIMIT, TableModel, assign_cells
from skyfold.errors import CorruptDataError, InvalidRequestError

SMALL, LARGE = 1e-30, 1e30


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["f4", "f8"]), st.floats(SMALL, LARGE))
def test_errors_keep_five_bits(dtype, error):
    value = np.array([error], dtype)
    back = cells.from_error_cells(cells.error_cells(value), value.dtype)
    assert abs(float(back[0]) - float(value[0])) <= float(value[0]) / 64


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-1e6, 1e6), st.floats(1e-3, 1e3), st.floats(-1e6, 1e6), st.sampled_from([1, 1e-12])
)
def test_scaled_values_keep_their_bound_at_any_scale(value, error, prediction, scale):
    errors = cells.from_error_cells(cells.error_cells(np.array([error * scale])), np.dtype("f8"))
    width = cells.scaled_width(errors, 0.1, 1.0, inverse=False)
    v, m = np.array([value * scale]), np.array([prediction * scale])
    stored, good = cells.to_cells(v, m, width)
    assert good[0]
    back = cells.from_cells(stored, m, width, np.dtype("f8"))
    assert abs(back[0] - v[0]) <= 0.1 * error * scale


@pytest.mark.parametrize("error", [0.0, -1.0, np.nan, np.inf])
def test_a_useless_error_gives_no_cell(error):
    width = cells.scaled_width(np.array([error]), 0.1, 1.0, inverse=False)
    _, good = cells.to_cells(np.array([1.0]), np.array([0.0]), width)
    assert not good[0]


def test_interpolation_is_that_of_numpy_inside_and_straight_outside():
    x, y = np.array([0.0, 1.0, 3.0]), np.array([5.0, 6.0, 2.0])
    inside = np.linspace(0, 3, 50)
    np.testing.assert_allclose(cells.interpolate(inside, x, y), np.interp(inside, x, y))
    assert cells.interpolate(np.array([-1.0, 4.0]), x, y).tolist() == [4.0, 0.0]


def test_a_quarter_of_the_cells_is_held_out_and_another_seed_holds_out_others():
    first, second = (cells.held_out(np.arange(20_000), seed) for seed in (1, 2))
    assert first.mean() == pytest.approx(0.25, abs=0.02)
    assert (first & second).mean() == pytest.approx(0.0625, abs=0.02)


def make_model(rng: np.random.Generator) -> TableModel:
    m, c, h = 5, 4, 7
    knots = np.tile(np.arange(3.0), (m, 1))
    return TableModel(
        targets=np.arange(m),
        knots_y=knots,
        knots_v=knots * 2,
        weights=rng.integers(-(2**20), 2**20, (m, c)),
        offset=rng.integers(-(2**20), 2**20, m),
        hidden_weights=rng.integers(-(2**16), 2**16, (h, c)),
        hidden_offset=rng.integers(-(2**20), 2**20, h),
        hidden_out=rng.integers(-(2**12), 2**12, (m, h)),
        encoder_in=np.zeros((0, m)),
        encoder_offset=np.zeros(0),
        encoder_out=np.zeros((c, 0)),
        encoder=rng.standard_normal((c, m)),
        centres=np.zeros((4, c), np.int64),
        prototypes=np.zeros((4, m)),
        features=np.arange(m),
        feature_mean=np.zeros(m),
        feature_scale=np.ones(m),
        som=rng.standard_normal((2, 2, m)).astype(np.float32),
        curve_error=np.empty(0, np.int64),
        curve_target=np.empty(0, np.int64),
        curve_v=np.empty((0, 3)),
        curve_e=np.empty((0, 3)),
        card={},
    )


def exact_sum(weights, values) -> int:
    """Of products, in whole numbers of any size."""
    return sum(int(w) * int(z) for w, z in zip(weights, values, strict=True))


def test_decoding_does_not_depend_on_the_order_of_sums():
    rng = np.random.default_rng(1)
    model = make_model(rng)
    latents = rng.integers(-LATENT_LIMIT, LATENT_LIMIT, (4, 500))
    seen = np.clip(latents.T, -2048, 2048)
    hidden = [
        [max(exact_sum(row, column) + int(a), 0) >> 12 for column in seen]
        for row, a in zip(model.hidden_weights, model.hidden_offset, strict=True)
    ]
    exact = [
        [
            exact_sum(row, column) + exact_sum(out, [one[place] for one in hidden])
            for place, column in enumerate(latents.T)
        ]
        for row, out in zip(model.weights, model.hidden_out, strict=True)
    ]
    wanted = (np.array(exact, object) + model.offset[:, None].astype(object)) / 2**20
    np.testing.assert_array_equal(model.predict_units(latents), wanted.astype(float))
    alone = np.concatenate([model.predict_units(latents[:, [n]]) for n in range(500)], axis=1)
    np.testing.assert_array_equal(model.predict_units(latents), alone)


def test_a_model_returns_from_its_files_and_damage_is_refused():
    model = make_model(np.random.default_rng(2))
    files = model.to_files()
    assert files == model.to_files()
    back = TableModel.from_files(files, files_digest(files))
    np.testing.assert_array_equal(back.som, model.som)
    with pytest.raises(CorruptDataError, match="digest"):
        TableModel.from_files(files | {"card.json": b"{}  "}, files_digest(files))
    for name in ("weights", "hidden_weights", "hidden_out"):
        model = make_model(np.random.default_rng(2))
        getattr(model, name)[0, 0] = 2**45
        hostile = model.to_files()
        with pytest.raises(CorruptDataError, match="decoded exactly"):
            TableModel.from_files(hostile, files_digest(hostile))


def test_assignment_is_the_nearest_unit():
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((1300, 6)).astype(np.float32)
    som = rng.standard_normal((7, 5, 6)).astype(np.float32)
    flat = som.reshape(-1, 6)
    nearest = ((rows[:, None] - flat) ** 2).sum(axis=-1).argmin(axis=1)
    assert (assign_cells(rows, som) == nearest).mean() > 0.999


def test_a_map_unfolds_a_plane_and_shows_a_gap():
    rng = np.random.default_rng(4)
    plane = rng.uniform(-1, 1, (3000, 2))
    rows = np.concatenate([plane, plane[:, :1] * plane[:, 1:]], axis=1).astype(np.float32)
    som = train_som(rows, 12, seed=1)
    assert topographic_error(rows, som) < 0.1
    assert quantization_error(rows, som) < 0.2
    two = np.concatenate([rows[:1500], rows[1500:] + 8]).astype(np.float32)
    split = train_som(two, 10, seed=1)
    cells_of = assign_cells(two, split)
    assert not set(cells_of[:1500]) & set(cells_of[1500:])
    assert u_matrix(split).max() > 5 * np.median(u_matrix(split))


def test_training_a_map_is_repeatable_and_refuses_gaps():
    rows = np.random.default_rng(5).standard_normal((300, 3)).astype(np.float32)
    np.testing.assert_array_equal(train_som(rows, 4, seed=2), train_som(rows, 4, seed=2))
    rows[3, 1] = np.nan
    with pytest.raises(InvalidRequestError, match="finite"):
        train_som(rows)
    assert side_for(10) == 1
    assert side_for(10**6) == 32


def test_an_autoencoder_costs_less_where_rows_lie_on_a_curve():
    rng = np.random.default_rng(6)
    place = rng.uniform(-2, 2, 4000)
    curve = np.stack([place, place**2, np.sin(2 * place), np.abs(place)]) * 20
    values = curve + rng.standard_normal(curve.shape)
    columns = tuple(Column(f"c{n}", "<f8", first=n, kind="fixed", precision=1.0) for n in range(4))
    info = CatalogInfo("t", 4000, 4000, 4000, columns)
    linear = train_table(info, values, channels=2)
    bent = train_table(info, values, channels=2, kind="autoencoder", steps=800)
    assert linear.card["kind"] == "pca"
    assert bent.card["kind"] == "autoencoder"
    assert bent.card["bits"]["autoencoder"] < bent.card["bits"]["pca"]
    assert bent.channels == linear.channels == 2
    files = bent.to_files()
    back = TableModel.from_files(files, files_digest(files))
    spread = {}
    for model in (linear, back):
        units = model.to_units(values)
        cells_of = model.assign(units)
        rest = model.encode(units, cells_of)
        predicted = model.predict(model.latents(rest, cells_of), 2)
        spread[model.card["kind"]] = np.median(np.abs(predicted - values[2]))
    assert spread["autoencoder"] < 0.8 * spread["pca"]
    assert train_table(info, values[:, :900], kind="autoencoder").card["kind"] == "pca"  # too few
