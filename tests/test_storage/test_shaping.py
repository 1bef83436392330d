"""Coarse cells: within their width, the same as pixel by pixel, and sums that keep small errors."""

from __future__ import annotations

import numpy as np
import pytest
import sep
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.images.shaping import FINE, WIDEST, coarseness, shaped_cells


def shaped(residuals: np.ndarray, kept: np.ndarray, coarse: int) -> np.ndarray:
    """Cells of whole tiles; 0 where not kept."""
    cells = np.zeros(residuals.shape, np.int32)
    cells[kept] = shaped_cells(residuals[kept], np.nonzero(kept), coarse)
    return cells


def one_by_one(residuals: np.ndarray, kept: np.ndarray, coarse: int) -> np.ndarray:
    """The textbook's loop, in double precision."""
    want, cells = (
        np.pad(residuals * FINE / coarse, ((0, 1), (1, 1))),
        np.zeros(residuals.shape, int),
    )
    for y, x in zip(*np.nonzero(kept), strict=True):
        cells[y, x] = np.rint(want[y, x + 1])
        error = want[y, x + 1] - cells[y, x]
        for dy, dx, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
            want[y + dy, x + 1 + dx] += error * share / 16
    return cells


def islands(seed: int, share: float) -> np.ndarray:
    leaves = np.random.default_rng(seed).random((2, 32, 32)) < share
    return np.kron(leaves, np.ones((1, 8, 8), bool))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(FINE + 1, WIDEST), st.sampled_from([0.5, 2.0, 3e4]))
def test_cells_are_those_of_the_loop_and_within_their_width(seed, coarse, scale):
    rng = np.random.default_rng(seed)
    residuals, kept = rng.normal(0, scale, (2, 256, 256)), islands(seed, 0.3)
    cells = shaped(residuals, kept, coarse)
    off = np.abs(residuals * FINE / coarse - cells)[kept]
    assert off.max() <= 1 + 1e-5
    expected = one_by_one(residuals[1], kept[1], coarse)
    assert (cells[1] != expected).mean() < 1e-3  # single precision may break a tie otherwise


def test_wider_points_allow_wider_cells_without_steps():
    widths = [coarseness(fwhm, 0.1) for fwhm in np.linspace(0.5, 12, 1000)]
    assert widths[0] == FINE
    assert widths[-1] == WIDEST
    assert set(np.diff(widths)) == {0, 1}


def test_of_crowded_fields_cells_are_fine():
    widths = [coarseness(3.0, share) for share in np.linspace(0, 1, 1000)]
    assert widths[0] == widths[240] > FINE
    assert widths[400] == widths[-1] == FINE
    assert set(np.diff(widths)) == {0, -1}


@pytest.mark.parametrize("fwhm", [2.5, 3.5, 5.0, 7.0])
def test_fluxes_keep_the_error_of_fine_cells(fwhm):
    """In units of half a sigma a cell: 90 % of errors within a quarter of the flux's own error."""
    residuals = np.random.default_rng(7).normal(0, 2, (1, 256, 256))
    coarse = coarseness(fwhm, 0.1)
    cells = shaped(residuals, np.ones(residuals.shape, bool), coarse)
    off = (residuals - coarse / FINE * cells)[0] / 2  # [sigma]
    x, y = np.random.default_rng(8).uniform(10, 245, (2, 2000))
    errors = sep.sum_circle(off, x, y, fwhm, subpix=0)[0] / np.sqrt(np.pi * fwhm**2)
    assert np.percentile(np.abs(errors), 90) < 0.26
    assert abs(errors.mean()) < 0.01


def test_nothing_kept_is_nothing_chosen():
    none = np.zeros((2, 256, 256), bool)
    assert shaped_cells(np.empty(0), np.nonzero(none), WIDEST).shape == (0,)
