"""Which leaves of an image `sources` keeps: what is a source, and what was not expected.

A leaf of 2 x 2 pixels is kept if a matched filter sees something in the data, above the sky or
below it, or in what the network draws and not in the data; or if what the network left there is not
noise: a pixel beyond 5 sigma, or a filtered residual beyond it at any scale. What noise is, say the
filters (`storage.images.filtered`). Of a tile of which most is kept, all is: saying what is not
would cost about as much as coding it. The core of what is kept is where points were seen or
something was not expected; around it lie the pixels that only wide apertures reach.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import find_objects, label, minimum

from skyfold.ladder import LEAF, TILE
from skyfold.science.filters import gaussian
from storage.images.filtered import (
    FWHM_TO_SIGMA,
    RESIDUAL_SIGNIFICANCE,
    Filter,
    Level,
    Levels,
    filtered,
    leaf_values,
    sample,
    troughs,
)
from storage.images.lines import trail_leaves

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIT_SIGNIFICANCE = 5.0  # with diffuse light, which is known without noise: less margin below 6.2
REACH = 0.75, 0.5  # FWHM, and pixels, around what the filter sees: 1 FWHM from a faint centre
MADE = 2.0  # of the same filter: how far from what the network draws the data must lie
BRIGHT = 7.0  # of the same filter: more than any part has of a trail that is seen by its sum alone
LONGEST = 12.0  # FWHM: of sources below the sky
SHARP = 3.0  # times its filtered value: of a point source 2, and noise
CORE = 0.3  # FWHM around it that are of a source's core
HALO = 192  # rows of pixels, from beyond which nothing reaches into others
BLANK = 1.0  # FWHM beyond what is kept, from which the sky is blank
EIGHT = math.sqrt(2)  # leaves: all that touch one
CROWDED = 0.75  # share of a tile's leaves from which all are kept


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
    kept, core, bright = np.zeros((3, signal.shape[0] // LEAF, signal.shape[1] // LEAF), bool)
    for number, (kind, plane, data) in enumerate(filtered(signal, residual, fwhm)):
        smooth = gaussian(plane, kind.sigma)
        level = levels[number] if levels else kind.level([sample(kind, smooth, plane, data)])
        if kind.of_sources and not kind.of_leaves:
            seen = kind.is_seen(smooth - troughs(smooth, level), level)
            seen |= _made(smooth, residual, level, kind)
            seen |= _dips(smooth, plane, level, kind, fwhm)
            around = _around(seen, fwhm)
            kept, core = kept | around[0], core | around[1]
            bright |= _around(np.abs(smooth) > np.float32(BRIGHT * level.noise), 2 * fwhm)[0]
            continue
        seen = level.above(smooth, kind.significance)
        if kind.of_sources:
            kept |= seen
            continue
        seen |= level.below(smooth, kind.significance)
        if not kind.of_leaves:
            seen = _leaves(seen | (np.abs(plane) > RESIDUAL_SIGNIFICANCE))
        core |= seen
    kept |= core
    along = _around(pixels_of(trail_leaves(leaf_values(residual), bright, fwhm)), fwhm)
    kept, core = kept | along[0], core | along[1]
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
    seen = (gaussian(signal, psf) + light > LIT_SIGNIFICANCE * noise) & (light > 0)
    kept, core = _around(seen, fwhm)
    rows = slice(inner.start // LEAF, inner.stop // LEAF)
    return kept[rows], core[rows]


def _around(seen: NDArray[np.bool_], fwhm: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Leaves that are kept around pixels where something is seen, and those of its core."""
    wide, more = REACH
    return _leaves(_dilated(seen, wide * fwhm + more)), _leaves(_dilated(seen, CORE * fwhm))


def _made(
    smooth: NDArray[np.float32], residual: NDArray[np.float32], level: Level, kind: Filter
) -> NDArray[np.bool_]:
    """Where the network draws a source, or a hole in the sky, that the data do not bear out."""
    left, far = gaussian(residual, kind.sigma), np.float32(MADE * level.noise)
    drawn = smooth - left
    source = level.above(drawn, kind.significance) & (left < -far)
    hole = level.below(drawn, kind.significance) & (left > far) & ~level.below(smooth, MADE)
    return source | hole


def _dips(
    smooth: NDArray[np.float32],
    plane: NDArray[np.float32],
    level: Level,
    kind: Filter,
    fwhm: float,
) -> NDArray[np.bool_]:
    """Pixels of what lies below the sky as a source lies above: of a difference image.

    Islands that are longer are dead columns, overscan and troughs, and those that are sharper dead
    pixels: these are kept where they are unexpected.
    """
    seen = level.below(smooth, kind.significance)
    islands, number = label(_leaves(seen), np.ones((3, 3)))
    if not number:
        return seen
    each = np.arange(number) + 1
    low, lowest = (minimum(_darkest(one), islands, each) for one in (smooth, plane))
    is_one = lowest > max(SHARP, math.pi * kind.sigma**2) * low
    sides = [max(one.stop - one.start for one in box) for box in find_objects(islands)]
    is_one &= np.array(sides) * LEAF <= LONGEST * fwhm
    return seen & pixels_of(np.concatenate([[False], is_one])[islands])


def _darkest(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smallest value of each leaf."""
    rows = np.minimum(plane[::LEAF], plane[1::LEAF])
    return np.minimum(rows[:, ::LEAF], rows[:, 1::LEAF])


def _crowded(kept: NDArray[np.bool_], measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leaves of tiles most of whose measured leaves are kept."""
    side, (ny, nx) = TILE // LEAF, kept.shape
    count, total = (
        np.add.reduceat(
            np.add.reduceat(one, range(0, ny, side), axis=0, dtype=np.int32),
            range(0, nx, side),
            axis=1,
        )
        for one in (kept & measured, measured)
    )
    return np.repeat(np.repeat(count > CROWDED * total, side, axis=0), side, axis=1)[:ny, :nx]


def blank_leaves(kept: NDArray[np.bool_], fwhm: float) -> NDArray[np.bool_]:
    """Leaves away from those that are kept, where light of sources does not lift the sky."""
    return ~_dilated(kept, max(BLANK * fwhm / LEAF, EIGHT))


def pixels_of(leaves: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of some leaves."""
    return np.repeat(np.repeat(leaves, LEAF, axis=0), LEAF, axis=1)


def _leaves(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leaves that hold any of the pixels."""
    rows = pixels[::LEAF] | pixels[1::LEAF]
    return rows.view(np.uint16) != 0  # two neighbours at once


def _dilated(plane: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """What lies within a radius of anything: rows of a disc, from its shortest to its longest."""
    reach = math.floor(radius)
    ny, nx = plane.shape
    padded = np.pad(plane, reach)
    row, width, out = padded[:, reach : reach + nx].copy(), 0, plane.copy()
    for dy in range(reach, -1, -1):
        while (width + 1) ** 2 + dy**2 <= radius**2:
            width += 1
            for aside in (reach - width, reach + width):
                row |= padded[:, aside : aside + nx]
        for down in (reach - dy, reach + dy):
            out |= row[down : down + ny]
    return out
