"""One survey image on its grid: pixels, flags, noise model and background, in whole tiles.

What the encoder refines and what training looks at. All that decides whether an image can be a
ladder is found here: values that stand for none, noise, and whether the grid holds every pixel.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold import ladder
from skyfold.images.index import FLAG_FILL
from skyfold.ladder import SAFE_INTEGER, TILE
from skyfold.noise import MESH, NoiseModel, background_at
from storage.images.noise_fit import (
    NoiseFit,
    find_fills,
    fit_noise,
    is_safe_integer,
    mesh_in_steps,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.survey import SurveyImage


class NotLadderableError(Exception):
    """The image cannot be refined step by step; it is stored directly."""


def prepare(image: SurveyImage) -> Prepared:
    """Pixels on the grid and in noise units; NotLadderableError where there is no noise."""
    found = find_fills(image)
    if found is None or not is_safe_integer(image.stored):
        raise NotLadderableError
    flags, fills = found
    if (flags >= FLAG_FILL).all():
        raise NotLadderableError
    fit = fit_noise(image, flags)
    if not (np.isfinite(fit.sigma) and fit.sigma > 0 and np.isfinite(fit.background).all()):
        raise NotLadderableError
    return Prepared(image, flags, fills, fit)


class Prepared:
    """One image on its grid: stored pixels, flags, noise model and background, padded to tiles."""

    def __init__(
        self, image: SurveyImage, flags: NDArray[np.uint8], fills: NDArray[Any], fit: NoiseFit
    ) -> None:
        integer = image.stored.dtype.kind != "f"
        self.noise = NoiseModel.from_stored_units(fit.sigma, fit.slope, integer=integer)
        self.fills = fills
        self.shape = image.stored.shape
        self.flags = pad_to_tiles(flags)
        self.stored = pad_to_tiles(image.stored)
        self.coded = np.zeros(self.stored.shape, bool)
        self.coded[: flags.shape[0], : flags.shape[1]] = flags < FLAG_FILL
        self.quantum = image.quantum
        nodes = (self.stored.shape[0] // MESH, self.stored.shape[1] // MESH)
        exponent, step = self.noise.grid_exponent, self.noise.background_step
        self.mesh = mesh_in_steps(fit.background, exponent, step, nodes)
        self.tiles = (self.stored.shape[0] // TILE, self.stored.shape[1] // TILE)

    def correct(self, correction: NDArray[np.float64]) -> None:
        """Add to the mesh, in grid units."""
        steps = np.rint(correction / self.noise.background_step)
        limits = np.iinfo(np.int32)
        self.mesh = np.clip(self.mesh + steps, limits.min, limits.max).astype(np.int32)

    def place(self, ty: int, tx: int) -> tuple[slice, slice]:
        """Pixels of a tile."""
        return slice(ty * TILE, (ty + 1) * TILE), slice(tx * TILE, (tx + 1) * TILE)

    def background(self, ty: int, tx: int) -> NDArray[np.float64]:
        """Background of a tile [grid units]."""
        return background_at(self.mesh, self.noise.background_step, *self.place(ty, tx))

    def grid(self, ty: int, tx: int) -> NDArray[np.int64]:
        """Stored pixels of a tile on the grid; background where none is coded."""
        place = self.place(ty, tx)
        coded = self.coded[place]
        whole = bool(coded.all())
        stored = self.stored[place] if whole else np.where(coded, self.stored[place], 0)
        exact = ladder.to_grid(stored, self.noise)
        if max(-int(exact.min()), int(exact.max())) >= SAFE_INTEGER:
            raise NotLadderableError
        if whole:
            return exact
        return np.where(coded, exact, np.rint(self.background(ty, tx)).astype(np.int64))

    @cached_property
    def above(self) -> NDArray[np.float32]:
        """Every pixel less its background [grid units], rounded to floats; 0 where none is coded.

        To look at; what is coded comes of `grid`.
        """
        out = np.empty(self.stored.shape, np.float32)
        for tile in np.ndindex(self.tiles):
            place = self.place(*tile)
            values = np.where(self.coded[place], self.stored[place], 0).astype(np.float64)
            values = np.ldexp(values, -self.noise.grid_exponent, out=values)
            values -= self.background(*tile)
            values *= self.coded[place]
            out[place] = values
        return out

    def noise_units(self) -> NDArray[np.float32]:
        """Every tile in noise units, shape (tiles, 256, 256); 0 where none is coded."""
        out = np.empty((self.tiles[0] * self.tiles[1], TILE, TILE), np.float32)
        for number, tile in enumerate(np.ndindex(self.tiles)):
            out[number] = self.noise.to_noise_units(self.above[self.place(*tile)])
        return out


def pad_to_tiles(plane: NDArray[Any]) -> NDArray[Any]:
    """Plane padded with zeros to whole tiles of 256 pixels."""
    ny, nx = plane.shape
    return np.pad(plane, ((0, -ny % TILE), (0, -nx % TILE)))
