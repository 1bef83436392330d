"""The same losses by other means: photutils, astropy and scipy instead of sep.

Sources, sky, positions, apertures and moments are found without the record's code. Only what the
client itself gives is taken over: decoded pixels, their noise, flags, the width of point sources,
and which sky is held out. In crowded fields what one source is depends on who takes blends apart;
there the same can be measured at the positions of the record's sources.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from typing import Any

import numpy as np
from astropy.convolution import Gaussian2DKernel
from astropy.nddata import block_reduce
from photutils.aperture import CircularAperture, aperture_photometry
from photutils.background import Background2D, MeanBackground, MedianBackground
from photutils.segmentation import SourceCatalog, deblend_sources, detect_sources
from scipy.signal import fftconvolve

from skyfold import DataRelease
from skyfold.fidelity.holdout import counted_pixels
from skyfold.fidelity.images import images_to_measure, pieces_to_measure
from skyfold.fidelity.views import stored_view
from skyfold.science.bins import SN_BINS, limits
from skyfold.science.field import prepare_field

LEVELS = ("latent", "sources", "bounded")
Key = tuple[str, str, str, str]  # level, case, measure, bin
THRESHOLD = 4.0


def measure(release: DataRelease, *, given: bool = False) -> dict[Key, dict[str, float]]:
    """Losses of a release with one set and band: ``n`` and ``value`` (p90 of absolute, or mean).

    With `given`, at the positions of the record's own sources, and without what is lost of these.
    """
    values: dict[Key, list[Any]] = defaultdict(list)
    for image_id in images_to_measure(release):
        for key, found in _of_image(release, image_id, given).items():
            values[key].append(found)
    out = {}
    for key, parts in values.items():
        every = np.concatenate(parts)
        if every.size:
            is_rate = key[1] == "detection"
            value = every.mean() if is_rate else np.quantile(np.abs(every), 0.9)
            out[key] = {"n": len(every), "value": float(value)}
    return out


class _Image:
    """One image less its sky, at raw or at a level."""

    def __init__(self, values: Any, bad: Any, sigma: Any, sources: Any = None) -> None:
        plain = np.where(bad, 0, values.astype(float))
        mask = bad if sources is None else bad | sources
        about = {"exclude_percentile": 90, "sigma_clip": None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            middle = Background2D(
                plain, 64, mask=mask, bkg_estimator=MedianBackground(sigma_clip=None), **about
            ).background
            # clipped by the noise that the client gives: a decoded sky may have none of its own
            mask = mask | (np.abs(plain - middle) > 3 * np.nan_to_num(sigma, nan=np.inf))
            found = Background2D(
                plain, 64, mask=mask, bkg_estimator=MeanBackground(sigma_clip=None), **about
            )
        self.pixels = np.where(bad, 0, plain - found.background)


def _of_image(release: DataRelease, image_id: str, given: bool) -> dict[Key, Any]:
    entry = release.images.entry(image_id)
    window = release.images.read(image_id, "bounded")
    stored = release.images.read(image_id, "exact").values
    bad = (window.flags != 0) | ~np.isfinite(stored.astype(float))
    sigma, fwhm = np.where(bad, np.nan, window.sigma), entry.fwhm_pix
    counted = counted_pixels(release, entry)
    raw = _Image(stored, bad, sigma)
    catalog, segments = _search(raw.pixels, sigma, bad, fwhm)
    covered = _grown(segments > 0, fwhm) if segments is not None else np.zeros(bad.shape, bool)
    raw = _Image(stored, bad, sigma, covered)
    if given:
        catalog = _recorded_positions(release, entry)
    out: dict[Key, Any] = {}
    for level in LEVELS:
        values = release.images.read(image_id, level).values
        decoded = _Image(values, bad, sigma, covered)
        found = _fluxes(raw.pixels, decoded.pixels, sigma, bad, catalog, fwhm, counted)
        found |= _centroids(raw.pixels, decoded.pixels, sigma, bad, catalog, fwhm, counted)
        found |= _boxes(stored, values, sigma, bad | covered, counted)
        if not given:
            blind = _Image(values, bad, sigma).pixels
            found |= _lost(blind, sigma, bad, catalog, fwhm, counted, raw.pixels)
        out |= {(level, *key): one for key, one in found.items()}
    return out


def _recorded_positions(release: DataRelease, entry: Any) -> Any:
    """Positions (n, 2) of the sources on which the record stands."""
    counted, out = counted_pixels(release, entry), []
    for place in pieces_to_measure(release, entry, counted):
        view = stored_view(release, entry, place, counted)
        found = prepare_field(view.raw, view.context).sources
        out.append(np.column_stack([found["x"] + place[1].start, found["y"] + place[0].start]))
    return np.concatenate(out)


def _search(pixels: Any, sigma: Any, bad: Any, fwhm: float) -> tuple[Any, Any]:
    """Positions (n, 2) of peaks above 4 sigma of a matched filter, and their islands."""
    kernel = Gaussian2DKernel(fwhm / 2.3548).array
    weight = np.where(bad, 0, 1 / sigma**2)
    signal = fftconvolve(pixels * weight, kernel, mode="same")
    norm = fftconvolve(weight, kernel**2, mode="same")
    significance = np.where(bad, 0, signal / np.sqrt(np.maximum(norm, norm.max() * 1e-9)))
    islands = detect_sources(significance, THRESHOLD, 1)
    if islands is None:
        return np.empty((0, 2)), None
    parts = deblend_sources(
        significance, islands, 1, progress_bar=False, n_levels=32, contrast=0.005
    )
    catalog = SourceCatalog(significance, parts)
    positions = np.column_stack([catalog.x_centroid, catalog.y_centroid])
    return positions[np.isfinite(positions).all(axis=1)], islands.data


def _grown(covered: Any, fwhm: float) -> Any:
    reach = int(np.ceil(2 * fwhm))
    disk = np.hypot(*np.indices((2 * reach + 1,) * 2) - reach) <= reach
    return fftconvolve(covered.astype(float), disk.astype(float), mode="same") > 0.5


def _clear(positions: Any, bad: Any, radius: float, counted: Any) -> Any:
    """Positions whose circle touches no bad pixel nor the edge, on sky that counts."""
    if not len(positions):
        return positions
    ny, nx = bad.shape
    x, y = positions.T
    inside = (
        (np.minimum(x, y) >= radius - 0.5) & (x <= nx - 0.5 - radius) & (y <= ny - 0.5 - radius)
    )
    positions = positions[inside]
    if not len(positions):
        return positions
    hurt = aperture_photometry(bad.astype(float), CircularAperture(positions, radius))
    column, row = np.rint(positions).astype(int).T
    return positions[(np.asarray(hurt["aperture_sum"]) == 0) & counted[row, column]]


def _sums(plane: Any, positions: Any, radius: float) -> Any:
    if not len(positions):
        return np.empty(0)
    table = aperture_photometry(np.nan_to_num(plane), CircularAperture(positions, radius))
    return np.asarray(table["aperture_sum"])


def _binned(case: str, measure: str, values: Any, snr: Any) -> dict[Any, Any]:
    out = {}
    for name in SN_BINS:
        low, high = limits(name) or (0, 0)
        out[case, measure, name] = values[(snr >= low) & (snr < high)]
    return out


def _fluxes(
    raw: Any, decoded: Any, sigma: Any, bad: Any, catalog: Any, fwhm: float, counted: Any
) -> dict[Any, Any]:
    out = {}
    for number in (1, 2):
        here = _clear(catalog, bad, number * fwhm, counted)
        error = np.sqrt(_sums(sigma**2, here, number * fwhm))
        flux = _sums(raw, here, number * fwhm)
        change = _sums(decoded, here, number * fwhm) - flux
        out |= _binned("photometry", f"flux_{number}fwhm", change / error, flux / error)
    return out


def _centroids(
    raw: Any, decoded: Any, sigma: Any, bad: Any, catalog: Any, fwhm: float, counted: Any
) -> dict[Any, Any]:
    """Windowed centroids, by plain iteration."""
    here = _clear(catalog, bad, 2 * fwhm, counted)
    if not len(here):
        return {}
    flux, error = _sums(raw, here, fwhm), np.sqrt(_sums(sigma**2, here, fwhm))
    before, after = (_windowed(plane, here, fwhm) for plane in (raw, decoded))
    found = np.hypot(*(before - here).T) <= fwhm
    shift = np.hypot(*(after - before).T)
    far = ~(np.hypot(*(after - here).T) <= fwhm) | (_sums(decoded, here, fwhm) <= 0)
    shift[far] = fwhm
    return _binned("astrometry", "position_pix", shift[found], (flux / error)[found])


def _windowed(plane: Any, positions: Any, fwhm: float) -> Any:
    width = fwhm / 2.3548
    reach = int(np.ceil(4 * width)) + 2
    span = np.arange(-reach, reach + 1)
    column, row = (np.rint(at).astype(int)[:, None, None] for at in positions.T)
    x, y = column + span, row + span[:, None]
    stamps = np.pad(plane, reach)[y + reach, x + reach]
    at = positions.copy()
    for _ in range(40):
        dx, dy = x - at[:, :1, None], y - at[:, 1:, None]
        weight = np.exp(-(dx**2 + dy**2) / (2 * width**2)) * (np.hypot(dx, dy) <= 4 * width)
        total = (stamps * weight).sum(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            step = [2 * (stamps * weight * d).sum(axis=(1, 2)) / total for d in (dx, dy)]
        at = at + np.clip(np.nan_to_num(np.column_stack(step)), -fwhm, fwhm)
        at = np.clip(at, positions - 2 * fwhm, positions + 2 * fwhm)
    return at


def _boxes(stored: Any, values: Any, sigma: Any, unusable: Any, counted: Any) -> dict[Any, Any]:
    usable = (~unusable & counted).astype(float)
    change = np.where(usable > 0, values.astype(float) - stored.astype(float), 0)
    variance = np.where(usable > 0, sigma**2, 0)
    out = {}
    for scale in (4, 16):
        share = block_reduce(usable, scale, np.mean)
        full = share >= 0.5
        number = block_reduce(change, scale, np.sum)[full]
        error = np.sqrt(block_reduce(variance, scale, np.sum)[full])
        out["low_surface_brightness", f"sky_{scale}pix", "all"] = number / error
    return out


def _lost(
    decoded: Any,
    sigma: Any,
    bad: Any,
    catalog: Any,
    fwhm: float,
    counted: Any,
    raw: Any,
) -> dict[Any, Any]:
    found, _ = _search(decoded, sigma, bad, fwhm)
    here = _clear(catalog, bad, fwhm, counted)
    if not len(here):
        return {}
    snr = _sums(raw, here, fwhm) / np.sqrt(_sums(sigma**2, here, fwhm))
    apart = np.hypot(here[:, :1] - found[:, 0], here[:, 1:] - found[:, 1])
    lost = apart.min(axis=1, initial=np.inf) > fwhm
    return _binned("detection", "lost", lost.astype(float), snr)
