"""Files of a folder, written as objects are: whole or absent."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to; the file is at `path` whole, or not at all."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes | bytearray, *, is_new: bool = False) -> None:
    """Rename a file into place; where it must be new, link it, which replaces nothing.

    Raises
    ------
    FileExistsError
        If it must be new and is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        (os.link if is_new else os.replace)(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_part(path: str, start: int, stop: int) -> bytes:
    """Bytes of a file from one place to another; fewer where it ends."""
    with Path(path).open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


def read_end(path: str, size: int) -> bytes:
    """The last bytes of a file; fewer if it has no more."""
    with Path(path).open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - size, 0))
        return file.read()
