"""What a reader believes of a release: sizes it may claim, keys it may name, text that is read.

A release is opened from a URL that somebody mailed. Every claim in it is held against a bound
before memory is taken for it, and whatever goes wrong inside a library while its bytes are read
becomes an error of `skyfold.errors` that names the object.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from skyfold.errors import CorruptDataError, MemoryCapError, SkyfoldError

MAX_METADATA_BYTES = 2**26  # of one JSON, Parquet or ECSV object; a night's index takes 1 MB
MAX_MANIFEST_BYTES = 2**29  # some four million objects
MAX_KEY_LENGTH = 1024  # bytes; that of S3
ENVIRONMENT = "SKYFOLD_MAX_BYTES"
_MAX_LINE = 1000  # of the header of a record
_ECSV_TYPES = "bool|u?int(8|16|32|64)|float(16|32|64)|string"
_ECSV_LINE = re.compile(
    r"# ?("
    r"%ECSV 1\.0|---|datatype:|delimiter: [' ,\"]+|meta: !!omap|schema: astropy-2\.0"
    rf"|- \{{name: [^&*!{{}}]+, (unit: [^&*!{{}}]+, )?datatype: ({_ECSV_TYPES})"
    r"(, (description|format): [^&*!{}]+)?\}"
    r"|- \{[\w ]+: [^&*!{}\[\]]+\})?"
)
_NOT_A_NAME = re.compile(r"[\x00-\x1f\x7f\\]|::")


def default_cap() -> int:
    """Bytes that one request may take: ``SKYFOLD_MAX_BYTES``, or half of the machine's memory."""
    given = os.environ.get(ENVIRONMENT, "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return _memory_bytes() // 2


def _memory_bytes() -> int:
    """Memory of the machine, or of the container that runs this."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        total = 2**33  # not told by this system
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdecimal() else total


def require_memory(needed: int, cap: int, what: str) -> None:
    """Refuse a request before memory is taken for it.

    Parameters
    ----------
    needed : int
        Bytes that decoding takes at most.
    cap : int
        Bytes that it may take.
    what : str
        For the message, such as ``"reading image night1/a"``.

    Raises
    ------
    MemoryCapError
        If more is needed than may be taken.
    """
    if needed > cap:
        raise MemoryCapError(
            f"{what} takes {needed:,} bytes of memory; {cap:,} are allowed: ask for a smaller "
            f"part, or allow more with open_release(url, max_bytes=...) or {ENVIRONMENT}"
        )


class reading:
    """While an object's bytes are read, whatever a library raises becomes `CorruptDataError`.

    Parameters
    ----------
    key : str
        Of the object, with its URL where that is known.
    what : str
        What the bytes should be, such as ``"an index of images"``.
    """

    def __init__(self, key: str, what: str) -> None:
        self.key = key
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, SkyfoldError):
            text = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            raise CorruptDataError(
                f"{self.key} is not {self.what}: {text}; run `skyfold verify` and fetch the "
                "release again"
            ) from error


def load_json(data: bytes, key: str, most: int | None = MAX_METADATA_BYTES) -> Any:
    """Value of a JSON object of a release.

    Raises
    ------
    CorruptDataError
        If it has more bytes than it may, or is no JSON.
    """
    require_small(len(data), key, most)
    with reading(key, "JSON"):
        return json.loads(data)


def require_small(size: int, key: str, most: int | None = MAX_METADATA_BYTES) -> None:
    """CorruptDataError if an object that is read whole is larger than such objects are."""
    if most is not None and size > most:
        raise CorruptDataError(
            f"{key} has {size:,} bytes where at most {most:,} are allowed; do not use this release"
        )


def check_ecsv(text: str, key: str) -> None:
    """Refuse ECSV whose header says more than names, units and types of columns.

    YAML may hold aliases that swell, and tags that build objects; a record needs neither.

    Raises
    ------
    CorruptDataError
    """
    require_small(len(text), key)
    for line in itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()):
        if len(line) > _MAX_LINE or not _ECSV_LINE.fullmatch(line):
            raise CorruptDataError(
                f"{key} holds {line[:100]!r}, which the header of a record may not; run `skyfold "
                "verify` and fetch the release again"
            )


def check_key(key: str) -> str:
    """The key, if it names an object below the release's URL and nothing else.

    Raises
    ------
    CorruptDataError
        If it is absolute, climbs (``..``), or holds what no key of a release holds.
    """
    plain = isinstance(key, str) and not _NOT_A_NAME.search(key) and _is_relative(key)
    if not plain or len(key.encode(errors="replace")) > MAX_KEY_LENGTH:
        raise CorruptDataError(
            f"the release names the object {str(key)[:100]!r}, which does not lie below its URL; "
            "do not use it"
        )
    return key


def _is_relative(key: str) -> bool:
    return not {"", ".", ".."} & set(key.split("/"))


def check_local_file(root: str, key: str) -> int:
    """Size [bytes] of a file below a folder.

    Raises
    ------
    FileNotFoundError
        If there is none.
    CorruptDataError
        If it is reached through a symbolic link, or is no regular file: a pipe would wait for ever.
    """
    top = os.path.realpath(root)
    path = os.path.join(top, *check_key(key).split("/"))
    try:
        found = os.stat(path)
    except (NotADirectoryError, FileNotFoundError) as error:
        if os.path.islink(path):
            raise _not_plain(path, "a broken symbolic link") from error
        raise FileNotFoundError(key) from error
    if os.path.realpath(path) != path:
        raise _not_plain(path, "reached through a symbolic link")
    if stat.S_ISDIR(found.st_mode):
        raise FileNotFoundError(key)
    if not stat.S_ISREG(found.st_mode):
        raise _not_plain(path, "no regular file")
    return found.st_size


def _not_plain(path: str, why: str) -> CorruptDataError:
    return CorruptDataError(
        f"{path} is {why}; objects of a release are plain files: copy what it should hold into the "
        "release"
    )
