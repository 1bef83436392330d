"""Low surface brightness: how far the mean of empty sky moves, at several scales.

This module knows the boxes: squares of 4, 16 and 64 pixels away from sources, where the halos of
galaxies, cirrus and intracluster light would be. No sky is subtracted, since at these scales the
sky is the measurement. The error of a mean is that of independent pixels; where noise is
correlated it is larger, and the loss an overestimate.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase
from skyfold.science.field import Field, decoded_flat, prepare_field
from skyfold.science.sources import a_few

SCALES = (4, 16, 64)  # [pixel]
MOST = 8000  # boxes of each scale of an image
_AREA = 128  # [pixel]: boxes of one such square of sky may err together
_ENOUGH = 0.5  # share of a box that must be empty sky

Floats = NDArray[np.float64]
Place = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of one scale on one definition of empty sky.

    Attributes
    ----------
    definition : str
        Of empty sky, as of `skyfold.science.Sample`.
    scale : int
        Side [pixel].
    at : (ndarray, ndarray), each of shape (n,), int
        Row and column of each box among all of this scale.
    pixels, error : ndarray, shape (n,)
        Usable pixels of each, and the error of their sum [unit of the field].
    """

    definition: str
    scale: int
    at: Place
    pixels: Floats
    error: Floats

    @property
    def areas(self) -> NDArray[np.int64]:
        """Piece of sky of each box."""
        row, column = (np.asarray(index, np.int64) * self.scale // _AREA for index in self.at)
        return row * 2**20 + column


@dataclass(frozen=True, eq=False)
class EmptySky:
    """Where the raw image is empty, by each definition; `medians` are those of its large boxes."""

    field: Field
    usable: dict[str, NDArray[np.bool_]]
    boxes: list[Boxes]
    medians: Floats


class LowSurfaceBrightness(ScienceCase):
    """Changes of the mean of boxes of empty sky, in units of the mean's own error.

    Measures ``sky_4pix``, ``sky_16pix`` and ``sky_64pix``, without S/N bins, and
    ``sky_median_64pix``: the change of the median of the largest boxes in units of the error of
    their mean, for those who estimate sky by medians, which rounded pixels do not suit. A box
    counts where at least half of it is good pixels away from sources and of held-out sky. How far
    a source reaches is told by its axes; the interval also holds what is found if whatever is near
    an island above the threshold is left out too.
    """

    name = "low_surface_brightness"
    kind = "images"
    default_measure = "sky_16pix"

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> EmptySky:
        """Return the raw image's empty sky."""
        field = prepare_field(raw, context)
        skies = {"": field.free, "far": field.far}
        usable = {name: free & context.counted for name, free in skies.items()}
        boxes = [
            one for name in skies for one in _boxes_of(name, usable[name], field, context.seed)
        ]
        medians = _medians(raw, usable[""], _largest(boxes))
        return EmptySky(field, usable, boxes, medians)

    def compare(
        self, state: EmptySky, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return the changes at each scale."""
        field = state.field
        decoded_flat(field, decoded)  # or what is wrong with it
        change = (np.asarray(decoded, np.float64) - np.asarray(raw, np.float64)) / field.unit
        sums = {name: _sums(np.where(use, change, 0)) for name, use in state.usable.items()}
        samples = [
            Sample(
                f"sky_{boxes.scale}pix",
                "all",
                sums[boxes.definition][boxes.scale][boxes.at] / boxes.error,
                "sigma",
                "p90",
                boxes.areas,
                boxes.definition,
            )
            for boxes in state.boxes
        ]
        large = _largest(state.boxes)
        moved = _medians(decoded, state.usable[""], large) - state.medians
        values = moved / field.unit * large.pixels / large.error
        return [*samples, Sample("sky_median_64pix", "all", values, "sigma", "p90", large.areas)]


def _boxes_of(definition: str, usable: NDArray[np.bool_], field: Field, seed: int) -> list[Boxes]:
    """At most `MOST` boxes of each scale that hold enough usable pixels."""
    pixels = _sums(usable.astype(np.float64))
    variance = _sums(np.where(usable, field.noise.astype(np.float64) ** 2, 0))
    boxes = []
    for scale in SCALES:
        rows, columns = np.nonzero(pixels[scale] >= _ENOUGH * scale**2)
        few = a_few(len(rows), MOST, seed)
        at = rows[few], columns[few]
        boxes.append(Boxes(definition, scale, at, pixels[scale][at], np.sqrt(variance[scale][at])))
    return boxes


def _largest(boxes: list[Boxes]) -> Boxes:
    """The largest boxes of the sky of the record's own definition."""
    return next(one for one in boxes if one.scale == SCALES[-1] and not one.definition)


def _medians(image: NDArray[Any], usable: NDArray[np.bool_], boxes: Boxes) -> Floats:
    """Median of the usable pixels of each box."""
    out, scale = np.zeros(len(boxes.at[0])), boxes.scale
    for number, (row, column) in enumerate(zip(*boxes.at, strict=True)):
        box = np.s_[row * scale : (row + 1) * scale, column * scale : (column + 1) * scale]
        out[number] = np.median(image[box][usable[box]])
    return out


def _sums(plane: Floats) -> dict[int, Floats]:
    """Sums of whole boxes, shape (ny // scale, nx // scale), by scale; each of the one before."""
    sums, of = {}, 1
    for scale in SCALES:
        times = scale // of
        ny, nx = (size // times for size in plane.shape)
        rows = plane[: ny * times].reshape(ny, times, plane.shape[1]).sum(axis=1)
        plane = rows[:, : nx * times].reshape(ny, nx, times).sum(axis=2)
        sums[scale], of = plane, scale
    return sums


LOW_SURFACE_BRIGHTNESS = LowSurfaceBrightness()
