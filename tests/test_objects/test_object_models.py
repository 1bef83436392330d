"""The model of objects, exact search, explanations: against definitions and brute force."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.explain import map_distance, occlusion, shapley_values
from models.object_model import train_objects
from models.tsne import sample_rows, tsne_map
from skyfold.access.model_files import files_digest
from skyfold.errors import CorruptDataError
from skyfold.objects.model import ObjectModel
from skyfold.objects.neighbours import nearest


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(3)
    snr = 10 ** rng.uniform(0.6, 2.5, 600)
    features = rng.normal(0, 1, (600, 8)) * np.log10(snr)[:, None]
    return features, snr, 1 + 0.01 * snr + rng.normal(0, 0.05, 600)


@pytest.fixture(scope="module")
def model(sample):
    return train_objects(*sample, seed=2)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 300), st.integers(1, 16), st.integers(1, 40), st.integers(1, 50), st.integers(0)
)
def test_search_is_that_of_brute_force(rows, size, count, block, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-3, 4, (rows, size)).astype(np.int8)  # few values: many ties
    vectors[rng.random(rows) < 0.1] = -127
    blocks = [vectors[start : start + block] for start in range(0, rows, block)]
    numbers, distance = nearest(vectors[0], blocks, count)
    squares = ((vectors.astype(int) - vectors[0].astype(int)) ** 2).sum(axis=1)
    expected = np.lexsort((np.arange(rows), squares))[:count]
    assert np.array_equal(numbers, expected)
    assert np.array_equal(np.rint(distance**2).astype(int), squares[expected])


def test_model_comes_back_from_its_files(model, sample):
    files = model.to_files()
    again = ObjectModel.from_files(files, files_digest(files))
    assert files == again.to_files()
    vectors = model.vectors(sample[0])
    assert np.array_equal(again.vectors(sample[0]), vectors)
    assert np.abs(vectors).max() > 60  # the range is used
    with pytest.raises(CorruptDataError, match="digest"):
        ObjectModel.from_files(files | {"card.json": b"{}"}, files_digest(files))


@pytest.mark.parametrize(
    "change",
    [
        {"knots": np.array([1.0, 1.0])},
        {"residual_curve": np.zeros((2, 24))},
        {"centre": np.zeros(3)},
        {"som": np.zeros((4, 4, 3), np.float32)},
    ],
)
def test_wrong_arrays_are_refused(model, change):
    files = replace(model, **change).to_files()
    with pytest.raises(CorruptDataError, match="is not a model of objects"):
        ObjectModel.from_files(files, files_digest(files))


def test_same_sample_gives_same_model(model, sample):
    assert train_objects(*sample, seed=2).to_files() == model.to_files()


def test_novelty_counts_deviations_at_equal_brightness(model, sample):
    _, snr, residual = sample
    distance = np.zeros(len(snr))
    usual = model.novelty(snr, residual, distance)
    odd = model.novelty(snr, residual + 0.5, distance)  # ten of its standard deviations
    assert np.median(usual) < 1
    assert np.median(odd) == pytest.approx(10, rel=0.35)
    bright = snr > np.median(snr)
    assert abs(np.median(usual[bright]) - np.median(usual[~bright])) < 0.7
    assert (model.novelty(snr, residual - 1, distance) == 0).all()  # less than usual is not novel


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_objects_have_a_model(count):
    rng = np.random.default_rng(count)
    features = rng.normal(size=(count, 4))
    model = train_objects(features, np.full(count, 7.0), np.ones(count))
    assert np.isfinite(model.novelty(np.full(count, 7.0), np.ones(count), np.zeros(count))).all()
    model = train_objects(np.zeros((count, 4)), np.full(count, 7.0), np.ones(count))
    assert not model.vectors(np.zeros((count, 4))).any()
    assert json.dumps(model.card)


def test_shapley_values_share_out_the_distance():
    som = np.zeros((2, 2, 4), np.float32)
    typical = np.random.default_rng(1).normal(0, 0.01, (100, 4))
    rows = np.array([[0, 5.0, 0, 0], [3.0, 0, 0, -3.0]])
    shares = shapley_values(rows, typical, lambda some: map_distance(some, som))
    assert np.allclose(shares.sum(axis=1), map_distance(rows, som), atol=0.05)
    assert shares[0, 1] > 0.99 * shares[0].sum()
    assert shares[1, 0] == pytest.approx(shares[1, 3], rel=0.05)
    assert np.abs(shares[1, 1:3]).max() < 0.05


def test_shapley_values_leave_the_generator_alone():
    np.random.seed(5)  # noqa: NPY002
    before = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    shapley_values(np.ones((1, 3)), np.zeros((10, 3)), lambda rows: rows.sum(axis=1))
    assert np.random.random() == before  # noqa: NPY002


def test_occlusion_of_a_sum_is_each_block():
    tile = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    found = occlusion(tile, (8, 16), 4, 8, lambda tiles: tiles.sum(axis=(1, 2), dtype=np.float64))
    blocks = tile[8:40, 16:48].reshape(4, 8, 4, 8).sum(axis=(1, 3))
    assert np.allclose(found, blocks, atol=1e-3)
    edge = occlusion(tile, (-8, 56), 2, 8, lambda tiles: tiles.sum(axis=(1, 2), dtype=np.float64))
    assert np.allclose(edge, [[0, 0], [tile[:8, 56:].sum(), 0]], atol=1e-3)


@pytest.mark.parametrize("numbers", [1, 2, 6])
def test_tsne_keeps_clumps_apart(numbers):
    rng = np.random.default_rng(2)
    kinds = np.repeat([0, 1], 40)
    places, about = tsne_map(rng.normal(0, 1, (80, numbers)) + 30 * kinds[:, None])
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(80)
    assert (kinds[apart.argmin(axis=1)] == kinds).mean() > 0.95
    assert about["objects"] == 80
    assert np.array_equal(sample_rows(10), np.arange(10))
