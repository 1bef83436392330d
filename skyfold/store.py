"""Bytes at rest behind a URL: a folder, an S3 bucket or a web server, all through fsspec.

The only place that knows file systems. Their errors become `skyfold.errors` here, and messages
carry keys and never credentials. Local writes are renamed into place, so an object is whole or
absent, as it is on object storage.
"""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import zarr
from fsspec.implementations.local import LocalFileSystem

from skyfold.errors import StoreUnavailableError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Store:
    """Objects under one URL.

    Parameters
    ----------
    url : str or Path
        A folder, ``s3://bucket/prefix``, ``https://host/path`` or any other fsspec URL.
    options : dict, optional
        For the file system, such as ``{"anon": True}`` or ``{"endpoint_url": ...}`` of s3fs.
    """

    def __init__(self, url: str | os.PathLike[str], options: dict[str, Any] | None = None) -> None:
        self.url = str(url).rstrip("/")
        self.options = dict(options or {})
        self._connect()

    def _connect(self) -> None:
        self.fs, root = fsspec.core.url_to_fs(self.url, **self.options)
        self.root = str(root).rstrip("/")
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def path(self, key: str) -> str:
        """Path of a key in the file system."""
        return f"{self.root}/{key}" if key else self.root

    def zarr(self, *, read_only: bool = True) -> zarr.abc.store.Store:
        """The same objects as a Zarr store."""
        if self.is_local:
            return zarr.storage.LocalStore(self.root, read_only=read_only)
        options = self.options | {"asynchronous": True}
        return zarr.storage.FsspecStore.from_url(
            self.url, storage_options=options, read_only=read_only
        )

    def read(self, key: str) -> bytes:
        """Whole object; FileNotFoundError if there is none."""
        with self._named("read", key):
            return bytes(self.fs.cat_file(self.path(key)))

    def write(self, key: str, data: bytes) -> None:
        """Replace an object."""
        with self._named("write", key):
            if self.is_local:
                self._rename_into_place(Path(self.path(key)), data)
            else:
                self.fs.pipe_file(self.path(key), data)

    def _rename_into_place(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            partial.write_bytes(data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _link_into_place(self, path: Path, data: bytes) -> None:
        """As renaming, but a link refuses to replace what is there."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        try:
            partial.write_bytes(data)
            os.link(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def create(self, key: str, data: bytes) -> None:
        """Write an object that must not exist yet; FileExistsError if it does."""
        with self._named("create", key):
            if self.is_local:
                self._link_into_place(Path(self.path(key)), data)
            elif "s3" in self.fs.protocol:
                self._create_on_s3(key, data)
            else:
                if self.fs.exists(self.path(key)):
                    raise FileExistsError(key)
                self.fs.pipe_file(self.path(key), data)

    def _create_on_s3(self, key: str, data: bytes) -> None:
        bucket, _, name = self.path(key).partition("/")
        try:
            self.fs.call_s3("put_object", Bucket=bucket, Key=name, Body=data, IfNoneMatch="*")
        except OSError as error:
            if _is_precondition_failed(error):
                raise FileExistsError(key) from error
            raise
        self.fs.invalidate_cache(self.path(key))

    def exists(self, key: str) -> bool:
        """Whether there is an object of this key."""
        with self._named("look up", key):
            self.fs.invalidate_cache()
            return bool(self.fs.isfile(self.path(key)))

    def delete(self, key: str) -> None:
        """Remove an object if it is there."""
        with self._named("delete", key):
            if self.fs.exists(self.path(key)):
                self.fs.rm_file(self.path(key))

    def delete_prefix(self, prefix: str) -> None:
        """Remove every object below a prefix."""
        with self._named("delete", prefix):
            if self.fs.exists(self.path(prefix)):
                self.fs.rm(self.path(prefix), recursive=True)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every object below a prefix, by key, in order of keys."""
        with self._named("list", prefix):
            self.fs.invalidate_cache()
            try:
                found = self.fs.find(self.path(prefix), detail=True)
            except FileNotFoundError:
                return {}
        start = len(self.root) + 1
        return {str(path)[start:]: int(info["size"]) for path, info in sorted(found.items())}

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


class named_store_errors:
    """Turns what a file system raises into `StoreUnavailableError` with the object's name."""

    def __init__(self, name: str, action: str) -> None:
        self.name = name
        self.action = action

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        told = FileExistsError if self.action in ("write", "create") else FileNotFoundError
        if error is None or isinstance(error, told):
            return
        if isinstance(error, (OSError, TimeoutError)) or _is_remote(error):
            raise StoreUnavailableError(
                f"cannot {self.action} {self.name}: {_first_line(error)}; check that the store is "
                "reachable and that your credentials allow this"
            ) from error


def _is_precondition_failed(error: BaseException) -> bool:
    """HTTP status 412 in the answer; a server's words differ, and some say nothing."""
    answer = getattr(error.__cause__, "response", None) or {}
    return answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412


def _is_remote(error: BaseException) -> bool:
    """Errors of the libraries beneath fsspec, known by where their class was defined."""
    return type(error).__module__.partition(".")[0] in {"botocore", "aiohttp", "aiobotocore"}


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
