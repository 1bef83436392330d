"""The images of one set, and all of them as one lazy array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.errors import InvalidRequestError, MissingDependencyError, UnknownNameError
from skyfold.images.cutouts import bound_at, physical, unit_of
from skyfold.images.window import check_level
from skyfold.ladder import LEVELS, TILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import xarray
    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.images.library import ImageLibrary
    from skyfold.release import DataRelease

_PLANES = ("data", "mask", "noise")


class ImageSet:
    """Images of a release that belong together; made by ``release.images[SET]``.

    Attributes
    ----------
    name : str

    Examples
    --------
    >>> lazy = release.images["night1"].to_xarray("bounded")  # doctest: +SKIP
    >>> lazy.data.sel(image="night1/r").mean().compute()  # doctest: +SKIP
    """

    def __init__(self, library: ImageLibrary, name: str) -> None:
        self._library = library
        self.name = name

    @property
    def entries(self) -> dict[str, ImageEntry]:
        """Index entries of its images by id."""
        every = self._library.entries.items()
        return {name: entry for name, entry in every if entry.set == self.name}

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __repr__(self) -> str:
        bands = sorted({entry.band for entry in self.entries.values()})
        return f"<ImageSet {self.name}: {len(self)} images in bands {', '.join(bands)}>"

    @property
    def levels(self) -> dict[str, float]:
        """Bits per pixel of the stored layers that each level reads."""
        entries = list(self.entries.values())
        pixels = max(sum(entry.pixels for entry in entries), 1)
        return {
            level: 8 * sum(entry.bytes_at(level) for entry in entries) / pixels for level in LEVELS
        }

    def to_xarray(
        self, level: str = "sources", image_ids: Sequence[str] | None = None
    ) -> xarray.Dataset:
        """All images as one lazy array; a chunk is one tile, fetched and decoded when computed.

        Parameters
        ----------
        level : str
            One of latent, sources, bounded, exact.
        image_ids : sequence of str, optional
            Images of the set; all unless given.

        Returns
        -------
        xarray.Dataset
            ``data`` in physical units, NaN where there is no measurement; ``mask``, True where
            there is no good one; ``noise`` of each pixel. Dimensions image, y, x; coordinates
            image (its id), band, time. Smaller images of a set are padded with NaN, and masked.

        Raises
        ------
        MissingDependencyError
            If xarray or dask are not installed.
        LevelNotStoredError, UnknownNameError, InvalidRequestError
        """
        check_level(level)
        try:
            import dask.array
            import xarray
        except ImportError as error:
            raise MissingDependencyError(
                f'to_xarray needs {error.name}; run `pip install "skyfold[xarray]"`'
            ) from error
        entries = self._chosen(image_ids)
        sides = [max(entry.plane[axis] for entry in entries) for axis in (0, 1)]
        chunks = ((1,) * len(entries), *(_tiles(side) for side in sides))
        release = self._library.release
        kinds = (_value_type(entries), bool, np.float64)
        pixel = np.dtype(list(zip(_PLANES, kinds, strict=True)))
        blocks = dask.array.map_blocks(  # type: ignore[no-untyped-call]
            _block,  # all planes of a tile at once: it is fetched and decoded once for them
            chunks=chunks,
            dtype=pixel,
            meta=np.empty((0, 0, 0), pixel),
            release=release,
            image_ids=tuple(entry.id for entry in entries),
            level=level,
            pixel=pixel,
        )
        units = {str(unit_of(entry)) for entry in entries}
        return xarray.Dataset(
            {name: (("image", "y", "x"), blocks[name]) for name in _PLANES},
            coords={
                "image": [entry.id for entry in entries],
                "band": ("image", [entry.band for entry in entries]),
                "time": ("image", [entry.time or "" for entry in entries]),
            },
            attrs={
                "level": level,
                "bound": max(bound_at(entry, level) for entry in entries),
                "release": release.url,
                "unit": units.pop() if len(units) == 1 else "",
            },
        )

    def _chosen(self, image_ids: Sequence[str] | None) -> list[ImageEntry]:
        entries = self.entries
        wanted = list(entries) if image_ids is None else list(image_ids)
        absent = [one for one in wanted if one not in entries]
        if absent:
            raise UnknownNameError(
                f"no image {absent[0]!r} in set {self.name!r}; it has {len(entries)}, such as "
                f"{next(iter(entries), 'none')}"
            )
        if not wanted:
            raise InvalidRequestError(f"no images of set {self.name!r} were asked for; name some")
        return [entries[one] for one in wanted]


def _tiles(side: int) -> tuple[int, ...]:
    """Lengths of the tiles along one axis."""
    return tuple(min(TILE, side - start) for start in range(0, side, TILE))


def _value_type(entries: Sequence[ImageEntry]) -> Any:
    """Float type that holds the physical values of images as cutouts give them."""
    wide = any(np.dtype(e.dtype) != np.float32 or (e.bscale, e.bzero) != (1, 0) for e in entries)
    return np.float64 if wide else np.float32


def _block(
    release: DataRelease,
    image_ids: tuple[str, ...],
    level: str,
    pixel: np.dtype[Any],
    block_info: Any = None,
) -> NDArray[Any]:
    """Planes of one tile of one image, shape (1, ny, nx), in whichever process dask runs it."""
    (number, _), *spans = block_info[None]["array-location"]
    entry = release.images.entry(image_ids[number])
    shape = tuple(stop - start for start, stop in spans)
    out = np.full((1, *shape), np.array((np.nan, True, np.nan), pixel))
    rows, columns = (
        slice(start, min(stop, side))
        for (start, stop), side in zip(spans, entry.plane, strict=True)
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return out
    window = release.images.read(entry.id, level, rows, columns)
    for name, plane in zip(_PLANES, physical(entry, window), strict=True):
        if plane is not None:
            out[name][0, : plane.shape[0], : plane.shape[1]] = plane
    return out
