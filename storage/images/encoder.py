"""One survey image to its layers: the writing half of the ladder.

What is predicted of all of it comes first (`storage.images.predicted`), then how its cells are
(`storage.images.refined`), then its layers, strip by strip (`storage.images.strip_layers`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold import ladder
from skyfold.errors import UntrustedModelError
from skyfold.ladder import LEVELS, TILE
from storage.images.fills import slices
from storage.images.mapped import part_of
from storage.images.predicted import Predicted
from storage.images.prepared import NotLadderableError, padded, prepare
from storage.images.refined import Refined
from storage.images.strip_layers import Layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.images.network import Network
    from skyfold.noise import NoiseModel
    from skyfold.quantum import Quantum
    from storage.survey import SurveyImage

MAX_TOLERANCE = 2e-5  # at the prediction limit the guard's residues reach 100 of 126 steps


@dataclass
class EncodedImage:
    """One image on its way to layers, padded to whole tiles, ready to be written.

    Attributes
    ----------
    mode : {"ladder", "direct"}
    raw : SurveyImage
    strips : callable
        Gives the layers of one strip of tiles after the other, without the axis of images, and
        without `direct`, `quantum` and `stripes`; raises `NotLadderableError` where it meets what
        cannot be refined.
    noise : NoiseModel or None
    fills : ndarray, shape (n,)
        Values of flags 2 and up, in the stored dtype.
    fwhm_pix : float or None
    quantum : Quantum or None
        With the layer `quantum`, where floats were integers before.
    parameters : ndarray, shape (2, ny), float64, or None
        That layer.
    odd_cells : bool
        As `skyfold.ladder.cell_width` takes it.
    dithered : bool
        Whether cells are shifted, see `skyfold.ladder.dither`.
    coarse : int or None
        Width of a cell of `sources` in quarters of one of `bounded`.
    uneven : bool
        Whether the layer `noise` is needed.
    stripes : ndarray, shape (2, 256 max(tiles)), int32, or None
        The layer of that name, if it is needed.
    glowing : bool
        Whether the layer `glow` is needed.
    """

    mode: str
    raw: SurveyImage
    strips: Callable[[], Iterator[Layers]]
    noise: NoiseModel | None = None
    fills: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    fwhm_pix: float | None = None
    quantum: Quantum | None = None
    parameters: NDArray[np.float64] | None = None
    odd_cells: bool = False
    dithered: bool = False
    coarse: int | None = None
    uneven: bool = False
    stripes: NDArray[np.int32] | None = None
    glowing: bool = False

    @property
    def of_all(self) -> Layers:
        """Layers that are not made strip by strip."""
        layers = {"quantum": self.parameters, "stripes": self.stripes}
        return {name: one for name, one in layers.items() if one is not None}

    def without_ladder(self) -> EncodedImage:
        """The same image, stored directly."""
        return EncodedImage(
            "direct", self.raw, self.strips, fills=self.fills, fwhm_pix=self.fwhm_pix
        )

    def described(self, entry: ImageEntry) -> ImageEntry:
        """A row of the index with all that a reader of these layers has to know."""
        return replace(
            entry,
            mode=self.mode,
            noise=self.noise,
            fills=self.fills.astype(self.fills.dtype.newbyteorder("<")).tobytes(),
            fwhm_pix=self.fwhm_pix,
            quantum=self.quantum,
            odd_cells=self.odd_cells,
            dithered=self.dithered,
            coarse=self.coarse,
            uneven=self.uneven,
            striped=self.stripes is not None,
            glowing=self.glowing,
        )

    @cached_property
    def layers(self) -> Layers:
        """All layers of all of the image, by name."""
        parts = list(self.strips())
        joined = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
        return joined | self.of_all | {"direct": padded(part_of(self.raw.stored, slice(None)))}


def encode_image(
    image: SurveyImage, network: Network, step: float, whole: ImageEntry | None = None
) -> EncodedImage:
    """All layers of one image.

    Parameters
    ----------
    image : SurveyImage
    network : Network
    step : float
        Cell width in noise units.
    whole : ImageEntry, optional
        The archived image that this is a piece of: how wide its points are and of what kind its
        cells, a piece cannot tell.

    Raises
    ------
    UntrustedModelError
        If the model states a tolerance that the guard cannot hold.
    """
    if not 0 < network.tolerance <= MAX_TOLERANCE:
        raise UntrustedModelError(
            f"model {network.digest} has tolerance {network.tolerance}; between 0 and "
            f"{MAX_TOLERANCE} the guard can hold it: export the model again"
        )
    try:
        return _as_ladder(image, network, step, whole)
    except NotLadderableError:
        return encode_directly(image)


def _as_ladder(
    image: SurveyImage, network: Network, step: float, whole: ImageEntry | None
) -> EncodedImage:
    prepared = prepare(image)
    predicted = Predicted(prepared, network, whole.fwhm_pix if whole else None)
    refined = Refined(predicted, step, whole)
    strips: Callable[[], Iterator[Layers]] = refined.strips
    if len(predicted.rows) == 1:  # whether it is a ladder then shows at once
        strips = list(strips()).__iter__
    return EncodedImage(
        "ladder",
        image,
        strips,
        prepared.noise,
        prepared.fills.values,
        predicted.fwhm,
        refined.quantum,
        refined.parameters,
        refined.odd,
        refined.dithered,
        refined.coarse,
        prepared.uneven is not None,
        prepared.stripes,
        prepared.glow is not None,
    )


def encode_directly(image: SurveyImage) -> EncodedImage:
    """The raw array alone: for masks, counts, and whatever has no noise."""
    return EncodedImage("direct", image, lambda: _direct_layers(image))


def _direct_layers(image: SurveyImage) -> Iterator[Layers]:
    """Flags and checksums, of one row of tiles after the other."""
    for rows in slices(len(image.stored), TILE):
        stored = padded(part_of(image.stored, rows))
        flags = np.zeros(stored.shape, np.uint8)
        if image.mask is not None:
            flags[: rows.stop - rows.start, : image.mask.shape[1]][image.mask[rows]] = 1
        sums = np.zeros((1, stored.shape[1] // TILE, len(LEVELS)), np.uint32)
        for tx in range(sums.shape[1]):
            met = ladder.checksum(stored[:, tx * TILE : (tx + 1) * TILE])
            sums[0, tx, LEVELS.index("exact")] = met
        yield {"flags": flags, "checksum": sums}
