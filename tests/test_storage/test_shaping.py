"""Coarse cells: within their width, the same as pixel by pixel, and sums that keep small errors."""

from __future__ import annotations

import numpy as np
import pytest
import sep
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.images.shaping import FINE, WIDEST, coarseness, shaped_cells


def shaped(residuals: np.ndarray, kept: np.ndarray, coarse: int, fwhm: float) -> np.ndarray:
    """Cells of whole tiles; 0 where not kept."""
    cells = np.zeros(residuals.shape, np.int32)
    cells[kept] = shaped_cells(residuals[kept], kept, coarse, fwhm)
    return cells


def diffused(residuals: np.ndarray, kept: np.ndarray, coarse: int) -> np.ndarray:
    """Error diffusion alone, the textbook's loop in double precision."""
    want = np.pad(residuals * FINE / coarse, ((0, 1), (1, 1)))
    cells = np.zeros(residuals.shape, int)
    for y, x in zip(*np.nonzero(kept), strict=True):
        cells[y, x] = np.rint(want[y, x + 1])
        error = want[y, x + 1] - cells[y, x]
        for dy, dx, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
            want[y + dy, x + 1 + dx] += error * share / 16
    return cells


def entropy(cells: np.ndarray) -> float:
    """Bits of a cell whose frequencies are known."""
    share = np.unique(cells, return_counts=True)[1] / cells.size
    return float(-(share * np.log2(share)).sum())


def sums(off: np.ndarray, radius: float, count: int = 2000) -> np.ndarray:
    """Errors of fluxes in circles, in units of that of noise of 1."""
    x, y = np.random.default_rng(8).uniform(12, off.shape[1] - 12, (2, count))
    total = sep.sum_circle(off, x, y, radius, subpix=5)[0]
    return np.asarray(total / np.sqrt(np.pi * radius**2))


def islands(seed: int, share: float) -> np.ndarray:
    leaves = np.random.default_rng(seed).random((2, 32, 32)) < share
    return np.kron(leaves, np.ones((1, 8, 8), bool))


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(FINE + 1, WIDEST),
    st.sampled_from([0.5, 2.0, 3e4]),
    st.floats(0.5, 12),
)
def test_an_error_is_at_most_the_width_of_a_coarse_cell(seed, coarse, scale, fwhm):
    rng = np.random.default_rng(seed)
    residuals, kept = rng.normal(0, scale, (2, 256, 256)), islands(seed, 0.3)
    cells = shaped(residuals, kept, coarse, fwhm)
    off = np.abs(residuals * FINE / coarse - cells)[kept]
    assert off.max() <= 1 + 1e-5
    np.testing.assert_array_equal(cells, shaped(residuals, kept, coarse, fwhm))


@pytest.mark.parametrize(("fwhm", "share"), [(2.0, 0.96), (3.0, 0.93), (4.5, 0.9), (6.5, 0.88)])
def test_fewer_bits_than_error_diffusion_takes_for_smaller_errors(fwhm, share):
    residuals = np.random.default_rng(3).normal(0, 2, (1, 256, 256))
    kept, coarse = np.ones(residuals.shape, bool), coarseness(fwhm, 0.1, 1.0)
    cells = shaped(residuals, kept, coarse, fwhm)[0]
    plain = diffused(residuals[0], kept[0], coarse)
    assert entropy(cells) < share * entropy(plain)
    met, other = (
        np.percentile(np.abs(sums(residuals[0] - coarse / FINE * one, fwhm)), 90)
        for one in (cells, plain)
    )
    assert met < 0.95 * other


def test_wider_points_allow_wider_cells_with_one_step():
    widths = [coarseness(fwhm, 0.1, 1.0) for fwhm in np.linspace(0.5, 12, 1000)]
    assert widths[0] == FINE
    assert widths[-1] == WIDEST
    assert set(np.diff(widths)) == {0, 1, 4}
    assert np.count_nonzero(np.diff(widths) == 4) == 1  # between lies what saves nothing


def test_of_crowded_fields_cells_are_fine():
    widths = [coarseness(3.0, share, 1.0) for share in np.linspace(0, 1, 1000)]
    assert widths[0] == widths[340] > FINE
    assert widths[610] == widths[-1] == FINE
    assert set(np.diff(widths)) == {0, -1, -4}


def test_cells_of_the_sky_that_are_wider_allow_less_wide_ones():
    widths = [coarseness(4.0, 0.1, fine) for fine in np.linspace(1, 1.5, 100)]
    assert widths[0] > widths[-1] >= widths[0] / 1.5 - 1
    assert (np.diff(widths) <= 0).all()


@pytest.mark.parametrize("fwhm", [1.8, 2.5, 3.5, 5.0, 7.0, 10.0])
def test_fluxes_keep_the_error_of_fine_cells(fwhm):
    """In units of half a sigma a cell: 90 % of errors within a quarter of the flux's own error.

    Circles are of other sizes than the one that cells are chosen for: what a survey measures in,
    and what its images' points are, is never quite the same.
    """
    residuals = np.random.default_rng(7).normal(0, 2, (1, 256, 256))
    coarse = coarseness(fwhm, 0.1, 1.0)
    cells = shaped(residuals, np.ones(residuals.shape, bool), coarse, fwhm)
    off = (residuals - coarse / FINE * cells)[0] / 2  # [sigma]
    for radius in np.linspace(0.85, 1.5, 6):
        errors = sums(off, radius * fwhm)
        assert np.percentile(np.abs(errors), 90) < 0.26
        assert abs(errors.mean()) < 0.01


def test_bright_pixels_are_no_different():
    """What the network missed of a star takes large cells, and their errors cancel as well."""
    y, x = np.mgrid[:256, :256] - 128
    residuals = np.random.default_rng(4).normal(0, 2, (1, 256, 256))
    residuals += 400 * np.exp(-(x**2 + y**2) / 8)
    kept = np.broadcast_to(np.hypot(x, y) < 30, residuals.shape)
    coarse = coarseness(3.0, 0.1, 1.0)
    off = (residuals - coarse / FINE * shaped(residuals, kept, coarse, 3.0))[0] / 2
    at = np.random.default_rng(5).uniform(125, 131, (2, 300))
    errors = sep.sum_circle(np.where(kept[0], off, 0), *at, 3.0)[0] / np.sqrt(np.pi * 9)
    assert np.percentile(np.abs(errors), 90) < 0.3


@pytest.mark.parametrize("fwhm", [2.5, 4.5])
def test_outside_of_cores_bits_are_fewer_and_fluxes_nearly_as_good(fwhm):
    rng = np.random.default_rng(9)
    y, x = np.mgrid[:256, :256]
    centres = 32 * np.mgrid[:8, :8].reshape(2, -1).T + 15.5
    far = np.min([np.hypot(y - cy, x - cx) for cy, cx in centres], axis=0)
    kept, core = np.stack([[far < 2.5 * fwhm] * 6, [far < 0.9 * fwhm] * 6])
    residuals, coarse = rng.normal(0, 2, kept.shape), coarseness(fwhm, 0.1, 1.0)
    alike, fewer = np.zeros((2, *kept.shape), np.int32)
    for cells, outer in ((alike, None), (fewer, ~core[kept])):
        cells[kept] = shaped_cells(residuals[kept], kept, coarse, fwhm, outer=outer)
    assert entropy(fewer[kept & ~core]) < 0.98 * entropy(alike[kept & ~core])
    for radius in (1.0, 2.0):
        area = np.pi * (radius * fwhm) ** 2
        errors = []
        for off in np.where(kept, residuals - coarse / FINE * fewer, 0) / 2:  # [sigma]
            total = sep.sum_circle(off, *centres.T[::-1], radius * fwhm, subpix=5)[0]
            errors.append(total / np.sqrt(area))
        assert np.percentile(np.abs(errors), 90) < 0.2


def test_nothing_kept_is_nothing_chosen():
    none = np.zeros((2, 256, 256), bool)
    assert shaped_cells(np.empty(0), none, WIDEST, 4.0).shape == (0,)
