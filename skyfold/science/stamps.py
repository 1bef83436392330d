"""Square cutouts about many sources at once, for measurements that work on all of them together.

This module alone knows how a source's position and the pixels of its stamp relate: stamps are
centred on the pixel that holds the source, and offsets count from the source's exact position.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext
from skyfold.science.field import Field, counted_sources, signal_to_noise
from skyfold.science.sources import a_few, is_clear


def measurable(
    field: Field,
    context: ImageContext,
    reach: int,
    least_snr: float,
    most: int | None = None,
    finder: str = "",
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the counted sources that a stamp can measure, and their signal-to-noise ratios.

    Parameters
    ----------
    field : Field
        The raw image's.
    context : ImageContext
        Which sources count, and the seed of the draw.
    reach : int
        Pixels on each side of the central one, none of which is bad or beyond the edge.
    least_snr : float
        Within one FWHM.
    most : int, optional
        Sources to draw where there are more.
    finder : str
        Of `skyfold.science.sources.FINDERS`.

    Returns
    -------
    sources : ndarray, shape (n,), structured
        As the field's of this finder, in their order.
    snr : ndarray, shape (n,), float64
    """
    sources = counted_sources(field, context, finder)
    snr = signal_to_noise(field, sources)
    fit = np.flatnonzero(whole(field.good, sources, reach) & (snr >= least_snr))
    if most is not None:
        fit = fit[a_few(len(fit), most, context.seed)]
    return sources[fit], snr[fit]


def cut(plane: NDArray[Any], sources: NDArray[Any], reach: int) -> NDArray[Any]:
    """Return the pixels about each source.

    Parameters
    ----------
    plane : ndarray, shape (ny, nx)
    sources : ndarray, shape (n,), structured
        With ``x`` and ``y`` [pixel]; all stamps lie inside the plane, as `whole` tells.
    reach : int
        Pixels on each side of the central one.

    Returns
    -------
    ndarray, shape (n, 2 * reach + 1, 2 * reach + 1)
    """
    row, column = (np.rint(sources[axis]).astype(int)[:, None, None] for axis in ("y", "x"))
    span = np.arange(-reach, reach + 1)
    pixels: NDArray[Any] = plane[row + span[:, None], column + span]
    return pixels


def offsets(sources: NDArray[Any], reach: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the x and y distances [pixel] of a stamp's pixels from its source.

    Returns
    -------
    dx : ndarray, shape (n, 1, 2 * reach + 1), float64
    dy : ndarray, shape (n, 2 * reach + 1, 1), float64
    """
    span = np.arange(-reach, reach + 1)
    dx, dy = (span - (sources[axis] - np.rint(sources[axis]))[:, None] for axis in ("x", "y"))
    return dx[:, None, :], dy[:, :, None]


def whole(good: NDArray[np.bool_], sources: NDArray[Any], reach: int) -> NDArray[np.bool_]:
    """Tell whose stamp lies inside the image, without a bad pixel within `reach` of the source."""
    row, column = (np.rint(sources[axis]).astype(int) for axis in ("y", "x"))
    inside = (np.minimum(row, column) >= reach) & (row < good.shape[0] - reach)
    inside &= column < good.shape[1] - reach
    inside[inside] = is_clear(good, sources[inside], reach)
    return inside
