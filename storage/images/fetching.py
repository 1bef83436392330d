"""Bytes of a file or object, in memory or mapped; decompressed; and what can go wrong."""

import bz2
import gzip
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from skyfold.errors import InputError, StoreUnavailableError
from storage.config import is_url
from storage.images.mapped import LARGE, Content, as_file, give_back, map_file, map_written

_SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_COPIED_BYTES = 2**22  # at once

Options = Mapping[str, Any]


@contextmanager
def store_failures(url: str) -> Iterator[None]:
    """Turn whatever a file system raises into the project's errors, without credentials.

    Parameters
    ----------
    url : str
        What was asked for, as the message names it.

    Raises
    ------
    InputError
        For a missing file or object, or a local file that cannot be read.
    StoreUnavailableError
        For a store that refuses, times out or breaks off.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{url}: there is no such file or object; check the path") from error
    except Exception as error:  # every client library behind fsspec has its own tree
        if not is_url(url):
            raise InputError(
                f"{url}: cannot be read: {reason_of(error)}; check the file"
            ) from error
        raise StoreUnavailableError(
            f"{url}: the store did not answer with data: {reason_of(error)}; check the address and "
            "the access rights (credentials come from the environment)"
        ) from None  # the cause may print the signed request


def reason_of(error: BaseException) -> str:
    """What an error says, in a line, without credentials."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    for name in _SECRET_VARIABLES:
        secret = os.environ.get(name)
        text = text.replace(secret, "***") if secret else text
    return text[:300]


def fetch(url: str, options: Options) -> Content:
    """Bytes of a file or object; those of a large one are mapped."""
    import fsspec

    with store_failures(url):
        if not is_url(url):
            with open(url, "rb") as file:
                is_large = os.fstat(file.fileno()).st_size >= LARGE
                return map_file(file) if is_large else file.read()
        system, path = fsspec.core.url_to_fs(url, **options)
        if (system.size(path) or 0) < LARGE:
            return bytes(system.cat_file(path))
        with system.open(path, "rb") as file:
            return map_written(lambda copy: shutil.copyfileobj(file, copy, _COPIED_BYTES))


def decompress(raw: Content) -> Content:
    """What gzip or bzip2 packed, told by the first bytes; what is not packed as it is."""
    opener = opener_of(raw[:3])
    if opener is None:
        return raw
    with opener(as_file(raw)) as packed:
        plain = packed.read(LARGE)
        if len(plain) < LARGE:
            return bytes(plain)

        def write(file: IO[bytes]) -> None:
            file.write(plain)
            shutil.copyfileobj(packed, file, _COPIED_BYTES)

        return map_written(write)


def opener_of(magic: bytes) -> Any:
    """What opens a compressed file that begins like this; None if it is not compressed."""
    if magic[:2] == b"\x1f\x8b":
        return gzip.open
    return bz2.open if magic[:3] == b"BZh" else None


def digest_of(raw: Content) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    for start in range(0, len(raw), _COPIED_BYTES):
        digest.update(raw[start : start + _COPIED_BYTES])
    if not isinstance(raw, bytes):
        give_back(raw)
    return digest.hexdigest()
