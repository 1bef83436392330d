"""One survey image on its grid: noise model, background, and strips of whole tiles of its pixels.

What the encoder refines and what training looks at. All that decides whether an image can be a
ladder is found here: values that stand for none, noise, and whether the grid holds every pixel.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np

from skyfold import ladder
from skyfold.images.index import FLAG_FILL
from skyfold.ladder import SAFE_INTEGER, TILE
from skyfold.noise import (
    GLOW_CELL,
    GLOW_STEP,
    MESH,
    NOISE_CELL,
    NOISE_STEP,
    Factor,
    NoiseModel,
    background_at,
    noise_at,
    stripes_at,
)
from skyfold.science.sky import median_of_neighbours
from storage.images.cells import cells_of
from storage.images.fills import find_fills, is_safe_integer
from storage.images.glow import to_steps
from storage.images.mapped import part_of
from storage.images.mesh import mesh_in_steps
from storage.images.noise_fit import NoiseFit, fit_noise
from storage.images.stripes import stripes_in_steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from storage.images.fills import Fills
    from storage.survey import SurveyImage

# grid units: dither multiplies cells of this, and of 2**9 times it in the brightest light, by 2**16
MOST_NOISE = 2.0**36
_LEAST = {"f4": -149, "f8": -1074}  # log2 of the least number above 0, of which all are multiples
FARTHEST = 2.0**27  # sigma from the sky: a reader counts quarters of half a sigma in 32 bits
FAR_MESH, FAR_ORIGIN = 2.0**30, 2.0**32  # steps of the mesh; of the prediction
LEAST_LIGHT = 0.5  # sigma of a pixel: of less, no aperture gathers what is taken for a source


class NotLadderableError(Exception):
    """The image cannot be refined step by step; it is stored directly."""


def prepare(image: SurveyImage) -> Prepared:
    """Grid, noise and background of an image.

    Raises
    ------
    NotLadderableError
        Where there is no noise, or what is to be stored is too far from zero for it.
    """
    fills = find_fills(image)
    if not _can_measure(fills, image):
        raise NotLadderableError
    fit = fit_noise(image, fills)
    if not (np.isfinite(fit.sigma) and fit.sigma > 0 and np.isfinite(fit.background).all()):
        raise NotLadderableError
    deepest, shallowest = (fit.sigma * float(one) for one in (fit.factor.min(), fit.factor.max()))
    far = sum(float(np.abs(one).max()) for one in (fit.background, *(fit.stripes or ())))
    reach = far + FARTHEST * deepest
    if fills.largest > reach:
        fills = find_fills(image, reach)
        if not _can_measure(fills, image):
            raise NotLadderableError
    try:
        prepared = Prepared(image, fills, fit)
    except OverflowError as error:  # of a background far from zero
        raise NotLadderableError from error
    exponent, least = prepared.noise.grid_exponent, _LEAST.get(prepared.dtype.str[1:])
    unit = math.ldexp(1.0, exponent)
    if shallowest > MOST_NOISE * unit or (least is not None and exponent < least):
        raise NotLadderableError
    return prepared


def _can_measure(fills: Fills | None, image: SurveyImage) -> TypeGuard[Fills]:
    """Whether there are pixels, and flags for those that are none."""
    return fills is not None and fills.good + fills.masked > 0 and is_safe_integer(image.stored)


class Prepared:
    """What is known of all of an image, and its pixels strip by strip.

    Attributes
    ----------
    raw : SurveyImage
    noise : NoiseModel
    fills : Fills
    shape, tiles : (int, int)
        Pixels and tiles along y and x.
    mesh : ndarray, shape (4 tiles_y, 4 tiles_x), int32
        Background, in steps of the noise model's.
    uneven : ndarray, shape (8 tiles_y, 8 tiles_x), int32, or None
        Noise, as `skyfold.noise.noise_at` takes it; None where it is the same all over.
    stripes : ndarray, shape (2, 256 max(tiles)), int32, or None
        Offsets of rows and columns, as `skyfold.noise.stripes_at` takes them, if there are any.
    glow : ndarray, shape (32 tiles_y, 32 tiles_x), int32, or None
        As `skyfold.noise.NoiseModel.glow` takes it; None until some is found.
    """

    def __init__(self, image: SurveyImage, fills: Fills, fit: NoiseFit) -> None:
        self.raw = image
        self.fills = fills
        integer = image.stored.dtype.kind != "f"
        self.noise = NoiseModel.from_stored_units(
            fit.sigma, fit.slope, integer=integer, of_sky=fit.of_sky
        )
        self.shape = image.stored.shape
        self.tiles = (-(-self.shape[0] // TILE), -(-self.shape[1] // TILE))
        nodes = self.tiles[0] * TILE // MESH, self.tiles[1] * TILE // MESH
        exponent, step = self.noise.grid_exponent, self.noise.background_step
        self.noise = replace(self.noise, origin=_origin(fit.background, self.noise))
        above = fit.background - math.ldexp(self.noise.origin, exponent)
        self.mesh = mesh_in_steps(above, exponent, step, nodes)
        own = tuple(map(slice, fit.is_measured.shape))
        self._is_measured = np.zeros(nodes, bool)
        self._is_measured[own] = fit.is_measured
        cells = self.tiles[0] * TILE // NOISE_CELL, self.tiles[1] * TILE // NOISE_CELL
        factor = mesh_in_steps(fit.factor - 1, 0, NOISE_STEP, cells)
        self.uneven = factor if factor.any() else None
        self.glow: NDArray[np.int32] | None = None
        self.stripes = None
        if fit.stripes is not None:
            self.stripes = stripes_in_steps(fit.stripes, exponent, step, max(self.tiles))

    def with_stripes(self) -> Prepared:
        """Leave the offsets in, for training; itself.

        A network that saw dead columns and steps draws those that end within an image, too.
        """
        self.stripes = None
        return self

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored pixels."""
        return self.raw.stored.dtype.newbyteorder("=")

    def correct(
        self,
        correction: NDArray[np.float64],
        glow: NDArray[np.float64],
        seen: NDArray[np.float64],
    ) -> None:
        """Add to the mesh, and the glow, in units of the noise there; see `mesh_and_glow`.

        Beyond the end of the mesh is what lies at it, and so is one node beyond that of the glow.
        """
        factor: Any = 1
        if self.uneven is not None:
            factor = 1 + cells_of(self.uneven, MESH // NOISE_CELL).mean(axis=-1) * NOISE_STEP
        unit = self.noise.sigma / self.noise.background_step
        steps = np.rint(_to_shape(correction, self.mesh.shape) * factor * unit)
        limits = np.iinfo(np.int32)
        self.mesh = np.clip(self.mesh + steps, limits.min, limits.max).astype(np.int32)
        if glow.any():
            if self.uneven is not None:
                side = NOISE_CELL // GLOW_CELL
                factor = 1 + np.kron(self.uneven, np.ones((side, side))) * NOISE_STEP
            whole = tuple(nodes * TILE // GLOW_CELL for nodes in self.tiles)
            nodes, weights = (
                _to_shape(np.pad(one, ((0, 1), (0, 1)), mode="edge"), whole, "constant")
                for one in (glow, seen)
            )
            steps = to_steps(nodes * factor * unit / GLOW_STEP, weights)
            self.glow = steps if steps.any() else None

    @cached_property
    def diffuse(self) -> NDArray[np.int32] | None:
        """Light that the mesh holds and that is no sky to who measures fluxes; as the mesh.

        What nodes are above the median of those around them that were measured, which is the sky of
        `skyfold.science`. None where it is less than a part of the noise.
        """
        mesh = np.where(self._is_measured, self.mesh, np.nan)
        light = np.nan_to_num(np.maximum(mesh - np.rint(median_of_neighbours(mesh)), 0))
        if light.max() * self.noise.background_step < LEAST_LIGHT * self.noise.sigma:
            return None
        return light.astype(np.int32)

    def strip(self, first: int, last: int) -> Strip:
        """Some rows of tiles, with the background as it is now."""
        return Strip(self, first, last)

    def whole(self) -> Strip:
        """All rows of tiles."""
        return self.strip(0, self.tiles[0])


def _to_shape(
    nodes: NDArray[np.float64], shape: tuple[int, ...], beyond: Literal["edge", "constant"] = "edge"
) -> NDArray[np.float64]:
    """Nodes cut, or padded with those at their ends or with zeros, to a shape."""
    nodes = nodes[: shape[0], : shape[1]]
    more = [(0, want - have) for want, have in zip(shape, nodes.shape, strict=True)]
    return np.pad(nodes, more, mode=beyond)


def _origin(background: NDArray[np.float64], noise: NoiseModel) -> int:
    """What the mesh is counted from: 0 where 32 bits reach it from there, and correct it.

    Else whole steps of the prediction, of no more than 2**32: sums with them are good to a fraction
    of what machines differ by.
    """
    grid = np.ldexp(background, -noise.grid_exponent)
    if np.abs(grid).max() < noise.background_step * FAR_MESH:
        return 0
    steps = float(np.median(grid)) / noise.round_step
    return noise.round_step * round(min(max(steps, -FAR_ORIGIN), FAR_ORIGIN))


class Strip:
    """Rows of tiles of an image: of those at its edges, the cells of the mesh that hold any of it.

    Attributes
    ----------
    first, last : int
        Rows of tiles.
    tiles : list of (int, int)
        Row and column of each of its tiles in the image, in C order.
    stored, flags : ndarray, shape (ny, nx)
        Zeros beyond the image; sides are multiples of 64.
    coded : ndarray of bool, shape (ny, nx)
        Whether there is a measurement.
    """

    def __init__(self, image: Prepared, first: int, last: int) -> None:
        self.image, self.first, self.last = image, first, last
        self.tiles = [(ty, tx) for ty in range(first, last) for tx in range(image.tiles[1])]
        rows = slice(first * TILE, min(last * TILE, image.shape[0]))
        flags = image.fills.flags(rows)
        self.stored = padded(part_of(image.raw.stored, rows), MESH)
        self.flags = padded(flags, MESH)
        self.coded = np.zeros(self.stored.shape, bool)
        self.coded[: flags.shape[0], : flags.shape[1]] = flags < FLAG_FILL

    def place(self, ty: int, tx: int) -> tuple[slice, slice]:
        """Pixels of a tile among those of the strip."""
        return _pixels_of(ty - self.first, tx, self.stored.shape)

    def pixels(self, ty: int, tx: int) -> tuple[slice, slice]:
        """Those in the image."""
        rows, columns = self.place(ty, tx)
        top = self.first * TILE
        return slice(rows.start + top, rows.stop + top), columns

    def background(self, ty: int, tx: int) -> NDArray[np.float64]:
        """Background of a tile [grid units]."""
        image, place = self.image, self.pixels(ty, tx)
        background = image.noise.background(image.mesh, *place)
        if image.stripes is not None:
            background += stripes_at(image.stripes, image.noise.background_step, *place)
        return background

    def glow(self, ty: int, tx: int) -> NDArray[np.float64] | None:
        """Smooth light of a tile that the network left [grid units]; None where there is none."""
        nodes = self.image.glow
        return None if nodes is None else self.image.noise.glow(nodes, *self.pixels(ty, tx))

    def factor(self, ty: int, tx: int) -> Factor:
        """Factors of the noise of a tile; None where they are 1."""
        mesh = self.image.uneven
        return None if mesh is None else noise_at(mesh, *self.pixels(ty, tx))

    def light(self, ty: int, tx: int) -> NDArray[np.float64]:
        """Diffuse light in the background of a tile, where there is any [grid units]."""
        assert self.image.diffuse is not None
        step = self.image.noise.background_step
        return background_at(self.image.diffuse, step, *self.pixels(ty, tx))

    def grid(self, ty: int, tx: int) -> NDArray[np.int64]:
        """Stored pixels of a tile on the grid; background where none is coded."""
        place = self.place(ty, tx)
        coded = self.coded[place]
        whole = bool(coded.all())
        stored = self.stored[place] if whole else np.where(coded, self.stored[place], 0)
        exact = ladder.to_grid(stored, self.image.noise)
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
        for tile in self.tiles:
            place = self.place(*tile)
            values = np.where(self.coded[place], self.stored[place], 0).astype(np.float64)
            values = np.ldexp(values, -self.image.noise.grid_exponent, out=values)
            values -= self.background(*tile)
            values *= self.coded[place]
            out[place] = values
        return out

    def noise_units(self) -> NDArray[np.float32]:
        """Every tile in noise units, shape (tiles, 256, 256); 0 where none is coded."""
        out = np.zeros((len(self.tiles), TILE, TILE), np.float32)
        for number, tile in enumerate(self.tiles):
            above = self.above[self.place(*tile)]
            noise_units = self.image.noise.to_noise_units(above, self.factor(*tile))
            out[number, : above.shape[0], : above.shape[1]] = noise_units
        return out


def _pixels_of(ty: int, tx: int, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of a tile in a plane."""
    rows, columns = (
        slice(at * TILE, min((at + 1) * TILE, side))
        for at, side in zip((ty, tx), shape, strict=True)
    )
    return rows, columns


def padded(plane: NDArray[Any], side: int = TILE) -> NDArray[Any]:
    """Plane padded with zeros to multiples of a side; to whole tiles, if none is given."""
    ny, nx = plane.shape
    return np.pad(plane, ((0, -ny % side), (0, -nx % side))) if ny % side or nx % side else plane
