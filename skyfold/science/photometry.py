"""Photometry: how far aperture fluxes at the raw image's sources move in a decoded image.

This module knows the apertures (circles of one and two FWHM in radius, and the automatic ellipse
of Kron 1980, ApJS 43, 305, with SExtractor's factor 2.5) and the unit of the loss: the flux's own
statistical error, from the context's sigma added in quadrature. Where pixels are correlated that
error is an underestimate, and so the loss an overestimate.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase
from skyfold.science.bins import split
from skyfold.science.field import (
    Field,
    counted_sources,
    decoded_difference,
    decoded_image,
    prepare_field,
)
from skyfold.science.sky import Plane
from skyfold.science.sources import FINDERS, areas, circle_sum, is_clear, load_sep

RADII = {"flux_1fwhm": 1.0, "flux_2fwhm": 2.0}  # [FWHM]
KRON_FACTOR = 2.5
_KRON_REACH = 6.0  # moments are summed to this many times the source's axes, as SExtractor does
_KRON_MIN_PIXELS = 5  # below this a source's axes are those of a pixel


@dataclass(frozen=True, eq=False)
class Forced:
    """Raw fluxes and errors, in units of the field, at the counted sources.

    Attributes
    ----------
    circles : dict of (str, str) to (sources, flux, error)
        For each circular measure and finder, the sources whose aperture is clear of bad pixels and
        edges.
    ellipses : (sources, flux, error)
        Likewise for the automatic aperture.
    """

    field: Field
    circles: dict[tuple[str, str], tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]
    ellipses: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


class Photometry(ScienceCase):
    """Aperture fluxes at fixed positions, in units of their own error.

    Measures ``flux_1fwhm``, ``flux_2fwhm``, ``flux_auto``; value (decoded - raw) / error of raw;
    bins by the raw signal-to-noise ratio in the same aperture. Positions and axes are the raw
    image's; the sky and the Kron radius are measured on each image by itself. Sources whose
    aperture touches a bad pixel or the edge are left out.
    """

    name = "photometry"
    kind = "images"
    default_measure = "flux_1fwhm"

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> Forced:
        """Return the raw fluxes."""
        field = prepare_field(raw, context)
        found = {finder: counted_sources(field, context, finder) for finder in FINDERS}
        circles = {
            (measure, finder): _circular(field, sources, radius * field.fwhm)
            for measure, radius in RADII.items()
            for finder, sources in found.items()
        }
        return Forced(field, circles, _automatic(field, found[""]))

    def compare(
        self, state: Forced, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return the flux changes, in bins of S/N."""
        change = decoded_difference(state.field, raw, decoded)
        samples = []
        for (measure, finder), (sources, flux, error) in state.circles.items():
            moved = circle_sum(change, sources, RADII[measure] * state.field.fwhm)
            samples += _binned(measure, moved, flux, error, sources, finder)
        sources, flux, error = state.ellipses
        image = decoded_image(state.field, raw, decoded)
        after = _kron_flux(image, sources, _kron_radius(image, state.field, sources))
        return samples + _binned("flux_auto", after - flux, flux, error, sources)


def _circular(
    field: Field, sources: NDArray[Any], radius: float
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Sources with a clear circle, their raw flux and its error."""
    sources = sources[is_clear(field.good, sources, radius)]
    error = np.sqrt(circle_sum(field.noise**2, sources, radius))
    return sources, circle_sum(field.image, sources, radius), error


def _automatic(
    field: Field, sources: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Sources with axes, a Kron radius and a clear ellipse, their raw flux and its error."""
    sources = sources[(sources["npix"] >= _KRON_MIN_PIXELS) & (sources["b"] > 0)]
    sources = sources[is_clear(field.good, sources, _KRON_REACH * sources["a"])]
    radius = _kron_radius(field.image, field, sources)
    clear = is_clear(field.good, sources, KRON_FACTOR * radius * sources["a"])
    sources, radius = sources[clear], radius[clear]
    error = np.sqrt(_kron_flux(field.noise**2, sources, radius))
    return sources, _kron_flux(field.image, sources, radius), error


def _kron_radius(image: Plane, field: Field, sources: NDArray[Any]) -> NDArray[np.float64]:
    """Kron radius in units of the axes, kept between one FWHM and the reach of the moments."""
    shape = (sources[name] for name in ("x", "y", "a", "b", "theta"))
    radius, _ = load_sep().kron_radius(image, *shape, _KRON_REACH)
    least = field.fwhm / (KRON_FACTOR * np.sqrt(sources["a"] * sources["b"]))
    radius = np.where(np.isfinite(radius), radius, 0)  # noise can leave no flux to weigh with
    return np.clip(radius, np.minimum(least, _KRON_REACH / KRON_FACTOR), _KRON_REACH / KRON_FACTOR)


def _kron_flux(image: Plane, sources: NDArray[Any], radius: NDArray[Any]) -> NDArray[np.float64]:
    """Sum of an image inside each source's automatic ellipse."""
    shape = (sources[name] for name in ("x", "y", "a", "b", "theta"))
    total, _, _ = load_sep().sum_ellipse(image, *shape, KRON_FACTOR * radius, subpix=5)
    return np.asarray(total, np.float64)


def _binned(
    measure: str,
    moved: NDArray[Any],
    flux: NDArray[Any],
    error: NDArray[Any],
    sources: NDArray[Any],
    finder: str = "",
) -> list[Sample]:
    """Samples of flux changes in units of the raw flux's error."""
    about: dict[str, Any] = {"measure": measure, "unit": "sigma", "statistic": "p90"}
    about |= {"areas": areas(sources), "definition": finder}
    return split(moved / error, flux / error, **about)


PHOTOMETRY = Photometry()
