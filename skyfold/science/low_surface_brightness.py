"""Low surface brightness: how far the mean of empty sky moves, at several scales.

This module knows the boxes: squares of 4, 16 and 64 pixels away from sources, where the halos of
galaxies, cirrus and intracluster light would be. No sky is subtracted, since at these scales the
sky is the measurement. The error of a mean is that of independent pixels; where noise is
correlated it is larger, and the loss an overestimate.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase
from skyfold.science.sources import Field, a_few, prepare_field, scaled

SCALES = (4, 16, 64)  # [pixel]
MOST = 8000  # boxes of each scale of an image
_AREA = 128  # [pixel]: boxes of one such square of sky may err together
_ENOUGH = 0.5  # share of a box that must be empty sky


class LowSurfaceBrightness(ScienceCase):
    """Changes of the mean of boxes of empty sky, in units of the mean's own error.

    Measures ``sky_4pix``, ``sky_16pix`` and ``sky_64pix``, without S/N bins, and
    ``sky_median_64pix``: the change of the median of the largest boxes in units of the error of
    their mean, for those who estimate sky by medians, which rounded pixels do not suit. A box
    counts where at least half of it is good pixels away from sources and of held-out sky.
    """

    name = "low_surface_brightness"
    kind = "images"
    default_measure = "sky_16pix"

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> Field:
        """Return the raw image's sources and free sky."""
        return prepare_field(raw, context)

    def compare(
        self, state: Field, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return the changes at each scale."""
        scaled(decoded, state.good, state.centre, state.unit)
        usable = state.free & context.counted
        change = np.asarray(decoded, np.float64) - np.asarray(raw, np.float64)
        change = np.where(usable, change / state.unit, 0)
        variance = np.where(usable, state.noise.astype(np.float64) ** 2, 0)
        samples = []
        for scale in SCALES:
            pixels = _boxes(usable.astype(np.float64), scale)
            rows, columns = np.nonzero(pixels >= _ENOUGH * scale**2)
            few = a_few(len(rows), MOST, context.seed)
            at = rows[few], columns[few]
            values = _boxes(change, scale)[at] / np.sqrt(_boxes(variance, scale)[at])
            place = (at[0] * scale // _AREA) * 2**20 + at[1] * scale // _AREA
            samples.append(Sample(f"sky_{scale}pix", "all", values, "sigma", "p90", place))
        medians = _median_change(state, raw, decoded, usable, at, SCALES[-1])
        moved = medians * pixels[at] / np.sqrt(_boxes(variance, SCALES[-1])[at])
        return [*samples, Sample("sky_median_64pix", "all", moved, "sigma", "p90", place)]


def _median_change(
    field: Field,
    raw: NDArray[Any],
    decoded: NDArray[Any],
    usable: NDArray[np.bool_],
    at: tuple[NDArray[np.intp], NDArray[np.intp]],
    scale: int,
) -> NDArray[np.float64]:
    """Change of the median of chosen boxes, in units of the field."""

    def medians(image: NDArray[Any]) -> NDArray[np.float64]:
        out = np.zeros(len(at[0]))
        for number, (row, column) in enumerate(zip(*at, strict=True)):
            box = np.s_[row * scale : (row + 1) * scale, column * scale : (column + 1) * scale]
            out[number] = np.median(image[box][usable[box]])
        return out

    before: NDArray[np.float64] = field.once("medians", raw, lambda: medians(raw))
    return (medians(decoded) - before) / field.unit


def _boxes(plane: NDArray[np.float64], scale: int) -> NDArray[np.float64]:
    """Sums of whole boxes, shape (ny // scale, nx // scale)."""
    ny, nx = (size // scale for size in plane.shape)
    cut = plane[: ny * scale, : nx * scale].reshape(ny, scale, nx, scale)
    return np.asarray(cut.sum(axis=(1, 3)))


LOW_SURFACE_BRIGHTNESS = LowSurfaceBrightness()
