"""The layers of a strip's pixels, tile by tile: guard, cells, remainders, checksums.

Everything that `skyfold.images.window` will do to decode is done here with the same functions on
the same integers, so that each stored checksum is that of what the reader must find, and every bit
of `exact` is checked before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold import ladder
from skyfold.compiled import can_compile
from skyfold.images.index import FLAG_FILL
from skyfold.ladder import LEAF, LEVELS, TILE
from skyfold.ladder_kernels import evenly, narrower
from skyfold.layout import STRIDE
from skyfold.noise import GLOW_CELL, MESH, NOISE_CELL
from storage.images import tile_kernels as kernels
from storage.images.far_pixels import WHOLE, Cells, keep_bound
from storage.images.predicted import cropped
from storage.images.prepared import NotLadderableError, padded
from storage.images.shaping import FINE, shaped_cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.quantum import QuantumWindow
    from storage.images.refined import Refined

TOGETHER = 16  # tiles whose coarse cells are chosen in the same steps

Layers = dict[str, "NDArray[Any]"]


@dataclass
class Tile:
    """A tile on its way to layers.

    Attributes
    ----------
    name : (int, int)
        Its row and column among the tiles.
    place : (slice, slice)
        Its pixels.
    grid, predicted, width, shift, cells : ndarray, shape (ny, nx), int64
        X, M, w, d and k.
    glow : ndarray, shape (ny, nx), int64, or None
        What `sources` adds [quarters of a grid unit].
    """

    name: tuple[int, int]
    place: tuple[slice, slice]
    grid: NDArray[np.int64]
    predicted: NDArray[np.int64]
    width: NDArray[np.int64]
    shift: NDArray[np.int64]
    cells: NDArray[np.int64]
    glow: NDArray[np.int64] | None = None

    def residuals(self, some: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Some pixels less M + d and the glow, in units of w, shape (n,)."""
        rest = self.grid[some] - self.predicted[some] - self.shift[some]
        if self.glow is None:
            return rest / self.width[some]
        return (4 * rest - self.glow[some]) / (4 * self.width[some])

    def fine(self, some: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Cells of some pixels at `sources` that are as wide as at `bounded`, shape (n,)."""
        if self.glow is None:
            return self.cells[some]
        return np.floor(self.residuals(some) + 0.5).astype(np.int64)


class StripLayers:
    """Encodes a strip of tiles; holds its growing layers."""

    def __init__(self, how: Refined, first: int, last: int) -> None:
        self.how, self.image, self.noise = how, how.image, how.image.noise
        self.look = how.predicted.look(first, last)
        self.kept, self.core = how.predicted.kept(first, last)
        self.strip = self.look.strip
        wide, tiles = how.image.dtype.itemsize == 8, (last - first, how.image.tiles[1])
        shape = tiles[0] * TILE, tiles[1] * TILE
        nodes = slice(first * TILE // MESH, last * TILE // MESH)
        self.layers: Layers = {
            "background": how.image.mesh[nodes],
            "latent": side_by_side(self.look.latents, tiles),
            "guard": np.zeros(shape, np.uint8),
            "sources": np.zeros(shape, np.int32),
            "bounded": np.zeros(shape, np.int32),
            "flags": padded(self.strip.flags),
            "checksum": np.zeros((*tiles, len(LEVELS)), np.uint32),
            "exact": np.zeros(shape, np.int64 if wide else np.int32),
        }
        if how.image.uneven is not None:
            cells = slice(first * TILE // NOISE_CELL, last * TILE // NOISE_CELL)
            self.layers["noise"] = how.image.uneven[cells]
        if how.image.glow is not None:
            cells = slice(first * TILE // GLOW_CELL, last * TILE // GLOW_CELL)
            self.layers["glow"] = how.image.glow[cells]

    def made(self) -> Layers:
        """Every layer, finished."""
        tiles = self.strip.tiles
        for start in range(0, len(tiles), TOGETHER):
            self._refine(tiles[start : start + TOGETHER])
        return self.layers

    def _predict(
        self, y: NDArray[np.float32], ty: int, tx: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Prediction and cell width of a tile; fills in the guard."""
        place = self.strip.place(ty, tx)
        background, factor = self.strip.background(ty, tx), self.strip.factor(ty, tx)
        noise = self.noise
        smooth = background + noise.to_signal(y, factor)
        try:
            guard = ladder.find_guard(y, smooth, noise, self.how.tolerance, factor)
        except OverflowError as error:
            raise NotLadderableError from error
        ny, nx = self._extent(ty, tx)
        guard[max(ny, 0) :] = 0
        guard[:, max(nx, 0) :] = 0
        self.layers["guard"][place] = guard
        predicted = ladder.round_prediction(smooth, noise, guard)
        dtype, sigma = self.image.dtype, noise.pixel_sigma(predicted - background, factor)
        step, odd = self.how.step, self.how.odd
        return predicted, ladder.cell_width(predicted, sigma, step, dtype, odd=odd)

    def _refine(self, names: list[tuple[int, int]]) -> None:
        """All layers of pixels of some tiles, whose coarse cells are chosen together."""
        tiles, how = [self.cells_of(*name) for name in names], self.how
        for one in tiles:
            glow = self.strip.glow(*one.name)
            one.glow = None if glow is None else ladder.to_quarters(glow)
        kept = [self.kept[one.place] & self.strip.coded[one.place] for one in tiles]
        if how.coarse == FINE:
            coarse = np.concatenate([one.fine(its) for one, its in zip(tiles, kept, strict=True)])
        else:
            coarse = self._shaped(tiles, kept)
        _require_fitting(how.coarse * coarse + 2, np.dtype(np.int32))  # as a reader counts
        ends = np.cumsum([np.count_nonzero(its) for its in kept])
        for one, its, some in zip(tiles, kept, np.split(coarse, ends[:-1]), strict=True):
            sources = np.zeros(its.shape, np.int64)
            sources[its] = some
            self.bounded_tile(one)
            self._sources_tile(one, sources)
            rest = one.cells << 1
            rest[its] -= 2 * ladder.fine_cells(some, how.coarse)
            rest += self.kept[one.place]
            _require_fitting(rest, np.dtype(np.int32))
            self.layers["sources"][one.place] = sources
            self.layers["bounded"][one.place] = rest

    def _shaped(self, tiles: list[Tile], kept: list[NDArray[np.bool_]]) -> NDArray[np.int64]:
        """Coarse cells of the kept pixels of some tiles, whose errors are shaped."""
        pairs = list(zip(tiles, kept, strict=True))
        residuals = np.concatenate([one.residuals(its) for one, its in pairs])
        _require_fitting(residuals, np.dtype(np.int32))
        outer = np.concatenate([~self.core[one.place][its] for one, its in pairs])
        how, chosen = self.how, np.array([padded(its) for its in kept])
        fwhm, fine = how.predicted.fwhm, how.fine_width
        return shaped_cells(residuals, chosen, how.coarse, fwhm, fine, outer).astype(np.int64)

    def cells_of(self, ty: int, tx: int) -> Tile:
        """A tile and its cells."""
        place, grid = self.strip.place(ty, tx), self.strip.grid(ty, tx)
        number = (ty - self.strip.first) * self.image.tiles[1] + tx
        y = cropped(self.look.predictions[number], grid.shape)
        if can_compile() and np.isfinite(y).all():
            return self._compiled_cells((ty, tx), place, y, grid)
        predicted, width = self._predict(y, ty, tx)
        shift = ladder.dither(width) if self.how.dithered else np.zeros_like(width)
        cells = ladder.to_cells(grid, predicted + shift, width)
        cells = np.where(self.strip.coded[place], cells, 0)
        return self._bounded(Tile((ty, tx), place, grid, predicted, width, shift, cells))

    def _compiled_cells(
        self,
        name: tuple[int, int],
        place: tuple[slice, slice],
        y: NDArray[np.float32],
        grid: NDArray[np.int64],
    ) -> Tile:
        """As `cells_of`, without a pass over memory for each step."""
        noise, dtype, how = self.noise, self.image.dtype, self.how
        predicted, width, shift, cells = (np.empty(y.shape, np.int64) for _ in range(4))
        apart = kernels.cells(
            y,
            self.strip.background(*name),
            evenly(self.strip.factor(*name), grid.shape),
            grid,
            self.strip.coded[place],
            self._extent(*name),
            noise.numbers,
            how.tolerance,
            how.step,
            narrower(dtype),
            how.odd,
            how.dithered,
            self.layers["guard"][place],
            predicted,
            width,
            shift,
            cells,
        )
        if apart > ladder.FARTHEST:
            raise NotLadderableError
        return self._bounded(Tile(name, place, grid, predicted, width, shift, cells))

    def _bounded(self, tile: Tile) -> Tile:
        """A tile all of whose pixels keep the bound as a reader finds them."""
        if self.image.dtype != np.float32 or np.abs(tile.grid).max() < WHOLE:
            return tile
        sky = self.strip.background(*tile.name), self.strip.factor(*tile.name)
        how = Cells(self.noise, self.how.step, self.how.dithered, *sky)
        stored, coded = self.strip.stored[tile.place], self.strip.coded[tile.place]
        keep_bound(how, stored, coded, tile, self.layers["guard"][tile.place])
        return tile

    def _sources_tile(self, tile: Tile, cells: NDArray[np.integer[Any]]) -> None:
        """Checksum of what `sources` decodes to."""
        shift = tile.shift * ladder.used_squares(cells, LEAF)
        centres = ladder.coarse_centres(cells, tile.predicted + shift, tile.width, self.how.coarse)
        if tile.glow is not None:
            centres += tile.glow
        met = ladder.checksum(centres, *self._extent(*tile.name))
        self._sums(*tile.name)[LEVELS.index("sources")] = met

    def bounded_tile(self, tile: Tile) -> None:
        """Remainder and checksums of a tile, every bit of which is checked."""
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
        """Remainder, checksums and the check of every bit."""
        place = self.strip.place(ty, tx)
        stored, coded = self.strip.stored[place], self.strip.coded[place]
        bounded = ladder.from_grid(centres, self.noise, stored.dtype)
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
        sums = self._sums(ty, tx)
        for level, values in (("latent", predicted), ("bounded", centres), ("exact", exact)):
            sums[LEVELS.index(level)] = ladder.checksum(values, *self._extent(ty, tx))

    def _sums(self, ty: int, tx: int) -> NDArray[np.uint32]:
        """Checksums of a tile, by level."""
        sums: NDArray[np.uint32] = self.layers["checksum"][ty - self.strip.first, tx]
        return sums

    def _quantum_window(self, ty: int, tx: int) -> QuantumWindow | None:
        if self.how.quantum is None:
            return None
        assert self.how.parameters is not None  # which come together
        pixels = self.strip.pixels(ty, tx)
        return self.how.quantum.window(self.how.parameters, self.image.shape, *pixels)

    def _inside(self, place: tuple[slice, slice]) -> NDArray[np.bool_]:
        """Whether pixels are of the image, fills included; False in the padding of edge tiles."""
        return self.strip.coded[place] | (self.strip.flags[place] >= FLAG_FILL)

    def _filled(self, values: NDArray[Any], place: tuple[slice, slice]) -> NDArray[Any]:
        flags = self.strip.flags[place]
        filled = flags >= FLAG_FILL
        if filled.any():
            values = values.copy()
            values[filled] = self.image.fills.values[flags[filled] - FLAG_FILL]
        return values

    def _require_exact(self, exact: NDArray[Any], place: tuple[slice, slice]) -> None:
        """A pixel that would not come back bit for bit sends the image to direct storage."""
        stored, inside = self.strip.stored[place], self._inside(place)
        bits = f"u{stored.dtype.itemsize}"
        if (inside & (np.ascontiguousarray(exact).view(bits) != stored.view(bits))).any():
            raise NotLadderableError

    def _extent(self, ty: int, tx: int) -> tuple[int, int]:
        """Rows and columns of a tile that are of the image."""
        ny, nx = self.image.shape
        return ny - ty * TILE, nx - tx * TILE


def _require_fitting(values: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Numbers that a layer has no room for send the image to direct storage."""
    limits = np.iinfo(dtype)
    if values.size and (values.min() < limits.min or values.max() > limits.max):
        raise NotLadderableError


def side_by_side(latents: NDArray[np.int16], tiles: tuple[int, int]) -> NDArray[np.int16]:
    """Latents of all tiles, shape (tiles, 32, 32, channels), as one plane."""
    side, channels = TILE // STRIDE, latents.shape[-1]
    cut = latents.reshape(*tiles, side, side, channels).transpose(0, 2, 1, 3, 4)
    return cut.reshape(tiles[0] * side, tiles[1] * side, channels)
