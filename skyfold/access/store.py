"""Bytes at rest behind a URL: a folder, an S3 bucket or a web server, all through fsspec.

The only place that knows file systems. Their errors become `skyfold.errors` here, and messages
carry keys and never credentials. Local writes are renamed into place, so an object is whole or
absent, as it is on object storage.
"""

from __future__ import annotations

import os
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from skyfold.access.traffic import Traffic
from skyfold.access.trust import check_key, check_local_file, require_small
from skyfold.errors import SkyfoldError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    import zarr

_CONNECTIONS = 64  # of S3 at once; botocore's own 10 would make rounds of a large request
_FIRST_PIECE = 2**23  # of an object of unknown size: most need no second request
_WEB_SILENCE = 10.0  # s without a byte from a web server, after which it is given up
NEAR = 0.1  # ranges are read as one where the gap is below this share of both


class Store:
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
        self.url = str(url).rstrip("/")
        self.options = dict(options or {})
        self._connect()

    def _connect(self) -> None:
        self.traffic = Traffic()
        self._lock = threading.Lock()
        self._open()

    def _open(self) -> None:
        options = self.options
        if self.url.startswith("s3://"):
            config = {"max_pool_connections": _CONNECTIONS} | options.get("config_kwargs", {})
            options = options | {"config_kwargs": config}
        if self.url.startswith(("http://", "https://")):
            options = options | {"client_kwargs": _web_client(options.get("client_kwargs", {}))}
        self._fs, root = fsspec.core.url_to_fs(self.url, **options)
        self._process = os.getpid()
        self.root = str(root).rstrip("/")
        self.is_local = isinstance(self._fs, LocalFileSystem)

    @property
    def fs(self) -> Any:
        """The file system; opened anew in a forked process, whose threads the fork left behind."""
        if self._process != os.getpid():
            self._open()
        return self._fs

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def path(self, key: str) -> str:
        """Path of a key in the file system; CorruptDataError if the key would lead elsewhere."""
        return f"{self.root}/{check_key(key)}" if key else self.root

    @property
    def can_list(self) -> bool:
        """Whether objects can be listed; a web server gives pages of links, which are no list."""
        protocol = self.fs.protocol
        names = (protocol,) if isinstance(protocol, str) else protocol
        return not {"http", "https"} & set(names)

    def check_plain(self, key: str) -> None:
        """Raise unless a key may be read: below the URL and, in a folder, a plain file.

        Raises
        ------
        CorruptDataError, FileNotFoundError
        """
        if self.is_local:
            check_local_file(self.root, key)
        else:
            check_key(key)

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
        runs = _joined(ranges)
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
                with Path(self.path(key)).open("rb") as file:
                    file.seek(max(file.seek(0, os.SEEK_END) - size, 0))
                    data = file.read()
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
            with Path(self.path(key)).open("rb") as file:
                file.seek(start)
                return file.read(stop - start)

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
            if not _is_precondition_failed(error):
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
            if self.fs.exists(self.path(key)):
                self.fs.rm_file(self.path(key))

    def delete_prefix(self, prefix: str) -> None:
        """Remove every object below a prefix."""
        with self._named("delete", prefix):
            if self.fs.exists(self.path(prefix)):
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
            try:
                found = self.fs.find(self.path(prefix), detail=True)
            except FileNotFoundError as error:
                if "s3" in self.fs.protocol:  # an empty prefix is an empty list; this is no bucket
                    raise StoreUnavailableError(
                        f"cannot list {self.url}: there is no such bucket; create it, or check the "
                        "URL"
                    ) from error
                return {}
        start = len(self.root) + 1
        return {str(path)[start:]: info for path, info in sorted(found.items())}

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


def _joined(
    ranges: Sequence[tuple[str, int, int]],
) -> dict[tuple[str, int, int], list[int]]:
    """Ranges to request, each with the numbers of those asked for that it holds."""
    runs: list[tuple[str, int, int, list[int]]] = []
    reach = 0.0
    for number in sorted(range(len(ranges)), key=lambda number: ranges[number]):
        key, start, stop = ranges[number]
        allowed = NEAR * (stop - start)
        if runs and runs[-1][0] == key and start - runs[-1][2] <= reach + allowed:
            _, first, last, members = runs.pop()
            runs.append((key, first, max(last, stop), [*members, number]))
        else:
            runs.append((key, start, stop, [number]))
        reach = allowed
    return {(key, start, stop): members for key, start, stop, members in runs}


def _web_client(given: dict[str, Any]) -> dict[str, Any]:
    """Settings of a web client that is led to no other host, and does not wait in silence."""
    import aiohttp

    async def require_same_host(_: Any, __: Any, asked: Any) -> None:
        target = asked.url.join(type(asked.url)(asked.response.headers.get("Location", "")))
        if target.origin() != asked.url.origin():
            raise StoreUnavailableError(
                f"{asked.url.origin()} sends its readers to {target.origin()}, which nobody asked "
                "for; open the release at that address if you trust it"
            )

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(require_same_host)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_WEB_SILENCE, sock_read=_WEB_SILENCE)
    traces = [*given.get("trace_configs", []), trace]
    return {"timeout": timeout} | given | {"trace_configs": traces}


class named_store_errors:
    """Turns what a file system raises into `StoreUnavailableError` with the object's name."""

    def __init__(self, name: str, action: str) -> None:
        self.name = name
        self.action = action

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        told = FileExistsError if self.action in ("write", "create") else FileNotFoundError
        if error is None or isinstance(error, (told, SkyfoldError)):
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
