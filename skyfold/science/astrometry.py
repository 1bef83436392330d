"""Astrometry: how far windowed centroids move in a decoded image.

This module knows the centroid: SExtractor's windowed position (XWIN_IMAGE; Bertin & Arnouts 1996,
and its manual, "Windowed positional parameters"), in a Gaussian window as wide as the
point-spread function, found anew on each image from the raw's detection. Its error is the
manual's ERRX2_WIN: of the noise alone, so that it is what a repeated exposure would scatter by.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase, stamps
from skyfold.science.bins import split
from skyfold.science.field import Field, decoded_image, prepare_field
from skyfold.science.sky import Plane
from skyfold.science.sources import FINDERS, SIGMAS_PER_FWHM, areas, circle_sum, load_sep

_WINDOW = 4.0  # sep sums out to this many sigmas of the window
_LEAST_SNR = 3.0


@dataclass(frozen=True, eq=False)
class Centroids:
    """Raw centroids of the counted sources of a finder.

    Attributes
    ----------
    finder : str
    sources : ndarray, shape (n,), structured
    snr : ndarray, shape (n,)
        Within one FWHM.
    position, error : ndarray, shape (n, 2), float64
        x and y, and their 1-sigma errors [pixel].
    """

    finder: str
    field: Field
    sources: NDArray[Any]
    snr: NDArray[np.float64]
    position: NDArray[np.float64]
    error: NDArray[np.float64]


class Astrometry(ScienceCase):
    """Shifts of windowed centroids.

    ``position``: the shift along x and along y in units of its own error, two numbers for each
    object; ``position_pix`` its length [pixel]; ``position_mas`` the same on the sky [mas], where
    there is a WCS. Bins by the raw signal-to-noise ratio within one FWHM. A source without a
    centroid within one FWHM in the decoded image counts as having moved by one FWHM.
    """

    name = "astrometry"
    kind = "images"
    default_measure = "position"

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> list[Centroids]:
        """Return the raw centroids, by finder."""
        field = prepare_field(raw, context)
        return [_raw_centroids(field, context, finder) for finder in FINDERS]

    def compare(
        self,
        state: list[Centroids],
        raw: NDArray[Any],
        decoded: NDArray[Any],
        context: ImageContext,
    ) -> list[Sample]:
        """Return the shifts, in bins of S/N."""
        image = decoded_image(state[0].field, raw, decoded)
        return [
            sample for before in state for sample in _shifts(before, image, context.scale_arcsec)
        ]


def _raw_centroids(field: Field, context: ImageContext, finder: str) -> Centroids:
    reach = int(np.ceil(_WINDOW * field.fwhm / SIGMAS_PER_FWHM)) + 1
    sources, snr = stamps.measurable(field, context, reach, _LEAST_SNR, finder=finder)
    position, found = _centroids(field, field.image, sources)
    error = _errors(field, _moved(sources, position), reach)
    found &= np.isfinite(error).all(axis=1)
    return Centroids(finder, field, sources[found], snr[found], position[found], error[found])


def _shifts(before: Centroids, image: Plane, scale_arcsec: float | None) -> list[Sample]:
    """Shifts of the centroids in a decoded image, in bins of S/N."""
    position, found = _centroids(before.field, image, before.sources)
    lost = before.field.fwhm / np.sqrt(2)
    shift = np.where(found[:, None], position - before.position, lost)
    length, place = np.hypot(*shift.T), areas(before.sources)
    samples = split(
        (shift / before.error).ravel(),
        np.repeat(before.snr, 2),
        measure="position",
        unit="sigma",
        statistic="p90",
        areas=np.repeat(place, 2),
        definition=before.finder,
    )
    about: dict[str, Any] = {"statistic": "p90", "areas": place, "definition": before.finder}
    samples += split(length, before.snr, measure="position_pix", unit="pix", **about)
    if scale_arcsec is None:
        return samples
    on_sky = 1000 * scale_arcsec * length
    return samples + split(on_sky, before.snr, measure="position_mas", unit="mas", **about)


def _centroids(
    field: Field, image: Plane, sources: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Windowed positions, and whether there is one within a FWHM of the detection."""
    width = np.full(len(sources), field.fwhm / SIGMAS_PER_FWHM)
    x, y, _ = load_sep().winpos(image, sources["x"], sources["y"], width, subpix=0)
    position = np.column_stack([x, y]).astype(np.float64)
    start = np.column_stack([sources["x"], sources["y"]])
    has_light = circle_sum(image, sources, field.fwhm) > 0  # a hole has a centroid too
    return position, has_light & (np.hypot(*(position - start).T) <= field.fwhm)


def _moved(sources: NDArray[Any], position: NDArray[np.float64]) -> NDArray[Any]:
    """Sources at other positions."""
    moved = sources.copy()
    moved["x"], moved["y"] = position.T
    return moved


def _errors(field: Field, sources: NDArray[Any], reach: int) -> NDArray[np.float64]:
    """Errors of windowed positions [pixel], shape (n, 2); NaN where there is no flux."""
    inside = stamps.whole(field.good, sources, reach)
    error = np.full((len(sources), 2), np.nan)
    sources = sources[inside]
    dx, dy = stamps.offsets(sources, reach)
    weight = np.exp(-(dx**2 + dy**2) * SIGMAS_PER_FWHM**2 / (2 * field.fwhm**2))
    flux = (weight * stamps.cut(field.image, sources, reach)).sum(axis=(1, 2))
    noise = (weight * stamps.cut(field.noise, sources, reach)) ** 2
    spread = [np.sqrt((noise * along**2).sum(axis=(1, 2))) for along in (dx, dy)]
    with np.errstate(divide="ignore", invalid="ignore"):
        error[inside] = np.where(flux > 0, 2 * np.array(spread) / flux, np.nan).T
    return error


ASTROMETRY = Astrometry()
