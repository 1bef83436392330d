"""Offsets of whole rows and columns of an image, which are part of what every level decodes to.

Who measures faint things on a frame whose amplifiers or rows differ takes them off first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from skyfold.errors import SkyfoldError
from skyfold.images.chunks import LayerBytes
from skyfold.noise import stripes_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

_LAYERS = ("checksum", "stripes")  # the first says how many tiles there are


def read_offsets(
    release: DataRelease, entry: ImageEntry, rows: slice, columns: slice
) -> NDArray[np.float64]:
    """Return the offsets of a window's pixels; zeros where the image has none.

    Parameters
    ----------
    release : DataRelease
    entry : ImageEntry
    rows, columns : slice
        Start and stop given [pixel].

    Returns
    -------
    ndarray, shape (ny, nx), float64
        [stored unit]

    Raises
    ------
    CorruptDataError
        If the stored bytes are not those of such a layer.
    """
    if not entry.striped or entry.noise is None:
        return np.zeros((rows.stop - rows.start, columns.stop - columns.start))
    arrays = release.images.arrays(entry, _LAYERS)
    layers = LayerBytes(entry, arrays, release.images.places(entry))
    for place in layers.needed(_LAYERS[1:], [(0, 0)]):
        data = release.home(entry.release).read_ranges([place])[0]
        if isinstance(data, SkyfoldError):
            raise data
        layers.held[place] = data
    offsets = stripes_at(
        layers.chunk("stripes", (0, 0)), entry.noise.background_step, rows, columns
    )
    return np.ldexp(offsets, entry.noise.grid_exponent)
