"""Decoding a window of one image: the layers it needs, tile by tile, each checked.

What `exact` and `bounded` return is integer arithmetic on stored integers, guarded where the
network's rounding takes part and checked by a CRC of every tile; `latent` and the blocks that
`sources` leaves out are the network's own numbers, whose rounded form was checked the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skyfold import ladder
from skyfold.errors import CorruptDataError, InvalidRequestError, LevelNotStoredError
from skyfold.images.index import FLAG_FILL
from skyfold.images.refined import Given, Refined, refine, smooth_values, sources_values
from skyfold.ladder import BLOCK, LEVELS, TILE
from skyfold.layout import STRIDE
from skyfold.noise import Factor, NoiseModel, noise_at, stripes_at
from skyfold.quantum import Quantum, QuantumWindow

if TYPE_CHECKING:
    from skyfold.images.index import ImageEntry

ReadLayers = Callable[[tuple[str, ...], slice, slice], dict[str, NDArray[Any]]]


class Predicts(Protocol):
    """A network, as far as decoding needs it; see `skyfold.images.network.Network`."""

    def decode(self, latents: NDArray[np.int16]) -> NDArray[np.float32]:
        """Noise-unit tiles of quantised latents."""


@dataclass(frozen=True)
class Window:
    """Decoded pixels of one image, in stored units.

    Attributes
    ----------
    values : ndarray, shape (ny, nx)
        `exact` and `bounded`: the stored dtype. `latent` and `sources`: float32, or float64 where
        the stored dtype has eight bytes; blank integers are NaN. An image that is stored directly
        has its stored values, of the stored dtype, at every level.
    flags : ndarray, shape (ny, nx), uint8
        0 good, 1 masked by the survey, 2 and up a fill value: NaN, blank, padding.
    sigma : ndarray, shape (ny, nx), float64, or None
        Noise of each pixel [stored unit], the unit of the bound; None for images without noise.
    rows, columns : slice
        Of the image.
    """

    values: NDArray[Any]
    flags: NDArray[np.uint8]
    sigma: NDArray[np.float64] | None
    rows: slice
    columns: slice


def check_level(level: str) -> str:
    """The level, if there is one of this name; LevelNotStoredError otherwise."""
    if level not in LEVELS:
        raise LevelNotStoredError(f"level {level!r} is not one of {', '.join(LEVELS)}")
    return level


def decode_window(
    entry: ImageEntry,
    level: str,
    rows: slice,
    columns: slice,
    *,
    read: ReadLayers,
    network: Predicts | None,
) -> Window:
    """Pixels ``[rows, columns]`` of an image at a level.

    Parameters
    ----------
    entry : ImageEntry
    level : str
        One of latent, sources, bounded, exact.
    rows, columns : slice
        Start and stop given, within the image [pixel].
    read : callable
        Gives named layers of the image for a window of tiles (slices in tiles).
    network : Network or None
        The entry's model; None for mode ``direct``.

    Raises
    ------
    InvalidRequestError
        If the window is empty or reaches beyond the image.
    CorruptDataError
        If a decoded tile does not have its stored checksum.
    """
    check_level(level)
    check_window(entry, rows, columns)
    tiles_y = slice(rows.start // TILE, -(-rows.stop // TILE))
    tiles_x = slice(columns.start // TILE, -(-columns.stop // TILE))
    layers = read(entry.layers_at(level), tiles_y, tiles_x)
    decoder = _Decoder(entry, level, layers, network)
    pixels = decoder.run(tiles_y, tiles_x)
    cut = (
        slice(rows.start - tiles_y.start * TILE, rows.stop - tiles_y.start * TILE),
        slice(columns.start - tiles_x.start * TILE, columns.stop - tiles_x.start * TILE),
    )
    values, flags, sigma = (None if plane is None else plane[cut] for plane in pixels)
    return Window(values, flags, sigma, rows, columns)  # type: ignore[arg-type]


class Shared:
    """Layers and predictions of one window, read and worked out once for all of its levels.

    Parameters
    ----------
    read, network
        As of `decode_window`, which takes what is here in their place.
    """

    def __init__(self, read: ReadLayers, network: Predicts | None) -> None:
        self._read = read
        self._layers: dict[str, NDArray[Any]] = {}
        self.network = None if network is None else _Once(network)

    def read(
        self, names: tuple[str, ...], tiles_y: slice, tiles_x: slice
    ) -> dict[str, NDArray[Any]]:
        """Named layers of the window; see `decode_window`, whose `read` it takes the place of."""
        missing = tuple(name for name in names if name not in self._layers)
        self._layers |= self._read(missing, tiles_y, tiles_x) if missing else {}
        return {name: self._layers[name] for name in names}


class _Once:
    """A network that decodes one array of latents, once."""

    def __init__(self, network: Predicts) -> None:
        self._network = network
        self._predicted: NDArray[np.float32] | None = None

    def decode(self, latents: NDArray[np.int16]) -> NDArray[np.float32]:
        """Noise-unit tiles."""
        if self._predicted is None:
            self._predicted = self._network.decode(latents)
        return self._predicted


def check_window(entry: ImageEntry, rows: slice, columns: slice) -> None:
    """Raise InvalidRequestError for a window that is empty or beyond; see `decode_window`."""
    for name, window, side in (
        ("rows", rows, entry.plane[0]),
        ("columns", columns, entry.plane[1]),
    ):
        if not 0 <= window.start < window.stop <= side:
            raise InvalidRequestError(
                f"{name} {window.start}:{window.stop} of image {entry.id}: it has {side}; give a "
                "start below a stop within them"
            )


_NO_CELLS = np.zeros((0, 0), np.int32)


class _Decoder:
    """Decodes the tiles of one window; holds what they share."""

    def __init__(
        self,
        entry: ImageEntry,
        level: str,
        layers: dict[str, NDArray[Any]],
        network: Predicts | None,
    ) -> None:
        self.entry = entry
        self.level = level
        self.layers = layers
        self.network = network
        self.dtype = np.dtype(entry.dtype)
        self.origin = (0, 0)

    def run(
        self, tiles_y: slice, tiles_x: slice
    ) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float64] | None]:
        """Values, flags and noise of all tiles, side by side."""
        self.origin = (tiles_y.start, tiles_x.start)
        shape = (
            (tiles_y.stop - tiles_y.start) * TILE,
            (tiles_x.stop - tiles_x.start) * TILE,
        )
        if "direct" in self.layers:
            return self._run_direct(shape)
        predictions = self._predict(shape)
        values = np.empty(shape, self.dtype if self.level in ("bounded", "exact") else self._float)
        sigma = np.empty(shape)
        for number, (name, place) in enumerate(self._tiles(shape)):
            values[place], sigma[place] = self._tile(predictions[number], place, name)
        return values, self.layers["flags"].copy(), sigma

    def _tiles(
        self, shape: tuple[int, int]
    ) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
        """Each tile of the window: its name, and where its pixels lie; those that hold an image."""
        for ty, tx in np.ndindex(shape[0] // TILE, shape[1] // TILE):
            name = (self.origin[0] + ty, self.origin[1] + tx)
            ny, nx = (one.stop - one.start for one in self._pixels_of(name))
            yield name, (slice(ty * TILE, ty * TILE + ny), slice(tx * TILE, tx * TILE + nx))

    def _pixels_of(self, name: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns of a tile in its image, and up to 7 beyond: what leaves and blocks do.

        The rest of a tile at the edge is left out; nothing of it is asked for.
        """
        y, x = (
            slice(at * TILE, min((at + 1) * TILE, -(-side // BLOCK) * BLOCK))
            for at, side in zip(name, self.entry.plane, strict=True)
        )
        return y, x

    @property
    def _float(self) -> np.dtype[Any]:
        return np.dtype("f8" if self.dtype.itemsize == 8 else "f4")

    def _run_direct(
        self, shape: tuple[int, int]
    ) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float64] | None]:
        values = self.layers["direct"].copy()
        sigma = None if self.entry.noise is None else np.empty(shape)
        for name, place in self._tiles(shape):
            self._check(values[place], name, "exact")
            if sigma is not None:
                sigma[place] = self._sigma_of(values[place], self.layers["flags"][place], name)
        return values, self.layers["flags"].copy(), sigma

    def _sigma_of(
        self, stored: NDArray[Any], flags: NDArray[np.uint8], name: tuple[int, int]
    ) -> NDArray[np.float64]:
        """Noise of a tile's pixels by their own values [stored unit]; fills have the sky's."""
        noise, background = self._noise, self._background(name)
        with np.errstate(invalid="ignore", over="ignore"):  # of fills
            grid = np.ldexp(stored.astype(np.float64), -noise.grid_exponent)
            signal = np.where(flags < FLAG_FILL, grid - background, 0)
        sigma = noise.pixel_sigma(signal, self._factor(name))
        return sigma * math.ldexp(1.0, noise.grid_exponent)

    def _predict(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Network output of every tile, shape (tiles, 256, 256)."""
        if self.network is None:
            raise CorruptDataError(f"image {self.entry.id} names no model; fetch the index again")
        side = TILE // STRIDE
        latents = self.layers["latent"]
        ny, nx = shape[0] // TILE, shape[1] // TILE
        tiles = latents.reshape(ny, side, nx, side, -1).transpose(0, 2, 1, 3, 4)
        return self.network.decode(tiles.reshape(ny * nx, side, side, -1))

    def _tile(
        self, y: NDArray[np.float32], place: tuple[slice, slice], name: tuple[int, int]
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        guard = self.layers["guard"][place]
        y = y[: guard.shape[0], : guard.shape[1]]
        given = Given(y, self._background(name), self._factor(name), guard, self._glow(name))
        refined = refine(self.entry, self._noise, self.level, given, self._cells(place))
        values = self._values(refined, place, name)
        sigma = refined.sigma
        sigma *= math.ldexp(1.0, self._noise.grid_exponent)
        return values, sigma

    def _cells(self, place: tuple[slice, slice]) -> NDArray[np.int32]:
        """Cells of one tile at the level; none of `latent`."""
        if self.level == "latent":
            return _NO_CELLS
        cells: NDArray[np.int32] = self.layers["sources"][place]
        if self.level == "sources":
            return cells
        return ladder.joined_cells(cells, self.layers["bounded"][place], self.entry.coarse)

    def _background(self, name: tuple[int, int]) -> NDArray[np.float64]:
        noise, place = self._noise, self._pixels_of(name)
        background = noise.background(self.layers["background"], *place)
        if self.entry.striped:
            background += stripes_at(self.layers["stripes"], noise.background_step, *place)
        return background

    def _factor(self, name: tuple[int, int]) -> Factor:
        """Factors of a tile's noise, of an image that is not equally deep all over."""
        return noise_at(self.layers["noise"], *self._pixels_of(name)) if self.entry.uneven else None

    def _glow(self, name: tuple[int, int]) -> NDArray[np.float64] | None:
        """Smooth light of a tile that the network left; None without, and where cells hold it."""
        if not self.entry.glowing or self.level != "sources":
            return None
        return self._noise.glow(self.layers["glow"], *self._pixels_of(name))

    @property
    def _noise(self) -> NoiseModel:
        if self.entry.noise is None:
            raise CorruptDataError(
                f"image {self.entry.id} has no noise model; fetch the index again"
            )
        return self.entry.noise

    def _values(
        self, refined: Refined, place: tuple[slice, slice], name: tuple[int, int]
    ) -> NDArray[Any]:
        """Values of one tile at the level."""
        flags, level = self.layers["flags"][place], self.level
        if level != "exact":
            self._check(refined.centres, name, level)
        if level == "latent":
            return self._fill(smooth_values(refined, self._noise, self._float), flags)
        if level == "sources":
            values = sources_values(self.entry, self._noise, refined, self._float)
            return self._fill(values, flags)
        bounded = self._fill(ladder.from_grid(refined.centres, self._noise, self.dtype), flags)
        if level == "bounded":
            return bounded
        return self._exact(refined.centres, refined.width, bounded, flags, place, name)

    def _exact(
        self,
        centres: NDArray[np.int64],
        width: NDArray[np.int64],
        bounded: NDArray[Any],
        flags: NDArray[np.uint8],
        place: tuple[slice, slice],
        name: tuple[int, int],
    ) -> NDArray[Any]:
        rest = self.layers["exact"][place]
        values = ladder.apply_remainder(rest, centres, width, bounded)
        if self.entry.quantum is not None:
            quantum = self._quantum(self.entry.quantum, name)
            use = quantum.is_quantised & (flags < FLAG_FILL)
            values = np.where(use, quantum.apply(rest, bounded), values)
        if self.dtype.kind != "f":
            values = self._fill(values, flags)
        self._check(values, name, "exact")
        return values

    def _quantum(self, quantum: Quantum, name: tuple[int, int]) -> QuantumWindow:
        return quantum.window(self.layers["quantum"], self.entry.plane, *self._pixels_of(name))

    def _fill(self, values: NDArray[Any], flags: NDArray[np.uint8]) -> NDArray[Any]:
        """Values where flags say that there is no measurement: NaN, blank, padding."""
        filled = flags >= FLAG_FILL
        if not filled.any():
            return values
        fills = self.entry.fill_values()
        number = flags[filled] - FLAG_FILL
        if number.max() >= len(fills):
            raise CorruptDataError(
                f"image {self.entry.id} flags fill value {number.max()} of {len(fills)}"
            )
        chosen = fills[number]
        if values.dtype != self.dtype and self.entry.blank is not None:
            chosen = np.where(chosen == self.entry.blank, np.nan, chosen.astype(values.dtype))
        values = values.copy()
        values[filled] = chosen
        return values

    def _check(self, values: NDArray[Any], name: tuple[int, int], level: str) -> None:
        stored = self.layers["checksum"]
        place = (name[0] - self.origin[0], name[1] - self.origin[1], LEVELS.index(level))
        ny, nx = (side - at * TILE for side, at in zip(self.entry.plane, name, strict=True))
        expected, met = int(stored[place]), ladder.checksum(values, ny, nx)
        if expected != met:
            raise CorruptDataError(
                f"tile {name} of image {self.entry.id} at level {level} has CRC {met:08x}, stored "
                f"is {expected:08x}: layers under images/{self.entry.set}/{self.entry.group} at "
                f"row {self.entry.row} are damaged; run `skyfold verify` and fetch them again"
            )
