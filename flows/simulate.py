"""A simulated survey whose truth is known: images, a galaxy catalog, p(z) densities, survey.toml.

What this module knows: the sky is a function of the seed alone, made in cells of one square
arcminute, so images, truth and catalog show the same galaxies, and a survey can be continued
later with the same sky. Galaxies are drawn from a luminosity function over a small family of
spectra (power laws with a 4000 Å break); the same spectra give colors, sizes and the photometric
redshifts. Nothing that reads or compresses the survey may depend on what is here.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyfold.errors import InvalidRequestError, MissingDependencyError

__all__ = ["Camera", "Sky", "noise_entropy_bits", "photo_z", "simulate_image", "simulate_survey"]

Floats = NDArray[np.float64]
Rows = NDArray[np.void]

BANDS = ("u", "g", "r", "i", "z", "y")
# Band edges [Å] and AB zero points of 1 s [e-/s], after the LSST system (SMTN-002).
EDGES = ((3200, 4000), (4000, 5520), (5520, 6910), (6910, 8180), (8180, 9220), (9500, 10600))
ZERO_POINTS = np.array([26.52, 28.51, 28.36, 28.17, 27.78, 26.82])
EXPOSURE_S = 30.0
SKY_E, READ_NOISE_E, GAIN = 600.0, 5.0, 1.5  # defaults of an exposure: [e-] and [e-/ADU]
# Ten-year 5 sigma depth and the shape of its error model (Ivezic et al. 2019, eq. 5).
DEPTHS = np.array([26.1, 27.4, 27.5, 26.8, 26.1, 24.9])
GAMMAS = np.array([0.038, 0.039, 0.039, 0.039, 0.039, 0.039])
SYSTEMATIC_MAG = 0.005

MAG_LIMIT = 25.5  # of true magnitude in i; fainter galaxies lie below the noise of one exposure
CELL_ARCSEC = 60.0
CENTER_DEG = (150.1, 2.2)
PEDESTAL_ADU = 1000.0
UNDETECTED = 99.0
DENSITY_ROWS = 5000
Z_GRID = np.linspace(0.0, 3.0, 201)
TYPES = np.linspace(0.0, 1.0, 60)  # 0 is the reddest spectrum, 1 the bluest
ABSOLUTE_MAGS = np.arange(-24.0, -14.0, 0.25)
SKY_STREAM, IMAGE_STREAM, CATALOG_STREAM, CAMERA_STREAM = range(4)

OBJECT = np.dtype(
    [
        ("object_id", "i8"),
        ("is_star", "?"),
        ("u", "f8"),  # tangent plane of the survey [arcsec]: u to the west, v to the north
        ("v", "f8"),
        ("mag", "f8", (len(BANDS),)),
        ("redshift", "f8"),
        ("spectrum", "f8"),
        ("radius_arcsec", "f8"),
        ("bulge", "f8"),
        ("g1", "f8"),
        ("g2", "f8"),
        ("neighbor_arcsec", "f8"),
    ]
)


# --- spectra, distances, luminosity function -------------------------------------------------


def _band_means(flux: Callable[[Floats], Floats]) -> Floats:
    """Mean photon rate of f_nu(wavelength [Å]) in each top-hat band; bands become the last axis."""
    waves = np.array([np.geomspace(low, high, 150) for low, high in EDGES])
    return np.asarray(flux(waves).mean(axis=-1))


def _galaxy_flux(wave: Floats, spectrum: Floats) -> Floats:
    """f_nu at rest-frame wavelength [Å]: two power laws, a 4000 Å break; 1 near 5500 Å."""
    red = 1.0 - spectrum
    depth = 1.15 + 1.05 * red
    above = 1.0 / (1.0 + np.exp(-(wave - 3950.0) / 90.0))
    ultraviolet = np.minimum(wave / 3700.0, 1.0) ** (0.2 + 3.3 * red)
    continuum = (wave / 5500.0) ** (0.15 + 1.85 * red)
    return np.asarray(continuum * ultraviolet * (above + (1.0 - above) / depth))


@lru_cache(maxsize=1)
def _galaxy_templates() -> Floats:
    """Observed f_nu of every redshift, type and band, of a galaxy with f_nu(5500 Å) = 1 at rest."""
    z, spectrum = Z_GRID[:, None, None, None], TYPES[None, :, None, None]

    def flux(wave: Floats) -> Floats:
        rest = wave / (1.0 + z)
        # Mean absorption by intergalactic hydrogen (Madau 1995, eq. 12), nothing below 912 Å.
        forest = np.where(rest < 1216, np.exp(-0.0036 * (wave / 1216) ** 3.46), 1.0)
        return (1.0 + z) * _galaxy_flux(rest, spectrum) * np.where(rest < 912, 1e-3, forest)

    return _band_means(flux)


@lru_cache(maxsize=1)
def _distances() -> tuple[Floats, Floats, Floats]:
    """Distance modulus, volume per redshift, arcsec per kpc on Z_GRID; flat, H0 70, Om 0.3."""
    expansion = np.sqrt(0.3 * (1.0 + Z_GRID) ** 3 + 0.7)
    steps = np.diff(Z_GRID) * 0.5 * (1.0 / expansion[1:] + 1.0 / expansion[:-1])
    comoving = np.concatenate([[0.0], np.cumsum(steps)]) * 299792.458 / 70.0
    near = np.maximum(comoving, comoving[1] / 10.0)  # no galaxy at z = 0; keeps the log finite
    modulus = 5.0 * np.log10(near * (1.0 + Z_GRID)) + 25.0
    return modulus, comoving**2 / expansion, 206.265 * (1.0 + Z_GRID) / near


def _luminosity_function(mag: Floats, spectrum: Floats, z: Floats) -> Floats:
    """Relative number per volume and magnitude: Schechter, red and blue galaxies, evolving."""
    slope = -0.5 - 0.9 * spectrum
    bright = 10 ** (-0.4 * (mag + 21.2 + 0.8 * np.minimum(z, 2.0)))
    red = 2.0 * np.exp(-0.5 * (spectrum / 0.12) ** 2) / (1.0 + z)
    blue = np.exp(-0.5 * ((spectrum - 0.65) / 0.2) ** 2)
    return np.asarray((red + blue) * bright ** (slope + 1.0) * np.exp(-bright))


@lru_cache(maxsize=1)
def _galaxy_odds() -> Floats:
    """Cumulated odds of each (redshift, type, absolute magnitude) bin brighter than MAG_LIMIT."""
    modulus, volume, _ = _distances()
    z, spectrum, mag = np.meshgrid(Z_GRID, TYPES, ABSOLUTE_MAGS, indexing="ij")
    faint = _galaxy_templates()[:, :, BANDS.index("i"), None]
    apparent = mag + modulus[:, None, None] - 2.5 * np.log10(faint)
    odds = _luminosity_function(mag, spectrum, z) * volume[:, None, None] * (apparent < MAG_LIMIT)
    total = np.cumsum(odds.ravel())
    return np.asarray(total / total[-1])


# --- the sky ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sky:
    """The true sky of one seed.

    Parameters
    ----------
    seed : int
        Everything on the sky follows from it.
    density_per_arcmin2 : float
        Galaxies brighter than i = 25.5 per square arcminute.
    stars_per_arcmin2 : float
        Stars between i = 15 and 25 per square arcminute.

    Examples
    --------
    >>> sky = Sky(seed=1)
    >>> bool((sky.cell(0, 0) == Sky(seed=1).cell(0, 0)).all())
    True
    """

    seed: int
    density_per_arcmin2: float = 45.0
    stars_per_arcmin2: float = 4.0

    def cell(self, column: int, row: int) -> Rows:
        """Every object of one cell of the sky.

        Parameters
        ----------
        column, row : int
            Cell, 60 arcsec wide, counted to the west and to the north; (0, 0) is the centre.

        Returns
        -------
        ndarray, shape (n,), dtype OBJECT
            Galaxies, then stars. Magnitudes are true AB magnitudes in u, g, r, i, z, y; `g1`,
            `g2` are reduced shears with +x to the west and +y to the north; radii hold half the
            light, before the PSF. Redshift, type and radius of stars are 0.
        """
        column_key, row_key = column + 2**15, row + 2**15
        rng = np.random.default_rng([SKY_STREAM, self.seed, column_key, row_key])
        galaxies = _draw_galaxies(rng, int(rng.poisson(self.density_per_arcmin2)))
        stars = _draw_stars(rng, int(rng.poisson(self.stars_per_arcmin2)))
        rows = np.concatenate([galaxies, stars])
        u, v = rng.uniform(-0.5, 0.5, (2, rows.size))
        rows["u"], rows["v"] = (column + u) * CELL_ARCSEC, (row + v) * CELL_ARCSEC
        # 16 bits each for column and row, 20 for the number in the cell: below 2^53.
        rows["object_id"] = ((column_key << 16 | row_key) << 20) + np.arange(rows.size)
        rows["neighbor_arcsec"] = _nearest(rows["u"], rows["v"])
        return rows

    def around(self, u: float, v: float, radius_arcsec: float) -> Rows:
        """Objects of all cells that meet a square of half-width `radius_arcsec` at (u, v)."""

        def cells(center: float) -> range:
            low, high = center - radius_arcsec, center + radius_arcsec
            return range(round(low / CELL_ARCSEC), round(high / CELL_ARCSEC) + 1)

        return np.concatenate([self.cell(c, r) for c in cells(u) for r in cells(v)])


def _draw_galaxies(rng: np.random.Generator, number: int) -> Rows:
    """Galaxies of the luminosity function, with their shapes; positions are left at zero."""
    shape = (Z_GRID.size, TYPES.size, ABSOLUTE_MAGS.size)
    bins = np.unravel_index(np.searchsorted(_galaxy_odds(), rng.random(number)), shape)
    jitter = rng.uniform(-0.5, 0.5, (3, number))
    z = np.clip(bins[0] + jitter[0], 0.5, shape[0] - 1.001)
    kind = np.clip(bins[1] + jitter[1], 0.0, shape[1] - 1.001)
    absolute = ABSOLUTE_MAGS[bins[2]] + 0.25 * jitter[2]
    modulus, _, arcsec_per_kpc = _distances()
    steps = np.arange(shape[0])
    rows: Rows = np.zeros(number, OBJECT)
    rows["redshift"] = np.interp(z, steps, Z_GRID)
    rows["spectrum"] = kind / (shape[1] - 1)
    color = -2.5 * np.log10(_between(_galaxy_templates(), z, kind))
    rows["mag"] = (absolute + np.interp(z, steps, modulus))[:, None] + color
    rows["mag"] += rng.normal(0.0, 0.02, rows["mag"].shape)  # no galaxy is exactly a template
    kpc = 4.0 * 10 ** (-0.13 * (absolute + 21.0) + 0.18 * rng.standard_normal(number))
    kpc *= (0.8 + 0.4 * rows["spectrum"]) / (1.0 + rows["redshift"]) ** 0.8
    rows["radius_arcsec"] = np.clip(kpc * np.interp(z, steps, arcsec_per_kpc), 0.06, 8.0)
    rows["bulge"] = np.clip(0.9 - 1.3 * rows["spectrum"] + rng.normal(0, 0.1, number), 0, 1)
    size, angle = np.minimum(rng.rayleigh(0.2, number), 0.7), rng.uniform(0, 2 * np.pi, number)
    rows["g1"], rows["g2"] = size * np.cos(angle), size * np.sin(angle)
    return rows


def _between(table: Floats, first: Floats, second: Floats) -> Floats:
    """Bilinear interpolation of table[i, j, :] at fractional indices, shape (n, bands)."""
    i, j = first.astype(int), second.astype(int)
    s, t = (first - i)[:, None], (second - j)[:, None]
    low = table[i, j] * (1 - t) + table[i, j + 1] * t
    high = table[i + 1, j] * (1 - t) + table[i + 1, j + 1] * t
    return np.asarray(low * (1 - s) + high * s)


def _draw_stars(rng: np.random.Generator, number: int) -> Rows:
    """Stars of power-law counts, with black-body colors; positions are left at zero."""
    slope = 0.15  # of log10 N(<m): counts at high Galactic latitude rise by about this
    kelvin = np.exp(rng.uniform(np.log(3300.0), np.log(7500.0), number))[:, None, None]
    flux = _band_means(lambda wave: wave**-3 / np.expm1(1.4388e8 / (wave * kelvin)))
    color = -2.5 * np.log10(flux / flux[:, BANDS.index("i"), None])
    rows: Rows = np.zeros(number, OBJECT)
    bright = rng.uniform(10 ** (slope * -10.0), 1.0, number)
    rows["mag"] = 25.0 + np.log10(bright)[:, None] / slope + color
    rows["is_star"] = True
    return rows


def _nearest(u: Floats, v: Floats) -> Floats:
    """Distance to the nearest other object of the cell [arcsec]; infinite where it is alone."""
    distance = np.hypot(u[:, None] - u, v[:, None] - v)
    np.fill_diagonal(distance, np.inf)
    return np.asarray(distance.min(axis=1, initial=np.inf))


def _sky_wcs() -> WCS:
    """Tangent plane of the survey: pixel (u, v) is arcsec to the west and to the north."""
    return _tangent_wcs(CENTER_DEG, 0.0, 1.0, 0.0)


def _tangent_wcs(
    center_deg: Sequence[float], pixel: float, scale_arcsec: float, angle: float
) -> WCS:
    """TAN projection about 0-based `pixel` on both axes, x to the west but for `angle` [rad]."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = list(center_deg)
    wcs.wcs.crpix = [pixel + 1.0, pixel + 1.0]
    c, s = math.cos(angle), math.sin(angle)
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * scale_arcsec / 3600.0
    return wcs


def _spiral() -> Iterator[tuple[int, int]]:
    """Every cell of the plane once, from the centre outwards."""
    x, y, dx, dy = 0, 0, 1, 0
    yield x, y
    for run in itertools.count(1):
        for step in range(2 * run):
            x, y = x + dx, y + dy
            yield x, y
            if step % run == run - 1:
                dx, dy = -dy, dx


# --- images ----------------------------------------------------------------------------------


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
    objects : ndarray, dtype OBJECT
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
    field = next(itertools.islice(_spiral(), number // len(bands), None))
    width = camera.size * camera.pixel_scale_arcsec
    u, v = (np.array(field) * 0.93 + rng.uniform(-0.015, 0.015, 2)) * width
    seeing = camera.seeing_arcsec * float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.2))
    angle = float(np.radians(rng.normal(0.0, 0.3)))
    middle = (camera.size - 1) / 2
    center = _sky_wcs().all_pix2world([[u, v]], 0)[0]
    wcs = _tangent_wcs(center, middle, camera.pixel_scale_arcsec, angle)
    objects = sky.around(u, v, 0.52 * width + 15.0 + 30.0 * camera.pixel_scale_arcsec)
    x, y = _pixel_positions(objects, wcs)
    flux = _flux_e(objects)[:, BANDS.index(band)]
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
    ra, dec = _sky_wcs().all_pix2world(objects["u"], objects["v"], 0)
    x, y = wcs.all_world2pix(ra, dec, 0)
    return x, y


def _flux_e(objects: Rows) -> Floats:
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


# --- catalog and densities -------------------------------------------------------------------


def _observe(mags: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Measured flux and its error, shape (n, 6), in units of the flux of AB magnitude 0."""
    true = 10 ** (-0.4 * mags)
    flux = true * (1.0 + _relative_error(mags) * rng.standard_normal(mags.shape))
    return flux, true * _relative_error(mags)


def _relative_error(mags: Floats) -> Floats:
    """Error of a magnitude, LSST model; `inf` for a magnitude of `inf`."""
    x = 10 ** (0.4 * (mags - DEPTHS))
    return np.asarray(np.sqrt(SYSTEMATIC_MAG**2 + (0.04 - GAMMAS) * x + GAMMAS * x * x))


def _catalog(objects: Rows, flux: Floats, error: Floats) -> pa.Table:
    """Make the catalog that a survey would publish; magnitude and error 99 below one sigma."""
    ra, dec = _sky_wcs().all_pix2world(objects["u"], objects["v"], 0)
    seen = flux > error
    mag = -2.5 * np.log10(np.where(seen, flux, 1.0))
    mag_err = np.where(seen, _relative_error(mag), UNDETECTED)
    mag = np.where(seen, mag, UNDETECTED)
    columns: dict[str, Any] = {"object_id": objects["object_id"], "ra": ra, "dec": dec}
    for k, band in enumerate(BANDS):
        columns[f"mag_{band}"] = mag[:, k].astype(np.float32)
        columns[f"mag_err_{band}"] = mag_err[:, k].astype(np.float32)
    for name in ("redshift", "radius_arcsec", "g1", "g2"):
        columns[name] = objects[name].astype(np.float32)
    # Bit 0: not seen in some band; bit 1: another object within 2 arcsec; bit 2: fainter than i=24.
    flags = ~seen.all(axis=1) + 2 * (objects["neighbor_arcsec"] < 2.0) + 4 * (mag[:, 3] > 24.0)
    columns["flags"] = flags.astype(np.int32)
    names = np.array(["elliptical", "spiral", "irregular"])
    columns["class"] = names[np.digitize(objects["spectrum"], [0.3, 0.75])].tolist()
    return pa.table(columns)


def photo_z(flux: Floats, error: Floats) -> NDArray[np.float32]:
    """Probability density of redshift, from six fluxes and the templates.

    Parameters
    ----------
    flux, error : ndarray, shape (n, 6), float64
        In u, g, r, i, z, y, in units of the flux of AB magnitude 0. Errors are positive; 2 % of
        the flux is added to them, since no galaxy is exactly a template.

    Returns
    -------
    ndarray, shape (n, 201), float32
        Density on `Z_GRID`, of trapezoidal integral 1: often one peak, sometimes several.

    Notes
    -----
    Likelihood of the colors with the best amplitude for each template, times the luminosity
    function (Benitez 2000, eq. 5).
    """
    templates = _galaxy_templates().reshape(-1, len(BANDS))
    weight = 1.0 / (error**2 + (0.02 * flux) ** 2)
    density = np.empty((flux.shape[0], Z_GRID.size))
    for first in range(0, flux.shape[0], 250):  # bounds memory: 250 x 12060 odds at a time
        f, w = flux[first : first + 250], weight[first : first + 250]
        cross, power = (f * w) @ templates.T, w @ (templates**2).T
        log_odds = 0.5 * cross * np.abs(cross) / power + _log_prior(f)
        odds = np.exp(log_odds - log_odds.max(axis=1, keepdims=True))
        density[first : first + 250] = odds.reshape(-1, Z_GRID.size, TYPES.size).sum(axis=2)
    density /= np.asarray(np.trapezoid(density, Z_GRID, axis=1))[:, None]
    return density.astype(np.float32)


def _log_prior(flux: Floats) -> Floats:
    """Log of the luminosity function and volume at each template, shape (n, templates)."""
    i = BANDS.index("i")
    modulus, volume, _ = _distances()
    shift = modulus[:, None] - 2.5 * np.log10(_galaxy_templates()[:, :, i])
    mag = -2.5 * np.log10(np.maximum(flux[:, i], 10 ** (-0.4 * 30)))[:, None, None]
    absolute = np.maximum(mag - shift, -27.0)  # brighter ones underflow
    odds = _luminosity_function(absolute, TYPES[None, :], Z_GRID[:, None]) * volume[:, None]
    return np.asarray(np.log(odds + 1e-300).reshape(flux.shape[0], -1))


# --- the survey ------------------------------------------------------------------------------


def simulate_survey(
    folder: str | Path,
    *,
    seed: int = 1,
    images: int = 12,
    size: int = 1024,
    bands: Sequence[str] = ("r", "i"),
    seeing_arcsec: float = 0.8,
    pixel_scale_arcsec: float = 0.2,
    sky_e: float = SKY_E,
    read_noise_e: float = READ_NOISE_E,
    gain: float = GAIN,
    density_per_arcmin2: float = 45.0,
    catalog_rows: int = 20000,
    minutes: float = 3.0,
    progress: Callable[[int, int], None] | None = None,
    damage: bool = False,
) -> Path:
    """Write a simulated survey and the `survey.toml` that describes it.

    Parameters
    ----------
    folder : str or Path
        Made if absent; files of the same names in it are replaced.
    seed : int
        From 0. The same seed and arguments give the same bytes.
    images : int
        Number of exposures; a larger number later adds exposures and changes none.
    size : int
        Width and height of an image [pixel], at least 64.
    bands : sequence of str
        Of u, g, r, i, z, y; every field is seen in each.
    seeing_arcsec, pixel_scale_arcsec, sky_e, read_noise_e, gain : float
        See `Camera`.
    density_per_arcmin2 : float
        Galaxies brighter than i = 25.5 per square arcminute.
    catalog_rows : int
        Galaxies in the catalog; p(z) is written for the first 5000.
    minutes : float
        Training time that `survey.toml` asks for.
    progress : callable or None
        Called with (files done, files in all).
    damage : bool
        Also write one truncated FITS file, its name holding `truncated`.

    Returns
    -------
    Path
        `survey.toml` in `folder`, beside `truth.parquet` (every object in an image: position,
        kind, flux in e- in each band) and the folder `raw`.

    Raises
    ------
    InvalidRequestError
        If an argument cannot be met; the message names it.
    MissingDependencyError
        If GalSim is not installed.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> simulate_survey(mkdtemp(), images=1, size=64, catalog_rows=10).name
    'survey.toml'
    """
    camera = Camera(size, pixel_scale_arcsec, seeing_arcsec, sky_e, read_noise_e, gain)
    _check(camera, seed, images, bands, catalog_rows, density_per_arcmin2)
    folder, sky = Path(folder), Sky(seed, density_per_arcmin2)
    report = progress or (lambda done, total: None)
    night = folder / "raw" / "night1"
    night.mkdir(parents=True, exist_ok=True)
    seen = []
    for number in range(images):
        pixels, header, objects = simulate_image(sky, camera, number, bands)
        path = night / f"exposure_{number:04d}_{header['FILTER']}.fits"
        fits.PrimaryHDU(pixels, header).writeto(path, overwrite=True)
        seen.append(objects)
        report(number + 1, images + 1)
    if damage:
        whole = (night / f"exposure_0000_{bands[0]}.fits").read_bytes()
        (night / "exposure_truncated.fits").write_bytes(whole[: len(whole) * 3 // 5])
    _write_truth(folder / "truth.parquet", np.concatenate(seen))
    _write_catalog(folder / "raw", sky, catalog_rows)
    report(images + 1, images + 1)
    (folder / "survey.toml").write_text(_survey_toml(seed, minutes))
    return folder / "survey.toml"


def _check(
    camera: Camera, seed: int, images: int, bands: Sequence[str], rows: int, density: float
) -> None:
    """Refuse what no simulation could meet."""
    unknown = [band for band in bands if band not in BANDS]
    if unknown or not bands:
        raise InvalidRequestError(
            f"cannot simulate bands {list(bands)}: each must be one of {', '.join(BANDS)}; "
            "pass for example bands=('r', 'i')"
        )
    least = {
        "seed": (seed, 0),
        "images": (images, 1),
        "size": (camera.size, 64),
        "catalog_rows": (rows, 1),
        # A sharper PSF would ask for a Fourier transform that does not fit.
        "seeing_arcsec": (camera.seeing_arcsec, 0.5 * camera.pixel_scale_arcsec),
        "pixel_scale_arcsec": (camera.pixel_scale_arcsec, 0.01),
        "sky_e": (camera.sky_e, 0),
        "read_noise_e": (camera.read_noise_e, 0),
        "gain": (camera.gain, 1e-3),
        "density_per_arcmin2": (density, 0.1),
    }
    for name, (value, bound) in least.items():
        if not (math.isfinite(value) and value >= bound):
            raise InvalidRequestError(
                f"cannot simulate a survey with {name} = {value}: it must be finite and at least "
                f"{bound}; pass another {name}"
            )


def _write_truth(path: Path, objects: Rows) -> None:
    _, first = np.unique(objects["object_id"], return_index=True)
    objects = objects[first]
    ra, dec = _sky_wcs().all_pix2world(objects["u"], objects["v"], 0)
    columns: dict[str, Any] = {"object_id": objects["object_id"], "ra": ra, "dec": dec}
    columns["kind"] = np.where(objects["is_star"], "star", "galaxy").tolist()
    for band, flux in zip(BANDS, _flux_e(objects).T, strict=True):
        columns[f"flux_e_{band}"] = flux
    for name in ("redshift", "radius_arcsec", "bulge", "g1", "g2"):
        columns[name] = objects[name]
    pq.write_table(pa.table(columns), path)


def _write_catalog(folder: Path, sky: Sky, number: int) -> None:
    """Catalog of the galaxies nearest to the centre, and the densities of its first rows."""
    cells: list[Rows] = []
    spiral = _spiral()
    while sum(cell.size for cell in cells) < number:
        cell = sky.cell(*next(spiral))
        cells.append(cell[~cell["is_star"]])
    objects = np.concatenate(cells)[:number]
    rng = np.random.default_rng([CATALOG_STREAM, sky.seed])
    flux, error = _observe(objects["mag"], rng)
    pq.write_table(_catalog(objects, flux, error), folder / "galaxies.parquet")
    np.save(folder / "pz.npy", photo_z(flux[:DENSITY_ROWS], error[:DENSITY_ROWS]))
    np.save(folder / "zgrid.npy", Z_GRID)


def _survey_toml(seed: int, minutes: float) -> str:
    errors = ", ".join(f'mag_{band} = "mag_err_{band}"' for band in BANDS)
    return f"""\
[release]
url = "archive/demo/dr1"

[[images]]
set = "night1"
files = ["raw/night1/*.fits"]
band = "header:FILTER"

[[catalogs]]
name = "galaxies"
files = ["raw/galaxies.parquet"]
id = "object_id"
ra = "ra"
dec = "dec"
redshift = "redshift"
errors = {{ {errors} }}
precision = {{ radius_arcsec = 0.01, g1 = 0.01, g2 = 0.01 }}
missing = [{UNDETECTED}]

[[densities]]
name = "pz"
files = ["raw/pz.npy"]
grid = "raw/zgrid.npy"

[training]
minutes = {minutes}
seed = {seed}

[levels]
step = 0.5
"""
