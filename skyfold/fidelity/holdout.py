"""Which sky training never sees: the rule that separates it from the sky that is measured.

Sky is split in cells, not in images, so that another band or epoch of the same sky falls on the
same side. A cell is a HEALPix cell where there is a WCS, else a square of pixels of the set. The
rule is stored with the release, so that a consumer measures on the same sky.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

GRAIN = 32  # pixels a side that lie on one side of the split together
FRACTION = 0.25
CELL_PIXELS = 256


@dataclass(frozen=True)
class HoldOut:
    """Rule of one set of images.

    Attributes
    ----------
    seed : int
    order : int
        HEALPix order of the cells of images with a WCS.
    threshold : float
        Cells whose hash in [0, 1) lies below it are held out.
    """

    seed: int
    order: int
    threshold: float = FRACTION

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for the release's metadata."""
        return asdict(self)

    def is_held_out(
        self, image_set: str, shape: tuple[int, int], wcs: WCS | None
    ) -> NDArray[np.bool_]:
        """Grains of 32 x 32 pixels that training must not see.

        Parameters
        ----------
        image_set : str
            Name of the set; the same place of its images without WCS is on the same side.
        shape : (int, int)
            Of the image, (ny, nx).
        wcs : astropy.wcs.WCS or None

        Returns
        -------
        ndarray of bool, shape (ceil(ny / 32), ceil(nx / 32))
        """
        cells = self._cells(image_set, shape, wcs)
        names, place = np.unique(cells, return_inverse=True)
        out = np.array([self._hash(name) < self.threshold for name in names])
        return out[place].reshape(cells.shape)

    def with_both_sides(self, images: list[tuple[str, tuple[int, int], WCS | None]]) -> HoldOut:
        """The rule with its threshold moved, if need be, so that neither side is empty.

        Where all images lie in one cell, the rule keeps it for training, and nothing is held out.
        """
        hashes = [value for value, _ in self._sizes(images)]
        if len(hashes) < 2:
            return HoldOut(self.seed, self.order, 0.0)
        lowest, highest = (hashes[0] + hashes[1]) / 2, (hashes[-2] + hashes[-1]) / 2
        return HoldOut(self.seed, self.order, min(max(self.threshold, lowest), highest))

    def with_its_share(self, images: list[tuple[str, tuple[int, int], WCS | None]]) -> HoldOut:
        """The rule with its threshold moved, if need be, so that either side has its share.

        A small field has few cells, and their hashes may hold out almost nothing or almost all:
        less than half of the fraction that is meant, or more than twice as much. Only before
        training: a model that exists has seen the sky that its own rule left it.
        """
        cells = self._sizes(images)
        total = sum(size for _, size in cells)
        share = sum(size for value, size in cells if value < self.threshold) / total
        if len(cells) < 2 or self.threshold / 2 <= share <= 2 * self.threshold:
            return self.with_both_sides(images)
        shares = np.cumsum([size for _, size in cells])[:-1] / total  # held out up to each cell
        last = int(np.argmin(np.abs(shares - self.threshold)))
        return HoldOut(self.seed, self.order, (cells[last][0] + cells[last + 1][0]) / 2)

    def _sizes(
        self, images: list[tuple[str, tuple[int, int], WCS | None]]
    ) -> list[tuple[float, int]]:
        """Hash of each cell, rising, and the grains that it has in all images."""
        grains: Counter[str] = Counter()
        for image in images:
            names, counts = np.unique(self._cells(*image), return_counts=True)
            grains.update(dict(zip(names.tolist(), counts.tolist(), strict=True)))
        return sorted((self._hash(name), count) for name, count in grains.items())

    def _cells(self, image_set: str, shape: tuple[int, int], wcs: WCS | None) -> NDArray[np.str_]:
        """Name of the cell of every grain."""
        y = np.arange(-(-shape[0] // GRAIN)) * GRAIN + (GRAIN - 1) / 2
        x = np.arange(-(-shape[1] // GRAIN)) * GRAIN + (GRAIN - 1) / 2
        grid_x, grid_y = np.meshgrid(x, y)
        if wcs is None:
            side = CELL_PIXELS
            pairs = zip((grid_y // side).ravel(), (grid_x // side).ravel(), strict=True)
            names = [f"{image_set}/{int(row)}/{int(column)}" for row, column in pairs]
            return np.array(names).reshape(grid_x.shape)
        return self._healpix(wcs, grid_x, grid_y).astype(str)

    def _healpix(
        self, wcs: WCS, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        from astropy import units as u
        from astropy_healpix import HEALPix

        sky = wcs.pixel_to_world(x, y).icrs
        ra, dec = np.nan_to_num(sky.ra.deg), np.nan_to_num(sky.dec.deg)
        grid = HEALPix(nside=2**self.order, order="nested")
        return np.asarray(grid.lonlat_to_healpix(ra * u.deg, dec * u.deg))

    def _hash(self, name: str) -> float:
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


def order_for(pixel_scale_deg: float) -> int:
    """HEALPix order whose cells are about 256 pixels a side."""
    cell_deg = CELL_PIXELS * pixel_scale_deg
    return int(np.clip(np.round(np.log2(58.6 / cell_deg)), 0, 29))


def in_pixels(grains: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Grains spread out to pixels of an image."""
    spread = np.repeat(np.repeat(grains, GRAIN, axis=0), GRAIN, axis=1)
    return spread[: shape[0], : shape[1]]


def counted_pixels(release: DataRelease, entry: ImageEntry) -> NDArray[np.bool_]:
    """Pixels whose objects enter the record; all of them where nothing could be held out."""
    rule = hold_out_of(release, entry.set)
    if rule is None or rule.threshold == 0:
        return np.ones(entry.plane, bool)
    wcs = entry.celestial_wcs()
    grains = rule.is_held_out(entry.set, entry.plane, wcs)
    return in_pixels(grains, entry.plane)


def hold_out_of(release: DataRelease, image_set: str) -> HoldOut | None:
    """Rule by which a set's sky was held out of training."""
    rule = release.about.get("hold_out", {}).get(image_set)
    return HoldOut(**rule) if rule else None
