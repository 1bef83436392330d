"""What a Parquet file claims, read before a library takes memory for it.

A kilobyte of Parquet can ask for petabytes: pages that swell, runs that repeat a value for ever,
dictionaries of long strings. This module follows the footer and the header of every page (Thrift's
compact protocol, as the Parquet format defines them) and adds up what they claim.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 2**28  # of all pages of a file, plain
MAX_VALUES = 2**26  # of all columns of a file
MAX_COLUMNS = 4096
_VALUE_BYTES = 64  # of a repeated value, in memory
_BATCH_BYTES = 2**24  # that a batch of rows may swell to
_MAX_DEPTH = 32
_BOOLS = {1: True, 2: False}
_DELTA_BYTES = 7  # an encoding in which a string begins as the one before


@dataclass(frozen=True)
class Claims:
    """What a file says of itself.

    Attributes
    ----------
    rows : int
    values : int
        Of all pages.
    plain_bytes : int
        Of all pages, decompressed.
    batch_rows : int
        Rows to read at once, so that no batch swells beyond some megabytes.
    """

    rows: int
    values: int
    plain_bytes: int
    batch_rows: int

    @property
    def most_bytes(self) -> int:
        """Bytes that its table may take: values of some words each, beside the pages themselves."""
        return min(MAX_BYTES, 2 * self.plain_bytes + _VALUE_BYTES * self.values + 2**25)


def check_parquet(data: bytes) -> Claims:
    """What a Parquet file claims, within bounds.

    Raises
    ------
    ValueError
        If it is not Parquet, is encrypted, or claims more than `MAX_BYTES` or `MAX_VALUES`.
    """
    try:
        return _check(data)
    except (KeyError, IndexError, TypeError, struct.error, OverflowError) as error:
        raise ValueError(f"its footer or a page header is broken: {error!r}"[:200]) from error


def _check(data: bytes) -> Claims:
    if len(data) < 12 or data[:4] != b"PAR1" or data[-4:] != b"PAR1":
        raise ValueError("it does not begin and end as a Parquet file does")
    length = int.from_bytes(data[-8:-4], "little")
    if length > len(data) - 12:
        raise ValueError(f"its footer of {length} bytes is longer than the file")
    footer, _ = _Thrift(data, len(data) - 8 - length).struct()
    rows, groups = footer[3], footer.get(4, [])
    if len(footer[2]) > MAX_COLUMNS:
        raise ValueError(f"it has {len(footer[2])} columns; {MAX_COLUMNS} are allowed")
    plain = values = longest = 0
    for group in groups:
        for column in group[1]:
            for page_bytes, page_values, repeats in _pages(data, column[3]):
                plain, values = plain + page_bytes, values + page_values
                longest = max(longest, page_bytes if repeats else 1)
                _within(plain, values)
    _within(0, rows)
    return Claims(rows, values, plain, max(16, min(8192, _BATCH_BYTES // max(longest, 1))))


def _within(plain: int, values: int) -> None:
    if not (0 <= plain <= MAX_BYTES and 0 <= values <= MAX_VALUES):
        raise ValueError(
            f"it claims {plain:,} bytes and {values:,} values; at most {MAX_BYTES:,} and "
            f"{MAX_VALUES:,} are allowed"
        )


def _pages(data: bytes, about: dict[int, Any]) -> list[tuple[int, int, bool]]:
    """Plain bytes and values of every page of a column chunk, and whether values may repeat it."""
    start, dictionary = about[9], about.get(11) or 0
    at = min(start, dictionary) if dictionary > 0 else start
    left, found = about[5], []
    while left > 0:
        if not 4 <= at < len(data):
            raise ValueError(f"a page begins at byte {at} of {len(data)}")
        header, at = _Thrift(data, at).struct()
        kind, plain, stored = header[1], header[2], header[3]
        if plain < 0 or stored < 0:
            raise ValueError(f"a page has {plain} bytes, stored as {stored}")
        count, repeats = 0, kind == 2  # a dictionary
        if kind in (0, 3):  # data pages, of both versions
            page = header[5 if kind == 0 else 8]
            count, repeats = page[1], page[2 if kind == 0 else 4] == _DELTA_BYTES
            if count <= 0:
                raise ValueError(f"a data page has {count} values")
            left -= count
        found.append((plain, count, repeats))
        at += stored
        if len(found) > 2**20:
            raise ValueError("a column has more than a million pages")
    return found


class _Thrift:
    """Reader of structs in Thrift's compact protocol; fields by number."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def struct(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """Fields of a struct, and the byte after it."""
        fields: dict[int, Any] = {}
        number = 0
        while True:
            head = self._byte()
            if head == 0:
                return fields, self.at
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = self._value(head & 15, depth)

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if kind in _BOOLS:
            return _BOOLS[kind]
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            return struct.unpack("<d", self._take(8))[0]
        if kind == 8:
            return self._take(self._varint())
        if kind in (9, 10):
            return self._list(depth)
        if kind == 12:
            return self.struct(depth + 1)[0]
        raise ValueError(f"it holds a field of type {kind}")

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count = head >> 4 if head >> 4 < 15 else self._varint()
        kind = head & 15
        if count > len(self.data) - self.at:
            raise ValueError(f"a list of {count} in a file of {len(self.data)} bytes")
        # in a list, a bool is a byte of its own
        return [
            self._byte() if kind in _BOOLS else self._value(kind, depth + 1) for _ in range(count)
        ]

    def _take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) != count:
            raise ValueError("it ends inside a field")
        self.at += count
        return part

    def _byte(self) -> int:
        return self._take(1)[0]

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number
            if shift > 63:
                raise ValueError("it holds a number of more than 64 bits")

    def _zigzag(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)
