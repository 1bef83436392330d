"""What a network makes of an image, and what of it that leaves to be coded.

Latents, the width of points, the leaves that `sources` keeps, and the background corrected by what
is left of the sky. An image is looked at in strips of tiles, again and again, so that memory does
not grow with it: once for latents and the width of points, once to search the latents, and once
for what is kept, with the strips beside each. An image of one strip is looked at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from skyfold.ladder import LEAF, TILE
from skyfold.ladder_kernels import evenly
from skyfold.layout import STRIDE
from skyfold.noise import GLOW_CELL, MESH
from skyfold.science.sources import FALLBACK_FWHM
from skyfold.science.widths import (
    faint_widths,
    star_widths,
    typical_faint_width,
    typical_width,
    wider,
)
from storage.images.filtered import measure_levels, sample_levels
from storage.images.glow import mesh_and_glow
from storage.images.latent_search import search_latents
from storage.images.prepared import padded
from storage.images.selection import HALO, blank_leaves, lit_leaves, pixels_of, select_leaves
from storage.images.tile_kernels import significance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from skyfold.images.network import Network
    from storage.images.filtered import Levels
    from storage.images.prepared import Prepared, Strip

TOGETHER = 64  # tiles of a strip, or a row of them
SAMPLED = 4  # strips that tell the noise of filtered planes
UNEXPECTED = 3.0  # sigma: what is left beyond it is no error of the sky

T = TypeVar("T")
_Three: TypeAlias = "tuple[T | None, T, T | None]"


class Look:
    """A strip as the network sees it."""

    def __init__(self, strip: Strip, latents: NDArray[np.int16], network: Network) -> None:
        self.strip, self.latents, self.network = strip, latents, network

    @cached_property
    def y(self) -> NDArray[np.float32]:
        """Tiles in noise units, shape (tiles, 256, 256)."""
        return self.strip.noise_units()

    @cached_property
    def predictions(self) -> NDArray[np.float32]:
        """What the latents decode to, shape of `y`."""
        return self.network.decode(self.latents)

    def significance(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Signal, and what the network left of it, over the noise; 0 where nothing is coded."""
        strip, noise = self.strip, self.strip.image.noise
        signal, residual = (np.empty(strip.stored.shape, np.float32) for _ in range(2))
        for tile, predictions in zip(strip.tiles, self.predictions, strict=True):
            place = strip.place(*tile)
            above, coded = strip.above[place], strip.coded[place]
            drawn = cropped(predictions, above.shape)
            factor = evenly(strip.factor(*tile), drawn.shape)
            significance(above, coded, drawn, factor, noise.numbers, signal[place], residual[place])
        return signal, residual

    def sky_units(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Signal and noise of the sky, both over the image's noise, and which pixels are good.

        Over the noise of each pixel, which grows with light, bright points would look wide.
        """
        strip, noise = self.strip, np.ones(self.strip.stored.shape, np.float32)
        for tile in strip.tiles if strip.image.uneven is not None else ():
            noise[strip.place(*tile)] = strip.factor(*tile)
        good = strip.coded & (strip.flags == 0)
        return strip.above / np.float32(strip.image.noise.sigma), noise, good

    def diffuse(self) -> NDArray[np.float32] | None:
        """Diffuse light in the background, over the noise of the sky; None without any."""
        strip, image = self.strip, self.strip.image
        if image.diffuse is None:
            return None
        light = np.empty(strip.stored.shape, np.float32)
        for tile in strip.tiles:
            about = strip.light(*tile)
            factor = evenly(strip.factor(*tile), about.shape)
            light[strip.place(*tile)] = about / (image.noise.sigma * factor)
        light *= strip.coded
        return light


class Predicted:
    """An image with its latents.

    Parameters
    ----------
    image : Prepared
        Its background is corrected here.
    network : Network
    fwhm_pix : float, optional
        Width of points, if it is known [pixel].

    Attributes
    ----------
    latents : ndarray, shape (tiles, 32, 32, channels), int16
    fwhm : float
        Of points [pixel].
    leaves, core : ndarray of bool, shape (ny / 2, nx / 2)
        What `sources` keeps, and what of it is the core of something; of all strips.
    coded : ndarray of int, shape (tiles,)
        Pixels of each tile that are measurements.
    share : float
        Of those pixels that are kept.
    """

    def __init__(self, image: Prepared, network: Network, fwhm_pix: float | None = None) -> None:
        self.image, self.network = image, network
        down, across = image.tiles
        rows = max(TOGETHER // across, 1)
        self.rows = [(first, min(first + rows, down)) for first in range(0, down, rows)]
        side = TILE // STRIDE
        self.latents = np.zeros((down * across, side, side, network.channels), np.int16)
        ny, nx = (-(-length // MESH) * MESH // LEAF for length in image.shape)
        self.leaves, self.core = np.zeros((2, ny, nx), bool)
        self.coded = np.zeros(down * across, np.int64)
        self._only = self._new_look(*self.rows[0]) if len(self.rows) == 1 else None
        self.fwhm = self._encode(fwhm_pix)
        levels = self._search()
        self.share = self._select(levels)

    def look(self, first: int, last: int) -> Look:
        """Some rows of tiles, of those in `rows`."""
        return self._only or self._new_look(first, last)

    def _new_look(self, first: int, last: int) -> Look:
        latents = self.latents[self._tiles(first, last)]
        return Look(self.image.strip(first, last), latents, self.network)

    def _tiles(self, first: int, last: int) -> slice:
        return slice(first * self.image.tiles[1], last * self.image.tiles[1])

    def kept(self, first: int, last: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Pixels that `sources` keeps of some rows of tiles, and those of the core."""
        rows = slice(first * TILE // LEAF, last * TILE // LEAF)
        return pixels_of(self.leaves[rows]), pixels_of(self.core[rows])

    def _encode(self, fwhm_pix: float | None) -> float:
        """Latents of all strips; the width of points."""
        stars = []
        for rows in self.rows:
            look = self.look(*rows)
            look.latents[:] = self.network.encode(look.y)
            strip = look.strip
            counts = [np.count_nonzero(strip.coded[strip.place(*tile)]) for tile in strip.tiles]
            self.coded[self._tiles(*rows)] = counts
            if fwhm_pix is None:
                stars.append(star_widths(*look.sky_units()))
        if fwhm_pix is not None:
            return fwhm_pix if fwhm_pix > 0 else FALLBACK_FWHM
        fwhm = wider(typical_width(stars), self._star_widths)
        if math.isnan(fwhm):
            looks = (self.look(*rows) for rows in self.rows)
            fwhm = typical_faint_width([faint_widths(*look.sky_units()) for look in looks])
        return FALLBACK_FWHM if math.isnan(fwhm) else fwhm

    def _star_widths(self, about: float) -> list[NDArray[np.float64]]:
        return [star_widths(*self.look(*rows).sky_units(), about) for rows in self.rows]

    def _search(self) -> Levels | None:
        """Search the latents; the noise of filtered planes, unless one strip will tell it."""
        samples = []
        sampled = {*np.linspace(0, len(self.rows) - 1, SAMPLED).astype(int)}
        looks = (self.look(*rows) for rows in self.rows)
        for number, three in enumerate(_neighbours(looks)):
            self._search_strip(three)
            if self._only is None and number in sampled:
                samples.append(sample_levels(*three[1].significance(), self.fwhm))
        return measure_levels(samples, self.fwhm) if samples else None

    def _search_strip(self, three: _Three[Look]) -> None:
        own, across = three[1], self.image.tiles[1]
        y, inner = _joined(three, lambda one: one.y, across)
        coded, _ = _joined(three, lambda one: padded(one.strip.coded), TILE)
        above = inner.start // across
        search_latents(self.network, own.latents, own.predictions, y, coded, self.fwhm, above)

    def _select(self, levels: Levels | None) -> float:
        """Leaves to keep, and the background by what else is left; the share of what is kept."""
        seen = (self._seen(*rows) for rows in self.rows)
        judged = (self._judged(three, levels) for three in _neighbours(seen))
        corrections, kept = [], 0
        for three in _neighbours(judged):
            kept += three[1].kept
            corrections.append(self._correction(three))
        self.image.correct(*map(np.concatenate, zip(*corrections, strict=True)))
        return kept / max(int(self.coded.sum()), 1)

    def _seen(self, first: int, last: int) -> _Seen:
        look = self.look(first, last)
        return _Seen(first, last, look.strip.coded, *look.significance(), look.diffuse())

    def _judged(self, three: _Three[_Seen], levels: Levels | None) -> _Judged:
        """Leaves of a strip; what the network left of its sky."""
        own = three[1]
        signal, inner = _joined(three, lambda one: one.signal, HALO)
        residual, _ = _joined(three, lambda one: one.residual, HALO)
        leaves, core = select_leaves(signal, residual, self.fwhm, levels, inner)
        if own.light is not None:
            light, _ = _joined(three, lambda one: one.lit, HALO)
            lit, its_core = lit_leaves(signal, light, self.fwhm, inner)
            leaves |= lit
            core |= its_core
        rows = slice(own.first * TILE // LEAF, own.last * TILE // LEAF)
        self.leaves[rows], self.core[rows] = leaves, core
        kept = pixels_of(leaves)
        sky = np.where(own.coded & ~kept, own.residual, np.float32(np.nan))
        return _Judged(own.first, own.last, sky, int(np.count_nonzero(own.coded & kept)))

    def _correction(self, three: _Three[_Judged]) -> tuple[NDArray[np.float64], ...]:
        """Mean error of the sky that is not kept, for the mesh of a strip: it costs no bits.

        The sky there is all that a measurement at `sources` has to subtract. And its glow, and how
        much of that is seen.
        """
        sky, inner = _joined(three, lambda one: one.sky, TILE)
        top = three[1].first * TILE - inner.start
        begin = max(top - HALO, 0)
        leaves = self.leaves[begin // LEAF : (top + len(sky) + HALO) // LEAF]
        blank = pixels_of(blank_leaves(leaves, self.fwhm))[top - begin :][: len(sky)]
        mesh, *glow = mesh_and_glow(sky, blank, UNEXPECTED)
        return _rows_of(mesh, inner, MESH), *(_rows_of(one, inner, GLOW_CELL) for one in glow)


@dataclass(frozen=True, eq=False)
class _Seen:
    """A strip of rows of tiles: what is coded; signal, residual and light over the noise."""

    first: int
    last: int
    coded: NDArray[np.bool_]
    signal: NDArray[np.float32]
    residual: NDArray[np.float32]
    light: NDArray[np.float32] | None

    @property
    def lit(self) -> NDArray[np.float32]:
        """Its light, in an image that has any."""
        assert self.light is not None
        return self.light


@dataclass(frozen=True, eq=False)
class _Judged:
    """A strip's residual where it is not kept, NaN elsewhere; how many pixels are kept."""

    first: int
    last: int
    sky: NDArray[np.float32]
    kept: int


def cropped(tile: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The first rows and columns of a tile."""
    return np.ascontiguousarray(tile[: shape[0], : shape[1]])


def _rows_of(nodes: NDArray[np.float64], pixels: slice, cell: int) -> NDArray[np.float64]:
    """Rows of a mesh that whole cells of pixels have."""
    return nodes[pixels.start // cell : pixels.stop // cell]


def _neighbours(items: Iterable[T]) -> Iterator[_Three[T]]:
    """Each item with the one before it and the one after it."""
    before, rest = None, iter(items)
    own = next(rest, None)
    while own is not None:
        after = next(rest, None)
        yield before, own, after
        before, own = own, after


def _joined(
    three: _Three[T], plane: Callable[[T], NDArray[Any]], reach: int
) -> tuple[NDArray[Any], slice]:
    """A strip's plane with so many rows of the strips beside it, and which rows are its own."""
    before, own, after = three
    planes = [plane(own)]
    start, end = 0, len(planes[0])
    if before is not None:
        planes.insert(0, plane(before)[-reach:])
        start, end = reach, end + reach
    if after is not None:
        planes.append(plane(after)[:reach])
    return (np.concatenate(planes) if len(planes) > 1 else planes[0]), slice(start, end)
