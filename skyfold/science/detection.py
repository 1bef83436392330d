"""Detection: which sources a decoded image loses, and which it makes up.

This module knows what a lost and a created source is. Both images are searched by the same
matched filter, with the same threshold and the raw image's noise (see
`skyfold.science.sources`), and a source counts as found in the other image if the same finder has
one there within one FWHM. There is no lower threshold for a second look: a source that sits on the
threshold is lost by the least change, and is counted so. Near the threshold (S/N 3-5) a rate of
several per cent is therefore what rounding at a fraction of sigma does to any catalog.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase
from skyfold.science.bins import split
from skyfold.science.field import Field, decoded_image, decoded_sources, prepare_field
from skyfold.science.sky import Plane
from skyfold.science.sources import PEAKS, areas, at_centre, circle_sum, is_clear


class Detection(ScienceCase):
    """Rates of lost and created sources.

    ``lost``: 1 for each source of raw without a counterpart in decoded, binned by its S/N in
    raw. ``created``: 1 for each source of decoded without a counterpart in raw, binned by its
    S/N in decoded. S/N is that of the flux within one FWHM above the sky away from the raw's
    sources, with the context's noise. Sources closer than one FWHM to a bad pixel or the edge are
    not counted, but do serve as counterparts.
    """

    name = "detection"
    kind = "images"
    default_measure = "lost"

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> Field:
        """Return the raw sources."""
        return prepare_field(raw, context)

    def compare(
        self, state: Field, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return the rates of lost and created sources, in bins of S/N."""
        image, after = decoded_image(state, raw, decoded), decoded_sources(state, decoded)
        samples = []
        for finder, before in {"": state.sources, PEAKS: state.peaks}.items():
            lost = _Search("lost", finder, state.image, before, after[finder])
            created = _Search("created", finder, image, after[finder], before)
            samples += _unmatched(lost, state, context) + _unmatched(created, state, context)
        return samples


@dataclass(frozen=True, eq=False)
class _Search:
    """What one finder finds in an image and in the other, and the measure that comes of it."""

    measure: str
    finder: str
    image: Plane
    here: NDArray[Any]
    there: NDArray[Any]


def _unmatched(search: _Search, field: Field, context: ImageContext) -> list[Sample]:
    """Samples of 1 for each counted source that has no counterpart, else 0."""
    sources = search.here[at_centre(context.counted, search.here)]
    sources = sources[is_clear(field.good, sources, field.fwhm)]
    error = np.sqrt(circle_sum(field.noise**2, sources, field.fwhm))
    return split(
        ~has_neighbour(sources, search.there, field.fwhm),
        circle_sum(search.image, sources, field.fwhm) / error,
        measure=search.measure,
        unit="fraction",
        statistic="mean",
        areas=areas(sources),
        definition=search.finder,
    )


def has_neighbour(sources: NDArray[Any], others: NDArray[Any], radius: float) -> NDArray[np.bool_]:
    """Tell which sources have one of the others within a radius [pixel].

    Only others of the same rows of pixels are compared, so the work grows more slowly than the
    square of the number of sources.
    """
    order = np.argsort(others["y"])
    rows = others["y"][order]
    first = np.searchsorted(rows, sources["y"] - radius)
    count = np.searchsorted(rows, sources["y"] + radius, side="right") - first
    ends = np.cumsum(count)
    source = np.repeat(np.arange(len(sources)), count)
    other = order[np.arange(len(source)) + np.repeat(first - ends + count, count)]
    apart = [sources[axis][source] - others[axis][other] for axis in ("x", "y")]
    held = source[np.hypot(*apart) <= radius]
    return np.bincount(held, minlength=len(sources)) > 0


DETECTION = Detection()
