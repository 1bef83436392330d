"""Anomalies: whether the most unusual objects of an image are still the most unusual.

This module knows a simple novelty, made of pixels alone: each source's brightness, concentration
at two scales, size, ellipticity, asymmetry and peak, and the distance of these from the other
sources' (Mahalanobis 1936), with the spread of the raw image's sources. It knows nothing of the
release's own model, so that it judges every level alike.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase, stamps
from skyfold.science.field import Field, decoded_image, prepare_field
from skyfold.science.sky import Plane
from skyfold.science.sources import areas, at_centre, circle_sum

SHARE = 0.01
LEAST = 5  # of the most unusual objects of an image, however few it has
REACH = 2.0  # [FWHM]
_LEAST_SNR = 5.0
_ENOUGH = 40  # objects, to tell what is usual
_FEWEST = 20  # of those that count, for the most unusual to be few of them

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Usual:
    """What is usual among the raw image's objects, and which of them are not.

    Attributes
    ----------
    sources : ndarray, shape (n,), structured
        Those that count.
    middle : ndarray, shape (features,)
    whitening : ndarray, shape (features, features)
        Takes features less `middle` to unit variance.
    top : ndarray, shape (k,), int
        Places of the most unusual.
    """

    field: Field
    sources: NDArray[Any]
    middle: Floats
    whitening: Floats
    top: NDArray[np.intp]


class Anomalies(ScienceCase):
    """Share of the most unusual objects that are no longer among them.

    ``missed``: 1 for each of the raw image's 1 % (at least five) most unusual objects above
    S/N 5 that is not among as many of the decoded image's, else 0. Positions are the raw image's.
    What is usual is told by all its objects, training sky included; images with fewer than 40 of
    them, or 20 that count, are left out.
    """

    name = "anomalies"
    kind = "images"
    default_measure = "missed"

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> Usual | None:
        """Return what is usual in the raw image; None where too few objects can tell."""
        field = prepare_field(raw, context)
        reach = int(np.ceil(REACH * field.fwhm))
        everywhere = replace(context, counted=np.ones_like(context.counted))
        sources, _ = stamps.measurable(field, everywhere, reach, _LEAST_SNR)
        counted = at_centre(context.counted, sources)
        if len(sources) < _ENOUGH or np.count_nonzero(counted) < _FEWEST:
            return None
        features = _features(field, field.image, sources)
        middle = np.median(features, axis=0)
        values, axes = np.linalg.eigh(np.cov(features - middle, rowvar=False))
        whitening = axes / np.sqrt(np.maximum(values, 1e-12 * values.max()))
        usual = Usual(field, sources[counted], middle, whitening, np.empty(0, np.intp))
        return replace(usual, top=_most_unusual(usual, features[counted]))

    def compare(
        self, state: Usual | None, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return 1 for each unusual object that is missed."""
        if state is None:
            return [Sample("missed", "all", np.empty(0), "fraction", "mean")]
        image = decoded_image(state.field, raw, decoded)
        found = _most_unusual(state, _features(state.field, image, state.sources))
        missed = ~np.isin(state.top, found)
        place = areas(state.sources[state.top])
        return [Sample("missed", "all", missed.astype(np.float64), "fraction", "mean", place)]


def _most_unusual(usual: Usual, features: Floats) -> NDArray[np.intp]:
    """Places of the objects farthest from the middle."""
    apart = (((features - usual.middle) @ usual.whitening) ** 2).sum(axis=1)
    most = max(LEAST, int(np.ceil(SHARE * len(apart))))
    return np.sort(np.argsort(-apart, kind="stable")[:most])


def _features(field: Field, image: Plane, sources: NDArray[Any]) -> Floats:
    """Eight features of each source, shape (n, 8), each compressed so that none runs away."""
    fwhm, reach = field.fwhm, int(np.ceil(REACH * field.fwhm))
    flux = [circle_sum(image, sources, scale * fwhm) for scale in (0.5, 1.0, 2.0)]
    error = np.sqrt(circle_sum(field.noise**2, sources, fwhm))
    scale = np.maximum(flux[1], error)
    dx, dy = stamps.offsets(sources, reach)
    pixels = stamps.cut(image, sources, reach)
    weight = np.exp(-(dx**2 + dy**2) * 2 * np.log(2) / fwhm**2)
    weighted = pixels * weight
    moments = [(weighted * along).sum(axis=(1, 2)) for along in (dx**2 + dy**2, dx**2 - dy**2)]
    moments.append(2 * (weighted * dx * dy).sum(axis=(1, 2)))
    turned = np.abs(pixels - pixels[:, ::-1, ::-1]) * weight
    features = [moment / (scale * fwhm**2) for moment in moments]
    features += [flux[0] / scale, flux[2] / scale, turned.sum(axis=(1, 2)) / scale]
    features += [pixels.max(axis=(1, 2)) / scale]
    return np.column_stack([np.arcsinh(flux[1] / error), *np.arcsinh(features)])


ANOMALIES = Anomalies()
