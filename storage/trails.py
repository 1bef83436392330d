"""Whether more images of a night than of a base are crossed by a straight line of light.

Knows what a satellite's trail is to a survey: it changes no median of the night and costs no
recorded loss, for `sources` keeps it; but objects on it are not those that the record is about. A
line is found by counting lit blocks along all lines (Hough 1962, US patent 3069654) of pieces of
the image as `sources` has it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import binary_dilation, uniform_filter

from skyfold.science.sky import sky

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

SAMPLE = 24  # images of a band to look at
SIDE = 512  # [pixel] of a piece: a line across it meets few of its sources
BLOCK = 4  # [pixel], about as wide as a trail
LIT = 3.0  # [sigma] of the mean of a block
ABOVE, AROUND = 2.0, 15  # times the mean of so many blocks a side: halos of stars are no lines
CROSSED = 0.6  # of a line's length that is lit; of lines among galaxies a third is at most
LONG = 0.75  # of the side of a piece: the lines that are looked at
ANGLES = 180
RARE = 0.005  # share of images of a survey that may be crossed though none of a base is
UNLIKELY = 0.05  # probability below which there are too many


def more_crossed(
    night: Mapping[str, list[bool]], base: Mapping[str, list[bool]]
) -> list[dict[str, Any]]:
    """Bands of which too many images are crossed, for the share of a base's that are.

    Parameters
    ----------
    night, base : mapping of str to list of bool
        By band, as of `crossed_images`; bands that the base lacks are not compared.

    Returns
    -------
    list of dict
        ``band number value low high``, alike `storage.drift.strange_numbers`; shares of images.
    """
    out = []
    for band, crossed in sorted(night.items()):
        if not base.get(band):
            continue
        share = max(sum(base[band]) / len(base[band]), RARE)
        most = _most(len(crossed), share)
        if sum(crossed) > most:
            shares = {"value": sum(crossed) / len(crossed), "low": 0.0, "high": most / len(crossed)}
            out.append({"band": band, "number": "crossed", **shares})
    return out


def _most(count: int, share: float) -> int:
    """The largest number of so many that is not unlikely to be met."""
    chance = 1.0
    for number in range(count + 1):
        chance -= math.comb(count, number) * share**number * (1 - share) ** (count - number)
        if chance < UNLIKELY:  # to meet more
            return number
    return count


def crossed_images(release: DataRelease, entries: Iterable[ImageEntry]) -> dict[str, list[bool]]:
    """Whether a line crosses each of some images, by band; at most `SAMPLE` of a band."""
    by_band: dict[str, list[ImageEntry]] = defaultdict(list)
    for entry in entries:
        if entry.noise is not None and entry.mode != "direct":
            by_band[entry.band].append(entry)
    out = {}
    for band, alike in by_band.items():
        places = np.unique(np.linspace(0, len(alike) - 1, min(len(alike), SAMPLE)).astype(int))
        out[band] = [lit_line(*_above(release, alike[place])) >= CROSSED for place in places]
    return out


def _above(release: DataRelease, entry: ImageEntry) -> tuple[NDArray[Any], NDArray[Any]]:
    """An image less its sky in units of its noise, and which pixels are good."""
    window = release.images.read(entry.id, "sources")
    assert window.sigma is not None  # asked of images that have noise
    good = (window.flags == 0) & np.isfinite(window.values)
    if not good.any():
        return np.zeros(good.shape, np.float32), good
    centre, unit = np.median(window.values[good]), np.median(window.sigma[good])
    flat = np.where(good, (window.values - centre) / unit, 0).astype(np.float32)
    noise = (window.sigma / unit).astype(np.float32)
    return (flat - sky(flat, noise, good)) / noise, good


def lit_line(above: NDArray[Any], good: NDArray[np.bool_]) -> float:
    """Return the largest share of a straight line across a piece of an image that is lit.

    Parameters
    ----------
    above : ndarray, shape (ny, nx)
        Image less its sky, in units of its noise.
    good : ndarray of bool, shape (ny, nx)

    Returns
    -------
    float
        0 to 1; of lines three quarters as long as the side of a piece, 512 pixels or the image's
        smaller side. Dark lines, such as dead columns, are not lit.
    """
    side = min(SIDE, *above.shape) // BLOCK
    if side == 0:
        return 0.0
    ny, nx = (size // BLOCK for size in above.shape)
    blocks = np.where(good, above, 0)[: ny * BLOCK, : nx * BLOCK]
    means = blocks.reshape(ny, BLOCK, nx, BLOCK).mean(axis=(1, 3))
    lit = means > np.maximum(LIT / BLOCK, ABOVE * uniform_filter(means, AROUND))
    lit &= ~binary_dilation(means < -LIT)  # networks and resampling overshoot beside dead columns
    corners = [sorted({*range(0, size - side + 1, side), size - side}) for size in (ny, nx)]
    return max(_piece(lit[y : y + side, x : x + side]) for y in corners[0] for x in corners[1])


def _piece(lit: NDArray[np.bool_]) -> float:
    """Largest lit share of the long lines of a square piece."""
    line, length = _lines(len(lit))
    met = np.bincount(line[:, lit.ravel()].ravel(), minlength=len(length))
    long = length >= LONG * len(lit)
    return float((met[long] / length[long]).max())


@cache
def _lines(side: int) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Number of the line through each block at each angle, and the blocks on each line."""
    y, x = (plane.ravel() - (side - 1) / 2 for plane in np.indices((side, side)))
    angle = np.pi * np.arange(ANGLES)[:, None] / ANGLES
    apart = np.floor(x * np.cos(angle) + y * np.sin(angle)).astype(np.int32) + side
    line = apart + 2 * side * np.arange(ANGLES, dtype=np.int32)[:, None]
    return line, np.bincount(line.ravel(), minlength=2 * side * ANGLES)
