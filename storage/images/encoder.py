"""One survey image to its layers: the writing half of the ladder.

Everything that `skyfold.images.window` will do to decode is done here with the same functions on
the same integers, so that each stored checksum is that of what the reader must find, and each
pixel's bound is checked before anything is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold import ladder
from skyfold.codecs.blocks import BlocksCodec
from skyfold.errors import UntrustedModelError
from skyfold.images.index import FLAG_FILL
from skyfold.ladder import LEAF, LEVELS, TILE
from skyfold.layout import STRIDE
from skyfold.noise import NoiseModel
from skyfold.quantum import PARAMETERS, Quantum, QuantumWindow
from storage.images.latent_search import search_latents
from storage.images.noise_fit import mesh_correction
from storage.images.prepared import NotLadderableError, Prepared, pad_to_tiles, prepare
from storage.images.selection import blank_leaves, select_leaves
from storage.images.shaping import FINE, coarseness, shaped_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.images.network import Network
    from storage.survey import SurveyImage

FALLBACK_FWHM = 4.0
DITHER_COST = 1.01  # bytes of remainders in dithered cells, over those in others
ODD_SCATTER = 1.08  # of errors in a cell, over those in one of exactly `step` noise units
MAX_TOLERANCE = 2e-5  # at the prediction limit the guard's residues reach 100 of 126 steps
TOGETHER = 16  # tiles whose coarse cells are chosen in the same steps


@dataclass
class EncodedImage:
    """Layers of one image, padded to whole tiles, ready to be written.

    Attributes
    ----------
    mode : {"ladder", "direct"}
    layers : dict of ndarray
        By name, without the axis of images; `direct` is always there.
    noise : NoiseModel or None
    fills : ndarray, shape (n,)
        Values of flags 2 and up, in the stored dtype.
    fwhm_pix : float or None
    quantum : Quantum or None
        With the layer `quantum`, where floats were integers before.
    odd_cells : bool
        As `skyfold.ladder.cell_width` takes it.
    dithered : bool
        Whether cells are shifted, see `skyfold.ladder.dither`.
    coarse : int or None
        Width of a cell of `sources` in quarters of one of `bounded`.
    """

    mode: str
    layers: dict[str, NDArray[Any]]
    noise: NoiseModel | None = None
    fills: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    fwhm_pix: float | None = None
    quantum: Quantum | None = None
    odd_cells: bool = False
    dithered: bool = False
    coarse: int | None = None


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
        return _Ladder(prepare(image), network, step, whole).run()
    except NotLadderableError:
        return encode_directly(image)


def encode_directly(image: SurveyImage) -> EncodedImage:
    """The raw array alone: for masks, counts, and whatever has no noise."""
    stored = pad_to_tiles(image.stored)
    tiles = (stored.shape[0] // TILE, stored.shape[1] // TILE)
    flags = np.zeros(image.stored.shape, np.uint8)
    if image.mask is not None:
        flags[image.mask] = 1
    layers = {"direct": stored, "flags": pad_to_tiles(flags), "checksum": _checksums(tiles)}
    for ty, tx in np.ndindex(tiles):
        tile = stored[ty * TILE : (ty + 1) * TILE, tx * TILE : (tx + 1) * TILE]
        layers["checksum"][ty, tx, LEVELS.index("exact")] = ladder.checksum(tile)
    return EncodedImage("direct", layers)


@dataclass
class _Tile:
    """A tile on its way to layers.

    Attributes
    ----------
    name : (int, int)
        Its row and column among the tiles.
    place : (slice, slice)
        Its pixels.
    grid, predicted, width, shift, cells : ndarray, shape (256, 256), int64
        X, M, w, d and k.
    """

    name: tuple[int, int]
    place: tuple[slice, slice]
    grid: NDArray[np.int64]
    predicted: NDArray[np.int64]
    width: NDArray[np.int64]
    shift: NDArray[np.int64]
    cells: NDArray[np.int64]

    def residuals(self, some: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Some pixels less M + d, in units of w, shape (n,)."""
        rest = self.grid[some] - self.predicted[some] - self.shift[some]
        return rest / self.width[some]


class _Ladder:
    """Encodes one prepared image tile by tile; holds its growing layers."""

    def __init__(
        self, prepared: Prepared, network: Network, step: float, whole: ImageEntry | None
    ) -> None:
        self.image = prepared
        self.network = network
        self.step = step
        self.whole = whole
        self.dithered = True
        self.odd = prepared.stored.dtype.kind != "f" and _is_odd_better(step * prepared.noise.sigma)
        if whole is not None:
            self.dithered, self.odd = whole.dithered, whole.odd_cells
        shape = prepared.stored.shape
        wide = prepared.stored.dtype.itemsize == 8
        self.coarse, self.fwhm = FINE, FALLBACK_FWHM
        self.layers: dict[str, NDArray[Any]] = {
            "background": prepared.mesh,
            "guard": np.zeros(shape, np.uint8),
            "sources": np.zeros(shape, np.int32),
            "bounded": np.zeros(shape, np.int32),
            "flags": prepared.flags,
            "checksum": _checksums(prepared.tiles),
            "exact": np.zeros(shape, np.int64 if wide else np.int32),
            "direct": prepared.stored,
        }

        self.quantum = self._fitting_quantum()

    def _fitting_quantum(self) -> Quantum | None:
        """How the pixels were quantised, if the layer has room for its parameters."""
        if self.image.quantum is None:
            return None
        found, parameters = self.image.quantum
        layer = np.zeros((PARAMETERS, self.image.stored.shape[0]))
        if parameters.shape[1] > layer.shape[1]:
            return None
        layer[:, : parameters.shape[1]] = parameters
        self.layers["quantum"] = layer
        return found

    def run(self) -> EncodedImage:
        y = self.image.noise_units()
        latents = self.network.encode(y)
        predictions = self.network.decode(latents)
        fwhm = self.fwhm = self._fwhm(self._significance(predictions)[0])
        search_latents(self.network, latents, predictions, y, self.image.coded, fwhm)
        self.layers["latent"] = _side_by_side(latents, self.image.tiles)
        signal, residual = self._significance(predictions)
        leaves = select_leaves(signal, residual, fwhm)
        kept = _pixels(leaves)
        self._correct_background(
            np.where(self.image.coded & ~kept, residual, np.nan),
            _pixels(blank_leaves(leaves, fwhm)),
        )
        if self.whole is None:
            self.dithered = self._is_dither_cheap(predictions, kept)
        share = float(kept[self.image.coded].mean())
        self.coarse = coarseness(fwhm, share, self._fine_width)
        if self.whole is not None:
            self.coarse = self.whole.coarse or FINE
        places = list(enumerate(np.ndindex(self.image.tiles)))
        for start in range(0, len(places), TOGETHER):
            self._refine(predictions, kept, places[start : start + TOGETHER])
        noise, fills = self.image.noise, self.image.fills
        return EncodedImage(
            "ladder",
            self.layers,
            noise,
            fills,
            fwhm,
            self.quantum,
            self.odd,
            self.dithered,
            self.coarse,
        )

    @property
    def _fine_width(self) -> float:
        """Width of a cell of the sky over the width asked for, at least 1.

        Cells of less are of few integers, and no narrower where light makes the noise grow.
        """
        sigma, dtype = np.array([self.image.noise.sigma]), self.image.stored.dtype
        width = ladder.cell_width(np.zeros(1, np.int64), sigma, self.step, dtype, odd=self.odd)
        return max(float(width[0] / (self.step * sigma[0])), 1.0)

    def _is_dither_cheap(self, predictions: NDArray[np.float32], kept: NDArray[np.bool_]) -> bool:
        """Whether remainders have no pattern that dithered cells would scatter, by one tile.

        Pixels of few values, such as those that were rounded before, lie at few places of a cell.
        """
        tiles = list(np.ndindex(self.image.tiles))
        number = int(np.argmax([self.image.coded[self.image.place(*tile)].sum() for tile in tiles]))
        sizes = []
        for self.dithered in (False, True):
            self._bounded_tile(self._cells_of(predictions[number], *tiles[number]))
            rest = self.layers["exact"][self.image.place(*tiles[number])]
            sizes.append(len(BlocksCodec().encode_chunk(rest[np.newaxis])))
        return sizes[1] <= DITHER_COST * sizes[0]

    def _significance(
        self, predictions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Signal, and what the network left of it, over the noise; 0 where nothing is coded."""
        image = self.image
        signal, residual = (np.empty(image.stored.shape, np.float32) for _ in range(2))
        for number, tile in enumerate(np.ndindex(image.tiles)):
            place = image.place(*tile)
            smooth = image.noise.to_signal(predictions[number]).astype(np.float32)
            sigma = image.noise.pixel_sigma(smooth)
            np.divide(image.above[place], sigma, out=signal[place], casting="same_kind")
            smooth *= image.coded[place]
            left = np.subtract(image.above[place], smooth, out=smooth)
            np.divide(left, sigma, out=residual[place], casting="same_kind")
        return signal, residual

    def _correct_background(self, residual: NDArray[np.float32], blank: NDArray[np.bool_]) -> None:
        """Move the mean error of the sky that is not kept into the mesh: it costs no bits.

        The sky there is all that a measurement at `sources` has to subtract.
        """
        self.image.correct(mesh_correction(residual, blank, 3.0) * self.image.noise.sigma)
        self.layers["background"] = self.image.mesh

    def _predict(
        self, y: NDArray[np.float32], ty: int, tx: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Prediction and cell width of a tile; fills in the guard."""
        place = self.image.place(ty, tx)
        background = self.image.background(ty, tx)
        noise = self.image.noise
        smooth = background + noise.to_signal(y)
        guard = ladder.find_guard(y, smooth, noise, self.network.tolerance)
        ny, nx = self._extent(ty, tx)
        guard[max(ny, 0) :] = 0
        guard[:, max(nx, 0) :] = 0
        self.layers["guard"][place] = guard
        predicted = ladder.round_prediction(smooth, noise, guard)
        dtype, sigma = self.image.stored.dtype, noise.pixel_sigma(predicted - background)
        return predicted, ladder.cell_width(predicted, sigma, self.step, dtype, odd=self.odd)

    def _refine(
        self,
        predictions: NDArray[np.float32],
        kept: NDArray[np.bool_],
        places: list[tuple[int, tuple[int, int]]],
    ) -> None:
        """All layers of pixels of some tiles, whose coarse cells are chosen together."""
        tiles = [self._cells_of(predictions[number], *tile) for number, tile in places]
        chosen = np.array([kept[one.place] & self.image.coded[one.place] for one in tiles])
        coarse = np.zeros(chosen.shape, np.int64)
        if self.coarse == FINE:
            coarse[chosen] = np.concatenate(
                [one.cells[its] for one, its in zip(tiles, chosen, strict=True)]
            )
        else:
            residuals = [one.residuals(its) for one, its in zip(tiles, chosen, strict=True)]
            coarse[chosen] = shaped_cells(
                np.concatenate(residuals), chosen, self.coarse, self.fwhm, self._fine_width
            )
        for one, sources, its in zip(tiles, coarse, chosen, strict=True):
            self._bounded_tile(one)
            self._sources_tile(one, sources)
            rest = one.cells << 1
            rest[its] -= 2 * ladder.fine_cells(sources[its], self.coarse)
            rest += kept[one.place]
            _require_fitting(rest, np.dtype(np.int32))
            self.layers["sources"][one.place] = sources
            self.layers["bounded"][one.place] = rest

    def _cells_of(self, y: NDArray[np.float32], ty: int, tx: int) -> _Tile:
        place = self.image.place(ty, tx)
        predicted, width = self._predict(y, ty, tx)
        shift = ladder.dither(width) if self.dithered else np.zeros_like(width)
        grid = self.image.grid(ty, tx)
        cells = ladder.to_cells(grid, predicted + shift, width)
        cells = np.where(self.image.coded[place], cells, 0)
        return _Tile((ty, tx), place, grid, predicted, width, shift, cells)

    def _sources_tile(self, tile: _Tile, cells: NDArray[np.integer[Any]]) -> None:
        """Checksum of what `sources` decodes to."""
        shift = tile.shift * ladder.used_squares(cells, LEAF)
        centres = ladder.coarse_centres(cells, tile.predicted + shift, tile.width, self.coarse)
        met = ladder.checksum(centres, *self._extent(*tile.name))
        self.layers["checksum"][*tile.name, LEVELS.index("sources")] = met

    def _bounded_tile(self, tile: _Tile) -> None:
        centres = ladder.from_cells(tile.cells, tile.predicted + tile.shift, tile.width)
        self._finish_tile(tile.predicted, tile.width, centres, *tile.name)

    def _finish_tile(
        self,
        predicted: NDArray[np.int64],
        width: NDArray[np.int64],
        centres: NDArray[np.int64],
        ty: int,
        tx: int,
    ) -> None:
        """Remainder, checksums and the check of the bound."""
        place = self.image.place(ty, tx)
        stored, coded = self.image.stored[place], self.image.coded[place]
        bounded = ladder.from_grid(centres, self.image.noise, stored.dtype)
        bounded = self._filled(bounded, place)
        rest = ladder.remainder(stored, centres, width, bounded)
        quantum = self._quantum_window(ty, tx)
        if quantum is not None:
            rest = np.where(quantum.is_quantised & coded, quantum.remainder(stored, bounded), rest)
        inside = coded if stored.dtype.kind != "f" else self._inside(place)
        rest = np.where(inside, rest, 0)
        _require_fitting(rest, self.layers["exact"].dtype)
        self.layers["exact"][place] = rest
        exact = ladder.apply_remainder(self.layers["exact"][place], centres, width, bounded)
        if quantum is not None:
            apply = quantum.is_quantised & coded
            exact = np.where(apply, quantum.apply(self.layers["exact"][place], bounded), exact)
        if stored.dtype.kind != "f":
            exact = self._filled(exact, place)
        self._require_exact(exact, place)
        sums = self.layers["checksum"][ty, tx]
        for level, values in (("latent", predicted), ("bounded", centres), ("exact", exact)):
            sums[LEVELS.index(level)] = ladder.checksum(values, *self._extent(ty, tx))

    def _quantum_window(self, ty: int, tx: int) -> QuantumWindow | None:
        if self.quantum is None:
            return None
        return self.quantum.window(
            self.layers["quantum"], self.image.shape, *self.image.place(ty, tx)
        )

    def _inside(self, place: tuple[slice, slice]) -> NDArray[np.bool_]:
        """Whether pixels are of the image, fills included; False in the padding of edge tiles."""
        return self.image.coded[place] | (self.image.flags[place] >= FLAG_FILL)

    def _filled(self, values: NDArray[Any], place: tuple[slice, slice]) -> NDArray[Any]:
        flags = self.image.flags[place]
        filled = flags >= FLAG_FILL
        if filled.any():
            values = values.copy()
            values[filled] = self.image.fills[flags[filled] - FLAG_FILL]
        return values

    def _require_exact(self, exact: NDArray[Any], place: tuple[slice, slice]) -> None:
        """A pixel that would not come back bit for bit sends the image to direct storage."""
        stored, inside = self.image.stored[place], self._inside(place)
        bits = f"u{stored.dtype.itemsize}"
        if (inside & (np.ascontiguousarray(exact).view(bits) != stored.view(bits))).any():
            raise NotLadderableError

    def _fwhm(self, signal: NDArray[np.float32]) -> float:
        from skyfold.science.sources import estimate_fwhm

        if self.whole is not None and self.whole.fwhm_pix is not None:
            return self.whole.fwhm_pix
        good = self.image.coded & (self.image.flags == 0)
        if not good.any():
            return FALLBACK_FWHM
        fwhm = estimate_fwhm(signal, np.ones(signal.shape, np.float32), good)
        return float(fwhm) if np.isfinite(fwhm) and fwhm > 0 else FALLBACK_FWHM

    def _extent(self, ty: int, tx: int) -> tuple[int, int]:
        """Rows and columns of a tile that are of the image."""
        ny, nx = self.image.shape
        return ny - ty * TILE, nx - tx * TILE


def _is_odd_better(width: float) -> bool:
    """Whether cells of the sky are even, and their errors scatter little more with one more value.

    Errors of w integers scatter by the root of (w^2 - 1) / 12, of a width of real numbers by its
    root of 1 / 12.
    """
    even = math.floor(width)
    return even > 0 and even % 2 == 0 and (even + 1) ** 2 - 1 <= (ODD_SCATTER * width) ** 2


def _require_fitting(values: NDArray[np.int64], dtype: np.dtype[Any]) -> None:
    """Integers that a layer has no room for send the image to direct storage."""
    limits = np.iinfo(dtype)
    if values.min() < limits.min or values.max() > limits.max:
        raise NotLadderableError


def _pixels(leaves: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.repeat(np.repeat(leaves, LEAF, axis=0), LEAF, axis=1)


def _checksums(tiles: tuple[int, int]) -> NDArray[np.uint32]:
    return np.zeros((*tiles, len(LEVELS)), np.uint32)


def _side_by_side(latents: NDArray[np.int16], tiles: tuple[int, int]) -> NDArray[np.int16]:
    """Latents of all tiles, shape (tiles, 32, 32, channels), as one plane."""
    side, channels = TILE // STRIDE, latents.shape[-1]
    cut = latents.reshape(*tiles, side, side, channels).transpose(0, 2, 1, 3, 4)
    return cut.reshape(tiles[0] * side, tiles[1] * side, channels)
