"""Latents chosen for bits and errors together.

An encoder network's latents are rounded one by one. Here each is moved by one, up or down, wherever
that makes less what the networks were trained for, ``bits + lmbda x errors``
(`storage.images.latent_loss`): errors by how the decoder answers to one more of that latent
(rate-distortion optimised quantisation, Sullivan & Wiegand 1998, IEEE Signal Process. Mag. 15, 74;
of learned codecs, Campos et al. 2019, arXiv:1906.01223). A reader sees latents like any others.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.codecs.latent_tables import get_tables
from skyfold.ladder import TILE
from skyfold.layout import STRIDE
from storage.images.latent_kernels import move_latents
from storage.images.latent_loss import (
    SKY,
    WORTH,
    Loss,
    latent_bits,
    source_weights,
    total_errors,
    weighed_errors,
    window_errors,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.images.network import Network

_TOGETHER = 32  # tiles that are searched at once: their contexts are found together
_HALO = 64  # pixels beside a strip, further than a source's weight and its filter reach
_STRONG = 100  # a latent beyond where the decoder's correction is cut off: its answer is linear
_ERRORS = 0.6  # of their weight in training: `sources`, which codes sources again, is least there
_PATCH_FWHM = 3.5  # pixels: of patches of many images, which tables are fitted to


def search_latents(
    network: Network,
    latents: NDArray[np.int16],
    predictions: NDArray[np.float32],
    y: NDArray[np.float32],
    coded: NDArray[np.bool_],
    fwhm_pix: float,
    above: int = 0,
) -> None:
    """Change the latents of a strip, and what they decode to, to those of less loss.

    Parameters
    ----------
    network : Network
    latents : ndarray, shape (tiles, 32, 32, channels), int16
        Of its tiles, row by row; changed here.
    predictions : ndarray, shape (tiles, 256, 256), float32
        What they decode to [noise units]; changed here.
    y : ndarray, shape (more tiles, 256, 256), float32
        The pixels [noise units], with those of rows of tiles above and below, whose light weighs.
    coded : ndarray of bool, shape (ny, nx)
        Whether there is a measurement, alike.
    fwhm_pix : float
        Of point sources [pixel].
    above : int, optional
        How many rows of tiles of `y` come before those of the latents.
    """
    down, across = coded.shape[0] // TILE, coded.shape[1] // TILE
    rows, loss = max(_TOGETHER // across, 1), Loss.of(network.card)
    bottom = above + len(latents) // across
    for first in range(above, bottom, rows):  # few at a time, for what is worked out on the way
        last = min(first + rows, bottom)
        begin, end = max(first - 1, 0), min(last + 1, down)
        low, high = max(first * TILE - _HALO, 0), min(last * TILE + _HALO, down * TILE)
        plane = _joined(y[begin * across : end * across], across)
        plane = plane[low - begin * TILE : high - begin * TILE]
        weights = source_weights(plane, coded[low:high], fwhm_pix, loss)
        own = _cut(weights[first * TILE - low : last * TILE - low])
        seen = y[first * across : last * across]
        some = slice((first - above) * across, (last - above) * across)
        found = improved_latents(network, latents[some], predictions[some], seen, own)
        latents[some], predictions[some] = found


def _joined(planes: NDArray[np.float32], across: int) -> NDArray[np.float32]:
    """Tiles of some rows of tiles as one plane."""
    whole = planes.reshape(-1, across, TILE, TILE).transpose(0, 2, 1, 3)
    return whole.reshape(-1, across * TILE)


def _cut(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of `_joined`."""
    cut = plane.reshape(-1, TILE, plane.shape[1] // TILE, TILE).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(cut).reshape(-1, TILE, TILE)


def improved_latents(
    network: Network,
    latents: NDArray[np.int16],
    predictions: NDArray[np.float32],
    y: NDArray[np.float32],
    weights: NDArray[np.float32],
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Latents of less loss, and what they decode to.

    Parameters
    ----------
    network : Network
    latents : ndarray, shape (tiles, 32, 32, channels), int16
    predictions : ndarray, shape (tiles, 256, 256), float32
        What they decode to [noise units].
    y : ndarray, shape of `predictions`
        The pixels [noise units].
    weights : ndarray, shape of `predictions`
        From `source_weights`.

    Returns
    -------
    latents, predictions : ndarray, shapes of `latents` and `predictions`
        A tile whose loss did not become less is as it was.
    """
    loss = Loss.of(network.card)
    pixel_weight, lmbda = np.float32(loss.pixel_weight), np.float32(_ERRORS * loss.lmbda)
    answers, squares = _answers(network), _squares(network, loss.pixel_weight)
    moved, root = latents.astype(np.int32), np.sqrt(weights)
    saved = np.zeros(len(root), np.float32)
    errors, sky, sources = weighed_errors(predictions - y, root)
    before = total_errors(errors, sky, loss.pixel_weight)
    some = sources | moved.any(axis=-1)
    blocks, bits = np.argwhere(some), latent_bits(latents, some, get_tables(network.tables))
    what = moved, errors, root, sky, answers, squares, bits
    move_latents(*what, blocks, lmbda, pixel_weight, WORTH, SKY, saved)
    again = network.decode(moved.astype(np.int16))
    after = total_errors(*weighed_errors(again - y, root)[:2], loss.pixel_weight)
    better = (saved > lmbda * (after - before))[:, np.newaxis, np.newaxis]
    return (
        np.where(better[..., np.newaxis], moved, latents).astype(np.int16),
        np.where(better, again, predictions),
    )


def searched_latents(
    network: Network, patches: NDArray[np.float32], good: NDArray[np.bool_]
) -> NDArray[np.int16]:
    """Latents of patches as they will be archived: what coding tables are to be fitted to.

    Parameters
    ----------
    network : Network
        Its own tables may be of rounded latents.
    patches : ndarray, shape (n, side, side), float32
        Noise units; the side a part of 256.
    good : ndarray of bool, shape of `patches`
        Whether there is a measurement.

    Returns
    -------
    ndarray, shape (n, side / 8, side / 8, channels), int16
    """
    across, found = TILE // patches.shape[-1], []
    for start in range(0, len(patches), _TOGETHER * across**2):
        some = slice(start, start + _TOGETHER * across**2)
        y, measured = (_as_tiles(one[some], across) for one in (patches, good))
        loss = Loss.of(network.card)
        pairs = zip(y, measured, strict=True)
        weights = np.array([source_weights(*pair, _PATCH_FWHM, loss) for pair in pairs])
        latents = network.encode(y)
        better, _ = improved_latents(network, latents, network.decode(latents), y, weights)
        found.append(_as_patches(better, across)[: len(patches[some])])
    return np.concatenate(found)


def _as_tiles(patches: NDArray[Any], across: int) -> NDArray[Any]:
    """Patches side by side, `across` squared of them in a tile; nothing where there are too few."""
    side = patches.shape[-1]
    patches = np.pad(patches, [(0, -len(patches) % across**2), (0, 0), (0, 0)])
    parts = patches.reshape(-1, across, across, side, side).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(parts).reshape(-1, across * side, across * side)


def _as_patches(tiles: NDArray[Any], across: int) -> NDArray[Any]:
    """Latents of each patch of `_as_tiles`."""
    side = tiles.shape[1] // across
    parts = tiles.reshape(-1, across, side, across, side, tiles.shape[-1])
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, tiles.shape[-1])


@lru_cache(4)
def _answers(network: Network) -> NDArray[np.float32]:
    """What one more of each channel adds to the pixels of its block, shape (channels, 8, 8)."""
    channels, middle = network.channels, TILE // STRIDE // 2
    strong = np.zeros((2, channels, TILE // STRIDE, TILE // STRIDE, channels), np.int16)
    for times in (1, 2):
        strong[times - 1, :, middle, middle, :] = times * _STRONG * np.eye(channels, dtype=np.int16)
    block = slice(middle * STRIDE, (middle + 1) * STRIDE)
    once, twice = (network.decode(one)[:, block, block] for one in strong)
    return np.ascontiguousarray((twice - once) / _STRONG, np.float32)


@lru_cache(4)
def _squares(network: Network, pixel_weight: float) -> NDArray[np.float32]:
    """Errors that each answer alone makes, shape (channels,): in the middle of a tile of zeros."""
    answers = _answers(network)
    tiles = np.zeros((len(answers), TILE, TILE), np.float32)
    block = slice(TILE // 2, TILE // 2 + STRIDE)
    tiles[:, block, block] = answers
    found: NDArray[np.float32] = window_errors(tiles, np.float32(pixel_weight))
    return found
