"""Diffuse light: what is lost of what is wide and faint, as galaxies of low surface brightness are.

Round Gaussians many times wider than points, of known signal-to-noise ratio, are put into the raw
image before it is encoded. A filter of each one's own shape tells its flux in raw and in decoded;
as for boxes of empty sky, no sky is subtracted.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample, ScienceCase
from skyfold.science.bins import split
from skyfold.science.field import Field, decoded_flat, prepare_field
from skyfold.science.injection import Stamp, clipped, inject_stamps, places
from skyfold.science.sources import areas, at_centre

SNR = (4.0, 32.0)
WIDTHS = (2.0, 4.0)  # [FWHM of points]: standard deviations
SPACING = 20.0  # [FWHM]
_REACH = 2.5  # standard deviations to which they are drawn: 0.2 % of a filter is left out
_GOOD = 0.9  # of a filter, that must lie on good pixels
DTYPE = [("x", "f8"), ("y", "f8"), ("snr", "f8"), ("width", "f8")]


class Diffuse(ScienceCase):
    """Losses of injected diffuse light, in bins of the signal-to-noise ratio of an ideal filter.

    ``diffuse_flux``: decoded - raw, both with the light in them, summed with the weights of the
    ideal filter, in units of that sum's error where pixels are independent.
    """

    name = "diffuse"
    kind = "images"
    default_measure = "diffuse_flux"
    products = ("diffuse",)

    def prepare(self, raw: NDArray[Any], context: ImageContext) -> tuple[Field, NDArray[Any]]:
        """Return the field and what to measure: what is counted, whole, and on good pixels.

        Raises
        ------
        InvalidRequestError
            If raw and context differ in shape, or the context has nothing that was put in.
        MissingDependencyError
            If sep is not installed.
        """
        field = prepare_field(raw, context)
        blobs = context.put_in("diffuse light")
        blobs = blobs[at_centre(context.counted, blobs)]
        return field, blobs[[_share(field.good, blob) > _GOOD for blob in blobs]]

    def compare(
        self,
        state: tuple[Field, NDArray[Any]],
        raw: NDArray[Any],
        decoded: NDArray[Any],
        context: ImageContext,
    ) -> list[Sample]:
        """Return the losses."""
        field, blobs = state
        decoded_flat(field, decoded)  # or what is wrong with it
        change = (np.asarray(decoded, np.float64) - np.asarray(raw, np.float64)) / field.unit
        weight = np.where(field.good, 1 / field.noise.astype(np.float64) ** 2, 0)
        moved = np.empty(len(blobs))
        for number, blob in enumerate(blobs):
            place, profile = stamp(raw.shape, blob)
            error = np.sqrt((weight[place] * profile**2).sum())
            moved[number] = (weight[place] * profile * change[place]).sum() / error
        return split(
            moved,
            blobs["snr"],
            measure="diffuse_flux",
            unit="sigma",
            statistic="p90",
            areas=areas(blobs),
        )


def inject_diffuse(
    raw: NDArray[Any],
    sigma: NDArray[np.float64],
    *,
    fwhm: float,
    slope: float,
    step: float | None,
    seed: int,
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[Any]]:
    """Put round Gaussians into an image, on a jittered grid wide enough that they do not touch.

    Parameters
    ----------
    raw, sigma, fwhm, slope, step, seed
        As of `skyfold.science.injection.inject`.

    Returns
    -------
    injected : ndarray, shape (ny, nx)
        Of the dtype of raw.
    sigma : ndarray, shape (ny, nx), float64
        With their photon noise.
    blobs : ndarray, shape (n,), structured
        ``x``, ``y`` [pixel], ``snr`` of an ideal filter in the noise of the pixel there, and
        ``width``, the standard deviation [pixel].
    """
    rng = np.random.default_rng(seed)
    x, y = places(raw.shape, SPACING * fwhm, fwhm, rng)
    blobs = np.zeros(len(x), DTYPE)
    blobs["x"], blobs["y"] = x, y
    for name, (low, high) in (("snr", SNR), ("width", WIDTHS)):
        blobs[name] = np.exp(rng.uniform(math.log(low), math.log(high), len(x)))
    blobs["width"] *= fwhm
    stamps = (stamp(raw.shape, blob) for blob in blobs)
    injected, sigma = inject_stamps(raw, sigma, blobs, stamps, rng=rng, slope=slope, step=step)
    return injected, sigma, blobs


def stamp(shape: tuple[int, ...], blob: NDArray[Any]) -> Stamp:
    """Return where one lies in an image, and its light, with the norm 1 if all of it is there.

    Parameters
    ----------
    shape : (int, int)
        Of the image; what lies beyond it is left out.
    blob : numpy.void
        Of the dtype that `inject_diffuse` gives.
    """
    x, y, width = (float(blob[name]) for name in ("x", "y", "width"))
    reach = math.ceil(_REACH * width)
    low = round(y) - reach, round(x) - reach
    rows, columns = np.ogrid[: 2 * reach + 1, : 2 * reach + 1]
    profile = np.exp(-0.5 * ((rows + low[0] - y) ** 2 + (columns + low[1] - x) ** 2) / width**2)
    profile /= np.linalg.norm(profile)
    return clipped(profile, low, shape)


def _share(good: NDArray[np.bool_], blob: NDArray[Any]) -> float:
    """Of a filter, on good pixels of the image."""
    place, profile = stamp(good.shape, blob)
    return float((profile[good[place]] ** 2).sum())


DIFFUSE = Diffuse()
