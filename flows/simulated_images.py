"""Simulated exposures: camera, sources, what no model expects, and the header.

The unexpected is there on purpose: cosmic rays, a satellite trail on some exposures, a bad column.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from flows.simulated_sky import (
    BANDS,
    CAMERA_STREAM,
    IMAGE_STREAM,
    ZERO_POINTS,
    Floats,
    Rows,
    Sky,
    sky_wcs,
    spiral,
    tangent_wcs,
)
from skyfold.errors import InvalidRequestError, MissingDependencyError

EXPOSURE_S = 30.0
SKY_E, READ_NOISE_E, GAIN = 600.0, 5.0, 1.5  # defaults of an exposure: [e-] and [e-/ADU]
PEDESTAL_ADU = 1000.0


@dataclass(frozen=True)
class Camera:
    """What stands between the sky and the pixels.

    Parameters
    ----------
    size : int
        Width and height [pixel].
    pixel_scale_arcsec, seeing_arcsec : float
        Pixel width; median FWHM of the (Kolmogorov) PSF, which varies by 6 % between exposures.
    sky_e, read_noise_e, gain : float
        Sky in one pixel [e-], read noise [e-], electrons per ADU.
    """

    size: int = 1024
    pixel_scale_arcsec: float = 0.2
    seeing_arcsec: float = 0.8
    sky_e: float = SKY_E
    read_noise_e: float = READ_NOISE_E
    gain: float = GAIN


def simulate_image(
    sky: Sky, camera: Camera, number: int, bands: Sequence[str] = ("r", "i")
) -> tuple[NDArray[np.uint16], fits.Header, Rows]:
    """Exposure `number` of the sky: it depends on the seed and on its number alone.

    Consecutive exposures see one field in each band; fields spiral outwards with 7 % of overlap.

    Parameters
    ----------
    sky : Sky
    camera : Camera
    number : int
        From 0. The band is `bands[number % len(bands)]`.
    bands : sequence of str
        Of u, g, r, i, z, y.

    Returns
    -------
    pixels : ndarray, shape (size, size), uint16
        ADU above a pedestal of 1000. Saturates at 65535. Holds cosmic rays, one bad column, and
        in every fifth exposure a satellite trail.
    header : Header
        TAN WCS, FILTER, GAIN [e-/ADU], RDNOISE [e-], SEEING [arcsec], EXPTIME [s], DATE-OBS.
    objects : ndarray, shape (n,), dtype OBJECT
        Those whose centre lies in the image.

    Raises
    ------
    MissingDependencyError
        If GalSim is not installed.

    Notes
    -----
    Sources are drawn with GalSim (Rowe et al. 2015), in Fourier space.
    """
    galsim = _import_galsim()
    rng = np.random.default_rng([IMAGE_STREAM, sky.seed, number])
    band = bands[number % len(bands)]
    field = next(itertools.islice(spiral(), number // len(bands), None))
    width = camera.size * camera.pixel_scale_arcsec
    u, v = (np.array(field) * 0.93 + rng.uniform(-0.015, 0.015, 2)) * width
    seeing = camera.seeing_arcsec * float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.2))
    angle = float(np.radians(rng.normal(0.0, 0.3)))
    middle = (camera.size - 1) / 2
    center = sky_wcs().all_pix2world([[u, v]], 0)[0]
    wcs = tangent_wcs(center, middle, camera.pixel_scale_arcsec, angle)
    objects = sky.around(u, v, 0.52 * width + 15.0 + 30.0 * camera.pixel_scale_arcsec)
    x, y = _pixel_positions(objects, wcs)
    flux = flux_e(objects)[:, BANDS.index(band)]
    electrons = _draw_sources(galsim, camera, objects, (x, y, flux), seeing, angle)
    electrons += _smooth_sky(rng, camera)
    _add_cosmic_rays(rng, electrons)
    if number % 5 == 1:
        _add_trail(rng, electrons, seeing / camera.pixel_scale_arcsec, camera)
    pixels = _read_out(rng, electrons, camera, sky.seed)
    header = _image_header(wcs, camera, number, band, seeing)
    inside = np.maximum(np.abs(x - middle), np.abs(y - middle)) < camera.size / 2
    return pixels, header, objects[inside]


def _import_galsim() -> ModuleType:
    """GalSim, which takes seconds to import and which only simulations need."""
    try:
        import galsim
    except ImportError as error:
        raise MissingDependencyError(
            "cannot simulate a survey: galsim is not installed; it is part of the producer's "
            "extra, so run `pip install skyfold[produce]`"
        ) from error
    return galsim  # type: ignore[no-any-return]


def _pixel_positions(objects: Rows, wcs: WCS) -> tuple[Floats, Floats]:
    ra, dec = sky_wcs().all_pix2world(objects["u"], objects["v"], 0)
    x, y = wcs.all_world2pix(ra, dec, 0)
    return x, y


def flux_e(objects: Rows) -> Floats:
    """Electrons of one exposure in each of the six bands, shape (n, 6)."""
    return np.asarray(EXPOSURE_S * 10 ** (-0.4 * (objects["mag"] - ZERO_POINTS)))


def _draw_sources(
    galsim: ModuleType,
    camera: Camera,
    objects: Rows,
    seen: tuple[Floats, Floats, Floats],
    seeing: float,
    angle: float,
) -> Floats:
    """Draw the expected electrons, shape (size, size); `seen` is x, y [pixel] and flux [e-]."""
    scale = camera.pixel_scale_arcsec
    c, s = scale * math.cos(angle), scale * math.sin(angle)
    local = galsim.JacobianWCS(c, -s, s, c)
    psf = galsim.Kolmogorov(fwhm=seeing)
    image = galsim.ImageD(camera.size, camera.size)
    # Kolmogorov wings fall as r^-11/3: the stamp ends where they are lost in the sky's noise.
    half = 12.0 * (seen[2] / 2000.0) ** 0.3 + 5.0 * objects["radius_arcsec"] / scale
    half = 4 * np.ceil(np.clip(half, 12.0, 240.0) / 4).astype(int)
    for row, x, y, flux, reach in zip(objects, *seen, half, strict=True):
        if min(x, y) < -reach or max(x, y) > camera.size + reach:
            continue
        profile = _profile(galsim, row, psf).withFlux(flux)
        corner = galsim.PositionD(x + 1.0, y + 1.0)  # GalSim counts pixels from 1
        stamp = profile.drawImage(nx=2 * reach, ny=2 * reach, wcs=local, center=corner, dtype=float)
        common = stamp.bounds & image.bounds
        if common.isDefined():
            image[common] += stamp[common]
    return np.asarray(image.array)


def _profile(galsim: ModuleType, row: np.void, psf: Any) -> Any:
    """Surface brightness after the PSF: a point, or an exponential disk with a bulge."""
    if row["is_star"]:
        return psf
    bulge, radius = float(row["bulge"]), float(row["radius_arcsec"])
    parts = []
    if bulge < 0.95:
        parts.append((1 - bulge) * galsim.Exponential(half_light_radius=radius, flux=1.0))
    if bulge > 0.05:
        parts.append(bulge * galsim.DeVaucouleurs(half_light_radius=0.6 * radius, flux=1.0))
    shape = galsim.Shear(g1=row["g1"], g2=row["g2"])
    return galsim.Convolve(galsim.Sum(parts).shear(shape), psf)


def _smooth_sky(rng: np.random.Generator, camera: Camera) -> Floats:
    """Sky with a gradient and a bowl of a few per cent; its median is `sky_e`."""
    y, x = np.linspace(-1, 1, camera.size)[:, None], np.linspace(-1, 1, camera.size)[None, :]
    a, b, c = rng.normal(0.0, 0.012, 3)
    pattern = a * x + b * y + c * (x * x + y * y)
    return np.asarray(camera.sky_e * (1.0 + pattern - np.median(pattern)))


def _add_cosmic_rays(rng: np.random.Generator, electrons: Floats) -> None:
    """Straight tracks of a pixel's width: about six in a million pixels, never fewer than one."""
    for _ in range(1 + rng.poisson(5e-6 * electrons.size)):
        length, angle = rng.lognormal(1.8, 0.7), rng.uniform(0, 2 * np.pi)
        start = rng.uniform(0, electrons.shape[0], 2)
        along = np.arange(0.0, length, 0.5)[:, None] * [math.sin(angle), math.cos(angle)]
        hit = (start + along).astype(int)
        hit = hit[(hit < electrons.shape[0]).all(axis=1) & (hit >= 0).all(axis=1)]
        np.add.at(electrons, (hit[:, 0], hit[:, 1]), rng.lognormal(7.0, 0.6))


def _add_trail(
    rng: np.random.Generator, electrons: Floats, fwhm_pix: float, camera: Camera
) -> None:
    """Add a satellite's trail across the image: 2-6 sigma of the sky noise in each pixel."""
    angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.3) * camera.size
    y, x = np.indices(electrons.shape, dtype=float) - camera.size / 2
    distance = (x * math.sin(angle) - y * math.cos(angle) - offset) / fwhm_pix
    peak = rng.uniform(2.0, 6.0) * math.sqrt(camera.sky_e + camera.read_noise_e**2)
    electrons += peak * np.exp(-4 * math.log(2) * distance**2)


def _read_out(
    rng: np.random.Generator, electrons: Floats, camera: Camera, seed: int
) -> NDArray[np.uint16]:
    """Read the detector: photon noise, a column dead over part of its length, read noise."""
    counts = rng.poisson(np.maximum(electrons, 0.0)).astype(np.float64)
    detector = np.random.default_rng([CAMERA_STREAM, seed])
    column, first = detector.integers(0, camera.size, 2)
    counts[first // 2 :, column] = 0.0
    counts += rng.normal(0.0, camera.read_noise_e, counts.shape)
    return np.clip(np.rint(counts / camera.gain + PEDESTAL_ADU), 0, 65535).astype(np.uint16)


def _image_header(wcs: WCS, camera: Camera, number: int, band: str, seeing: float) -> fits.Header:
    header = wcs.to_header()
    seconds = 40.0 * number  # one exposure follows another from 2026-01-01
    header["OBJECT"] = f"simulated exposure {number}"
    header["FILTER"] = band
    header["EXPTIME"] = (EXPOSURE_S, "[s]")
    header["DATE-OBS"] = (datetime(2026, 1, 1) + timedelta(seconds=seconds)).isoformat()
    header["MJD-OBS"] = 61041.0 + seconds / 86400.0
    header["GAIN"] = (camera.gain, "[e-/adu]")
    header["RDNOISE"] = (camera.read_noise_e, "[e-]")
    header["SEEING"] = (seeing, "[arcsec] FWHM of the PSF")
    zero_point = ZERO_POINTS[BANDS.index(band)] + 2.5 * math.log10(EXPOSURE_S / camera.gain)
    header["MAGZERO"] = (zero_point, "[mag] AB magnitude of 1 adu")
    header["PEDESTAL"] = (PEDESTAL_ADU, "[adu]")
    header["SATURATE"] = (65535.0, "[adu]")
    header["BUNIT"] = "adu"
    return header


def noise_entropy_bits(sky_e: float, read_noise_e: float, gain: float) -> float:
    """Entropy of the sky noise of integer pixels [bits per pixel].

    Parameters
    ----------
    sky_e, read_noise_e, gain : float
        Sky in one pixel [e-], read noise [e-], electrons per ADU.

    Returns
    -------
    float
        Entropy of a Gaussian of the noise's sigma, rounded to integers: no lossless coder of
        images with this sky noise alone can use fewer bits.

    Raises
    ------
    InvalidRequestError
        If a noise is negative, or the gain not positive.

    Examples
    --------
    >>> round(noise_entropy_bits(sky_e=600.0, read_noise_e=5.0, gain=1.5), 2)
    6.11
    """
    if not (sky_e >= 0 and read_noise_e >= 0 and gain > 0):
        raise InvalidRequestError(
            f"no entropy for sky_e = {sky_e}, read_noise_e = {read_noise_e}, gain = {gain}: noise "
            "must be zero or more and gain positive; give e-, e- and e-/ADU"
        )
    sigma = max(math.sqrt(sky_e + read_noise_e**2) / gain, 1e-6)
    reach = math.ceil(9 * sigma) + 1
    edges = [math.erf((k - 0.5) / (sigma * math.sqrt(2))) / 2 for k in range(-reach, reach + 2)]
    odds = np.diff(edges)
    odds = odds[odds > 0]
    return float(-np.sum(odds * np.log2(odds)))
