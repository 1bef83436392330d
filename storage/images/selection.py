"""Which leaves of an image `sources` keeps: what is a source, and what was not expected.

A leaf of 2 x 2 pixels is kept if a matched filter sees something in the data, or if what the
network left there is not noise: a pixel beyond 5 sigma, or a filtered residual beyond it at any
scale. What a source is, is judged as photometry judges it, by the noise of its pixels taken as
independent; residuals are compared with their own filtered scatter on the quiet side, so that
correlated noise is no surprise. Of a tile of which most is kept, all is: saying what is not would
cost about as much as coding it. The core of what is kept is where points were seen or something
was not expected; around it lie the pixels that only wide apertures reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from skyfold.ladder import LEAF, TILE
from skyfold.science.filters import gaussian

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SOURCE_SIGNIFICANCE = 4.4  # matched filter; a source of S/N 5 in a 1 FWHM aperture has 6.2
LIT_SIGNIFICANCE = 6.0  # with diffuse light, which is known without noise: no margin below 6.2
REACH = 1.0  # FWHM around what the filter sees, which is itself as wide
CORE = 0.4  # FWHM around it that are of a source's core
EXTENDED_SIGNIFICANCE = 5.0
RESIDUAL_SIGNIFICANCE = 5.0
HALO = 192  # rows of pixels, from beyond which nothing reaches into others
BLANK = 1.0  # FWHM beyond what is kept, from which the sky is blank
EIGHT = math.sqrt(2)  # leaves: an aperture reaches into all that touch a source's own
WIDE_SCALES = (2.0, 4.0)  # Gaussian sigma [pixel]
SAMPLE = 120_000  # filtered pixels, from which their quantiles are known to 0.007 of their noise
CROWDED = 0.75  # share of a tile's leaves from which all are kept
FWHM_TO_SIGMA = 2 * math.sqrt(2 * math.log(2))


def select_leaves(
    signal: NDArray[np.float32],
    residual: NDArray[np.float32],
    fwhm: float,
    levels: Levels | None = None,
    inner: slice | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Leaves that `sources` keeps, and those of them that are the core of something.

    Parameters
    ----------
    signal : ndarray, shape (ny, nx), float32
        Background-subtracted pixels over their noise; 0 where there is no measurement. Of whole
        leaves.
    residual : ndarray, shape (ny, nx), float32
        Pixels less the prediction, over their noise; 0 where there is no measurement.
    fwhm : float
        Of point sources [pixel].
    levels : list of Level, optional
        From `measure_levels`, of all of the image that this is a part of.
    inner : slice, optional
        Rows of pixels to answer for, of whole tiles; those beyond them only lend their light.

    Returns
    -------
    kept, core : ndarray of bool, shape (rows of `inner` / 2, nx / 2)
    """
    kept, core = np.zeros((2, signal.shape[0] // LEAF, signal.shape[1] // LEAF), bool)
    for number, (kind, plane) in enumerate(_filtered(signal, residual, fwhm)):
        smooth = gaussian(plane, kind.sigma)
        level = levels[number] if levels else kind.level([_sample(smooth, plane)])
        seen = level.above(smooth, kind.significance)
        if kind.of_sources and not kind.of_leaves:
            around = _around(_leaves(seen), fwhm)
            kept, core = kept | around[0], core | around[1]
            continue
        if kind.of_sources:
            kept |= seen
            continue
        seen |= level.below(smooth, kind.significance)
        if not kind.of_leaves:
            seen = _leaves(seen | (np.abs(plane) > RESIDUAL_SIGNIFICANCE))
        core |= seen
    kept |= core
    if inner is not None:
        rows = slice(inner.start // LEAF, inner.stop // LEAF)
        kept, core, signal = kept[rows], core[rows], signal[inner]
    return kept | _crowded(kept, _leaves(signal != 0)), core


def lit_leaves(
    signal: NDArray[np.float32], light: NDArray[np.float32], fwhm: float, inner: slice
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Leaves of what is a source only with the diffuse light that it lies on.

    Photometry, whose sky is smoother than the mesh, counts that light as theirs.

    Parameters
    ----------
    signal, light : ndarray, shape (ny, nx), float32
        Pixels less the background, and the light in it, over their noise.
    fwhm, inner
        As `select_leaves` takes them.
    """
    psf = max(fwhm / FWHM_TO_SIGMA, 0.6)
    noise = 1 / (2 * psf * math.sqrt(math.pi))
    seen = _leaves((gaussian(signal, psf) + light > LIT_SIGNIFICANCE * noise) & (light > 0))
    kept, core = _around(seen, fwhm)
    rows = slice(inner.start // LEAF, inner.stop // LEAF)
    return kept[rows], core[rows]


def _around(seen: NDArray[np.bool_], fwhm: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Leaves that are kept around those where something is seen, and those of its core."""
    return _dilated(seen, max(REACH * fwhm / LEAF, EIGHT)), _dilated(seen, CORE * fwhm / LEAF)


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


@dataclass(frozen=True)
class Level:
    """The level of the quiet parts of a filtered plane, and the size of its noise."""

    quiet: float
    noise: float

    def above(self, smooth: NDArray[np.float32], significance: float) -> NDArray[np.bool_]:
        """Where a plane lies so many times the noise above the quiet level."""
        return smooth > np.float32(self.quiet + significance * self.noise)

    def below(self, smooth: NDArray[np.float32], significance: float) -> NDArray[np.bool_]:
        """Where it lies as far below it."""
        return smooth < np.float32(self.quiet - significance * self.noise)


Levels = list[Level]
Samples = list["NDArray[np.float32]"]


@dataclass(frozen=True)
class _Filter:
    """A Gaussian filter, and how what passes it is judged.

    Its noise is at least that of white noise; of sources it is that.
    """

    sigma: float
    significance: float
    of_sources: bool = False
    of_leaves: bool = False
    is_white: bool = False

    def level(self, samples: Samples) -> Level:
        """Level and noise from samples of what passed.

        The quiet level is where the lower quantiles say that the median of noise alone would be:
        in a crowded field the median itself lies among the sources.
        """
        least = 1 / (2 * self.sigma * math.sqrt(math.pi))
        measured = np.concatenate(samples)
        if not measured.size:
            return Level(0.0, least)
        middle, low, lowest = np.percentile(measured, (50, 15.87, 2.28))
        quiet = float(min(middle, 2 * low - lowest))
        return Level(quiet, least if self.is_white else max(float(middle - low), least))


def _filters(fwhm: float) -> list[_Filter]:
    psf = max(fwhm / FWHM_TO_SIGMA, 0.6)
    return [
        _Filter(psf, SOURCE_SIGNIFICANCE, of_sources=True, is_white=True),
        _Filter(1.0, RESIDUAL_SIGNIFICANCE),
        # A wider filter sees means of leaves as well.
        _Filter(2.5 * psf / LEAF, EXTENDED_SIGNIFICANCE, of_sources=True, of_leaves=True),
        *(_Filter(one / LEAF, RESIDUAL_SIGNIFICANCE, of_leaves=True) for one in WIDE_SCALES),
    ]


def _filtered(
    signal: NDArray[np.float32], residual: NDArray[np.float32], fwhm: float
) -> Iterator[tuple[_Filter, NDArray[np.float32]]]:
    """Every filter, and the plane to put through it."""
    for kind in _filters(fwhm):
        plane = signal if kind.of_sources else residual
        # twice the mean of four has the noise of one
        yield kind, 2 * _means(plane) if kind.of_leaves else plane


def sample_levels(
    signal: NDArray[np.float32], residual: NDArray[np.float32], fwhm: float
) -> Samples:
    """Samples of what passes each filter in a part of an image; arguments of `select_leaves`."""
    planes = _filtered(signal, residual, fwhm)
    return [_sample(gaussian(plane, kind.sigma), plane) for kind, plane in planes]


def measure_levels(samples: list[Samples], fwhm: float) -> Levels:
    """Level of each filter from the samples of some parts of an image."""
    by_filter = zip(_filters(fwhm), zip(*samples, strict=True), strict=True)
    return [kind.level(list(parts)) for kind, parts in by_filter]


def _sample(smooth: NDArray[np.float32], plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Some filtered pixels of those that are measurements."""
    # odd, so as not to fall in with columns
    every = max(int(np.count_nonzero(plane)) // SAMPLE, 1) | 1
    return smooth.ravel()[::every][plane.ravel()[::every] != 0]


def _dilated(leaves: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Leaves within a radius of any of those."""
    reach = max(math.ceil(radius), 1)
    (ny, nx), padded = leaves.shape, np.pad(leaves, reach)
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    out = leaves.copy()
    for dy, dx in np.argwhere(x * x + y * y <= radius * radius + 0.5):
        out |= padded[dy : dy + ny, dx : dx + nx]
    return out
