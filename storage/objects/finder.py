"""Objects of one image: found on its raw pixels, measured, and described by its stored latents.

This module knows what each number of an object means, and that an image is looked at in windows
with a margin around them, so that memory is bounded whatever the image's size. Detection, sky and
apertures are those of the science cases (`skyfold.science.sources`); an object must stand out of
the matched filter's own scatter too, so that correlated noise is no object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold import sky
from skyfold.images.index import ImageEntry
from skyfold.layout import STRIDE
from skyfold.science import ImageContext
from skyfold.science.field import Field, prepare_field
from skyfold.science.matched_filter import THRESHOLD, matched_filter
from skyfold.science.sources import at_centre, circle_sum, is_clear, load_sep

__all__ = ["BLENDED", "UNCLEAR", "FoundObjects", "Pixels", "find_objects", "pool"]

WINDOW = 3072  # pixels a side whose objects are found together
MARGIN = 128  # pixels around them that are seen too
UNCLEAR, BLENDED = 1, 2  # flags
APERTURES = {"flux_1fwhm": 1.0, "flux_2fwhm": 2.0}  # radius [FWHM]
KRON = 2.5  # Kron radii: the automatic aperture of Kron (1980, ApJS 43, 305)
_MERGED = 1  # sep's flag of deblended objects
_BLOCK = 1024  # objects whose stamps are in memory at once
_HALF = 24  # pixels, at most, from the centre of a stamp
_POOLED = 4  # latent positions, at most, from an object's own


@dataclass(frozen=True, eq=False)
class Pixels:
    """A window of one image.

    Attributes
    ----------
    raw, latent : ndarray, shape (ny, nx), float64
        Stored units; any finite value where bad.
    sigma : ndarray, shape (ny, nx), float64
        Noise of each pixel [stored unit].
    bad, held_out : ndarray, shape (ny, nx), bool
    """

    raw: NDArray[np.float64]
    latent: NDArray[np.float64]
    sigma: NDArray[np.float64]
    bad: NDArray[np.bool_]
    held_out: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class FoundObjects:
    """Objects of one image.

    Attributes
    ----------
    columns : dict of ndarray, shape (n,)
        By name; see `storage.objects.writer.ABOUT`.
    features : ndarray, shape (n, 2 c), float32
        Weighted mean, and root mean square, of each latent channel about the object.
    """

    columns: dict[str, NDArray[Any]]
    features: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.features)


def find_objects(
    entry: ImageEntry,
    latents: NDArray[Any],
    read: Callable[[slice, slice], Pixels],
) -> FoundObjects:
    """Objects of an image.

    Parameters
    ----------
    entry : ImageEntry
        Of any mode but ``direct``.
    latents : ndarray, shape (rows, columns, c)
        Stored latents of the image; one position for 8 x 8 pixels.
    read : callable
        Gives a window, by rows and columns.

    Raises
    ------
    MissingDependencyError
        If sep is not installed.
    """
    found = [_in_window(entry, latents, read, *place) for place in _windows(entry.plane)]
    names = found[0].columns
    columns = {name: np.concatenate([one.columns[name] for one in found]) for name in names}
    features = np.concatenate([one.features for one in found])
    order = np.lexsort((columns["x"], columns["y"]))
    columns = {name: values[order] for name, values in columns.items()}
    return FoundObjects(_on_sky(columns, entry), features[order])


def _windows(plane: tuple[int, int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """First and last (excluded) row and column of every window."""
    sides = [[(a, min(a + WINDOW, side)) for a in range(0, side, WINDOW)] for side in plane]
    return [(rows, columns) for rows in sides[0] for columns in sides[1]]


def _in_window(
    entry: ImageEntry,
    latents: NDArray[Any],
    read: Callable[[slice, slice], Pixels],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> FoundObjects:
    seen = [
        slice(max(first - MARGIN, 0), min(last + MARGIN, side))
        for (first, last), side in zip((rows, columns), entry.plane, strict=True)
    ]
    pixels = read(seen[0], seen[1])
    context = ImageContext(pixels.sigma, pixels.bad, ~pixels.bad, fwhm_pix=entry.fwhm_pix)
    field = prepare_field(pixels.raw, context)
    sources = _significant(field)
    y, x = sources["y"] + seen[0].start, sources["x"] + seen[1].start
    inside = (y >= rows[0] - 0.5) & (y < rows[1] - 0.5) & (x >= columns[0] - 0.5)
    sources = sources[inside & (x < columns[1] - 0.5)]
    measured = _measured(field, sources, pixels, abs(entry.bscale))
    measured["y"] += seen[0].start
    measured["x"] += seen[1].start
    radius = measured["half_light_radius"]
    return FoundObjects(measured, pool(latents, measured["y"], measured["x"], radius))


def _significant(field: Field) -> NDArray[Any]:
    """Sources above the threshold in units of the filter's own scatter, where that is above 1."""
    sources = field.sources
    if not len(sources):
        return sources
    known = field.noise, field.good, field.fwhm, field.spread
    filtered = matched_filter(field.image, *known)[field.good]
    middle, low = np.percentile(filtered[:: max(filtered.size // 200_000, 1)], (50, 15.87))
    return sources[sources["peak"] > THRESHOLD * max(float(middle - low), 1.0)]


def _measured(
    field: Field, sources: NDArray[Any], pixels: Pixels, scale: float
) -> dict[str, NDArray[Any]]:
    """Columns of the objects of a window, positions counted from its corner."""
    sep, unit = load_sep(), field.unit * scale
    columns: dict[str, NDArray[Any]] = {}
    variance = field.noise**2
    for name, radius in APERTURES.items():
        columns[name] = unit * circle_sum(field.image, sources, radius * field.fwhm)
        error = np.sqrt(circle_sum(variance, sources, radius * field.fwhm))
        columns[f"{name}_error"] = unit * error
    columns |= {k: unit * v for k, v in _automatic(field, sources, variance).items()}
    reach = np.maximum(3 * field.fwhm, 6 * sources["a"])
    half, _ = sep.flux_radius(field.image, sources["x"], sources["y"], reach, 0.5, subpix=5)
    half = np.where(np.isfinite(half) & (half > 0), half, np.nan)
    width = np.fmax(half / 1.1774, field.fwhm / 2.3548)  # sigma of a Gaussian with this half light
    x, y = _centres(field, sources, np.minimum(width, 2 * field.fwhm))
    clear = is_clear(field.good, sources, field.fwhm)
    flags = np.where(clear, 0, UNCLEAR) + np.where(sources["flag"] & _MERGED, BLENDED, 0)
    residual = _residual(field, sources, pixels)
    return {
        "x": x,
        "y": y,
        "snr": columns["flux_1fwhm"] / columns["flux_1fwhm_error"],
        **columns,
        "half_light_radius": half,
        **_shapes(field.image, x, y, width),
        "flags": flags.astype(np.int16),
        "held_out": at_centre(pixels.held_out, sources),
        "residual": residual,
    }


def _automatic(
    field: Field, sources: NDArray[Any], variance: NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """Flux and its error in ellipses of 2.5 Kron radii, at least 1 FWHM; in the field's unit."""
    sep = load_sep()
    shape = sources["x"], sources["y"], sources["a"], sources["b"], sources["theta"]
    kron, _ = sep.kron_radius(field.image, *shape, 6.0)
    least = field.fwhm / (KRON * np.sqrt(sources["a"] * sources["b"]))
    radius = np.fmax(np.nan_to_num(kron), least)
    flux, _, _ = sep.sum_ellipse(field.image, *shape, KRON * radius, subpix=1)
    square, _, _ = sep.sum_ellipse(variance, *shape, KRON * radius, subpix=1)
    return {"flux_auto": flux, "flux_auto_error": np.sqrt(np.maximum(square, 0))}


def _centres(
    field: Field, sources: NDArray[Any], width: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Windowed centroids; the filter's own where these leave the object."""
    sep = load_sep()
    x, y, flag = sep.winpos(field.image, sources["x"], sources["y"], width)
    moved = np.hypot(x - sources["x"], y - sources["y"])
    good = (moved < field.fwhm) & (flag & sep.APER_TRUNC == 0)
    ny, nx = field.image.shape
    x = np.clip(np.where(good, x, sources["x"]), -0.5, nx - 0.5)
    y = np.clip(np.where(good, y, sources["y"]), -0.5, ny - 0.5)
    return x, y


def _residual(field: Field, sources: NDArray[Any], pixels: Pixels) -> NDArray[np.float64]:
    """How far what the network left is from noise, as a normal deviate.

    Of the sum of its squares in units of its scatter away from objects, by the approximation of
    Fisher (1925, Statistical Methods for Research Workers): sqrt(2 chi2) - sqrt(2 n - 1).
    """
    left = np.where(field.good, (pixels.raw - pixels.latent) / pixels.sigma, 0)
    away = left[field.free]
    if away.size:
        low, middle, high = np.percentile(away[:: max(away.size // 200_000, 1)], (15.87, 50, 84.13))
        left = np.where(field.good, left - middle, 0) / max(float(high - low) / 2, 1e-6)
    radius = np.maximum(field.fwhm, 2 * sources["a"])
    limited = np.clip(left, -1e6, 1e6).astype(np.float32)
    total = circle_sum(limited**2, sources, radius)
    area = circle_sum(field.good.astype(np.float32), sources, radius)
    return np.sqrt(2 * np.maximum(total, 0)) - np.sqrt(2 * np.maximum(area, 1) - 1)


def _shapes(
    image: NDArray[Any], x: NDArray[Any], y: NDArray[Any], width: NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """Semi-axes [pixel] and angle [deg] of Gaussian-weighted moments, the weight taken out.

    Kaiser, Squires & Broadhurst (1995, ApJ 449, 460) weigh so; for a Gaussian object the inverse
    matrices of moments add, and taking out the weight's is exact. NaN where noise leaves no
    positive matrix.
    """
    width = np.minimum(width, _HALF / 3)
    moments = np.concatenate(
        [np.empty((0, 3))]
        + [
            _moments(image, *(one[start : start + _BLOCK] for one in (x, y, width)))
            for start in range(0, len(x), _BLOCK)
        ]
    )
    xx, yy, xy = moments.T
    with np.errstate(invalid="ignore", divide="ignore"):
        determinant = xx * yy - xy**2
        good = (xx + yy > 0) & (determinant > 0)
        # of the inverse matrix, less the weight's
        p, q, r = yy / determinant - width**-2, xx / determinant - width**-2, -xy / determinant
        rest = p * q - r**2
        good &= (p + q > 0) & (rest > 0)
        middle, apart = (p + q) / (2 * rest), np.hypot((q - p) / 2, r) / rest
        angle = np.degrees(0.5 * np.arctan2(-2 * r, q - p))
        found = np.sqrt(middle + apart), np.sqrt(middle - apart), angle
    names = ("semi_major", "semi_minor", "theta")
    return {k: np.where(good, v, np.nan) for k, v in zip(names, found, strict=True)}


def _moments(
    image: NDArray[Any], x: NDArray[Any], y: NDArray[Any], width: NDArray[Any]
) -> NDArray[np.float64]:
    """Second moments xx, yy, xy, shape (n, 3), about each position."""
    half = int(np.ceil(3 * width.max()))
    row, column = np.rint(y).astype(int), np.rint(x).astype(int)
    reach = np.arange(-half, half + 1)
    at_y, at_x = row[:, None] + reach, column[:, None] + reach
    ny, nx = image.shape
    stamps = image[np.clip(at_y, 0, ny - 1)[:, :, None], np.clip(at_x, 0, nx - 1)[:, None, :]]
    inside = (at_y >= 0) & (at_y < ny), (at_x >= 0) & (at_x < nx)
    dy, dx = at_y - y[:, None], at_x - x[:, None]
    wy = np.exp(-0.5 * (dy / width[:, None]) ** 2) * inside[0]
    wx = np.exp(-0.5 * (dx / width[:, None]) ** 2) * inside[1]

    def total(along_y: NDArray[Any], along_x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.einsum("nij,ni,nj->n", stamps, along_y, along_x, optimize=True))

    with np.errstate(invalid="ignore", divide="ignore"):
        sums = (total(wy, wx * dx**2), total(wy * dy**2, wx), total(wy * dy, wx * dx))
        return np.stack(sums, axis=1) / total(wy, wx)[:, None]


def pool(
    latents: NDArray[Any], y: NDArray[Any], x: NDArray[Any], radius: NDArray[Any]
) -> NDArray[np.float32]:
    """Weighted mean and root mean square of each latent channel about objects.

    The weight is a Gaussian about the object's own place between the latents' positions, as wide
    as one position at least, so that where an object falls on that grid matters little.

    Parameters
    ----------
    latents : ndarray, shape (rows, columns, c)
    y, x, radius : ndarray, shape (n,)
        Place and half-light radius [pixel]; an unknown radius counts as small.

    Returns
    -------
    ndarray, shape (n, 2 c), float32
    """
    width = np.clip(np.nan_to_num(radius, nan=1.0) / STRIDE, 0.6, _POOLED / 2)
    place = (y + 0.5) / STRIDE - 0.5, (x + 0.5) / STRIDE - 0.5
    parts = [
        _pool(latents, *(one[start : start + _BLOCK] for one in (*place, width)))
        for start in range(0, len(y), _BLOCK)
    ]
    empty = np.empty((0, 2 * latents.shape[-1]), np.float32)
    return np.concatenate([empty, *parts])


def _pool(
    latents: NDArray[Any], y: NDArray[Any], x: NDArray[Any], width: NDArray[Any]
) -> NDArray[np.float32]:
    reach = np.arange(-_POOLED, _POOLED + 1)
    at_y, at_x = (np.rint(one).astype(int)[:, None] + reach for one in (y, x))
    ny, nx = latents.shape[:2]
    near = latents[np.clip(at_y, 0, ny - 1)[:, :, None], np.clip(at_x, 0, nx - 1)[:, None, :]]
    wy, wx = (
        np.exp(-0.5 * ((at - one[:, None]) / width[:, None]) ** 2) * ((at >= 0) & (at < side))
        for at, one, side in ((at_y, y, ny), (at_x, x, nx))
    )
    weight = wy[:, :, None] * wx[:, None, :]
    weight /= weight.sum(axis=(1, 2), keepdims=True)
    values = near.astype(np.float64)
    mean = np.einsum("nij,nijc->nc", weight, values)
    square = np.einsum("nij,nijc->nc", weight, values**2)
    return np.concatenate([mean, np.sqrt(square)], axis=1).astype(np.float32)


def _on_sky(columns: dict[str, NDArray[Any]], entry: ImageEntry) -> dict[str, NDArray[Any]]:
    """The columns with right ascension and declination [deg, ICRS]; NaN without a WCS."""
    wcs = sky.read_wcs(entry.fits_header())
    ra, dec = (np.full(len(columns["x"]), np.nan) for _ in range(2))
    if wcs is not None and len(ra):
        found = wcs.pixel_to_world(columns["x"], columns["y"]).icrs
        ra, dec = found.ra.deg, found.dec.deg
    return {"ra": np.asarray(ra), "dec": np.asarray(dec), **columns}
