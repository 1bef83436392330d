"""Shapes: how far adaptive moments move in a decoded image.

This module knows the moments: those of an elliptical Gaussian fitted by GalSim's HSM (Hirata &
Seljak 2003, MNRAS 343, 459; Mandelbaum et al. 2005, MNRAS 361, 1287), of the image as it is,
point-spread function included. Ellipticities are reduced shears, |g| = (a - b) / (a + b). The
error of each component is that of an efficient estimator, 1 / S/N of the fitted Gaussian, by its
Fisher information (and so is that of the logarithm of the size); source noise is included.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase, stamps
from skyfold.science.bins import split
from skyfold.science.field import Field, decoded_image, prepare_field
from skyfold.science.sky import Plane
from skyfold.science.sources import SIGMAS_PER_FWHM, areas, circle_sum, load_measuring

MOST = 300  # sources of an image
REACH = 2.5  # [FWHM], half width of the stamps
_LEAST_SNR = 5.0  # fainter sources have no moments of their own


@dataclass(frozen=True, eq=False)
class Moments:
    """Raw moments of some of the counted sources.

    Attributes
    ----------
    sources : ndarray, shape (n,), structured
    snr : ndarray, shape (n,)
        Within one FWHM.
    shape : ndarray, shape (n, 3), float64
        g1, g2, and the size: the fourth root of the determinant of the moments [pixel].
    error : ndarray, shape (n,), float64
        1 sigma of g1, of g2, and of the logarithm of the size.
    """

    field: Field
    sources: NDArray[Any]
    snr: NDArray[np.float64]
    shape: NDArray[np.float64]
    error: NDArray[np.float64]


class Shapes(ScienceCase):
    """Changes of adaptive moments.

    ``g1``, ``g2``: decoded - raw, pure numbers; ``size``: decoded / raw - 1; ``ellipticity``: both
    components' changes in units of their own error, two numbers for each object. Bins by the raw
    signal-to-noise ratio within one FWHM, from 5. A source whose moments cannot be found in the
    decoded image counts as having changed by 1 in each.
    """

    name = "shapes"
    kind = "images"
    default_measure = "ellipticity"

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> Moments:
        """Return the raw moments."""
        field = prepare_field(raw, context)
        reach = int(np.ceil(REACH * field.fwhm))
        sources, snr = stamps.measurable(field, context, reach, _LEAST_SNR, MOST)
        shape, amplitude = adaptive_moments(field.image, sources, field.fwhm)
        with np.errstate(invalid="ignore", divide="ignore"):
            local = circle_sum(field.noise**2, sources, field.fwhm) / (np.pi * field.fwhm**2)
            error = np.sqrt(4 * np.pi * local) * shape[:, 2] / amplitude
        found = np.isfinite(shape).all(axis=1) & (error > 0)
        return Moments(field, sources[found], snr[found], shape[found], error[found])

    def compare(
        self, state: Moments, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return the changes, in bins of S/N."""
        image = decoded_image(state.field, raw, decoded)
        after, _ = adaptive_moments(image, state.sources, state.field.fwhm)
        change = after - state.shape
        change[:, 2] /= state.shape[:, 2]
        change[~np.isfinite(change).all(axis=1)] = 1.0
        place = areas(state.sources)
        samples = []
        for number, measure in enumerate(("g1", "g2", "size")):
            values = change[:, number]
            samples += split(
                values, state.snr, measure=measure, unit="", statistic="p90", areas=place
            )
        return samples + split(
            (change[:, :2] / state.error[:, None]).ravel(),
            np.repeat(state.snr, 2),
            measure="ellipticity",
            unit="sigma",
            statistic="p90",
            areas=np.repeat(place, 2),
        )


def adaptive_moments(
    image: Plane, sources: NDArray[Any], fwhm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return g1, g2, size [pixel], shape (n, 3), and the flux of the fitted Gaussians.

    Parameters
    ----------
    image : ndarray, shape (ny, nx), float32
        Without sky.
    sources : ndarray, shape (n,), structured
        With whole stamps of 2.5 FWHM.
    fwhm : float
        Of the point-spread function [pixel]: where the fit begins.

    Returns
    -------
    shape : ndarray, shape (n, 3), float64
        NaN where the fit fails, or moves by more than one FWHM.
    flux : ndarray, shape (n,), float64
        In the unit of the image.
    """
    galsim = load_measuring("galsim")
    reach = int(np.ceil(REACH * fwhm))
    shape, flux = np.full((len(sources), 3), np.nan), np.full(len(sources), np.nan)
    for row, (stamp, source) in enumerate(
        zip(stamps.cut(image, sources, reach), sources, strict=True)
    ):
        middle = galsim.PositionD(
            *(reach + 1 + source[axis] - np.rint(source[axis]) for axis in ("x", "y"))
        )
        moments = galsim.hsm.FindAdaptiveMom(
            galsim.Image(np.ascontiguousarray(stamp)),
            guess_sig=fwhm / SIGMAS_PER_FWHM,
            guess_centroid=middle,
            strict=False,
        )
        apart = moments.moments_centroid - middle
        is_found = moments.moments_status == 0 and moments.moments_amp > 0
        if is_found and np.hypot(apart.x, apart.y) <= fwhm:
            g = moments.observed_shape
            shape[row] = g.g1, g.g2, moments.moments_sigma
            flux[row] = moments.moments_amp
    return shape, flux


SHAPES = Shapes()
