"""A release as a Zarr store: read through the reader that counts and caches, or written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.storage import FsspecStore

from skyfold.access.store_errors import named_store_errors

if TYPE_CHECKING:
    from zarr.core.buffer import Buffer, BufferPrototype

    from skyfold.access.cache import CachedReader

_threads = 16  # requests at once


class NamedStore(FsspecStore):
    """Objects behind a URL, whose failures are a `StoreUnavailableError` that names the object."""

    def _named(self, action: str, key: str) -> named_store_errors:
        return named_store_errors(f"{self.path}/{key}", action)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of an object, None if there is none."""
        with self._named("read", key):
            return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        with self._named("look for", key):
            return await super().exists(key)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Write an object."""
        with self._named("write", key):
            await super().set(key, value, byte_range)

    async def delete(self, key: str) -> None:
        """Remove an object."""
        with self._named("delete", key):
            await super().delete(key)


class ReaderStore(Store):
    """Objects of a release by key.

    Parameters
    ----------
    reader : CachedReader
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, reader: CachedReader) -> None:
        super().__init__(read_only=True)
        self.reader = reader
        self._pool = ThreadPoolExecutor(_threads, "skyfold-zarr")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReaderStore) and other.reader.identity == self.reader.identity

    __hash__ = None  # type: ignore[assignment]

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Bytes of an object, None if there is none."""
        loop = asyncio.get_running_loop()
        try:
            data = await loop.run_in_executor(self._pool, self._read, key, byte_range)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return prototype.buffer.from_bytes(data)

    def _read(self, key: str, part: ByteRequest | None) -> bytes:
        if isinstance(part, RangeByteRequest):
            return self.reader.read_ranges([(key, part.start, part.end)])[0]
        if isinstance(part, SuffixByteRequest):
            return self.reader.read_end(key, part.suffix)
        data = self.reader.read(key)
        return data[part.offset :] if isinstance(part, OffsetByteRequest) else data

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several parts, fetched side by side."""
        parts = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return list(await asyncio.gather(*parts))

    async def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.reader.store.exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Refused: a release is read here."""
        raise NotImplementedError(f"cannot write {key}: a release is read-only here")

    async def delete(self, key: str) -> None:
        """Refused: a release is read here."""
        raise NotImplementedError(f"cannot delete {key}: a release is read-only here")

    def list(self) -> AsyncIterator[str]:
        """Refused: metadata is consolidated."""
        raise NotImplementedError("a release is not listed: its metadata is consolidated")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refused: metadata is consolidated."""
        raise NotImplementedError("a release is not listed: its metadata is consolidated")

    def list_dir(self, prefix: str) -> AsyncIterator[Any]:
        """Refused: metadata is consolidated."""
        raise NotImplementedError("a release is not listed: its metadata is consolidated")
