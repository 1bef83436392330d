"""The simulated sky: spectra, luminosity function, and the objects of each square arcminute.

A function of the seed alone, made in cells of one square arcminute, so that images, truth and
catalog show the same galaxies, and a survey can be continued later with the same sky.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.void]

BANDS = ("u", "g", "r", "i", "z", "y")
# Band edges [Å] and AB zero points of 1 s [e-/s], after the LSST system (SMTN-002).
EDGES = ((3200, 4000), (4000, 5520), (5520, 6910), (6910, 8180), (8180, 9220), (9500, 10600))
ZERO_POINTS = np.array([26.52, 28.51, 28.36, 28.17, 27.78, 26.82])

MAG_LIMIT = 25.5  # of true magnitude in i; fainter galaxies lie below the noise of one exposure
CELL_ARCSEC = 60.0
CENTER_DEG = (150.1, 2.2)
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
def galaxy_templates() -> Floats:
    """Observed f_nu of every redshift, type and band, of a galaxy with f_nu(5500 Å) = 1 at rest."""
    z, spectrum = Z_GRID[:, None, None, None], TYPES[None, :, None, None]

    def flux(wave: Floats) -> Floats:
        rest = wave / (1.0 + z)
        # Mean absorption by intergalactic hydrogen (Madau 1995, eq. 12), nothing below 912 Å.
        forest = np.where(rest < 1216, np.exp(-0.0036 * (wave / 1216) ** 3.46), 1.0)
        return (1.0 + z) * _galaxy_flux(rest, spectrum) * np.where(rest < 912, 1e-3, forest)

    return _band_means(flux)


@lru_cache(maxsize=1)
def distances() -> tuple[Floats, Floats, Floats]:
    """Distance modulus, volume per redshift, arcsec per kpc on Z_GRID; flat, H0 70, Om 0.3."""
    expansion = np.sqrt(0.3 * (1.0 + Z_GRID) ** 3 + 0.7)
    steps = np.diff(Z_GRID) * 0.5 * (1.0 / expansion[1:] + 1.0 / expansion[:-1])
    comoving = np.concatenate([[0.0], np.cumsum(steps)]) * 299792.458 / 70.0
    near = np.maximum(comoving, comoving[1] / 10.0)  # no galaxy at z = 0; keeps the log finite
    modulus = 5.0 * np.log10(near * (1.0 + Z_GRID)) + 25.0
    return modulus, comoving**2 / expansion, 206.265 * (1.0 + Z_GRID) / near


def luminosity_function(mag: Floats, spectrum: Floats, z: Floats) -> Floats:
    """Relative number per volume and magnitude: Schechter, red and blue galaxies, evolving."""
    slope = -0.5 - 0.9 * spectrum
    bright = 10 ** (-0.4 * (mag + 21.2 + 0.8 * np.minimum(z, 2.0)))
    red = 2.0 * np.exp(-0.5 * (spectrum / 0.12) ** 2) / (1.0 + z)
    blue = np.exp(-0.5 * ((spectrum - 0.65) / 0.2) ** 2)
    return np.asarray((red + blue) * bright ** (slope + 1.0) * np.exp(-bright))


@lru_cache(maxsize=1)
def _galaxy_odds() -> Floats:
    """Cumulated odds of each (redshift, type, absolute magnitude) bin brighter than MAG_LIMIT."""
    modulus, volume, _ = distances()
    z, spectrum, mag = np.meshgrid(Z_GRID, TYPES, ABSOLUTE_MAGS, indexing="ij")
    faint = galaxy_templates()[:, :, BANDS.index("i"), None]
    apparent = mag + modulus[:, None, None] - 2.5 * np.log10(faint)
    odds = luminosity_function(mag, spectrum, z) * volume[:, None, None] * (apparent < MAG_LIMIT)
    total = np.cumsum(odds.ravel())
    return np.asarray(total / total[-1])


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
    modulus, _, arcsec_per_kpc = distances()
    steps = np.arange(shape[0])
    rows: Rows = np.zeros(number, OBJECT)
    rows["redshift"] = np.interp(z, steps, Z_GRID)
    rows["spectrum"] = kind / (shape[1] - 1)
    color = -2.5 * np.log10(_between(galaxy_templates(), z, kind))
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


def sky_wcs() -> WCS:
    """Tangent plane of the survey: pixel (u, v) is arcsec to the west and to the north."""
    return tangent_wcs(CENTER_DEG, 0.0, 1.0, 0.0)


def tangent_wcs(
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


def spiral() -> Iterator[tuple[int, int]]:
    """Every cell of the plane once, from the centre outwards."""
    x, y, dx, dy = 0, 0, 1, 0
    yield x, y
    for run in itertools.count(1):
        for step in range(2 * run):
            x, y = x + dx, y + dy
            yield x, y
            if step % run == run - 1:
                dx, dy = -dy, dx
