"""Reading a release once: what was fetched stays in memory, and on disk if the user asks for it.

A sealed release never changes, so a part of an object is known by key and bytes. Refining a cutout
then fetches only the layers that the level before had not. Entries on disk are files, written
under another name and renamed into place, so that any number of processes share a folder; each
ends with a CRC and is fetched again where that is wrong. The least recently used ones are removed
when the folder grows beyond its limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from skyfold.access.folder import write_whole
from skyfold.access.trust import MAX_METADATA_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skyfold.access.store import Store

FOLDER_VARIABLE, BYTES_VARIABLE = "SKYFOLD_CACHE", "SKYFOLD_CACHE_BYTES"
DISK_BYTES = 10**9
MEMORY_BYTES = 64 * 2**20
_CHECK_EVERY = 16  # a folder is measured after so many parts of its limit were written
_BLOCK = 4096  # bytes that a file takes on disk at least
Range = tuple[str, int, int]


class DiskCache:
    """Parts of objects in a folder, bounded in size; shared safely by processes.

    Parameters
    ----------
    folder : str or Path
        Made if it is not there.
    limit : int
        Bytes on disk.

    Examples
    --------
    >>> cache = DiskCache("~/.cache/skyfold", 10**9)  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int = DISK_BYTES) -> None:
        self.folder = Path(folder).expanduser()
        self.limit = limit
        self._written = limit  # measured at the first write
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "limit": self.limit}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / digest[:2] / digest[2:40]

    def get(self, name: str) -> bytes | None:
        """Bytes kept under a name; None if there are none, or not as they were written."""
        path = self._path(name)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        body, seal = data[:-4], data[-4:]
        if zlib.crc32(body).to_bytes(4, "little") != seal:
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return body

    def put(self, name: str, data: bytes) -> None:
        """Keep bytes; a folder that cannot be written keeps nothing, and nothing fails."""
        if len(data) > self.limit // _CHECK_EVERY:
            return
        try:
            write_whole(self._path(name), data + zlib.crc32(data).to_bytes(4, "little"))
        except OSError:
            return
        self._count(len(data))

    def _count(self, size: int) -> None:
        with self._lock:
            self._written += max(size, _BLOCK)
            if self._written * _CHECK_EVERY < self.limit:
                return
            self._written = 0
        self._shrink()

    def _shrink(self) -> None:
        """Remove the least recently used files, to nine tenths of the limit."""
        found = []
        for path in self.folder.glob("??/*"):
            with contextlib.suppress(OSError):  # another process may have removed it
                about = path.stat()
                found.append((about.st_mtime, max(about.st_size, _BLOCK), path))
        total = sum(size for _, size, _ in found)
        if total <= self.limit * (1 - 1 / _CHECK_EVERY):
            return
        for _, size, path in sorted(found, key=lambda one: one[0]):
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size
            if total <= 0.8 * self.limit:
                return


class MemoryCache:
    """Parts of objects in memory, the least recently used ones forgotten; safe from any thread."""

    def __init__(self, limit: int = MEMORY_BYTES) -> None:
        self.limit = limit
        self._held: OrderedDict[Range, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, place: Range) -> bytes | None:
        """Bytes of a place, None if they are not held."""
        with self._lock:
            data = self._held.get(place)
            if data is not None:
                self._held.move_to_end(place)
            return data

    def put(self, place: Range, data: bytes) -> None:
        """Hold bytes, unless they are too many to hold others beside them."""
        if len(data) > self.limit // 8:
            return
        with self._lock:
            self._size += len(data) - len(self._held.pop(place, b""))
            self._held[place] = data
            while self._size > self.limit:
                _, oldest = self._held.popitem(last=False)
                self._size -= len(oldest)


class CachedReader:
    """Reads objects of a release, from memory, from disk, or from the store.

    Parameters
    ----------
    store : Store
    identity : str
        What tells this release from any other, an older one at the same URL included.
    disk : DiskCache or None
    """

    def __init__(
        self, store: Store, identity: str, *, disk: DiskCache | None, memory: MemoryCache | None
    ) -> None:
        self.store = store
        self.identity = identity
        self.disk = disk
        self.memory = memory

    def read(self, key: str) -> bytes:
        """Whole object, kept on disk and not in memory; FileNotFoundError if there is none."""
        kept = self._from_disk((key, 0, -1))
        if kept is not None:
            return kept
        data = self.store.read(key, MAX_METADATA_BYTES)
        if self.disk is not None:
            self.disk.put(self._name((key, 0, -1)), data)
        return data

    def read_ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        """Parts of objects, those that no cache holds in one round; see `Store.read_ranges`."""
        found = {place: self._kept(place) for place in ranges}
        missing = [place for place, data in found.items() if data is None]
        for place, data in zip(missing, self.store.read_ranges(missing), strict=True):
            found[place] = data
            self._keep(place, data)
        return [found[place] or b"" for place in ranges]

    def read_end(self, key: str, size: int) -> bytes:
        """Last bytes of an object; FileNotFoundError if there is none."""
        kept = self._kept((key, -size, 0))
        if kept is not None:
            return kept
        data = self.store.read_end(key, size)
        self._keep((key, -size, 0), data)
        return data

    def _keep(self, place: Range, data: bytes) -> None:
        if self.disk is not None:
            self.disk.put(self._name(place), data)
        if self.memory is not None:
            self.memory.put(place, data)

    def _kept(self, place: Range) -> bytes | None:
        data = None if self.memory is None else self.memory.get(place)
        if data is not None:
            self.store.traffic.add(cached=len(data))
            return data
        data = self._from_disk(place)
        if data is not None and self.memory is not None:
            self.memory.put(place, data)
        return data

    def _from_disk(self, place: Range) -> bytes | None:
        data = None if self.disk is None else self.disk.get(self._name(place))
        if data is not None:
            self.store.traffic.add(cached=len(data))
        return data

    def _name(self, place: Range) -> str:
        return "\n".join([self.identity, *map(str, place)])


def disk_cache(cache: bool | str | os.PathLike[str] | DiskCache | None) -> DiskCache | None:
    """Cache that a user asked for.

    Parameters
    ----------
    cache : bool, path, DiskCache or None
        None leaves it to the environment: `SKYFOLD_CACHE` names the folder and
        `SKYFOLD_CACHE_BYTES` its limit. True is that folder, or ``~/.cache/skyfold``.
    """
    if isinstance(cache, DiskCache) or cache is False:
        return cache or None
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if cache is None and not folder:
        return None
    if cache is None or cache is True:
        cache = folder or "~/.cache/skyfold"
    return DiskCache(cache, int(float(os.environ.get(BYTES_VARIABLE, DISK_BYTES))))
