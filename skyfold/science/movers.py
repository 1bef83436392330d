"""Movers: what is lost of the trails of what moves while the shutter is open.

Trails of known signal-to-noise ratio are put into the raw image before it is encoded. A filter of
each one's own shape tells its flux, and how far it stands out, in raw and in decoded.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase
from skyfold.science.bins import split
from skyfold.science.field import Field, decoded_difference, prepare_field
from skyfold.science.matched_filter import THRESHOLD
from skyfold.science.sources import areas, at_centre
from skyfold.science.trails import stamp


class Movers(ScienceCase):
    """Losses of injected trails, in bins of the signal-to-noise ratio of an ideal filter.

    ``trail_flux``: decoded - raw, both with the trail in them, summed with the weights of the
    ideal filter, in units of that sum's error. ``trail_missed``: 1 for each trail whose filter
    exceeds 4 sigma in raw and not in decoded.
    """

    name = "movers"
    kind = "images"
    default_measure = "trail_flux"
    products = ("trailed",)

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> tuple[Field, NDArray[Any]]:
        """Return the field and the trails to measure, whole and clear of bad pixels.

        Raises
        ------
        InvalidRequestError
            If raw and context differ in shape, or the context has no trails.
        MissingDependencyError
            If sep is not installed.
        """
        field = prepare_field(raw, context)
        trails = context.put_in("trails")
        trails = trails[at_centre(context.counted, trails)]
        return field, trails[[_is_whole(field, trail) for trail in trails]]

    def compare(
        self,
        state: tuple[Field, NDArray[Any]],
        raw: NDArray[Any],
        decoded: NDArray[Any],
        context: ImageContext,
    ) -> list[Sample]:
        """Return the losses."""
        field, trails = state
        change = _filtered(field, decoded_difference(field, raw, decoded), trails)
        before = _filtered(field, field.image, trails)
        place = areas(trails)
        samples = split(
            change,
            trails["snr"],
            measure="trail_flux",
            unit="sigma",
            statistic="p90",
            areas=place,
        )
        seen = before > THRESHOLD
        missed = before[seen] + change[seen] <= THRESHOLD
        return samples + split(
            missed,
            trails["snr"][seen],
            measure="trail_missed",
            unit="fraction",
            statistic="mean",
            areas=place[seen],
        )


def _is_whole(field: Field, trail: NDArray[Any]) -> bool:
    place, profile = stamp(field.good.shape, trail, field.fwhm)
    return bool(field.good[place].all() and np.linalg.norm(profile) > 1 - 1e-9)


def _filtered(field: Field, image: NDArray[Any], trails: NDArray[Any]) -> NDArray[np.float64]:
    """Significance [sigma] of each trail in an image, by a filter of its shape."""
    found = np.empty(len(trails))
    for number, trail in enumerate(trails):
        place, profile = stamp(image.shape, trail, field.fwhm)
        weight = profile / field.noise[place].astype(np.float64) ** 2
        found[number] = (weight * image[place]).sum() / np.sqrt((weight * profile).sum())
    return found


MOVERS = Movers()
