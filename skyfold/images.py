"""The images of a release: finding them on the sky, cutting out, decoding whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, StdDevUncertainty
from astropy.table import Table

from skyfold import sky
from skyfold.errors import (
    CorruptDataError,
    InvalidRequestError,
    OutsideFootprintError,
    UnknownNameError,
)
from skyfold.index import FLAG_FILL, ImageEntry, index_key, read_index
from skyfold.ladder import LEVELS, TILE
from skyfold.layout import STRIDE
from skyfold.store import named_store_errors
from skyfold.window import Window, check_level, decode_window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from skyfold.network import Network
    from skyfold.release import DataRelease

_POOL_THREADS = 8  # layers of a window are fetched at once


class ImageLibrary:
    """Images of a release, by id and by position.

    Examples
    --------
    >>> release.images.cutout(position, 30 * u.arcsec, band="r", level="sources")  # doctest: +SKIP
    """

    def __init__(self, release: DataRelease, sets: list[str]) -> None:
        self._release = release
        self.sets = sets
        self._entries: dict[str, ImageEntry] | None = None
        self._arrays: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arrays": {}}

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __repr__(self) -> str:
        return f"<ImageLibrary: {len(self)} images in sets {', '.join(self.sets)}>"

    @property
    def entries(self) -> dict[str, ImageEntry]:
        """Index entries by image id."""
        if self._entries is None:
            found = [entry for name in self.sets for entry in self._read_set(name)]
            self._entries = {entry.id: entry for entry in found}
        return self._entries

    def _read_set(self, name: str) -> list[ImageEntry]:
        key = index_key(name)
        return read_index(self._release.read(key), key)

    def table(self) -> Table:
        """One row an image: where it came from, its shape, centre, and bits per pixel."""
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
        entry = self.entry(image_id)
        check_level(level)
        whole = (slice(0, entry.plane[0]), slice(0, entry.plane[1]))
        network = self._release.network(entry.model) if entry.model else None
        return decode_window(
            entry,
            level,
            rows or whole[0],
            columns or whole[1],
            read=_LayerReader(self, entry, network),
            network=network,
        )

    def hdu(self, image_id: str, level: str = "exact") -> fits.PrimaryHDU:
        """One whole image as FITS.

        `exact` and `bounded` hold the stored dtype with the scale of the header (BSCALE, BZERO);
        the other levels hold physical values as floats.
        """
        entry = self.entry(image_id)
        window = self.read(image_id, level)
        header = _plain_header(entry.fits_header())
        values = window.values.reshape(entry.shape)
        header["HIERARCH SKYFOLD LEVEL"] = (level, "fidelity level of these pixels")
        header["HIERARCH SKYFOLD BOUND"] = (_bound(entry, level), "largest error [noise units]")
        if level in ("latent", "sources") and entry.mode != "direct":
            for card in ("BSCALE", "BZERO", "BLANK"):
                header.remove(card, ignore_missing=True)
            return fits.PrimaryHDU(values * entry.bscale + entry.bzero, header)
        hdu = fits.PrimaryHDU(values, header, do_not_scale_image_data=True)
        return _with_scale(hdu, entry)

    def covering(
        self, position: SkyCoord, *, band: str | None = None, image_set: str | None = None
    ) -> list[ImageEntry]:
        """Images that cover a position, the one whose edge is farthest first."""
        found = []
        for entry in self._near(position, band, image_set):
            wcs = sky.read_wcs(entry.fits_header())
            if wcs is None:
                continue
            x, y = sky.pixel_position(wcs, position)
            ny, nx = entry.plane
            inside = min(x + 0.5, y + 0.5, nx - 0.5 - x, ny - 0.5 - y)
            if inside >= 0:
                found.append((-inside, entry.id, entry))
        return [entry for *_, entry in sorted(found, key=lambda one: one[:2])]

    def _near(
        self, position: SkyCoord, band: str | None, image_set: str | None
    ) -> list[ImageEntry]:
        """Images of the band whose circle holds the position."""
        chosen = [
            entry
            for entry in self.entries.values()
            if (band is None or entry.band == band)
            and (image_set is None or entry.set == image_set)
        ]
        if not chosen:
            bands = sorted({entry.band for entry in self.entries.values()})
            raise UnknownNameError(
                f"no image of band {band!r}, set {image_set!r} in {self._release.url}; bands are "
                f"{', '.join(bands)}, sets {', '.join(self.sets)}"
            )
        placed = [entry for entry in chosen if entry.ra is not None]
        if not placed:
            return []
        centres = SkyCoord([e.ra for e in placed], [e.dec for e in placed], unit="deg")
        radius = np.array([entry.radius_deg for entry in placed])
        near = centres.separation(position.icrs).deg <= radius + 1e-6
        return [entry for entry, is_near in zip(placed, near, strict=True) if is_near]

    def cutout(
        self,
        position: SkyCoord,
        size: Any,
        *,
        band: str | None = None,
        level: str = "sources",
        image_set: str | None = None,
        image_id: str | None = None,
    ) -> CCDData:
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
        CCDData
            Physical values; WCS of the cutout; mask, True where there is no good measurement or
            no image; uncertainty, the noise of each pixel and the unit of the bound; ``meta``
            with level, bound, release, image.

        Raises
        ------
        OutsideFootprintError
            If no image covers the position.
        """
        check_level(level)
        if not position.isscalar:
            raise InvalidRequestError(f"cutout of {position.size} positions: give one at a time")
        entry = self._choose(position, band, image_set, image_id)
        wcs = sky.read_wcs(entry.fits_header())
        if wcs is None:
            raise OutsideFootprintError(
                f"image {entry.id} has no WCS; use read() with pixel slices"
            )
        box = sky.box_in_pixels(wcs, size)
        x, y = sky.pixel_position(wcs, position)
        first = [
            int(np.floor(at - (side - 1) / 2 + 0.5)) for at, side in ((y, box[0]), (x, box[1]))
        ]
        return self._cut(entry, level, first[0], first[1], box, wcs)

    def _choose(
        self,
        position: SkyCoord,
        band: str | None,
        image_set: str | None,
        image_id: str | None,
    ) -> ImageEntry:
        if image_id is not None:
            return self.entry(image_id)
        found = self.covering(position, band=band, image_set=image_set)
        if not found:
            raise OutsideFootprintError(
                f"no image of band {band or 'any'} in {self._release.url} covers "
                f"{position.to_string('decimal')}; `skyfold images` lists what there is"
            )
        return found[0]

    def _cut(
        self, entry: ImageEntry, level: str, y0: int, x0: int, box: tuple[int, int], wcs: Any
    ) -> CCDData:
        ny, nx = entry.plane
        rows = slice(max(y0, 0), min(y0 + box[0], ny))
        columns = slice(max(x0, 0), min(x0 + box[1], nx))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            raise OutsideFootprintError(f"the cutout lies outside image {entry.id}")
        window = self.read(entry.id, level, rows, columns)
        place = (
            slice(rows.start - y0, rows.stop - y0),
            slice(columns.start - x0, columns.stop - x0),
        )
        values, mask, sigma = _physical(entry, window)
        return CCDData(
            _padded(values, box, place, np.nan),
            unit=_unit(entry),
            mask=_padded(mask, box, place, fill=True),
            uncertainty=None
            if sigma is None
            else StdDevUncertainty(_padded(sigma, box, place, np.nan)),
            wcs=sky.shifted_wcs(wcs, x0, y0),
            meta={
                "level": level,
                "bound": _bound(entry, level),
                "release": self._release.url,
                "image": entry.id,
                "band": entry.band,
                "set": entry.set,
            },
        )

    def array(self, entry: ImageEntry, layer: str) -> zarr.Array[Any]:
        """Zarr array of one layer of the group that holds an image."""
        path = f"images/{entry.set}/{entry.group}/{layer}"
        if path not in self._arrays:
            with named_store_errors(f"{self._release.url}/{path}", "open"):
                self._arrays[path] = self._release.group[path]
        return self._arrays[path]


class _LayerReader:
    """Fetches layers of one image for a window of tiles, all at once."""

    def __init__(self, library: ImageLibrary, entry: ImageEntry, network: Network | None) -> None:
        self.library = library
        self.entry = entry
        self.network = network  # opened before latents are read: it brings their tables

    def __call__(
        self, names: tuple[str, ...], tiles_y: slice, tiles_x: slice
    ) -> dict[str, NDArray[Any]]:
        with ThreadPoolExecutor(_POOL_THREADS) as pool:
            parts = pool.map(lambda name: self._read(name, tiles_y, tiles_x), names)
            return dict(zip(names, parts, strict=True))

    def _read(self, name: str, tiles_y: slice, tiles_x: slice) -> NDArray[Any]:
        array = self.library.array(self.entry, name)
        row = self.entry.row
        key = f"{self.library._release.url}/{array.path} row {row}"
        try:
            with named_store_errors(key, "read"):
                if name == "background":
                    return np.asarray(array[row])
                side = {"checksum": 1, "latent": TILE // STRIDE}.get(name, TILE)
                y, x = (
                    slice(tiles.start * side, tiles.stop * side) for tiles in (tiles_y, tiles_x)
                )
                return np.asarray(array[row, y, x])
        except (ValueError, RuntimeError, IndexError, KeyError) as error:
            raise CorruptDataError(f"{key} cannot be decoded: {error}") from error


def _physical(
    entry: ImageEntry, window: Window
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.float64] | None]:
    """Values, mask and noise with the header's scale applied."""
    values = window.values
    exact_float = values.dtype.kind == "f" and (entry.bscale, entry.bzero) == (1, 0)
    if not exact_float:
        values = values * entry.bscale + entry.bzero
    mask = (window.flags != 0) | ~np.isfinite(values)
    if window.values.dtype.kind != "f" and entry.blank is not None:
        mask |= window.values == entry.blank
    values = np.where(mask & (window.flags >= FLAG_FILL) & (values != 0), np.nan, values)
    sigma = None if window.sigma is None else window.sigma * abs(entry.bscale)
    return values, mask, sigma


def _padded(
    plane: NDArray[Any], box: tuple[int, int], place: tuple[slice, slice], fill: Any
) -> NDArray[Any]:
    if plane.shape == box:
        return plane
    out = np.full(box, fill, plane.dtype if plane.dtype.kind in "fb" else float)
    out[place] = plane
    return out


def _unit(entry: ImageEntry) -> u.UnitBase:
    """Unit of BUNIT where astropy knows it, counts (adu) otherwise."""
    text = str(entry.fits_header().get("BUNIT", "adu")).strip() or "adu"
    try:
        return u.Unit(text)
    except (ValueError, TypeError):
        return u.adu


def _bound(entry: ImageEntry, level: str) -> float:
    """Largest error at a level [noise units]; infinite where there is none."""
    if level == "exact" or entry.mode == "direct":
        return 0.0
    return entry.bound if level == "bounded" else float("inf")


def _plain_header(header: fits.Header) -> fits.Header:
    """Header without the cards that say how the file held the array."""
    plain = header.copy()
    for card in ("XTENSION", "PCOUNT", "GCOUNT", "TFIELDS", "CHECKSUM", "DATASUM"):
        plain.remove(card, ignore_missing=True)
    return plain


def _with_scale(hdu: fits.PrimaryHDU, entry: ImageEntry) -> fits.PrimaryHDU:
    """Put back the scale that astropy takes out of the header of integers."""
    for card, value, plain in (("BSCALE", entry.bscale, 1.0), ("BZERO", entry.bzero, 0.0)):
        if value != plain or card in entry.fits_header():
            hdu.header[card] = value
    if entry.blank is not None:
        hdu.header["BLANK"] = entry.blank
    return hdu
