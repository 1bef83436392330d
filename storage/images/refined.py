"""How the cells of an image are, and its layers one strip of tiles after the other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from skyfold import ladder
from skyfold.codecs.blocks import BlocksCodec
from skyfold.ladder import TILE
from skyfold.quantum import PARAMETERS
from storage.images.shaping import FINE, coarseness
from storage.images.strip_layers import StripLayers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.quantum import Quantum
    from storage.images.predicted import Predicted
    from storage.images.prepared import Prepared
    from storage.images.strip_layers import Layers

DITHER_COST = 1.01  # bytes of remainders in dithered cells, over those in others
ODD_SCATTER = 1.08  # of errors in a cell, over those in one of exactly `step` noise units


class Refined:
    """An image whose pixels are refined level by level.

    Parameters
    ----------
    predicted : Predicted
    step : float
        Cell width in noise units.
    whole : ImageEntry, optional
        As `storage.images.encoder.encode_image` takes it.

    Attributes
    ----------
    tolerance : float
        Of the network, as `skyfold.ladder.find_guard` takes it.
    odd : bool
        As `skyfold.ladder.cell_width` takes it.
    dithered : bool
        Whether cells are shifted, see `skyfold.ladder.dither`.
    coarse : int
        Width of a cell of `sources` in quarters of one of `bounded`.
    quantum : Quantum or None
        How the pixels were quantised.
    parameters : ndarray, shape (2, ny), float64, or None
        The layer of that name, if there is one: of the whole image.
    """

    def __init__(self, predicted: Predicted, step: float, whole: ImageEntry | None) -> None:
        self.predicted, self.step = predicted, step
        self.tolerance = predicted.network.tolerance
        self.image: Prepared = predicted.image
        self.quantum, self.parameters = _fitting_quantum(self.image)
        if whole is None:
            sigma = step * self.image.noise.sigma
            self.odd = self.image.dtype.kind != "f" and _is_odd_better(sigma)
            self.coarse = coarseness(predicted.fwhm, predicted.share, self.fine_width)
            self.dithered = True
            self.dithered = self._is_dither_cheap()
        else:
            self.odd, self.dithered = whole.odd_cells, whole.dithered
            self.coarse = whole.coarse or FINE

    def strips(self) -> Iterator[Layers]:
        """Layers of one strip of tiles after the other.

        Raises
        ------
        NotLadderableError
            If a pixel would not come back bit for bit, or a layer has no room for a number.
        """
        for rows in self.predicted.rows:
            yield StripLayers(self, *rows).made()

    @property
    def fine_width(self) -> float:
        """Width of a cell of the sky over the width asked for, at least 1.

        Cells of less are of few integers, and no narrower where light makes the noise grow.
        """
        sigma, dtype = np.array([self.image.noise.sigma]), self.image.dtype
        width = ladder.cell_width(np.zeros(1, np.int64), sigma, self.step, dtype, odd=self.odd)
        return max(float(width[0] / (self.step * sigma[0])), 1.0)

    def _is_dither_cheap(self) -> bool:
        """Whether remainders have no pattern that dithered cells would scatter, by one tile.

        Pixels of few values, such as those that were rounded before, lie at few places of a cell.
        """
        ty, tx = divmod(int(np.argmax(self.predicted.coded)), self.image.tiles[1])
        first, last = next(rows for rows in self.predicted.rows if rows[0] <= ty < rows[1])
        strip, sizes = StripLayers(self, first, last), []
        for self.dithered in (False, True):
            strip.bounded_tile(strip.cells_of(ty, tx))
            rest = strip.layers["exact"][strip.strip.place(ty, tx)]
            sizes.append(len(BlocksCodec().encode_chunk(rest[np.newaxis])))
        return sizes[1] <= DITHER_COST * sizes[0]


def _fitting_quantum(image: Prepared) -> tuple[Quantum | None, NDArray[np.float64] | None]:
    """How the pixels were quantised, and its layer, if that has room for the parameters."""
    if image.raw.quantum is None:
        return None, None
    found, parameters = image.raw.quantum
    layer = np.zeros((PARAMETERS, image.tiles[0] * TILE))
    if parameters.shape[1] > layer.shape[1]:
        return None, None
    layer[:, : parameters.shape[1]] = parameters
    return found, layer


def _is_odd_better(width: float) -> bool:
    """Whether cells of the sky are even, and their errors scatter little more with one more value.

    Errors of w integers scatter by the root of (w^2 - 1) / 12, of a width of real numbers by its
    root of 1 / 12.
    """
    even = math.floor(width)
    return even > 0 and even % 2 == 0 and (even + 1) ** 2 - 1 <= (ODD_SCATTER * width) ** 2
