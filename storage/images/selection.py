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
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_dilation, gaussian_filter

from skyfold.ladder import LEAF, TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

SOURCE_SIGNIFICANCE = 4.2  # matched filter; a source of S/N 5 in a 1 FWHM aperture has 6.2
REACH = 1.0  # FWHM around what the filter sees, which is itself as wide
EXTENDED_SIGNIFICANCE = 5.0
RESIDUAL_SIGNIFICANCE = 5.0
BLANK = 1.0  # FWHM beyond what is kept, from which the sky is blank
EIGHT = math.sqrt(2)  # leaves: an aperture reaches into all that touch a source's own
WIDE_SCALES = (2.0, 4.0)  # Gaussian sigma [pixel]
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
    sources = _leaves(_filtered(signal, psf, white=True) > SOURCE_SIGNIFICANCE)
    kept = binary_dilation(sources, _disk(max(REACH * fwhm / LEAF, EIGHT)))
    surprises = np.abs(residual) > RESIDUAL_SIGNIFICANCE
    surprises |= np.abs(_filtered(residual, 1.0)) > RESIDUAL_SIGNIFICANCE
    kept |= _leaves(surprises)
    # A wider filter sees means of leaves as well: twice the mean of four has the noise of one.
    kept |= _filtered(2 * _means(signal), 2.5 * psf / LEAF) > EXTENDED_SIGNIFICANCE
    for scale in WIDE_SCALES:
        kept |= np.abs(_filtered(2 * _means(residual), scale / LEAF)) > RESIDUAL_SIGNIFICANCE
    return kept | _crowded(kept, _leaves(signal != 0))


def _crowded(kept: NDArray[np.bool_], measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leaves of tiles most of whose measured leaves are kept."""
    side = TILE // LEAF
    tiles = kept.shape[0] // side, side, kept.shape[1] // side, side
    count, total = (one.reshape(tiles).sum(axis=(1, 3)) for one in (kept & measured, measured))
    return np.repeat(np.repeat(count > CROWDED * total, side, axis=0), side, axis=1)


def blank_leaves(kept: NDArray[np.bool_], fwhm: float) -> NDArray[np.bool_]:
    """Leaves away from those that are kept, where light of sources does not lift the sky."""
    return ~np.asarray(binary_dilation(kept, _disk(max(BLANK * fwhm / LEAF, EIGHT))))


def _leaves(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leaves that hold any of the pixels."""
    return np.asarray(_in_leaves(pixels).any(axis=(1, 3)))


def _means(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means over leaves."""
    return np.asarray(_in_leaves(plane).mean(axis=(1, 3)))


def _in_leaves(plane: NDArray[Any]) -> NDArray[Any]:
    ny, nx = plane.shape
    return plane.reshape(ny // LEAF, LEAF, nx // LEAF, LEAF)


def _filtered(
    plane: NDArray[np.float32], sigma: float, *, white: bool = False
) -> NDArray[np.float32]:
    """Gaussian filter above its quiet level, in units of its noise: at least that of white noise.

    The quiet level is where the lower quantiles say that the median of noise alone would be: in a
    crowded field the median itself lies among the sources.
    """
    smooth = gaussian_filter(plane, sigma, mode="constant", truncate=3.0)
    measured = smooth[plane != 0]
    if not measured.size:
        return smooth
    sample = measured[:: max(measured.size // 200_000, 1)]
    middle, low, lowest = np.percentile(sample, (50, 15.87, 2.28))
    quiet = min(middle, 2 * low - lowest)
    least = 1 / (2 * sigma * math.sqrt(math.pi))
    return (smooth - quiet) / (least if white else max(float(middle - low), least))


def _disk(radius: float) -> NDArray[np.bool_]:
    reach = max(math.ceil(radius), 1)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return x * x + y * y <= radius * radius + 0.5
