"""The objects of a release's images: by place, by likeness, by the map's cell, by novelty.

Numbers of objects are what every request gives and takes: they are row numbers of the table, and
places in the arrays of vectors, cells and novelty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import QTable

from skyfold.access.model_files import CARD
from skyfold.access.store_errors import named_store_errors
from skyfold.catalogs.library import Catalog
from skyfold.catalogs.tables import write_parquet
from skyfold.errors import CorruptDataError, InvalidRequestError, UnknownNameError
from skyfold.images.cutouts import MAX_PIXELS, Box, Cutouts, cut_all
from skyfold.objects.index import KEY, TABLE, VECTOR_CHUNK, ObjectsInfo, array_path
from skyfold.objects.model import ARRAYS, MAX_BYTES, ObjectModel
from skyfold.objects.neighbours import nearest

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from skyfold.release import DataRelease

__all__ = ["ObjectLibrary"]

MATCH = 5 * u.arcsec
CUTOUT_PIXELS = 64
HELD_BYTES = 2**28  # vectors of a release that are kept once read; more are read at each request
_RUN_CHUNKS = 16  # chunks of vectors read together


class ObjectLibrary:
    """Objects of the images of a release.

    Requests give an `astropy.table.QTable` with one row an object; ``meta["rows"]`` holds their
    numbers. What is seen in several images is several objects, one for each image.

    Examples
    --------
    >>> odd = release.objects.novel(20)  # doctest: +SKIP
    >>> like = release.objects.similar(odd["object"][0], 10)  # doctest: +SKIP
    >>> stamps = release.objects.cutouts(like, level="sources")  # doctest: +SKIP
    """

    def __init__(self, release: DataRelease) -> None:
        self._release = release
        self._reset()

    def _reset(self) -> None:
        self._info: ObjectsInfo | None = None
        self._table: Catalog | None = None
        self._model: ObjectModel | None = None
        self._held: dict[str, NDArray[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_release": self._release}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._release = state["_release"]
        self._reset()

    def __len__(self) -> int:
        return self.description.rows if self.is_stored else 0

    def __repr__(self) -> str:
        return f"<ObjectLibrary: {len(self)} objects>"

    @property
    def is_stored(self) -> bool:
        """Whether the release was searched for objects, and has any."""
        return self._info is not None or self._release.store.exists(KEY)

    @property
    def description(self) -> ObjectsInfo:
        """What there is; UnknownNameError if the release holds no objects."""
        if self._info is None:
            if not self.is_stored:
                raise UnknownNameError(
                    f"{self._release.url} holds no objects: it has no images with noise, nothing "
                    "was found in them, or its producer did not search them (`python -m flows "
                    "objects`)"
                )
            self._info = ObjectsInfo.from_json(self._release.read(KEY), KEY)
        return self._info

    @property
    def catalog(self) -> Catalog:
        """The table of the objects, as any catalog of the release: columns, levels, conditions."""
        if self._table is None:
            _ = self.description
            self._table = Catalog(self._release, TABLE)
        return self._table

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.catalog.columns

    @property
    def model(self) -> ObjectModel:
        """What turns pooled latents into vectors, cells, novelty; CorruptDataError if damaged."""
        if self._model is None:
            digest = self.description.model
            files = self._release.model_files(digest, (CARD, ARRAYS), MAX_BYTES)
            self._model = ObjectModel.from_files(files, digest)
        return self._model

    @property
    def som(self) -> dict[str, NDArray[Any]]:
        """The self-organizing map of the objects: its arrays by name, with axes (y, x) first.

        ``weights``, ``u_matrix``, ``hits`` (objects in each cell) and ``mean``, of the columns that
        ``description.som["mean"]`` names.
        """
        return self._all("som/")

    @property
    def novelty(self) -> NDArray[np.float32]:
        """Novelty of every object, shape (n,); see `skyfold.objects.model` for what it means."""
        return self._whole("novelty")

    @property
    def cells(self) -> NDArray[np.int32]:
        """Cell of the map, ``y * nx + x``, of every object, shape (n,)."""
        return self._whole("cells")

    def info(self) -> dict[str, Any]:
        """Rows, columns, and bytes of the table's layers that each level reads."""
        return {**self.catalog.info(), "som": self.description.som}

    # Requests.

    def table(
        self,
        rows: slice | Sequence[int] | NDArray[np.integer[Any]] | None = None,
        *,
        columns: Sequence[str] | str | None = None,
        level: str = "exact",
    ) -> QTable:
        """Columns of all objects, or of some in the order asked for.

        Parameters
        ----------
        rows : slice or sequence of int, optional
            Numbers of objects.
        columns : sequence of str, or str, optional
        level : str
            Of the table, as of catalogs: map, latent, bounded, exact.

        Returns
        -------
        astropy.table.QTable

        Raises
        ------
        UnknownNameError, LevelNotStoredError, InvalidRequestError, CorruptDataError
        """
        found = self.catalog.read(columns, rows, level)
        if rows is None or isinstance(rows, slice):
            return found
        asked = np.atleast_1d(np.asarray(rows))
        return found[np.searchsorted(found.meta["rows"], asked)] if len(asked) else found

    def cone(
        self,
        position: SkyCoord,
        radius: Any,
        *,
        columns: Sequence[str] | str | None = None,
        level: str = "exact",
    ) -> QTable:
        """Objects within a radius of a position; only the chunks that can hold them are read.

        Parameters
        ----------
        position : SkyCoord
        radius : Quantity
            An angle.
        columns : sequence of str, or str, optional
        level : str
            As of `table`.

        Returns
        -------
        astropy.table.QTable

        Raises
        ------
        InvalidRequestError
            If no image has a WCS, so that objects have no positions on the sky, or the radius is
            not a positive angle.
        """
        return self.catalog.cone(position, radius, level, columns)

    def cell(
        self,
        number: int,
        *,
        columns: Sequence[str] | str | None = None,
        level: str = "exact",
    ) -> QTable:
        """Objects of one cell of the map.

        Parameters
        ----------
        number : int
            ``y * nx + x``.
        columns : sequence of str, or str, optional
        level : str
            As of `table`.

        Returns
        -------
        astropy.table.QTable

        Raises
        ------
        InvalidRequestError
            If the map has no such cell.
        """
        cells = int(np.prod(self.description.som["shape"]))
        if not 0 <= number < cells:
            raise InvalidRequestError(
                f"cell {number}: the map of the objects has {cells} cells, from 0; give one"
            )
        return self.table(np.flatnonzero(self.cells == number), columns=columns, level=level)

    def novel(
        self,
        count: int = 20,
        *,
        columns: Sequence[str] | str | None = None,
        level: str = "exact",
    ) -> QTable:
        """The most novel objects, the most novel first; see `skyfold.objects.model`."""
        values = self.novelty
        count = min(_positive(count), len(values))
        limit = np.partition(values, len(values) - count)[len(values) - count]
        rows = np.flatnonzero(values >= limit)
        order = np.argsort(-values[rows], kind="stable")[:count]
        return self.table(rows[order], columns=columns, level=level)

    def of_image(
        self,
        image_id: str,
        *,
        columns: Sequence[str] | str | None = None,
        level: str = "exact",
    ) -> QTable:
        """Objects of one image, in the order in which they are stored.

        Parameters
        ----------
        image_id : str
        columns : sequence of str, or str, optional
        level : str
            As of `table`.

        Returns
        -------
        astropy.table.QTable

        Raises
        ------
        UnknownNameError
            If the image was not searched for objects.
        """
        first = 0
        for name, count in self.description.images:
            if name == image_id:
                return self.table(slice(first, first + count), columns=columns, level=level)
            first += count
        raise UnknownNameError(
            f"image {image_id!r} was not searched for objects, as {len(self.description.images)} "
            f"others of {self._release.url} were; release.objects.description.images lists them"
        )

    def similar(
        self,
        to: int | SkyCoord,
        count: int = 10,
        *,
        columns: Sequence[str] | str | None = None,
        level: str = "exact",
    ) -> QTable:
        """Objects nearest to one in the space of pooled latents, nearest first.

        Parameters
        ----------
        to : int or SkyCoord
            Number of an object, or a position: that of the object nearest to it, within 5 arcsec.
        count : int
            How many, without the object itself.
        columns : sequence of str, or str, optional
        level : str

        Returns
        -------
        astropy.table.QTable
            With the further column ``latent_distance`` [steps of a vector].

        Raises
        ------
        InvalidRequestError
            If there is no such object, or none near the position.
        """
        number = self.at(to) if isinstance(to, SkyCoord) else self._number(to)
        rows, distance = nearest(self.vectors([number])[0], self._blocks(), _positive(count) + 1)
        others = rows != number
        others[-1] &= others[:-1].sum() < count  # should equals have left no place for itself
        table = self.table(rows[others], columns=columns, level=level)
        table["latent_distance"] = distance[others]
        return table

    def at(self, position: SkyCoord, radius: Any = MATCH) -> int:
        """Number of the object nearest to a position.

        Parameters
        ----------
        position : SkyCoord
        radius : Quantity
            The largest angle between them; 5 arcsec unless given.

        Returns
        -------
        int

        Raises
        ------
        InvalidRequestError
            If none lies within the radius.
        """
        near = self.cone(position, radius, columns=["ra", "dec"])
        if not len(near):
            raise InvalidRequestError(
                f"no object within {radius} of {position.to_string('decimal')}; "
                "release.objects.cone finds those farther away"
            )
        apart = SkyCoord(near["ra"], near["dec"]).separation(position.icrs)
        return int(near.meta["rows"][np.argmin(apart)])

    def vectors(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int8]:
        """Vectors of some objects, shape (n, d), in the order asked for."""
        asked = np.atleast_1d(np.asarray(rows))
        out = np.empty((len(asked), self.description.size), np.int8)
        for chunk in np.unique(asked // VECTOR_CHUNK).tolist():
            inside = asked // VECTOR_CHUNK == chunk
            block = self._block(chunk, chunk + 1)
            out[inside] = block[asked[inside] - chunk * VECTOR_CHUNK]
        return out

    def cutouts(
        self,
        rows: QTable | int | Sequence[int] | NDArray[np.integer[Any]],
        level: str = "sources",
        *,
        size: int = CUTOUT_PIXELS,
    ) -> Cutouts:
        """Squares of pixels about objects, each from the image that the object was found in.

        Parameters
        ----------
        rows : QTable or int or sequence of int
            What a request gave, or numbers of objects.
        level : str
            One of latent, sources, bounded, exact.
        size : int
            Pixels a side.

        Returns
        -------
        Cutouts
            A list of CCDData in the order asked for, as of `ImageLibrary.cutouts`, with ``object``
            in meta.

        Raises
        ------
        InvalidRequestError
            If the size is not positive, or larger than a cutout may be.
        """
        if not 0 < size * size <= MAX_PIXELS:
            raise InvalidRequestError(
                f"cutouts of {size} pixels a side: allowed are 1 to {int(MAX_PIXELS**0.5)}"
            )
        numbers = rows.meta["rows"] if isinstance(rows, QTable) else np.atleast_1d(rows)
        if isinstance(rows, QTable) and "object" in rows.colnames:
            numbers = np.asarray(rows["object"])  # a table that was sorted or cut keeps its meta
        found = self.table(numbers, columns=["image", "x", "y"])
        boxes = [self._box(one, size) for one in found]
        cutouts = cut_all(self._release.images, boxes, level).require_all()
        for number, cutout in zip(numbers, cutouts, strict=True):
            if cutout is not None:
                cutout.meta["object"] = int(number)
        return cutouts

    def _box(self, one: Any, size: int) -> Box:
        entry = self._release.images.entry(str(one["image"]))
        x, y = (float(u.Quantity(one[axis]).value) for axis in ("x", "y"))
        x0, y0 = (int(np.floor(at - (size - 1) / 2 + 0.5)) for at in (x, y))
        return Box(entry, y0, x0, (size, size))

    def tsne(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Numbers of the objects on the t-SNE map, shape (k,), and their places, shape (k, 2).

        Raises
        ------
        UnknownNameError
            If the release has no such map.
        """
        if not self.description.tsne:
            raise UnknownNameError(
                f"{self._release.url} holds no t-SNE map: it has too few objects for one; use the "
                "self-organizing map, release.objects.som"
            )
        rows, places = (self._whole(f"tsne/{name}") for name in ("rows", "places"))
        return rows, places

    def explained(self) -> dict[str, NDArray[Any]]:
        """Why the most novel objects are: arrays whose first axis is the object.

        ``rows``, their numbers; ``occlusion``, shape (e, s, s), by how much the isolation falls
        where a block of 8 x 8 pixels about the object is replaced by sky; ``shap``, shape (e, d),
        the Shapley value of each number of the vector for the isolation.
        """
        return self._all("explained/")

    def to_parquet(self, path: str | os.PathLike[str], level: str = "exact") -> None:
        """Write the table of all objects to a Parquet file.

        Parameters
        ----------
        path : str or path
        level : str
            As of `table`.
        """
        write_parquet(self.table(level=level), path)

    # Arrays.

    def _number(self, number: int) -> int:
        if not isinstance(number, (int, np.integer)) or isinstance(number, bool):
            raise InvalidRequestError(
                f"object {number!r} is a {type(number).__name__}; give its number, or a SkyCoord"
            )
        if not 0 <= number < len(self):
            raise InvalidRequestError(
                f"object {number}: there are {len(self)}, numbered from 0; give one of them"
            )
        return int(number)

    def _all(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Whole small arrays, by their names without the prefix."""
        names = [name for name in self.description.arrays() if name.startswith(prefix)]
        return {name.removeprefix(prefix): self._whole(name) for name in names}

    def _read(self, name: str, rows: slice) -> NDArray[Any]:
        key = f"{self._release.url}/{array_path(name)}"
        array = self._release.array(array_path(name), self.description.arrays()[name])
        try:
            with named_store_errors(key, "read"):
                return np.asarray(array[rows])
        except (ValueError, RuntimeError, IndexError, KeyError) as error:
            raise CorruptDataError(
                f"{key} cannot be decoded: {error}; run `skyfold verify`"
            ) from error

    def _whole(self, name: str) -> NDArray[Any]:
        if name not in self._held:
            self._held[name] = self._read(name, slice(None))
        return self._held[name]

    def _blocks(self) -> Iterator[NDArray[np.int8]]:
        """All vectors in order, some chunks at a time."""
        chunks = -(-self.description.rows // VECTOR_CHUNK)
        for first in range(0, chunks, _RUN_CHUNKS):
            yield self._block(first, min(first + _RUN_CHUNKS, chunks))

    def _block(self, first: int, last: int) -> NDArray[np.int8]:
        """Vectors of some chunks; all are kept once read, unless they are too many."""
        rows = slice(first * VECTOR_CHUNK, last * VECTOR_CHUNK)
        if self.description.rows * self.description.size <= HELD_BYTES:
            return self._whole("vectors")[rows]
        return self._read("vectors", rows)


def _positive(count: int) -> int:
    if count < 1:
        raise InvalidRequestError(f"count {count}: ask for one object at least")
    return int(count)
