"""Trails put into a raw image: of what moves while the shutter is open.

This module knows how: point sources that cross a straight line evenly, in any direction, on a
jittered grid wide enough that they do not touch, with lengths from 4 to 10 widths of a point and
signal-to-noise ratios of an ideal filter spread evenly in their logarithm, and with the photon
noise that they would have brought.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from skyfold.science.injection import Stamp, clipped, inject_stamps, places
from skyfold.science.sources import SIGMAS_PER_FWHM

SNR = (4.0, 32.0)
LENGTHS = (4.0, 10.0)  # [FWHM]
SPACING = 13.0  # [FWHM]
_REACH = 1.3  # [FWHM] beyond its ends to which a trail is drawn: 0.2 % of its width is left out
DTYPE = [("x", "f8"), ("y", "f8"), ("snr", "f8"), ("length", "f8"), ("angle", "f8")]


def inject_trails(
    raw: NDArray[Any],
    sigma: NDArray[np.float64],
    *,
    fwhm: float,
    slope: float,
    step: float | None,
    seed: int,
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[Any]]:
    """Put trails into an image.

    Parameters
    ----------
    raw, sigma, fwhm, slope, step, seed
        As of `skyfold.science.injection.inject`.

    Returns
    -------
    injected : ndarray, shape (ny, nx)
        Of the dtype of raw.
    sigma : ndarray, shape (ny, nx), float64
        With the trails' photon noise.
    trails : ndarray, shape (n,), structured
        ``x``, ``y`` [pixel] of the middle, ``snr`` of an ideal filter in the noise of the pixel
        there, ``length`` [pixel] and ``angle`` [rad] from x to y.
    """
    rng = np.random.default_rng(seed)
    x, y = places(raw.shape, SPACING * fwhm, fwhm, rng)
    trails = np.zeros(len(x), DTYPE)
    trails["x"], trails["y"] = x, y
    trails["snr"] = np.exp(rng.uniform(math.log(SNR[0]), math.log(SNR[1]), len(x)))
    trails["length"] = fwhm * rng.uniform(*LENGTHS, len(x))
    trails["angle"] = rng.uniform(0, np.pi, len(x))
    stamps = (stamp(raw.shape, trail, fwhm) for trail in trails)
    injected, sigma = inject_stamps(raw, sigma, trails, stamps, rng=rng, slope=slope, step=step)
    return injected, sigma, trails


def stamp(shape: tuple[int, ...], trail: NDArray[Any], fwhm: float) -> Stamp:
    """Return where the light of a trail lies in an image, and its light.

    Parameters
    ----------
    shape : (int, int)
        Of the image; what lies beyond it is left out.
    trail : numpy.void
        Of the dtype that `inject_trails` gives.
    fwhm : float
        Of point sources [pixel].

    Returns
    -------
    place : (slice, slice)
    profile : ndarray, shape (rows, columns), float64
        With the norm 1, if all of it is in the image.
    """
    x, y, length, angle = (float(trail[name]) for name in ("x", "y", "length", "angle"))
    reach = math.ceil(length / 2 + _REACH * fwhm)
    low = round(y) - reach, round(x) - reach
    rows, columns = np.ogrid[: 2 * reach + 1, : 2 * reach + 1]
    right, up, width = columns + low[1] - x, rows + low[0] - y, fwhm / SIGMAS_PER_FWHM
    along = right * np.cos(angle) + up * np.sin(angle)
    across = up * np.cos(angle) - right * np.sin(angle)
    profile = np.exp(-0.5 * (across / width) ** 2)
    profile *= ndtr((along + length / 2) / width) - ndtr((along - length / 2) / width)
    profile /= np.linalg.norm(profile)
    return clipped(profile, low, shape)
