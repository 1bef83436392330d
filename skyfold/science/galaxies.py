"""Galaxies of known shear put into a raw image, so that the response to shear is known.

This module knows how: exponential discs of random size and ellipticity on a jittered grid, away
from the image's own sources, each drawn twice with opposite shears under one noise. The difference
of the two is the response; the noise and whatever else lies there drop out of it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science.injection import expose, places
from skyfold.science.sources import at_centre, load_measuring

SHEAR = 0.1
SNR = (20.0, 200.0)  # of an ideal filter, spread evenly in the logarithm
SPACING = 7.0  # [FWHM]
_SIZES = (0.4, 0.9)  # half-light radius [FWHM]
_ELLIPTICITY = 0.2  # of the galaxies themselves, each component
_FLATTEST = 0.6
_REACH = 3.4  # [FWHM], half width of what is drawn of each
DTYPE = [("x", "f8"), ("y", "f8"), ("snr", "f8"), ("g1", "f8"), ("g2", "f8")]


def inject_sheared(
    raw: NDArray[Any],
    sigma: NDArray[np.float64],
    free: NDArray[np.bool_],
    *,
    fwhm: float,
    slope: float,
    step: float | None,
    seed: int,
) -> tuple[tuple[NDArray[Any], NDArray[Any]], NDArray[np.float64], NDArray[Any]]:
    """Put the same galaxies with opposite shears into two copies of an image.

    Parameters
    ----------
    raw, sigma, fwhm, slope, step, seed
        As of `skyfold.science.injection.inject`.
    free : ndarray of bool, shape (ny, nx)
        Where the centre of a galaxy may lie.

    Returns
    -------
    copies : (ndarray, ndarray), each of shape (ny, nx) and the dtype of raw
    sigma : ndarray, shape (2 * ny, nx), float64
        Of both copies, one above the other, with the galaxies' photon noise.
    galaxies : ndarray, shape (2 * n,), structured
        ``x``, ``y`` [pixel] on both copies, one above the other, ``snr``, and the reduced shear
        ``g1``, ``g2``; those of the second copy follow in the order of the first.

    Raises
    ------
    MissingDependencyError
        If GalSim is not installed.
    """
    rng = np.random.default_rng(seed)
    x, y = places(raw.shape, SPACING * fwhm, fwhm, rng)
    galaxies = np.zeros(len(x), DTYPE)
    galaxies["x"], galaxies["y"] = x, y
    angle = rng.uniform(0, 2 * np.pi, len(x))
    galaxies["g1"], galaxies["g2"] = SHEAR * np.cos(angle), SHEAR * np.sin(angle)
    galaxies["snr"] = np.exp(rng.uniform(math.log(SNR[0]), math.log(SNR[1]), len(x)))
    size = fwhm * rng.uniform(*_SIZES, len(x))
    own = np.minimum(rng.rayleigh(_ELLIPTICITY, len(x)), _FLATTEST)
    own = own * np.exp(1j * rng.uniform(0, 2 * np.pi, len(x)))
    kept = at_centre(free, galaxies)
    galaxies, size, own = galaxies[kept], size[kept], own[kept]
    photons = rng.normal(size=raw.shape)
    copies = []
    for sign in (1, -1):
        light = _draw(raw.shape, galaxies, sign, size, own, sigma, fwhm)
        copies.append(expose(raw, sigma, light, photons, slope=slope, step=step))
    below = galaxies.copy()
    below["y"] += raw.shape[0]
    below["g1"], below["g2"] = -below["g1"], -below["g2"]
    (first, noise), (second, other) = copies
    return (first, second), np.concatenate([noise, other]), np.concatenate([galaxies, below])


def _draw(
    shape: tuple[int, ...],
    galaxies: NDArray[Any],
    sign: int,
    size: NDArray[np.float64],
    own: NDArray[np.complex128],
    sigma: NDArray[np.float64],
    fwhm: float,
) -> NDArray[np.float64]:
    """Light of the galaxies [unit of sigma]; what lies beyond the image is left out."""
    galsim = load_measuring("galsim")
    image = galsim.Image(np.zeros(shape))
    psf = galsim.Gaussian(fwhm=fwhm)
    side = 2 * math.ceil(_REACH * fwhm) + 1
    noise = at_centre(sigma, galaxies)
    for number, galaxy in enumerate(galaxies):
        profile = galsim.Exponential(half_light_radius=size[number])
        profile = profile.shear(g1=own[number].real, g2=own[number].imag)
        profile = profile.shear(g1=sign * galaxy["g1"], g2=sign * galaxy["g2"])
        # the width of the point-spread function is that of pixels already
        stamp = galsim.Convolve(profile, psf).drawImage(
            nx=side, ny=side, scale=1.0, method="no_pixel", dtype=float,
            center=galsim.PositionD(galaxy["x"] + 1, galaxy["y"] + 1),
        )  # fmt: skip
        flux = galaxy["snr"] * noise[number] / np.sqrt((stamp.array**2).sum())
        common = stamp.bounds & image.bounds
        image[common] += flux * stamp[common]
    drawn: NDArray[np.float64] = image.array
    return drawn
