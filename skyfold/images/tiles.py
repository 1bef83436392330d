"""Decoding windows of many images together: each tile is fetched and decoded once.

Requests become pieces of at most a group's tiles. A group is fetched in one round while the one
before it is decoded, blocks of tiles side by side, so that memory is bounded by two groups however
much is asked for. With compiled loops (`skyfold.compiled`) decoding takes a thread a core. Without
them it takes one: most of it then holds the interpreter's lock, so that a second makes it slower.
Who has more cores takes as many processes; releases pickle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.access.trust import require_memory
from skyfold.compiled import count_read, reader_threads
from skyfold.errors import CorruptDataError, SkyfoldError
from skyfold.images.chunks import LayerBytes, Range
from skyfold.images.details import decode_places, details_key
from skyfold.images.window import Shared, Window, check_window, decode_window
from skyfold.ladder import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.images.details import Places
    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

_GROUP_TILES = 128  # fetched in one round, and decoded into at most 140 MB
_BLOCK_TILES = 16  # neighbours that are decoded in one call: side by side, they cost half as much
_ACROSS = 4  # of them in a row
_THREAD_TILES = 4  # in one call of one of several threads
Tile = tuple[int, int]


@dataclass
class Job:
    """A window that was asked for, and its pixels as they arrive."""

    entry: ImageEntry
    rows: slice
    columns: slice
    level: str
    planes: list[NDArray[Any] | None] = field(default_factory=list)
    error: SkyfoldError | None = None

    @property
    def bytes(self) -> int:
        """Memory of values, flags and noise of its pixels."""
        pixels = (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)
        return pixels * (max(np.dtype(self.entry.dtype).itemsize, 4) + 1 + 8)

    def tiles(self) -> list[list[Tile]]:
        """Tiles that it touches, in pieces of at most a group."""
        across = range(self.columns.start // TILE, -(-self.columns.stop // TILE))
        down = range(self.rows.start // TILE, -(-self.rows.stop // TILE))
        every = [(ty, tx) for ty in down for tx in across]
        return [every[at : at + _GROUP_TILES] for at in range(0, len(every), _GROUP_TILES)]

    def place(self, tile: Tile, part: Window) -> None:
        """Take the pixels of a tile from a decoded block that holds it."""
        planes = (part.values, part.flags, part.sigma)
        if (part.rows, part.columns) == (self.rows, self.columns):
            self.planes = list(planes)  # all that was asked for: nothing to copy
            return
        shape = (self.rows.stop - self.rows.start, self.columns.stop - self.columns.start)
        if not self.planes:
            self.planes = [None if one is None else np.empty(shape, one.dtype) for one in planes]
        y, x = (
            slice(max(at * TILE, mine.start, its.start), min((at + 1) * TILE, mine.stop, its.stop))
            for at, mine, its in zip(
                tile, (self.rows, self.columns), (part.rows, part.columns), strict=True
            )
        )
        target = (_moved(y, self.rows), _moved(x, self.columns))
        source = (_moved(y, part.rows), _moved(x, part.columns))
        for whole, piece in zip(self.planes, planes, strict=True):
            if whole is not None and piece is not None:
                whole[target] = piece[source]

    def window(self) -> Window:
        """What was decoded; raises what went wrong."""
        if self.error is not None:
            raise self.error
        values, flags, sigma = self.planes
        return Window(values, flags, sigma, self.rows, self.columns)  # type: ignore[arg-type]


def _moved(part: slice, window: slice) -> slice:
    return slice(part.start - window.start, part.stop - window.start)


@dataclass
class _Group:
    """Pieces of jobs that are fetched together: for each image, its tiles."""

    pieces: list[tuple[Job, list[Tile]]] = field(default_factory=list)
    tiles: dict[str, set[Tile]] = field(default_factory=dict)
    layers: dict[str, LayerBytes] = field(default_factory=dict)

    def room_for(self, job: Job, tiles: list[Tile]) -> bool:
        new = len(set(tiles) - self.tiles.get(job.entry.id, set()))
        return not self.pieces or sum(map(len, self.tiles.values())) + new <= _GROUP_TILES

    def add(self, job: Job, tiles: list[Tile]) -> None:
        self.pieces.append((job, tiles))
        self.tiles.setdefault(job.entry.id, set()).update(tiles)

    def levels(self, image_id: str) -> list[str]:
        """Levels at which an image is asked for."""
        return list(dict.fromkeys(job.level for job, _ in self.pieces if job.entry.id == image_id))

    def fail(self, image_id: str, error: SkyfoldError) -> None:
        for job, _ in self.pieces:
            if job.entry.id == image_id:
                job.error = error


class TileDecoder:
    """Decodes windows of a release's images.

    Parameters
    ----------
    release : DataRelease
    """

    def __init__(self, release: DataRelease) -> None:
        self.release = release
        self._places: dict[str, Places] = {}
        _keep_freed_memory()

    def decode(self, jobs: list[Job]) -> Iterator[int]:
        """Fill the jobs in; yields how many pieces are done out of `pieces(jobs)`.

        A job that cannot be met has its `error` set, and the others are met.

        Raises
        ------
        InvalidRequestError
            If a window is empty or reaches beyond its image.
        """
        for job in jobs:
            check_window(job.entry, job.rows, job.columns)
        needed = sum(job.bytes for job in jobs)
        require_memory(needed, self.release.max_bytes, f"decoding {len(jobs)} windows of images")
        count_read(sum(len(tiles) for job in jobs for tiles in job.tiles()))
        groups = _groups(jobs)
        self._open(jobs)
        threads = reader_threads()
        with (
            ThreadPoolExecutor(1, "skyfold-fetch") as ahead,
            ThreadPoolExecutor(threads, "skyfold-decode") as several,
        ):
            fetched: Future[None] | None = None
            done = 0
            for number, group in enumerate(groups):
                if fetched is None:
                    self._fetch(group)
                else:
                    fetched.result()
                fetched = None
                if number + 1 < len(groups):
                    fetched = ahead.submit(self._fetch, groups[number + 1])
                self._decode(group, several if threads > 1 else None)
                done += len(group.pieces)
                groups[number] = _Group()  # its bytes are not needed any more
                yield done

    def _open(self, jobs: list[Job]) -> None:
        """Models, and places of the chunks, of every image that is asked for."""
        entries = {job.entry.id: job.entry for job in jobs}
        errors: dict[str, SkyfoldError] = {}
        for digest in sorted({entry.model for entry in entries.values()} - {""}):
            try:
                self.release.network(digest)  # before latents are read: it brings their tables
            except SkyfoldError as error:
                errors |= {e.id: error for e in entries.values() if e.model == digest}
        missing = [e for e in entries.values() if e.id not in self._places and e.id not in errors]
        errors |= self._read_places(missing)
        for job in jobs:
            job.error = errors.get(job.entry.id)

    def places(self, entries: list[ImageEntry]) -> dict[str, Places]:
        """Where the chunks of images lie; raises what went wrong."""
        missing = [entry for entry in entries if entry.id not in self._places]
        for error in self._read_places(missing).values():
            raise error
        return {entry.id: self._places[entry.id] for entry in entries}

    def _read_places(self, entries: list[ImageEntry]) -> dict[str, SkyfoldError]:
        """Learn where the chunks of images lie; what went wrong, by image."""
        ranges = [(details_key(e.set), e.details[0], sum(e.details[:2])) for e in entries]
        errors: dict[str, SkyfoldError] = {}
        for entry, data in zip(entries, self.release.read_ranges(ranges), strict=True):
            try:
                if isinstance(data, SkyfoldError):
                    raise data
                key = f"{self.release.url}/{details_key(entry.set)} of image {entry.id}"
                self._places[entry.id] = decode_places(data, key)
            except SkyfoldError as error:
                errors[entry.id] = error
        return errors

    def _fetch(self, group: _Group) -> None:
        """Bytes of every tile and layer of a group, in one round."""
        needed: list[tuple[LayerBytes, Range]] = []
        for job, _ in group.pieces:
            entry = job.entry
            if entry.id in group.layers or job.error is not None:
                continue
            try:
                several = map(entry.layers_at, group.levels(entry.id))
                names = tuple(dict.fromkeys(chain.from_iterable(several)))
                arrays = self.release.images.arrays(entry, names)
                layers = LayerBytes(entry, arrays, self._places[entry.id])
                places = layers.needed(names, sorted(group.tiles[entry.id]))
            except SkyfoldError as error:
                group.fail(entry.id, error)
                continue
            group.layers[entry.id] = layers
            needed += [(layers, place) for place in places]
        for home in sorted({layers.entry.release for layers, _ in needed}):
            self._take(group, home, [one for one in needed if one[0].entry.release == home])

    def _take(self, group: _Group, home: str, needed: list[tuple[LayerBytes, Range]]) -> None:
        """Read ranges of one release: this one, or an earlier one that holds the layers."""
        data = self.release.home(home).read_ranges([place for _, place in needed])
        for (layers, place), part in zip(needed, data, strict=True):
            if isinstance(part, SkyfoldError):
                group.fail(layers.entry.id, part)
            else:
                layers.held[place] = part

    def _decode(self, group: _Group, several: ThreadPoolExecutor | None) -> None:
        """Decode a group's tiles and hand them to the jobs."""
        failed = {job.entry.id for job, _ in group.pieces if job.error is not None}
        most = _BLOCK_TILES if several is None else _THREAD_TILES
        work = [
            (layers, block, group.levels(image_id))
            for image_id, layers in group.layers.items()
            for block in (_blocks(group.tiles[image_id], most) if image_id not in failed else ())
        ]
        decoded: dict[tuple[str, str, Tile], Window | SkyfoldError] = {}
        mapped = map if several is None or len(work) == 1 else several.map
        for one in mapped(self._parts, *zip(*work, strict=True)) if work else ():
            decoded |= one
        for job, tiles in group.pieces:
            for tile in tiles if job.error is None else ():
                part = decoded[job.entry.id, job.level, tile]
                if isinstance(part, SkyfoldError):
                    job.error = part
                    break
                job.place(tile, part)

    def _parts(
        self, layers: LayerBytes, block: list[Tile], levels: list[str]
    ) -> dict[tuple[str, str, Tile], Window | SkyfoldError]:
        """What holds the pixels of each tile of a block at each level, or what went wrong."""
        found: dict[tuple[str, str, Tile], Window | SkyfoldError] = {}
        network = self.release.network(layers.entry.model) if layers.entry.model else None
        shared = Shared(layers.window, network)
        for level in levels:
            part = self._block(shared, layers.entry, block, level)
            for tile in block:
                one = part
                if isinstance(part, SkyfoldError) and len(block) > 1:  # it may be another's error
                    alone = Shared(layers.window, network)
                    one = self._block(alone, layers.entry, [tile], level)
                found[layers.entry.id, level, tile] = one
        return found

    def _block(
        self, shared: Shared, entry: ImageEntry, block: list[Tile], level: str
    ) -> Window | SkyfoldError:
        """Pixels of a block of neighbouring tiles."""
        rows, columns = (
            slice(first * TILE, min((last + 1) * TILE, side))
            for first, last, side in zip(block[0], block[-1], entry.plane, strict=True)
        )
        try:
            return decode_window(
                entry, level, rows, columns, read=shared.read, network=shared.network
            )
        except SkyfoldError as error:
            return error
        except Exception as error:  # a tile of bytes that nobody wrote may fail in any way
            return CorruptDataError(f"tiles {block} of image {entry.id} cannot be decoded: {error}")


def _keep_freed_memory() -> None:
    """Have the next arrays take the memory of those that are done with.

    glibc gives freed blocks back to the system, which clears every page of the next ones, unless
    one as large was freed before: up to 32 MB, and one that was never written costs nothing.
    """
    np.empty(2**25 - 2**14, np.uint8)


def _groups(jobs: Iterable[Job]) -> list[_Group]:
    """Pieces of jobs in an order that keeps neighbours together, in groups of bounded size."""
    pieces = [(job, tiles) for job in jobs for tiles in job.tiles()]
    pieces.sort(key=lambda piece: (piece[0].entry.set, piece[0].entry.id, piece[1][0]))
    groups: list[_Group] = []
    for job, tiles in pieces:
        if not groups or not groups[-1].room_for(job, tiles):
            groups.append(_Group())
        groups[-1].add(job, tiles)
    return groups


def pieces(jobs: Iterable[Job]) -> int:
    """How many pieces `TileDecoder.decode` counts."""
    return sum(len(job.tiles()) for job in jobs)


def _blocks(tiles: set[Tile], most: int) -> list[list[Tile]]:
    """Tiles of an image as rectangles of so many neighbours at most, row by row."""
    rows: dict[tuple[int, ...], list[int]] = {}
    for ty, members in groupby(sorted(tiles), key=lambda tile: tile[0]):
        for run in _runs([tx for _, tx in members], _ACROSS):
            rows.setdefault(tuple(run), []).append(ty)
    return [
        [(ty, tx) for ty in stack for tx in run]
        for run, found in rows.items()
        for stack in _runs(found, most // len(run))
    ]


def _runs(numbers: list[int], most: int) -> list[list[int]]:
    """Rising numbers as runs of at most `most` that follow one another."""
    keyed = groupby(enumerate(numbers), key=lambda one: one[1] - one[0])
    runs = [[number for _, number in members] for _, members in keyed]
    return [run[at : at + most] for run in runs for at in range(0, len(run), most)]
