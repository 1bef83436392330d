"""Bright single-precision pixels: predictions move until the bound is kept, or no ladder is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skyfold import ladder
from skyfold.noise import NoiseModel
from storage.images.far_pixels import WHOLE, Cells, keep_bound
from storage.images.prepared import NotLadderableError
from storage.images.strip_layers import Tile

SHAPE = (256, 256)
WHERE = slice(0, 256), slice(0, 256)


def far_tile(sigma: float, step: float) -> tuple[Cells, np.ndarray, Tile]:
    """Pixels of up to a million times the noise, of which the network expects nothing."""
    noise = NoiseModel.from_stored_units(math.ldexp(sigma, -40), 0.0, integer=False)
    light = np.random.default_rng(1).uniform(WHOLE, 1e6 * noise.sigma, SHAPE)
    stored = (light * math.ldexp(1.0, noise.grid_exponent)).astype("f4")
    how = Cells(noise, step, True, np.zeros(SHAPE))
    grid, predicted = ladder.to_grid(stored, noise), np.zeros(SHAPE, np.int64)
    return how, stored, Tile((0, 0), WHERE, grid, predicted, *how.of(predicted, grid))


def is_kept(how: Cells, stored: np.ndarray, tile: Tile) -> bool:
    """Whether a reader of the tile finds every pixel within the bound."""
    centres = ladder.from_cells(tile.cells, tile.predicted + tile.shift, tile.width)
    return not how.are_off(stored, tile.predicted, centres).any()


def test_predictions_move_until_the_bound_is_kept_and_the_guard_tells_how():
    how, stored, tile = far_tile(6000.0, 0.25)
    assert not is_kept(how, stored, tile)
    guard = np.zeros(SHAPE, np.uint8)
    keep_bound(how, stored, np.ones(SHAPE, bool), tile, guard)
    assert is_kept(how, stored, tile)
    np.testing.assert_array_equal(tile.predicted != 0, guard > 0)
    read = ladder.round_prediction(np.zeros(SHAPE), how.noise, guard)
    np.testing.assert_array_equal(read, tile.predicted)


def test_what_no_move_can_keep_has_no_ladder():
    how, stored, tile = far_tile(8191.0, 0.125)
    with pytest.raises(NotLadderableError):
        keep_bound(how, stored, np.ones(SHAPE, bool), tile, np.zeros(SHAPE, np.uint8))


def test_what_is_no_measurement_needs_no_bound():
    how, stored, tile = far_tile(8191.0, 0.125)
    guard = np.zeros(SHAPE, np.uint8)
    keep_bound(how, stored, np.zeros(SHAPE, bool), tile, guard)
    assert not tile.predicted.any()
    assert not guard.any()
