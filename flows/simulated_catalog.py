"""Simulated catalog and redshift densities of the galaxies of the simulated sky.

Magnitudes are observed with an error model like LSST's; the densities follow from them by the same
family of spectra that made the galaxies.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.simulated_sky import (
    BANDS,
    TYPES,
    Z_GRID,
    Floats,
    Rows,
    distances,
    galaxy_templates,
    luminosity_function,
    sky_wcs,
)

# Ten-year 5 sigma depth and the shape of its error model (Ivezic et al. 2019, eq. 5).
DEPTHS = np.array([26.1, 27.4, 27.5, 26.8, 26.1, 24.9])
GAMMAS = np.array([0.038, 0.039, 0.039, 0.039, 0.039, 0.039])
SYSTEMATIC_MAG = 0.005
UNDETECTED = 99.0


def observe(mags: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Measured flux and its error, shape (n, 6), in units of the flux of AB magnitude 0."""
    true = 10 ** (-0.4 * mags)
    flux = true * (1.0 + _relative_error(mags) * rng.standard_normal(mags.shape))
    return flux, true * _relative_error(mags)


def _relative_error(mags: Floats) -> Floats:
    """Error of a magnitude, LSST model; `inf` for a magnitude of `inf`."""
    x = 10 ** (0.4 * (mags - DEPTHS))
    return np.asarray(np.sqrt(SYSTEMATIC_MAG**2 + (0.04 - GAMMAS) * x + GAMMAS * x * x))


def catalog(objects: Rows, flux: Floats, error: Floats) -> pa.Table:
    """Make the catalog that a survey would publish; magnitude and error 99 below one sigma."""
    ra, dec = sky_wcs().all_pix2world(objects["u"], objects["v"], 0)
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
    templates = galaxy_templates().reshape(-1, len(BANDS))
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
    modulus, volume, _ = distances()
    shift = modulus[:, None] - 2.5 * np.log10(galaxy_templates()[:, :, i])
    mag = -2.5 * np.log10(np.maximum(flux[:, i], 10 ** (-0.4 * 30)))[:, None, None]
    absolute = np.maximum(mag - shift, -27.0)  # brighter ones underflow
    odds = luminosity_function(absolute, TYPES[None, :], Z_GRID[:, None]) * volume[:, None]
    return np.asarray(np.log(odds + 1e-300).reshape(flux.shape[0], -1))
