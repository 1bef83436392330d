"""Training patches: where they are taken from, how they are turned, what weighs how much.

Knows the sampling: half of the patches are drawn evenly from the sky, half in proportion to what
a matched filter sees there, because most of a sky is empty and the sources are what must be learnt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import InvalidRequestError
from skyfold.science.filters import highest

__all__ = ["sample_patches", "significance", "source_weights", "turn_patches"]

Image = NDArray[np.float32]
Good = NDArray[np.bool_]
SIDE = 128  # pixels a side of a training patch
FILTER = 5  # pixels a side of the box filter that stands for a matched one
EMPTY_WORTH = 5e-4  # of a patch without sources, beside the share of its pixels that see one
APERTURE = 9  # pixels a side of the neighbourhood in which a source is measured
_ROWS = 1024  # of an image, filtered together


def sample_patches(
    images: Sequence[Image],
    masks: Sequence[NDArray[np.bool_] | None] | None = None,
    *,
    count: int,
    seed: int,
    side: int = SIDE,
) -> tuple[Image, Image]:
    """Patches of images, and the weight of each pixel.

    Parameters
    ----------
    images : sequence of ndarray, shape (ny, nx), float32
        Images in noise units; any sizes.
    masks : sequence of ndarray, shape (ny, nx), bool, optional
        True where bad, or None for an image without bad pixels. NaN is bad too.
    count : int
        Number of patches.
    seed : int
        Seed of the sampling.
    side : int
        Pixels a side, a multiple of 16. Smaller images are padded with bad pixels.

    Returns
    -------
    patches : ndarray, shape (count, side, side), float32
        Noise units; 0 where bad.
    weights : ndarray, shape (count, side, side), float32
        1, and 0 where bad.

    Raises
    ------
    InvalidRequestError
        If there are no images with good pixels, or `side` does not fit.
    """
    if side < 16 or side % 16 or count < 1:
        raise InvalidRequestError(
            f"patches cannot be sampled: met side {side}, count {count}; allowed are multiples of "
            "16 and counts from 1; change them"
        )
    rng = np.random.default_rng(seed)
    pairs = [
        _clean(image, None if masks is None else masks[i], side) for i, image in enumerate(images)
    ]
    scores = [_scores(*pair, side) for pair in pairs]
    totals = np.array([np.sum(score > 0) for score in scores], np.float64)
    if not totals.sum():
        raise InvalidRequestError(
            f"patches cannot be sampled: {len(images)} images have no good pixel; allowed are "
            "images of which some pixel is good; look at the masks"
        )
    chosen = rng.choice(len(pairs), count, p=totals / totals.sum())
    cuts = [_cut(pairs[i], scores[i], side, rng, even=bool(n % 2)) for n, i in enumerate(chosen)]
    return np.stack([cut[0] for cut in cuts]), np.stack([cut[1] for cut in cuts])


def _clean(image: Image, mask: NDArray[np.bool_] | None, side: int) -> tuple[Image, Good]:
    """Image without bad pixels, and which are good, at least `side` a side."""
    good = np.isfinite(image) if mask is None else np.isfinite(image) & ~mask
    clean = np.where(good, image, 0).astype(np.float32, copy=False)
    if min(image.shape) >= side:
        return clean, good
    pad = [(0, max(0, side - length)) for length in image.shape]
    return np.pad(clean, pad), np.pad(good, pad)


def _seen(image: Image) -> Good:
    """Pixels of what stands out, some rows at a time: large images take much memory at once."""
    seen, half = np.empty(image.shape, bool), FILTER // 2
    for start in range(0, len(image), _ROWS):
        first = max(start - half, 0)
        part = significance(image[np.newaxis, first : start + _ROWS + half])[0] > 4
        seen[start : start + _ROWS] = part[start - first :][:_ROWS]
    return seen


def _scores(image: Image, good: Good, side: int) -> NDArray[np.float64]:
    """Worth of each possible patch on a grid of steps of half a side; 0 where all is bad."""
    step = side // 2
    seen = _seen(image)
    rows, columns = ((length - side) // step + 1 for length in image.shape)
    worth = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            part = np.s_[i * step : i * step + side, j * step : j * step + side]
            found = (seen[part] & good[part]).mean()
            worth[i, j] = (EMPTY_WORTH + found) * (good[part].mean() > 0.05)
    return worth if worth.any() else np.full_like(worth, float(good.any()))


def _cut(
    pair: tuple[Image, Good],
    scores: NDArray[np.float64],
    side: int,
    rng: np.random.Generator,
    *,
    even: bool,
) -> tuple[Image, Image]:
    odds = (scores > 0).astype(np.float64) if even else np.minimum(scores, 0.1)
    place = rng.choice(scores.size, p=(odds / odds.sum()).ravel())
    corner = np.array(np.unravel_index(place, scores.shape)) * (side // 2)
    corner += rng.integers(-side // 4, side // 4 + 1, 2)
    y, x = (int(np.clip(c, 0, n - side)) for c, n in zip(corner, pair[0].shape, strict=True))
    patch, good = (one[y : y + side, x : x + side].astype(np.float32) for one in pair)
    return patch, good


def significance(patches: Image) -> Image:
    """Box-filtered patches, in units of the filtered noise; shape (n, ny, nx), float32."""
    return (_box(patches, FILTER) / FILTER).astype(np.float32)


def _box(patches: Image, side: int) -> Image:
    """Sums over a square around each pixel; what lies outside counts 0."""
    half = side // 2
    out = patches.astype(np.float64)  # running sums over bright stars
    for axis in (-2, -1):
        pad = [(0, 0)] * out.ndim
        pad[axis] = (half + 1, half)
        total = np.cumsum(np.pad(out, pad), axis=axis)
        ahead = np.take(total, np.arange(side, total.shape[axis]), axis=axis)
        out = ahead - np.take(total, np.arange(total.shape[axis] - side), axis=axis)
    return out.astype(np.float32)


def source_weights(
    patches: Image, weights: Image | None = None, *, emphasis: float, bright: float
) -> Image:
    """How much each pixel's error weighs in training.

    Parameters
    ----------
    patches : ndarray, shape (n, ny, nx), float32
        Noise units.
    weights : ndarray, shape (n, ny, nx), float32, optional
        0 where bad.
    emphasis : float
        Weight of the pixels around a source, beside 1 for the sky: its light is what is measured.
    bright : float
        Level of the brightest pixel nearby above which the weight falls as its inverse square
        [noise units], so that a few stars do not take all bits.

    Returns
    -------
    ndarray, shape (n, ny, nx), float32
    """
    seen = np.clip(significance(patches) - 3, 0, 1)
    reach = highest(np.stack([seen, patches]), APERTURE)
    weight = (1 + (emphasis - 1) * reach[0]) / (1 + (np.maximum(reach[1], 0) / bright) ** 2)
    return (weight if weights is None else weight * weights).astype(np.float32)


def turn_patches(arrays: Sequence[Image], rng: np.random.Generator) -> list[Image]:
    """The same random flip and quarter turns for all arrays of a batch, shape (n, ny, nx)."""
    flip, turns = bool(rng.integers(2)), int(rng.integers(4))
    return [
        np.ascontiguousarray(np.rot90(a[:, ::-1] if flip else a, turns, axes=(1, 2)))
        for a in arrays
    ]
