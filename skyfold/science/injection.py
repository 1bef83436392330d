"""Point sources put into a raw image, so that what becomes of them is known.

This module knows how: Gaussians as wide as the image's point-spread function, on a jittered grid
wide enough that they do not touch, with fluxes spread evenly in the logarithm of their
signal-to-noise ratio, and with the photon noise that they would have brought.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skyfold.science.sources import at_centre

Stamp: TypeAlias = tuple[tuple[slice, slice], NDArray[np.float64]]

SPACING = 5.0  # [FWHM]
SNR = (3.0, 100.0)
_REACH = 3.0  # [FWHM] to which a source is drawn: 4e-11 of the flux of a Gaussian lies beyond
_LN16 = 4 * np.log(2)


def window(counted: NDArray[Any], tile: int, side: int) -> tuple[slice, slice]:
    """Return the piece of an image that holds most of the pixels that count.

    Parameters
    ----------
    counted : ndarray of bool or int, shape (ny, nx)
        True where a pixel counts, or what it is worth.
    tile, side : int
        The piece begins at a multiple of `tile` and is at most `side` pixels wide and high, or
        the rest of the image where less than another tile would be left.
    """
    tiles = [-(-min(side, size) // tile) for size in counted.shape]
    corners = [
        range(0, max(size - count * tile, 0) + tile, tile)
        for size, count in zip(counted.shape, tiles, strict=True)
    ]
    best = max(
        ((y, x) for y in corners[0] for x in corners[1]),
        key=lambda at: int(
            counted[at[0] : at[0] + tiles[0] * tile, at[1] : at[1] + tiles[1] * tile].sum()
        ),
    )
    return (
        slice(best[0], min(best[0] + tiles[0] * tile, counted.shape[0])),
        slice(best[1], min(best[1] + tiles[1] * tile, counted.shape[1])),
    )


def inject(
    raw: NDArray[Any],
    sigma: NDArray[np.float64],
    *,
    fwhm: float,
    slope: float,
    step: float | None,
    seed: int,
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[Any]]:
    """Put point sources into an image.

    Parameters
    ----------
    raw : ndarray, shape (ny, nx), any dtype
        Stored pixels; those that are not finite stay as they are.
    sigma : ndarray, shape (ny, nx)
        Standard deviation of each pixel [unit of raw].
    fwhm : float
        Of the point-spread function [pixel].
    slope : float
        Variance that a unit of signal brings [unit of raw]; 0 where unknown.
    step : float or None
        Raw pixels are multiples of this plus a constant: the sources are rounded to it.
    seed : int

    Returns
    -------
    injected : ndarray, shape (ny, nx)
        Of the dtype of raw.
    sigma : ndarray, shape (ny, nx), float64
        With the sources' photon noise.
    sources : ndarray, shape (n,), structured
        ``x``, ``y`` [pixel], ``flux`` [unit of raw].
    """
    rng = np.random.default_rng(seed)
    sources = _sources(raw.shape, fwhm, rng)
    error = np.array(
        [_error(sigma, x, y, fwhm) for x, y in zip(sources["x"], sources["y"], strict=True)]
    )
    snr = np.exp(rng.uniform(math.log(SNR[0]), math.log(SNR[1]), len(sources)))
    sources["flux"] = np.where(np.isfinite(error), error, 0) * snr
    light = draw(raw.shape, sources, fwhm)
    photons = rng.normal(size=light.shape)
    injected, sigma = expose(raw, sigma, light, photons, slope=slope, step=step)
    return injected, sigma, sources


def expose(
    raw: NDArray[Any],
    sigma: NDArray[np.float64],
    light: NDArray[np.float64],
    photons: NDArray[np.float64],
    *,
    slope: float,
    step: float | None,
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the image, and its standard deviations, had this light fallen on it too.

    Parameters
    ----------
    raw, sigma, slope, step
        As of `inject`.
    light : ndarray, shape (ny, nx)
        [unit of raw]
    photons : ndarray, shape (ny, nx)
        Photon noise of the light, in its standard deviations.
    """
    variance = max(slope, 0) * np.maximum(light, 0)
    light = light + photons * np.sqrt(variance)
    if step:
        light = np.rint(light / step) * step
    return _added(raw, light), np.sqrt(sigma**2 + variance)


def inject_stamps(
    raw: NDArray[Any],
    sigma: NDArray[np.float64],
    things: NDArray[Any],
    stamps: Iterable[Stamp],
    *,
    rng: np.random.Generator,
    slope: float,
    step: float | None,
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Put light of known shape into an image.

    Parameters
    ----------
    raw, sigma, slope, step
        As of `inject`.
    things : ndarray, shape (n,), structured
        ``x``, ``y`` [pixel], and ``snr`` of an ideal filter in the noise of the pixel there.
    stamps : iterable of (place, profile)
        Of each, as `clipped` gives them.
    rng : numpy.random.Generator
        For photon noise.

    Returns
    -------
    injected, sigma
        As of `inject`.
    """
    light = np.zeros(raw.shape)
    noise = at_centre(sigma, things)
    levels = things["snr"] * np.where(np.isfinite(noise), noise, 0)
    for level, (place, profile) in zip(levels, stamps, strict=True):
        light[place] += level * profile
    return expose(raw, sigma, light, rng.normal(size=raw.shape), slope=slope, step=step)


def clipped(profile: NDArray[np.float64], low: tuple[int, int], shape: tuple[int, ...]) -> Stamp:
    """Return where a profile whose first pixel is `low` lies in an image, and its part there."""
    place, part = zip(
        *(
            (slice(max(at, 0), at + side), slice(max(-at, 0), max(size - at, 0)))
            for at, size, side in zip(low, shape, profile.shape, strict=True)
        ),
        strict=True,
    )
    return (place[0], place[1]), profile[part]


def draw(shape: tuple[int, int], sources: NDArray[Any], fwhm: float) -> NDArray[np.float64]:
    """Return the light of Gaussian point sources."""
    image = np.zeros(shape)
    reach = int(np.ceil(_REACH * fwhm))
    for x, y, flux in zip(sources["x"], sources["y"], sources["flux"], strict=True):
        rows, columns = (
            np.arange(max(round(at) - reach, 0), min(round(at) + reach + 1, size))
            for at, size in zip((float(y), float(x)), shape, strict=True)
        )
        profile = [
            np.exp(-_LN16 * ((span - at) / fwhm) ** 2) for span, at in ((rows, y), (columns, x))
        ]
        norm = flux * _LN16 / (np.pi * fwhm**2)
        image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += norm * np.outer(*profile)
    return image


def places(
    shape: tuple[int, ...], step: float, jitter: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x and y [pixel] of a grid whose points are up to half of `jitter` off."""
    y, x = (np.arange(step / 2, size - step / 2 + 1e-9, step) for size in shape)
    grid_y, grid_x = (plane.ravel() for plane in np.meshgrid(y, x, indexing="ij"))
    off_x, off_y = (rng.uniform(-0.5, 0.5, grid_x.size) * jitter for _ in range(2))
    return grid_x + off_x, grid_y + off_y


def _sources(shape: tuple[int, ...], fwhm: float, rng: np.random.Generator) -> NDArray[Any]:
    """Sources on a jittered grid, without flux."""
    x, y = places(shape, SPACING * fwhm, fwhm, rng)
    sources = np.zeros(x.size, [("x", "f8"), ("y", "f8"), ("flux", "f8")])
    sources["x"], sources["y"] = x, y
    return sources


def _error(sigma: NDArray[np.float64], x: float, y: float, fwhm: float) -> float:
    """Noise of the flux within one FWHM, if all its pixels have that of the central one."""
    return float(sigma[round(y), round(x)]) * np.sqrt(np.pi) * fwhm


def _added(raw: NDArray[Any], light: NDArray[np.float64]) -> NDArray[Any]:
    """Raw and light, in the dtype of raw, within its limits."""
    if raw.dtype.kind == "f":
        return np.where(np.isfinite(raw), raw + light, raw).astype(raw.dtype)
    limits = np.iinfo(raw.dtype)
    total = np.rint(raw.astype(np.float64) + light)
    return np.clip(total, limits.min, limits.max).astype(raw.dtype)
