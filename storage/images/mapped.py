"""Large files that are mapped and not read, so that memory does not grow with them.

What a program maps counts as its memory while it looks at it. Parts are copied out, and the rest is
given back at once: the system keeps it as long as there is room.
"""

from __future__ import annotations

import io
import mmap
import os
import tempfile
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LARGE = 2**28  # bytes of a file, from which it is mapped

Content = bytes | mmap.mmap


def map_file(file: IO[bytes]) -> mmap.mmap:
    """Content of an open file, to be read only; the file may be closed."""
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def map_written(write: Callable[[IO[bytes]], Any]) -> mmap.mmap:
    """What a function writes into a file, which is gone from the disk with the mapping."""
    with tempfile.TemporaryFile() as file:
        write(file)
        file.flush()
        return map_file(file)


class _Mapped(io.RawIOBase):
    """Mapped content as a file: astropy takes a mapping itself for one that it may write to."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.at = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: len(self.content)}[whence]
        self.at = base + offset
        return self.at

    def readinto(self, buffer: Any) -> int:
        found = self.content[self.at : self.at + len(buffer)]
        buffer[: len(found)] = found
        self.at += len(found)
        return len(found)


def as_file(content: Content) -> IO[bytes]:
    """Content as an open file."""
    return (
        io.BytesIO(content) if isinstance(content, bytes) else io.BufferedReader(_Mapped(content))
    )


def give_back(content: mmap.mmap) -> None:
    """Count no more as memory what was looked at."""
    if hasattr(content, "madvise"):
        content.madvise(mmap.MADV_DONTNEED)


def part_of(plane: NDArray[Any], place: Any) -> NDArray[Any]:
    """Some pixels of a plane, in the byte order of this machine; a copy where it is mapped.

    Parameters
    ----------
    plane : ndarray, any shape
        In memory, or a view of a mapped file.
    place : slice or tuple of slice
    """
    part = plane[place]
    content = _mapping(plane)
    native = part.astype(part.dtype.newbyteorder("="), copy=content is not None)
    if content is not None:
        give_back(content)
    return native


def _mapping(plane: NDArray[Any]) -> mmap.mmap | None:
    """The mapped file that an array is a view of, if it is one."""
    base: Any = plane
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None
