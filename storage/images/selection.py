"""Which leaves of an image `sources` keeps: what is a source, and what was not expected.

A leaf of 2 x 2 pixels is kept if a matched filter sees something in the data, or if what the
network left there is not noise: a pixel beyond 5 sigma, or a filtered residual beyond it at any
scale. What a source is, is judged as photometry judges it, by the noise of its pixels taken as
independent; residuals are compared with their own filtered scatter on the quiet side, so that
correlated noise is no surprise. Of a tile of which most is kept, all is: saying what is not would
cost about as much as coding it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyfold.ladder import LEAF, TILE
from skyfold.science.filters import gaussian

if TYPE_CHECKING:
    from numpy.typing import NDArray

SOURCE_SIGNIFICANCE = 4.2  # matched filter; a source of S/N 5 in a 1 FWHM aperture has 6.2
REACH = 1.0  # FWHM around what the filter sees, which is itself as wide
EXTENDED_SIGNIFICANCE = 5.0
RESIDUAL_SIGNIFICANCE = 5.0
BLANK = 1.0  # FWHM beyond what is kept, from which the sky is blank
EIGHT = math.sqrt(2)  # leaves: an aperture reaches into all that touch a source's own
WIDE_SCALES = (2.0, 4.0)  # Gaussian sigma [pixel]
SAMPLE = 120_000  # filtered pixels, from which their quantiles are known to 0.007 of their noise
CROWDED = 0.75  # share of a tile's leaves from which all are kept
FWHM_TO_SIGMA = 2 * math.sqrt(2 * math.log(2))


def select_leaves(
    signal: NDArray[np.float32], residual: NDArray[np.float32], fwhm: float
) -> NDArray[np.bool_]:
    """Leaves that `sources` keeps.

    Parameters
    ----------
    signal : ndarray, shape (ny, nx), float32
        Background-subtracted pixels over their noise; 0 where there is no measurement. Of whole
        tiles.
    residual : ndarray, shape (ny, nx), float32
        Pixels less the prediction, over their noise; 0 where there is no measurement.
    fwhm : float
        Of point sources [pixel].

    Returns
    -------
    ndarray of bool, shape (ny / 2, nx / 2)
    """
    psf = max(fwhm / FWHM_TO_SIGMA, 0.6)
    sources = _leaves(_filtered(signal, psf, white=True).above(SOURCE_SIGNIFICANCE))
    kept = _dilated(sources, max(REACH * fwhm / LEAF, EIGHT))
    surprises = np.abs(residual) > RESIDUAL_SIGNIFICANCE
    surprises |= _filtered(residual, 1.0).beyond(RESIDUAL_SIGNIFICANCE)
    kept |= _leaves(surprises)
    # A wider filter sees means of leaves as well: twice the mean of four has the noise of one.
    kept |= _filtered(2 * _means(signal), 2.5 * psf / LEAF).above(EXTENDED_SIGNIFICANCE)
    wide = 2 * _means(residual)
    for scale in WIDE_SCALES:
        kept |= _filtered(wide, scale / LEAF).beyond(RESIDUAL_SIGNIFICANCE)
    return kept | _crowded(kept, _leaves(signal != 0))


def _crowded(kept: NDArray[np.bool_], measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leaves of tiles most of whose measured leaves are kept."""
    side = TILE // LEAF
    tiles = kept.shape[0] // side, side, kept.shape[1] // side, side
    count, total = (one.reshape(tiles).sum(axis=(1, 3)) for one in (kept & measured, measured))
    return np.repeat(np.repeat(count > CROWDED * total, side, axis=0), side, axis=1)


def blank_leaves(kept: NDArray[np.bool_], fwhm: float) -> NDArray[np.bool_]:
    """Leaves away from those that are kept, where light of sources does not lift the sky."""
    return ~_dilated(kept, max(BLANK * fwhm / LEAF, EIGHT))


def _leaves(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leaves that hold any of the pixels."""
    rows = pixels[::LEAF] | pixels[1::LEAF]
    return rows.view(np.uint16) != 0  # two neighbours at once


def _means(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over leaves."""
    rows = plane[::LEAF] + plane[1::LEAF]
    return (rows[:, ::LEAF] + rows[:, 1::LEAF]) * np.float32(1 / LEAF**2)


@dataclass(frozen=True, eq=False)
class _Filtered:
    """A filtered plane, the level of its quiet parts, and the size of its noise."""

    plane: NDArray[np.float32]
    quiet: float
    noise: float

    def above(self, significance: float) -> NDArray[np.bool_]:
        """Where it lies so many times its noise above its quiet level."""
        return self.plane > np.float32(self.quiet + significance * self.noise)

    def beyond(self, significance: float) -> NDArray[np.bool_]:
        """Where it lies so many times its noise above or below it."""
        return self.above(significance) | (
            self.plane < np.float32(self.quiet - significance * self.noise)
        )


def _filtered(plane: NDArray[np.float32], sigma: float, *, white: bool = False) -> _Filtered:
    """Gaussian filter, in units of whose noise, at least that of white noise, it is judged.

    The quiet level is where the lower quantiles say that the median of noise alone would be: in a
    crowded field the median itself lies among the sources.
    """
    smooth = gaussian(plane, sigma)
    least = 1 / (2 * sigma * math.sqrt(math.pi))
    # odd, so as not to fall in with columns
    every = max(int(np.count_nonzero(plane)) // SAMPLE, 1) | 1
    measured = smooth.ravel()[::every][plane.ravel()[::every] != 0]
    if not measured.size:
        return _Filtered(smooth, 0.0, least)
    middle, low, lowest = np.percentile(measured, (50, 15.87, 2.28))
    quiet = min(middle, 2 * low - lowest)
    return _Filtered(smooth, quiet, least if white else max(float(middle - low), least))


def _dilated(leaves: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Leaves within a radius of any of those."""
    reach = max(math.ceil(radius), 1)
    (ny, nx), padded = leaves.shape, np.pad(leaves, reach)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    out = leaves.copy()
    for dy, dx in np.argwhere(x * x + y * y <= radius * radius + 0.5):
        out |= padded[dy : dy + ny, dx : dx + nx]
    return out
