"""Morphology: how far concentration, asymmetry, Gini and M20 move in a decoded image.

This module knows the definitions, all inside circles about the source:

- *Petrosian radius* r_p: where the surface brightness is 0.2 of the mean inside.
- *Concentration* C = 5 log10(r80 / r20), of the flux inside 1.5 r_p (Conselice 2003, ApJS 147, 1).
- *Asymmetry* A = (sum |I - I180| - sky) / sum |I| inside 1.5 r_p, least over nine centres half a
  pixel apart (Conselice 2003); `sky` is what the raw image's empty sky gives in as many pixels,
  for raw and decoded alike: a decoded image may have its noise in sources alone.
- *Gini* of the pixels inside r_p (Lotz, Primack & Madau 2004, AJ 128, 163, eq. 6).
- *M20*: log10 of the second moment of the brightest fifth of the light over the whole, inside r_p
  (their eq. 8), about the centre of light.

Lotz et al. take Gini and M20 inside an isophote instead of a circle; for galaxies that are not
strongly flattened the numbers agree with statmorph's (Rodriguez-Gomez et al. 2019).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase, stamps
from skyfold.science.bins import split
from skyfold.science.field import Field, decoded_image, prepare_field
from skyfold.science.sky import Plane
from skyfold.science.sources import areas, circle_sum

MEASURES = ("concentration", "asymmetry", "gini", "m20")
MOST = 100  # sources of an image
REACH = 6.0  # [FWHM], half width of the stamps
PETROSIAN = 0.2
EXTENT = 1.5  # [r_p]
_LEAST_SNR = 5.0  # fainter sources have no form
_RADII = 36  # of the curve of growth, from 0.5 pixel to the edge of the stamp
_HALVES = (-1, 0, 1)  # trial centres [half pixels]

Floats = NDArray[np.float64]
Curves = tuple[Floats, Floats]  # radii [pixel], and the flux inside each, shape (n, radii)


@dataclass(frozen=True, eq=False)
class Forms:
    """Raw morphology of some of the counted sources; `values` has shape (n, 4)."""

    field: Field
    sources: NDArray[Any]
    snr: Floats
    radius: Floats
    values: Floats
    sky: float


class Morphology(ScienceCase):
    """Changes of concentration, asymmetry, Gini and M20, decoded - raw, pure numbers.

    Bins by the raw signal-to-noise ratio within one FWHM, from 5. Radii are found anew on the
    decoded image; a source without a Petrosian radius there keeps that of the raw.
    """

    name = "morphology"
    kind = "images"
    default_measure = "concentration"

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> Forms:
        """Return the raw morphology."""
        field = prepare_field(raw, context)
        sources, snr = stamps.measurable(field, context, _reach(field.fwhm), _LEAST_SNR, MOST)
        curves = _growth(field.image, sources, field.fwhm)
        radius = _petrosian(curves, field.fwhm)
        sky = sky_difference(field.image, field.free, field.fwhm)
        values = morphology(field.image, sky, sources, radius, field.fwhm, curves)
        found = np.isfinite(values).all(axis=1)
        return Forms(field, sources[found], snr[found], radius[found], values[found], sky)

    def compare(
        self, state: Forms, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return the changes, in bins of S/N."""
        field = state.field
        image = decoded_image(field, raw, decoded)
        curves = _growth(image, state.sources, field.fwhm)
        found = _petrosian(curves, field.fwhm)
        radius = np.where(np.isfinite(found), found, state.radius)
        after = morphology(image, state.sky, state.sources, radius, field.fwhm, curves)
        change = np.where(np.isfinite(after), after - state.values, 1.0)
        about: dict[str, Any] = {"unit": "", "statistic": "p90", "areas": areas(state.sources)}
        return [
            sample
            for number, measure in enumerate(MEASURES)
            for sample in split(change[:, number], state.snr, measure=measure, **about)
        ]


def petrosian_radius(image: Plane, sources: NDArray[Any], fwhm: float) -> Floats:
    """Return the Petrosian radius [pixel]; NaN where 1.5 of it leave the stamp of 6 FWHM."""
    return _petrosian(_growth(image, sources, fwhm), fwhm)


def _petrosian(curves: Curves, fwhm: float) -> Floats:
    """Petrosian radius of curves of growth; see `petrosian_radius`."""
    radii, growth = curves
    area = np.pi * radii**2
    middle = (radii[1:] + radii[:-1]) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.diff(growth, axis=1) / np.diff(area) / _at_middle(growth / area)
    below = ratio < PETROSIAN
    first = below.argmax(axis=1)
    rows = np.arange(len(growth))
    before, after = ratio[rows, np.maximum(first - 1, 0)], ratio[rows, first]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(first > 0, (before - PETROSIAN) / (before - after), 1.0)
    radius = middle[first] - (1 - part) * (middle[first] - middle[np.maximum(first - 1, 0)])
    return np.where(below.any(axis=1) & (EXTENT * radius <= _reach(fwhm)), radius, np.nan)


def _at_middle(curve: Floats) -> Floats:
    """Mean of the two ends of each ring; NaN where there is no light inside."""
    found = (curve[:, 1:] + curve[:, :-1]) / 2
    return np.where(found > 0, found, np.nan)


def morphology(
    image: Plane,
    sky: float,
    sources: NDArray[Any],
    radius: Floats,
    fwhm: float,
    curves: Curves | None = None,
) -> Floats:
    """Return concentration, asymmetry, Gini and M20.

    Parameters
    ----------
    image : ndarray, shape (ny, nx), float32
        Without sky.
    sky : float
        What noise adds to |I - I180| in a pixel: `sky_difference` of the raw image.
    sources : ndarray, shape (n,), structured
        With whole stamps of 6 FWHM.
    radius : ndarray, shape (n,)
        Petrosian radii [pixel]; NaN gives NaN.
    fwhm : float
        [pixel]
    curves : tuple of ndarray, optional
        The sources' curves of growth, where they are known already.

    Returns
    -------
    ndarray, shape (n, 4), float64
        NaN where there is no flux.
    """
    out = np.full((len(sources), len(MEASURES)), np.nan)
    known = np.isfinite(radius)
    sources, radius, reach = sources[known], radius[known], _reach(fwhm)
    if len(sources):
        inner = int(np.ceil(reach / EXTENT))  # no Petrosian radius is larger
        dx, dy = stamps.offsets(sources, inner)
        pixels = stamps.cut(image, sources, inner)
        inside = (np.hypot(dx, dy) <= radius[:, None, None]).reshape(len(sources), -1)
        radii, growth = curves or _growth(image, sources, fwhm)
        growth = growth[known] if curves else growth
        out[known] = np.column_stack(
            [
                _concentration((radii, growth), radius),
                _asymmetry(image, sources, EXTENT * radius, reach, sky),
                gini(pixels.reshape(len(sources), -1), inside),
                _m20(pixels, dx, dy, inside),
            ]
        )
    return out


def concentration(image: Plane, sources: NDArray[Any], radius: Floats, fwhm: float) -> Floats:
    """Return 5 log10(r80 / r20) of the flux inside 1.5 Petrosian radii; NaN without flux."""
    return _concentration(_growth(image, sources, fwhm), radius)


def _concentration(curves: Curves, radius: Floats) -> Floats:
    """Concentration by curves of growth; see `concentration`."""
    radii, growth = curves
    ends = []
    for share in (0.8, 0.2):
        rows = zip(growth, EXTENT * radius, strict=True)
        ends.append([_radius_of(share, radii, curve, edge) for curve, edge in rows])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(5 * np.log10(np.array(ends[0]) / np.array(ends[1])))


def gini(pixels: NDArray[Any], inside: NDArray[np.bool_]) -> Floats:
    """Return the Gini coefficient of absolute pixel values.

    Parameters
    ----------
    pixels : ndarray, shape (n, pixels)
    inside : ndarray of bool, shape (n, pixels)
        Those that count.
    """
    count = inside.sum(axis=1)
    ordered = np.sort(np.where(inside, np.abs(pixels), 0).astype(np.float64), axis=1)
    rank = np.arange(1, pixels.shape[1] + 1) - (pixels.shape[1] - count)[:, None]
    total = ordered.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        weighted = ((2 * rank - count[:, None] - 1) * ordered).sum(axis=1)
        return np.asarray(weighted / (total * (count - 1)))


def _reach(fwhm: float) -> int:
    return int(np.ceil(REACH * fwhm))


def _growth(image: Plane, sources: NDArray[Any], fwhm: float) -> Curves:
    """Curves of growth out to the edge of the stamps."""
    radii = np.geomspace(0.5, _reach(fwhm), _RADII)
    return radii, np.stack([circle_sum(image, sources, float(r)) for r in radii], axis=1)


def _radius_of(share: float, radii: Floats, curve: Floats, edge: float) -> float:
    """Radius that holds a share of the flux inside an edge."""
    goal = share * float(np.interp(edge, radii, curve))
    beyond = np.flatnonzero((curve >= goal) & (radii <= 2 * edge))
    if goal <= 0 or not beyond.size:
        return float("nan")
    last = beyond[0]
    if last == 0:  # inside the smallest circle flux grows with the area
        return float(radii[0] * np.sqrt(goal / curve[0]))
    return float(np.interp(goal, curve[last - 1 : last + 1], radii[last - 1 : last + 1]))


def _asymmetry(
    image: Plane, sources: NDArray[Any], radius: Floats, reach: int, sky: float
) -> Floats:
    """(sum |I - I180| - sky) / sum |I| inside circles, least over nine centres."""
    dx, dy = stamps.offsets(sources, reach)
    source, row, column = np.nonzero(np.hypot(dx, dy) <= radius[:, None, None])
    y, x = (
        np.rint(sources[axis]).astype(int)[source] - reach + place
        for axis, place in (("y", row), ("x", column))
    )
    pixels = image[y, x]
    # twice the centre is a whole number: rotating about it moves whole pixels
    twice = [np.rint(2 * sources[axis]).astype(int)[source] for axis in ("y", "x")]
    ends = [size - 1 for size in image.shape]
    found = []
    for halves in np.ndindex(3, 3):
        turned = tuple(
            np.clip(centre + _HALVES[half] - at, 0, end)
            for centre, half, at, end in zip(twice, halves, (y, x), ends, strict=True)
        )
        found.append(np.bincount(source, np.abs(pixels - image[turned]), len(sources)))
    total = np.bincount(source, np.abs(pixels), len(sources))
    least = np.min(found, axis=0) - sky * np.bincount(source, minlength=len(sources))
    return np.asarray(least / np.maximum(total, 1e-30), np.float64)


def sky_difference(image: Plane, free: NDArray[np.bool_], fwhm: float) -> float:
    """Return the mean difference of two pixels of empty sky that share no noise; 0 without any.

    Parameters
    ----------
    image : ndarray, shape (ny, nx), float32
        Without sky.
    free : ndarray of bool, shape (ny, nx)
        Empty sky.
    fwhm : float
        [pixel]
    """
    step = int(np.ceil(3 * fwhm))
    both = free[:, step:] & free[:, :-step]
    if not both.any():
        return 0.0
    return float(np.abs(image[:, step:] - image[:, :-step])[both].mean(dtype=np.float64))


def _m20(pixels: NDArray[Any], dx: Floats, dy: Floats, inside: NDArray[np.bool_]) -> Floats:
    """log10 of the second moment of the brightest 20 % of the flux over the whole."""
    flux = np.where(inside.reshape(pixels.shape), pixels, 0).astype(np.float64)
    total = flux.sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = ((flux * along).sum(axis=(1, 2)) / total for along in (dx, dy))
        moment = flux * ((dx - x[:, None, None]) ** 2 + (dy - y[:, None, None]) ** 2)
        moment, flux = (plane.reshape(len(flux), -1) for plane in (moment, flux))
        order = np.argsort(-flux, axis=1)
        light = np.cumsum(np.take_along_axis(flux, order, axis=1), axis=1)
        bright = light <= 0.2 * total[:, None]
        bright[:, 0] = True
        top = np.where(bright, np.take_along_axis(moment, order, axis=1), 0).sum(axis=1)
        return np.asarray(np.log10(top / moment.sum(axis=1)))


MORPHOLOGY = Morphology()
