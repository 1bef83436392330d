"""Shear: by how much the response of galaxies to shear changes in a decoded image.

This module knows the two biases, of galaxies whose shear is known because they were put in
(`skyfold.science.galaxies`): the measured shear is (1 + m) g + c (Heymans et al. 2006, MNRAS 368,
1323, eq. 10). Here both are relative to the raw image: m is 0 where a decoded galaxy responds as
it does in the raw image, whatever adaptive moments make of that.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase, stamps
from skyfold.science.bins import split
from skyfold.science.field import Field, decoded_image, prepare_field
from skyfold.science.galaxies import SHEAR as APPLIED
from skyfold.science.shapes import REACH, adaptive_moments
from skyfold.science.sources import areas, at_centre

BINS = ("20-50", ">50", ">=20")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Galaxies whose moments both raw copies have.

    Attributes
    ----------
    galaxies : ndarray, shape (2, n), structured
        With positive and with negative shear.
    shape : ndarray, shape (2, n), complex128
        Reduced shears g1 + i g2 of the raw copies.
    response : float
        Mean of what the difference of the two is along the applied shear.
    """

    field: Field
    galaxies: NDArray[Any]
    shape: NDArray[np.complex128]
    response: float


class Shear(ScienceCase):
    """Multiplicative and additive bias of the response to shear, pure numbers.

    ``m``: change of a galaxy's response along its applied shear, over the mean response of the
    raw image; ``c1``, ``c2``: change of the mean of the two ellipticities. Bins by the ideal
    filter's signal-to-noise ratio, from 20. A galaxy whose moments cannot be found in the decoded
    image does not respond, m = -1, and says nothing of c.
    """

    name = "shear"
    kind = "images"
    default_measure = "m"
    products = ("sheared",)

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> Pairs:
        """Return the raw moments of the galaxies.

        Raises
        ------
        InvalidRequestError
            If raw and context differ in shape, or the context has no galaxies.
        MissingDependencyError
            If sep or GalSim is not installed.
        """
        field = prepare_field(raw, context)
        galaxies = context.put_in("galaxies").reshape(2, -1)
        shape = _moments(field, field.image, galaxies)
        reach = int(np.ceil(REACH * field.fwhm))
        usable = np.isfinite(shape).all(axis=0)
        for copy in galaxies:
            usable &= at_centre(context.counted, copy) & stamps.whole(field.good, copy, reach)
        galaxies, shape = galaxies[:, usable], shape[:, usable]
        along = _along(shape[0] - shape[1], galaxies)
        return Pairs(field, galaxies, shape, float(along.mean()) if along.size else np.nan)

    def compare(
        self, state: Pairs, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return the biases, in bins of S/N."""
        image = decoded_image(state.field, raw, decoded)
        change = _moments(state.field, image, state.galaxies) - state.shape
        seen = np.isfinite(change).all(axis=0)
        moved = _along(change[0] - change[1], state.galaxies) / state.response
        mean = change.mean(axis=0)[seen]
        snr, place = state.galaxies[0]["snr"], areas(state.galaxies[0])
        about: dict[str, Any] = {"unit": "", "statistic": "mean", "bins": BINS}
        samples = split(np.where(seen, moved, -1.0), snr, measure="m", areas=place, **about)
        for measure, values in (("c1", mean.real), ("c2", mean.imag)):
            samples += split(values, snr[seen], measure=measure, areas=place[seen], **about)
        return samples


def _moments(
    field: Field, image: NDArray[np.float32], galaxies: NDArray[Any]
) -> NDArray[np.complex128]:
    """g1 + i g2 of both copies, shape (2, n); NaN where stamps leave the image or the fit fails."""
    out = np.full(galaxies.shape, np.nan, np.complex128)
    reach = int(np.ceil(REACH * field.fwhm))
    for row, copy in zip(out, galaxies, strict=True):
        whole = stamps.whole(field.good, copy, reach)
        shape, _ = adaptive_moments(image, copy[whole], field.fwhm)
        row[whole] = shape[:, 0] + 1j * shape[:, 1]
    return out


def _along(difference: NDArray[np.complex128], galaxies: NDArray[Any]) -> NDArray[np.float64]:
    """Component of a difference of ellipticities along the applied shear."""
    applied = (galaxies[0]["g1"] + 1j * galaxies[0]["g2"]) / APPLIED
    return np.asarray((difference * applied.conj()).real)


SHEAR = Shear()
