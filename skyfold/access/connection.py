"""The file system behind a URL: how one is set up, found again after a fork, and sent elsewhere.

The only place that knows what S3 and web servers need to be told: connections at once, how long to
wait, and that a reader is led to no other host.
"""

from __future__ import annotations

import os
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from skyfold.access.store_errors import named_store_errors
from skyfold.access.trust import check_key, check_local_file
from skyfold.errors import InvalidRequestError, MissingDependencyError, StoreUnavailableError

_CONNECTIONS = 64  # of S3 at once; botocore's own 10 would make rounds of a large request
_WEB_SILENCE = 10.0  # s without a byte from a web server, after which it is given up


class Connection:
    """A URL, and its file system.

    Parameters
    ----------
    url : str or Path
        A folder, ``s3://bucket/prefix``, ``https://host/path`` or any other fsspec URL.
    options : dict, optional
        For the file system, such as ``{"anon": True}`` or ``{"endpoint_url": ...}`` of s3fs.

    Attributes
    ----------
    root : str
        Path of the URL in the file system.
    is_local : bool
        Whether it is a folder.
    """

    def __init__(self, url: str | os.PathLike[str], options: dict[str, Any] | None = None) -> None:
        self.url = str(url).rstrip("/")
        self.options = dict(options or {})
        self._open()

    def _open(self) -> None:
        options = self.options
        if self.url.startswith("s3://"):
            config = {"max_pool_connections": _CONNECTIONS} | options.get("config_kwargs", {})
            options = options | {"config_kwargs": config}
        if self.url.startswith(("http://", "https://")):
            options = options | {"client_kwargs": _web_client(options.get("client_kwargs", {}))}
        self._fs, root = _file_system(self.url, options)
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
        self._open()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def path(self, key: str) -> str:
        """Path of a key in the file system; CorruptDataError if the key would lead elsewhere."""
        return f"{self.root}/{check_key(key)}" if key else self.root

    def address(self, key: str) -> str:
        """Where a browser finds an object: of S3 its server's URL, without credentials."""
        if not self.url.startswith("s3://"):
            return f"{self.url}/{key}"
        return str(self.fs.url(self.path(key))).partition("?")[0]

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


def _file_system(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    scheme = url.partition("://")[0]
    try:
        with named_store_errors(url, "open"):
            return fsspec.core.url_to_fs(url, **options)  # type: ignore[no-any-return]
    except ImportError as missing:
        raise MissingDependencyError(
            f"{scheme}:// needs a library that is not installed: {missing}"
        ) from missing
    except ValueError as unknown:
        raise InvalidRequestError(
            f"{url} cannot be opened: {unknown}; give a folder, s3://bucket/prefix, "
            "https://host/path, or another URL that fsspec knows"
        ) from unknown


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
