"""Bytes at rest behind a URL: a folder, an S3 bucket or a web server, all alike.

What each kind needs to be asked in its own way is here and in `connection`, and nowhere else: an
object is read whole, in ranges or part by part, and it is there whole or not at all.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyfold.access.connection import Connection
from skyfold.access.folder import read_end, read_part, write_whole
from skyfold.access.ranges import joined
from skyfold.access.store_errors import is_precondition_failed, named_store_errors
from skyfold.access.traffic import Traffic
from skyfold.access.trust import MAX_METADATA_BYTES, check_local_file, load_json, require_small
from skyfold.errors import StoreUnavailableError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import zarr

# What a browser shows instead of saving it; `mimetypes` knows what the machine does.
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
}
_FIRST_PIECE = 2**23  # of an object of unknown size: most need no second request


class Store(Connection):
    """Objects under one URL.

    Parameters
    ----------
    url : str or Path
        A folder, ``s3://bucket/prefix``, ``https://host/path`` or any other fsspec URL.
    options : dict, optional
        For the file system, such as ``{"anon": True}`` or ``{"endpoint_url": ...}`` of s3fs.

    Attributes
    ----------
    traffic : Traffic
        What reading has cost so far.
    """

    def __init__(self, url: str | os.PathLike[str], options: dict[str, Any] | None = None) -> None:
        super().__init__(url, options)
        self.traffic = Traffic()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.traffic = Traffic()

    def zarr(self, *, read_only: bool = True) -> zarr.abc.store.Store:
        """The same objects as a Zarr store, past `traffic`."""
        from zarr.storage import LocalStore

        from skyfold.access.zarr_store import NamedStore

        if self.is_local:
            return LocalStore(self.root, read_only=read_only)
        options = self.options | {"asynchronous": True}
        return NamedStore.from_url(self.url, storage_options=options, read_only=read_only)

    def read(self, key: str, most: int | None = None) -> bytes:
        """Whole object.

        Parameters
        ----------
        most : int, optional
            Bytes that it may have; a longer one is not fetched.

        Raises
        ------
        FileNotFoundError
            If there is none.
        CorruptDataError
            If it is longer, or in a folder no plain file.
        StoreUnavailableError
        """
        name = f"{self.url}/{key}"
        with self._named("read", key):
            if self.is_local:
                require_small(check_local_file(self.root, key), name, most)
                data = Path(self.path(key)).read_bytes()
            else:
                data = self._read_pieces(self.path(key), name, most)
        self.traffic.add(requests=1, size=len(data), rounds=1)
        return data

    def read_json(self, key: str, most: int | None = MAX_METADATA_BYTES) -> Any:
        """Value of a JSON object of so many bytes at most.

        Raises
        ------
        FileNotFoundError, CorruptDataError, StoreUnavailableError
        """
        return load_json(self.read(key, most), f"{self.url}/{key}", most)

    def _read_pieces(self, path: str, name: str, most: int | None) -> bytes:
        """An object of unknown size, without asking for it first."""
        try:
            first = bytes(self.fs.cat_file(path, start=0, end=_FIRST_PIECE))
        except FileNotFoundError:
            raise
        except Exception:  # an empty object has no byte 0, and each server says so otherwise
            return bytes(self.fs.cat_file(path))
        if len(first) != _FIRST_PIECE:
            require_small(len(first), name, most)
            return first
        size = int(self.fs.size(path))
        require_small(size, name, most)
        self.traffic.add(requests=2, rounds=2)
        rest = b"" if size <= _FIRST_PIECE else self.fs.cat_file(path, start=_FIRST_PIECE, end=size)
        return first + bytes(rest)

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Parts of objects, all at once, near ones in one request.

        Parameters
        ----------
        ranges : sequence of (str, int, int)
            Key, first byte, and the byte after the last.

        Returns
        -------
        list of bytes
            In the order asked for; shorter than asked where the object ends.

        Raises
        ------
        FileNotFoundError
            If one of the objects is not there.
        StoreUnavailableError
        """
        runs = joined(ranges)
        data = self._fetch(list(runs))
        out: list[bytes] = [b""] * len(ranges)
        for (_, start, _), members, whole in zip(runs, runs.values(), data, strict=True):
            for number in members:
                _, low, high = ranges[number]
                out[number] = whole[low - start : high - start]
        return out

    def read_end(self, key: str, size: int) -> bytes:
        """Last bytes of an object; FileNotFoundError if there is none."""
        with self._named("read", key):
            self.check_plain(key)
            if self.is_local:
                data = read_end(self.path(key), size)
            else:
                data = bytes(self.fs.cat_file(self.path(key), start=-size))
        self.traffic.add(requests=1, size=len(data), rounds=1)
        return data

    def _fetch(self, runs: list[tuple[str, int, int]]) -> list[bytes]:
        if not runs:
            return []
        if self.is_local:
            data = [self._read_part(*run) for run in runs]
        else:
            data = self._fetch_remote(runs)
        self.traffic.add(requests=len(runs), size=sum(map(len, data)), rounds=1)
        return data

    def _read_part(self, key: str, start: int, stop: int) -> bytes:
        with self._named("read", key):
            self.check_plain(key)
            return read_part(self.path(key), start, stop)

    def _fetch_remote(self, runs: list[tuple[str, int, int]]) -> list[bytes]:
        keys, starts, stops = (list(part) for part in zip(*runs, strict=True))
        with self._named("read", keys[0]):
            answers = self.fs.cat_ranges(
                [self.path(key) for key in keys], starts, stops, on_error="return"
            )
        data = []
        for (key, start, stop), answer in zip(runs, answers, strict=True):
            with self._named("read", key):
                if isinstance(answer, BaseException):
                    raise answer
            # a web server that does not know ranges sends the whole object
            part = answer if len(answer) <= stop - start else answer[start:stop]
            data.append(bytes(part))
        return data

    def blocks(self, key: str, size: int, most: int = 2**24) -> Iterator[bytes]:
        """An object part by part, with one byte more than `size` if it is longer.

        Parameters
        ----------
        size : int
            Bytes that it should have.
        most : int
            Bytes of a part.

        Raises
        ------
        FileNotFoundError, CorruptDataError, StoreUnavailableError
        """
        with self._named("read", key):
            self.check_plain(key)
            if size == 0 and not self.fs.size(self.path(key)):
                return
            at = 0
            while at <= size:
                end = min(at + most, size + 1)
                part = bytes(self.fs.cat_file(self.path(key), start=at, end=end))
                self.traffic.add(requests=1, size=len(part), rounds=1)
                yield part
                at += len(part)
                if len(part) != most:  # the end, or a server that knows no ranges
                    return

    def write(self, key: str, data: bytes | bytearray) -> None:
        """Replace an object."""
        with self._named("write", key):
            if self.is_local:
                write_whole(Path(self.path(key)), data)
            elif self._is_s3:
                self.fs.pipe_file(self.path(key), data, **_content_type(key))
            else:
                self.fs.pipe_file(self.path(key), data)

    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; FileExistsError if it does."""
        with self._named("create", key):
            if self.is_local:
                write_whole(Path(self.path(key)), data, is_new=True)
            elif self._is_s3:
                self._create_on_s3(key, data)
            else:
                if self.fs.exists(self.path(key)):
                    raise FileExistsError(key)
                self.fs.pipe_file(self.path(key), data)

    def _create_on_s3(self, key: str, data: bytes) -> None:
        bucket, _, name = self.path(key).partition("/")
        try:
            about = {"Bucket": bucket, "Key": name, **_content_type(key)}
            self.fs.call_s3("put_object", Body=data, IfNoneMatch="*", **about)
        except OSError as error:
            if not is_precondition_failed(error):
                raise
            # the answer to an earlier try may have been lost after it took effect
            if self.fs.cat_file(self.path(key)) != data:
                raise FileExistsError(key) from error
        self.fs.invalidate_cache(self.path(key))

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        with self._named("look up", key):
            self.fs.invalidate_cache()
            try:  # isfile would take a refusal for an absence
                return bool(self.fs.info(self.path(key))["type"] == "file")
            except (FileNotFoundError, NotADirectoryError):
                return False

    def fingerprint(self, key: str) -> str | None:
        """What changes when an object is replaced: size, and tag or time; None if there is none."""
        with self._named("look up", key):
            self.fs.invalidate_cache()
            try:
                about = self.fs.info(self.path(key))
            except FileNotFoundError:
                return None
        self.traffic.add(requests=1, rounds=1)
        kept = ("size", "ETag", "LastModified", "mtime")
        return None if about.get("type") == "directory" else str([about.get(one) for one in kept])

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        with self._named("delete", key):
            if self._is_s3:  # which minds no absence, but that of the bucket
                self._require_bucket(lambda: self.fs.rm_file(self.path(key)))
            elif self.fs.exists(self.path(key)):
                self.fs.rm_file(self.path(key))

    def delete_prefix(self, prefix: str) -> None:
        """Remove every object below a prefix."""
        with self._named("delete", prefix):
            if self._is_s3:
                if keys := list(self._listed(prefix)):
                    self.fs.rm([self.path(key) for key in keys])
            elif self.fs.exists(self.path(prefix)):
                self.fs.rm(self.path(prefix), recursive=True)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every object below a prefix, by key, in order of keys.

        Raises
        ------
        StoreUnavailableError
            If the store cannot list, refuses or breaks off.
        """
        return {key: int(info["size"]) for key, info in self._listed(prefix).items()}

    def times(self, prefix: str = "") -> dict[str, datetime]:
        """When every object below a prefix was written, by key, in order of keys; UTC."""
        found = {}
        for key, info in self._listed(prefix).items():
            written: Any = info.get("LastModified", info.get("mtime"))
            is_number = isinstance(written, float)
            found[key] = datetime.fromtimestamp(written, UTC) if is_number else written
        return found

    def _listed(self, prefix: str) -> dict[str, dict[str, Any]]:
        """What the file system says of every object below a prefix."""
        with self._named("list", prefix):
            self.fs.invalidate_cache()
            try:  # of an empty prefix on S3, an empty list
                found = self._require_bucket(lambda: self.fs.find(self.path(prefix), detail=True))
            except FileNotFoundError:
                return {}
        start = len(self.root) + 1
        return {str(path)[start:]: info for path, info in sorted(found.items())}

    @property
    def _is_s3(self) -> bool:
        return "s3" in self.fs.protocol

    def _require_bucket(self, act: Callable[[], Any]) -> Any:
        """Result of what finds nothing on S3 only where there is no bucket."""
        try:
            return act()
        except FileNotFoundError as error:
            if not self._is_s3:
                raise
            raise StoreUnavailableError(
                f"there is no bucket for {self.url}; create it, or check the URL"
            ) from error

    def size(self, key: str) -> int:
        """Bytes of one object, 0 if there is none."""
        with self._named("look up", key):
            try:
                self.fs.invalidate_cache()
                return int(self.fs.size(self.path(key)))
            except FileNotFoundError:
                return 0

    def _named(self, action: str, key: str) -> AbstractContextManager[None]:
        return named_store_errors(f"{self.url}/{key}", action)


def _content_type(key: str) -> dict[str, str]:
    """Argument of an S3 request that says what an object is; empty where it is just bytes."""
    known = _CONTENT_TYPES.get(Path(key).suffix)
    return {"ContentType": known} if known else {}
