"""What latents cost: bits as the coder's tables have them, and errors as training weighs them.

The loss of `models.autoencoder`, for whole tiles: squared errors of pixels and of means over
windows of 2, 4 and 8 pixels. Errors weigh where there are sources as the image's own point-spread
function shows them, so that those at the limit of detection keep their flux; and means of the sky
over 16 and 32 pixels weigh too, since it is measured there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.codecs.latent_passes import find_contexts, split
from skyfold.codecs.latent_tables import SYMBOLS, LatentTables
from skyfold.compiled import compiled
from skyfold.layout import STRIDE
from skyfold.noise import MESH
from skyfold.science.filters import gaussian, highest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

WORTH = np.float32(1.5)  # weight of a pixel from which it is no longer sky
SKY = np.float32(4)  # weight of errors of the sky over 16 and 32 pixels
_SOURCE, _CERTAIN = 3.0, 3.7  # matched filter: errors begin to weigh more, and weigh all they can
_REACH = 1.5, 6.0  # pixels around a source that weigh as it does: its FWHM, within these
_BLANK = 0.5  # share of a mesh cell that is sky, from which the mesh will take up its mean error
_FAR = 60  # of latents beyond it all steps cost as there
_FWHM_TO_SIGMA = 2 * math.sqrt(2 * math.log(2))


@dataclass(frozen=True)
class Loss:
    """What a network was trained for; fields as of `models.autoencoder.AutoencoderConfig`."""

    lmbda: float = 0.002
    pixel_weight: float = 0.2
    emphasis: float = 100.0
    bright: float = 300.0

    @classmethod
    def of(cls, card: Mapping[str, Any]) -> Loss:
        """Loss of a model by its card; that of the defaults where it does not say."""
        config = card.get("config", {})
        return cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})


def source_weights(
    y: NDArray[np.float32], good: NDArray[np.bool_], fwhm_pix: float, loss: Loss
) -> NDArray[np.float32]:
    """How much the error of each pixel weighs.

    Parameters
    ----------
    y : ndarray, shape (ny, nx), float32
        Noise units.
    good : ndarray of bool, shape (ny, nx)
        Whether there is a measurement; others weigh nothing.
    fwhm_pix : float
        Of point sources [pixel].

    Returns
    -------
    ndarray, shape (ny, nx), float32
    """
    psf = max(fwhm_pix / _FWHM_TO_SIGMA, 0.6)
    significance = gaussian(y, psf) * np.float32(2 * psf * math.sqrt(math.pi))
    seen = np.clip((significance - _SOURCE) / (_CERTAIN - _SOURCE), 0, 1)
    # in squares of 2 x 2 pixels, which is near enough and takes a quarter of the time
    side = 2 * round(min(max(fwhm_pix, _REACH[0]), _REACH[1]) / 2) + 1
    near, peak = (highest(_highest_of_four(one), side) for one in (seen, np.maximum(y, 0)))
    weight = (1 + (loss.emphasis - 1) * near) / (1 + (peak / np.float32(loss.bright)) ** 2)
    return np.repeat(np.repeat(weight, 2, axis=0), 2, axis=1) * good


def _highest_of_four(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = np.maximum(plane[::2], plane[1::2])
    return np.maximum(rows[:, ::2], rows[:, 1::2])


def latent_bits(
    latents: NDArray[np.int16], coded: NDArray[np.bool_], tables: LatentTables
) -> NDArray[np.float32]:
    """Bits of each latent if it were one less, as it is, and one more, in its present context.

    As if all were coded: what it saves that a square of zeros is not counts for nothing here.

    Parameters
    ----------
    latents : ndarray, shape (tiles, h, w, C), int16
    coded : ndarray of bool, shape (tiles, h, w)
        Where they are asked for, at least where any is not 0.
    tables : LatentTables

    Returns
    -------
    ndarray, shape (3, *latents.shape), float32
        Any numbers elsewhere.
    """
    known, prices = find_contexts(latents, coded, tables), _prices(tables)
    limited = np.clip(np.where(known.turned, -known.values, known.values), -_FAR, _FAR)
    at = limited + (_FAR + 1) + known.tables * np.int32(prices.shape[-1])
    at += np.arange(tables.channels, dtype=np.int32)[:, np.newaxis] * prices[0].size
    flat, way = prices.ravel(), np.where(known.turned, -1, 1)
    bits, (image, row, column) = np.empty((3, *latents.shape), np.float32), known.where.T
    for number, move in enumerate((-1, 0, 1)):
        bits[number, image, row, column] = flat[at + move * way].T
    return bits


@lru_cache(4)
def _prices(tables: LatentTables) -> NDArray[np.float32]:
    """Bits of -_FAR - 1 .. _FAR + 1 by each table, shape (channels, tables, 2 _FAR + 3)."""
    symbols, plain, _ = split(np.arange(-_FAR - 1, _FAR + 2, dtype=np.int32))
    price = (24 - np.log2(tables.counts + 1.0)).reshape(tables.channels, -1, SYMBOLS)
    return (price[..., symbols] + plain).astype(np.float32)


def weighed_errors(
    left: NDArray[np.float32], root: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Errors as the loss sees them.

    Parameters
    ----------
    left : ndarray, shape (tiles, 256, 256), float32
        Predictions less pixels [noise units].
    root : ndarray, shape of `left`
        Roots of the weights of `source_weights`.

    Returns
    -------
    errors : ndarray, shape of `left`
        Times the root of their weight.
    sky : ndarray, shape (tiles, 32, 32)
        Sums over the sky of each block of 8 x 8 pixels, less what the background mesh takes up.
    sources : ndarray of bool, shape of `sky`
        Blocks with pixels that are no sky.
    """
    errors, sums, counts, sources = _weigh(left, root, WORTH)
    return errors, _less_means(sums, counts), sources


def total_errors(
    errors: NDArray[np.float32], sky: NDArray[np.float32], pixel_weight: float
) -> NDArray[np.float32]:
    """Errors of each tile, shape (tiles,): `errors` and `sky` as of `weighed_errors`."""
    total: NDArray[np.float32] = window_errors(errors, np.float32(pixel_weight))
    return total + _wide_errors(sky)


@compiled
def _weigh(left, root, worth):  # type: ignore[no-untyped-def]
    """Errors times the root of their weight; by block, sums and counts of the sky, and sources."""
    tiles, side = left.shape[0], left.shape[1] // 8
    errors, sums = left * root, np.zeros((tiles, side, side), np.float32)
    counts, heavy = np.zeros_like(sums), np.zeros(sums.shape, np.bool_)
    for tile in range(tiles):
        for y in range(8 * side):
            for x in range(8 * side):
                weight = root[tile, y, x] ** 2
                if weight > worth:
                    heavy[tile, y // 8, x // 8] = True
                elif weight > 0:
                    sums[tile, y // 8, x // 8] += left[tile, y, x]
                    counts[tile, y // 8, x // 8] += 1
    return errors, sums, counts, heavy


def _less_means(sums: NDArray[np.float32], counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over blocks less the mean of each cell of the background mesh: it will take that up."""
    across = MESH // STRIDE
    total, count = (_sums_of_blocks(one, across) for one in (sums, counts))
    mean = np.where(count > _BLANK * MESH**2, total, 0) / np.maximum(count, 1)
    return sums - counts * np.repeat(np.repeat(mean, across, axis=1), across, axis=2)


def _sums_of_blocks(blocks: NDArray[np.float32], across: int) -> NDArray[np.float32]:
    tiles, ny, nx = blocks.shape
    return blocks.reshape(tiles, ny // across, across, nx // across, across).sum(axis=(2, 4))


@compiled
def window_errors(errors, pixel_weight):  # type: ignore[no-untyped-def]
    """Sum of the loss's errors of each tile, without `lmbda`."""
    tiles, side = errors.shape[:2]
    out = np.zeros(tiles, np.float32)
    for tile in range(tiles):
        total = 0.0
        for y in range(side):
            for x in range(side):
                total += pixel_weight * errors[tile, y, x] ** 2
        sums = errors[tile].copy()
        for length in (2, 4, 8):
            half = length // 2
            if length > 2:  # sums over half a window from those over half of that
                n = sums.shape[0] // 2
                halved = np.zeros((n, n), np.float32)
                for i in range(n):
                    for j in range(n):
                        halved[i, j] = (
                            sums[2 * i, 2 * j]
                            + sums[2 * i + 1, 2 * j]
                            + sums[2 * i, 2 * j + 1]
                            + sums[2 * i + 1, 2 * j + 1]
                        )
                sums = halved
            part = 0.0
            for i in range(sums.shape[0] - 1):
                for j in range(sums.shape[0] - 1):
                    found = sums[i, j] + sums[i + 1, j] + sums[i, j + 1] + sums[i + 1, j + 1]
                    part += found * found
            total += part * (half / length) ** 2
        out[tile] = total
    return out


def _wide_errors(sky: NDArray[np.float32]) -> NDArray[np.float32]:
    """Likewise of windows of 16 and 32 pixels, of the sums over blocks of the sky alone."""
    total = np.zeros(len(sky), np.float32)
    for _ in range(2):
        rows = sky[:, 1:] + sky[:, :-1]
        total += SKY * ((rows[:, :, 1:] + rows[:, :, :-1]) ** 2).sum(axis=(1, 2)) / 4
        sky = sky.reshape(-1, sky.shape[1] // 2, 2, sky.shape[2] // 2, 2).sum(axis=(2, 4))
    return total
