"""The images of a release: which there are, which cover a position, their pixels by id."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord

from skyfold import sky
from skyfold.access.folder import whole_file
from skyfold.errors import (
    InvalidRequestError,
    OutsideFootprintError,
    SkyfoldError,
    UnknownNameError,
)
from skyfold.images.chunks import LayerArray
from skyfold.images.coverage import Coverage
from skyfold.images.cutouts import Box, Cutout, Cutouts, cut_all, scalar_position
from skyfold.images.details import decode_header, details_key
from skyfold.images.image_set import ImageSet
from skyfold.images.index import ImageEntry, index_key, read_index
from skyfold.images.tiles import Job, TileDecoder
from skyfold.images.window import Window, check_level
from skyfold.ladder import LEVELS

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.table import Table
    from numpy.typing import NDArray

    from skyfold.images.details import Places
    from skyfold.release import DataRelease


class ImageLibrary:
    """Images of a release, by id and by position; those of one set with ``images[SET]``.

    Iterating gives image ids; the name of another set raises UnknownNameError.

    Attributes
    ----------
    sets : list of str

    Examples
    --------
    >>> release.images.cutout(position, 30 * u.arcsec, band="r", level="sources")  # doctest: +SKIP
    >>> release.images.cutouts(positions, 30 * u.arcsec, band="r")  # doctest: +SKIP
    >>> release.images["night1"].to_xarray("bounded")  # doctest: +SKIP
    """

    def __init__(self, release: DataRelease, sets: list[str]) -> None:
        self._release = release
        self.sets = sets
        self._lock = threading.RLock()
        self._entries: dict[str, ImageEntry] | None = None
        self._arrays: dict[tuple[str, str], LayerArray] = {}
        self._decoder = TileDecoder(release)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self.entries

    def __getitem__(self, image_set: str) -> ImageSet:
        if image_set not in self.sets:
            raise UnknownNameError(
                f"no image set {image_set!r} in {self._release.url}; there are "
                f"{', '.join(self.sets) or 'none'}; choose one of them"
            )
        return ImageSet(self, image_set)

    def __repr__(self) -> str:
        return f"<ImageLibrary: {len(self)} images in sets {', '.join(self.sets)}>"

    def _repr_html_(self) -> str:
        from skyfold.pages import library_html

        return library_html(self)

    @property
    def release(self) -> DataRelease:
        """The release that these are the images of."""
        return self._release

    @property
    def entries(self) -> dict[str, ImageEntry]:
        """Index entries by image id."""
        with self._lock:
            if self._entries is None:
                found = [entry for name in self.sets for entry in self._read_set(name)]
                self._entries = {entry.id: entry for entry in found}
            return self._entries

    @cached_property
    def _coverage(self) -> Coverage:
        return Coverage(list(self.entries.values()), self._release.url)

    def _read_set(self, name: str) -> list[ImageEntry]:
        key = index_key(name)
        return read_index(self._release.read(key), key)

    def table(self) -> Table:
        """One row an image: where it came from, its shape, centre, and bits per pixel."""
        from astropy.table import Table

        rows = [
            {
                "id": entry.id,
                "set": entry.set,
                "band": entry.band,
                "file": entry.file,
                "hdu": entry.hdu,
                "shape": "x".join(str(side) for side in entry.shape),
                "dtype": entry.dtype,
                "time": entry.time or "",
                "ra": np.nan if entry.ra is None else entry.ra,
                "dec": np.nan if entry.dec is None else entry.dec,
            }
            | {f"bpp_{level}": 8 * entry.bytes_at(level) / entry.pixels for level in LEVELS}
            for entry in self.entries.values()
        ]
        table = Table(rows=rows)
        table["ra"].unit = table["dec"].unit = u.deg
        return table

    def entry(self, image_id: str) -> ImageEntry:
        """Index entry of an image; UnknownNameError if there is none."""
        try:
            return self.entries[image_id]
        except KeyError:
            some = ", ".join(list(self.entries)[:5])
            raise UnknownNameError(
                f"no image {image_id!r} among {len(self)} in {self._release.url}; ids are such as "
                f"{some} (`skyfold images URL` lists them)"
            ) from None

    def arrays(self, entry: ImageEntry, layers: tuple[str, ...]) -> dict[str, LayerArray]:
        """Some layers of the group that holds an image, by name; see `skyfold.layout`."""
        home = self._release.home(entry.release)
        group = f"images/{entry.set}/{entry.group}"
        return {layer: self._array(home, f"{group}/{layer}") for layer in layers}

    def _array(self, home: DataRelease, path: str) -> LayerArray:
        with self._lock:
            if (home.url, path) not in self._arrays:
                self._arrays[home.url, path] = LayerArray(path, home.metadata(path))
            return self._arrays[home.url, path]

    # By id.

    def header(self, image_id: str) -> fits.Header:
        """FITS header of an image's file, without the cards that say how the file held it."""
        from skyfold.images.fits import image_header

        return image_header(self.complete(self.entry(image_id)))

    def complete(self, entry: ImageEntry) -> ImageEntry:
        """An entry of the index with its header and the places of its chunks, read now."""
        offset, places, size = entry.details
        key = details_key(entry.set)
        data = self._release.read_ranges([(key, offset, offset + places + size)])[0]
        if isinstance(data, SkyfoldError):
            raise data
        cards = decode_header(data[places:], f"{self._release.url}/{key} of image {entry.id}")
        return replace(entry, places=data[:places], header=cards)

    def places(self, entry: ImageEntry) -> Places:
        """Offset and length of the chunk of each tile of an image, by layer and tile number."""
        return self._decoder.places([entry])[entry.id]

    def read(
        self,
        image_id: str,
        level: str = "exact",
        rows: slice | None = None,
        columns: slice | None = None,
    ) -> Window:
        """Pixels of one image in stored units.

        Parameters
        ----------
        image_id : str
        level : str
            One of latent, sources, bounded, exact.
        rows, columns : slice, optional
            Window; everything by default.

        Returns
        -------
        Window
            Values, flags and noise, two-dimensional.

        Raises
        ------
        UnknownNameError, LevelNotStoredError, InvalidRequestError, CorruptDataError
        """
        return self.read_levels(image_id, (level,), rows, columns)[level]

    def read_levels(
        self,
        image_id: str,
        levels: Sequence[str],
        rows: slice | None = None,
        columns: slice | None = None,
    ) -> dict[str, Window]:
        """The same pixels at several levels: what these share is fetched and decoded once.

        Parameters
        ----------
        image_id : str
        levels : sequence of str
            Of latent, sources, bounded, exact.
        rows, columns : slice, optional
            Window; the whole image by default.

        Returns
        -------
        dict of str to Window
            As of `read`, by level.

        Raises
        ------
        UnknownNameError, LevelNotStoredError, InvalidRequestError, CorruptDataError
        """
        entry = self.entry(image_id)
        y, x = (_whole(part, side) for part, side in zip((rows, columns), entry.plane, strict=True))
        jobs = {level: Job(entry, y, x, check_level(level)) for level in levels}
        for _ in self._decoder.decode(list(jobs.values())):
            pass
        return {level: job.window() for level, job in jobs.items()}

    def section(
        self,
        image_id: str,
        rows: slice | None = None,
        columns: slice | None = None,
        level: str = "sources",
    ) -> Cutout:
        """Pixels of one image in physical units, with WCS, mask and uncertainty.

        Parameters
        ----------
        image_id : str
        rows, columns : slice, optional
            Window; the whole image by default.
        level : str
            One of latent, sources, bounded, exact.

        Raises
        ------
        UnknownNameError, LevelNotStoredError, InvalidRequestError, CorruptDataError
        """
        entry = self.entry(image_id)
        y, x = (_whole(part, side) for part, side in zip((rows, columns), entry.plane, strict=True))
        box = Box(entry, y.start, x.start, (y.stop - y.start, x.stop - x.start))
        return cut_all(self, [box], level).only()

    def hdu(self, image_id: str, level: str = "exact") -> fits.PrimaryHDU:
        """One whole image as FITS.

        `exact` and `bounded` hold the stored dtype with the scale of the header (BSCALE, BZERO);
        the other levels hold physical values as floats.

        Parameters
        ----------
        image_id : str
        level : str
            One of latent, sources, bounded, exact.

        Raises
        ------
        UnknownNameError, LevelNotStoredError, CorruptDataError
        """
        from skyfold.images.fits import image_hdu

        window = self.read(image_id, level)
        return image_hdu(self.complete(self.entry(image_id)), window.values, level)

    def write_fits(self, image_id: str, path: str | os.PathLike[str], level: str = "exact") -> None:
        """Write one whole image as FITS, as `hdu` gives it, without holding it in memory.

        Parameters
        ----------
        image_id : str
        path : str or Path
            Replaced if it is there, by a file that is whole.
        level : str
            One of latent, sources, bounded, exact.

        Raises
        ------
        UnknownNameError, LevelNotStoredError, CorruptDataError
        """
        from skyfold.images.fits import write_image

        entry = self.complete(self.entry(image_id))

        def read(rows: slice) -> NDArray[Any]:
            return self.read(image_id, level, rows).values

        with whole_file(Path(path)) as out:
            write_image(entry, level, out, read)

    # By position.

    def covering(
        self, position: SkyCoord, *, band: str | None = None, image_set: str | None = None
    ) -> list[ImageEntry]:
        """Images that cover a position, the one whose edge is farthest first.

        Parameters
        ----------
        position : SkyCoord
            One position.
        band, image_set : str, optional
            Narrow the choice.

        Returns
        -------
        list of ImageEntry
        """
        return [
            one[2] for one in self._coverage.matches(scalar_position(position), band, image_set)[0]
        ]

    def cutout(
        self,
        position: SkyCoord,
        size: Any,
        *,
        band: str | None = None,
        level: str = "sources",
        image_set: str | None = None,
        image_id: str | None = None,
    ) -> Cutout:
        """Box around a position, from the image that covers it best.

        Parameters
        ----------
        position : SkyCoord
            One position.
        size : Quantity or int, or a pair (ny, nx)
            Angle on the sky, or pixels.
        band, image_set, image_id : str, optional
            Narrow the choice of image.
        level : str
            One of latent, sources, bounded, exact.

        Returns
        -------
        Cutout
            A `astropy.nddata.CCDData`: physical values; WCS of the cutout; mask, True where there
            is no good measurement or no image; uncertainty, the noise of each pixel and the unit
            of the bound; ``meta`` with level, bound, release, image, and the pixel of the image
            that is the cutout's first (``x0``, ``y0``).

        Raises
        ------
        OutsideFootprintError
            If no image covers the position.
        InvalidRequestError
            If the position is no SkyCoord, if several are given, or the size is not positive.
        """
        positions = scalar_position(position)
        if not position.isscalar:
            raise InvalidRequestError(
                f"cutout of {position.size} positions: give one at a time, or use cutouts"
            )
        found = self.cutouts(
            positions,
            size,
            band=band,
            level=level,
            image_set=image_set,
            image_id=image_id,
        )
        return found.only()

    def cutouts(
        self,
        positions: SkyCoord,
        size: Any,
        *,
        band: str | None = None,
        level: str = "sources",
        image_set: str | None = None,
        image_id: str | None = None,
        on_error: str = "keep",
        progress: Callable[[int, int], None] | None = None,
    ) -> Cutouts:
        """Boxes around many positions, each from the image that covers it best.

        Every tile is fetched and decoded once however many boxes it is in, and tiles are fetched
        while others are decoded.

        Parameters
        ----------
        positions : SkyCoord
            Any number of positions.
        size, band, level, image_set, image_id
            As of `cutout`.
        on_error : {"keep", "raise"}
            What to do with positions that cannot be met: leave None in their places and list them
            in ``failures``, or raise the first.
        progress : callable, optional
            Called with cutouts done and in all.

        Returns
        -------
        Cutouts
            A list, in the order of `positions`.

        Raises
        ------
        UnknownNameError, LevelNotStoredError, InvalidRequestError
            If nothing could meet the request.
        """
        check_level(level)
        if on_error not in ("keep", "raise"):
            raise InvalidRequestError(f"on_error {on_error!r} is not one of keep, raise")
        positions = scalar_position(positions)
        boxes = self._boxes(positions, size, band, image_set, image_id)
        found = cut_all(self, boxes, level, progress)
        if on_error == "raise":
            found.require_all()
        return found

    def _boxes(
        self,
        positions: SkyCoord,
        size: Any,
        band: str | None,
        image_set: str | None,
        image_id: str | None,
    ) -> list[Box | SkyfoldError]:
        if image_id is not None:
            entry = self.entry(image_id)
            wcs = entry.celestial_wcs()
            if wcs is None:
                raise OutsideFootprintError(
                    f"image {entry.id} has no WCS; use read() or section() with pixel slices"
                )
            xs, ys = sky.pixel_positions(wcs, positions)
            return [Box.around(entry, x, y, size) for x, y in zip(xs, ys, strict=True)]
        matches = self._coverage.matches(positions, band, image_set)
        return [
            Box.around(found[0][2], *found[0][3:], size) if found else self._outside(position, band)
            for found, position in zip(matches, positions, strict=True)
        ]

    def _outside(self, position: SkyCoord, band: str | None) -> OutsideFootprintError:
        if not np.isfinite(position.cartesian.xyz.value).all():
            return OutsideFootprintError(f"position {position.to_string('decimal')} is not finite")
        return OutsideFootprintError(
            f"no image of band {band or 'any'} in {self._release.url} covers "
            f"{position.to_string('decimal')}; `skyfold images` lists what there is"
        )

    def epochs(
        self,
        position: SkyCoord,
        size: Any,
        *,
        band: str | None = None,
        level: str = "sources",
        image_set: str | None = None,
        partly: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Cutouts:
        """Boxes around one position from every image that covers it, in order of time.

        Parameters
        ----------
        position, size, band, level, image_set
            As of `cutout`.
        partly : bool
            Also images that do not reach the position, and hold some of the box around it.
        progress : callable, optional
            Called with cutouts done and in all.

        Returns
        -------
        Cutouts
            A list; images without a time come last.

        Raises
        ------
        OutsideFootprintError
            If no image covers the position.
        """
        check_level(level)
        position = scalar_position(position)
        matches = self._coverage.matches(position, band, image_set, size if partly else None)[0]
        boxes = [Box.around(match[2], *match[3:], size) for match in matches]
        if not boxes:
            raise self._outside(position[0], band)
        boxes.sort(key=lambda box: (box.entry.time is None, box.entry.time or "", box.entry.id))
        return cut_all(self, boxes, level, progress)

    def refine(self, cutout: Cutout, level: str) -> Cutout:
        """The same pixels at another level; what was fetched for the one at hand is not again.

        Parameters
        ----------
        cutout : Cutout
            From this release.
        level : str

        Raises
        ------
        InvalidRequestError
            If the cutout's ``meta`` does not say where it comes from, or names another release.
        """
        check_level(level)
        return cut_all(self, [self._box_of(cutout)], level).only()

    def _box_of(self, cutout: Cutout) -> Box:
        meta = cutout.meta
        if meta.get("release") != self._release.url or not {"image", "x0", "y0"} <= set(meta):
            raise InvalidRequestError(
                f"a cutout of {meta.get('release')!r} cannot be refined from {self._release.url}; "
                "give one whose meta has release, image, x0 and y0 as this release made it"
            )
        shape = (int(cutout.shape[0]), int(cutout.shape[1]))
        return Box(self.entry(meta["image"]), int(meta["y0"]), int(meta["x0"]), shape)

    def decode(self, jobs: list[Job]) -> Iterator[int]:
        """Decode windows together; see `skyfold.images.tiles.TileDecoder`."""
        return self._decoder.decode(jobs)


def _whole(part: slice | None, side: int) -> slice:
    """Window along one axis, with what a slice leaves open."""
    if part is None:
        return slice(0, side)
    ends = (part.start, part.stop) if isinstance(part, slice) else (part,)
    is_whole = all(one is None or isinstance(one, int | np.integer) for one in ends)
    if not (isinstance(part, slice) and is_whole):
        raise InvalidRequestError(
            f"window {part!r}: give a slice of whole numbers, such as slice(0, 64)"
        )
    if part.step not in (None, 1):
        raise InvalidRequestError(f"slice with step {part.step}: give a window without a step")
    start = 0 if part.start is None else part.start
    return slice(start, side if part.stop is None else part.stop)
