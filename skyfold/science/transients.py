"""Transients: what is lost of point sources that come and go.

This module knows two measurements, each on images made for it:

- *Injected*: point sources put into the raw image before it is encoded. Their fluxes are forced at
  the places where they were put, and a search looks for them.
- *Difference*: the image less another epoch of the same sky, both decoded at one level. Fluxes are
  forced on a regular grid, since a transient may appear anywhere.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase
from skyfold.science.bins import split
from skyfold.science.detection import has_neighbour
from skyfold.science.field import Field, decoded_difference, decoded_sources, prepare_field
from skyfold.science.sources import a_few, areas, at_centre, circle_sum, is_clear

ALARM = 5.0  # [sigma]
SPACING = 3.0  # of the grid [FWHM]
MOST = 2000  # places on the grid of an image
# A Gaussian has this share of its flux within one FWHM of its centre: 1 - 2^-4
IN_APERTURE = 1 - 2.0**-4


class Transients(ScienceCase):
    """Losses of injected point sources, and of difference images.

    ``injected_flux``: decoded - raw, both with the source in them, within one FWHM, in units of
    its error, and ``injected_missed``: 1 for each source that is found in raw and not in decoded,
    both in bins of the signal-to-noise ratio that was injected. ``difference_flux``: change of the
    difference image's flux within one FWHM in units of its error, at every place of a grid;
    ``difference_alarm``: 1 where one of raw and decoded exceeds 5 sigma, either way, and the
    other does not.
    """

    name = "transients"
    kind = "images"
    default_measure = "injected_flux"
    products = ("injected", "difference")

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> tuple[Field, NDArray[Any]]:
        """Return the field and the places to measure.

        Raises
        ------
        InvalidRequestError
            If raw and context differ in shape, or the context has no injected sources where it
            should.
        MissingDependencyError
            If sep is not installed.
        """
        field = prepare_field(raw, context)
        if context.product == "difference":
            places = _grid(field, context)
        else:
            places = context.put_in("injected sources")
            places = places[at_centre(context.counted, places)]
        return field, places[is_clear(field.good, places, field.fwhm)]

    def compare(
        self,
        state: tuple[Field, NDArray[Any]],
        raw: NDArray[Any],
        decoded: NDArray[Any],
        context: ImageContext,
    ) -> list[Sample]:
        """Return the losses."""
        field, places = state
        error = np.sqrt(circle_sum(field.noise**2, places, field.fwhm))
        change = circle_sum(decoded_difference(field, raw, decoded), places, field.fwhm) / error
        if context.product == "difference":
            return _difference(field, places, change, error)
        snr = IN_APERTURE * places["flux"] / field.unit / error
        samples = split(
            change,
            snr,
            measure="injected_flux",
            unit="sigma",
            statistic="p90",
            areas=areas(places),
        )
        found = decoded_sources(field, decoded)[""]
        seen = has_neighbour(places, field.sources, field.fwhm)
        missed = ~has_neighbour(places[seen], found, field.fwhm)
        return samples + split(
            missed,
            snr[seen],
            measure="injected_missed",
            unit="fraction",
            statistic="mean",
            areas=areas(places[seen]),
        )


def _difference(
    field: Field, places: NDArray[Any], change: NDArray[Any], error: NDArray[Any]
) -> list[Sample]:
    before = circle_sum(field.image, places, field.fwhm) / error
    alarm = (np.abs(before) >= ALARM) != (np.abs(before + change) >= ALARM)
    here = areas(places)
    return [
        Sample("difference_flux", "all", change, "sigma", "p90", here),
        Sample("difference_alarm", "all", alarm.astype(np.float64), "fraction", "mean", here),
    ]


def _grid(field: Field, context: ImageContext) -> NDArray[Any]:
    """At most `MOST` counted places of a regular grid."""
    step = max(1, round(SPACING * field.fwhm))
    y, x = (plane.ravel() for plane in np.indices(field.good.shape)[:, step::step, step::step])
    chosen = np.flatnonzero((context.counted & field.good)[y, x])
    chosen = chosen[a_few(len(chosen), MOST, context.seed)]
    places = np.zeros(len(chosen), [("x", "f8"), ("y", "f8")])
    places["x"], places["y"] = x[chosen], y[chosen]
    return places


TRANSIENTS = Transients()
