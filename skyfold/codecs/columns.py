"""`skyfold.numbers`, `skyfold.text`, `skyfold.lists`: table columns, whatever codes them best.

Bytes of a chunk of numbers of n bits (little endian)::

    u32    CRC-32 of all that follows
    u8     method: 0 nothing follows, every value is zero; 1 pcodec; 2 zstd of the bytes;
           3 zstd of the bytes, first bytes of all values first; 4 dictionary; 5 parts
    u32    number of values that follow; the rest of the chunk is zero
    (1)    u8 type of the stream (place in ``TYPES``), a standalone pcodec stream
    (4)    u32 length of a chunk of distinct values, that chunk, a chunk of their numbers
    (5)    for each part: rows of the chunk that it holds, its method, its number of values and its
           length in bytes, each as unsigned LEB128, then its bytes

Unsigned chunks may hold the bits of floats: pcodec then takes whichever reading is smaller.
A chunk of text is an array of bytes, one row a string, filled with zeros on the right. After the
same head (its number counts strings; the rest are empty) follow, by method::

    (0) u32 number of distinct strings and u8, 1 if they are of one width and lie as columns of
        bytes; u32 length and a chunk of their lengths in bytes; u32 length and zstd of their
        bytes; a chunk of the number of each row's string, or nothing if each row has its own
    (1) a chunk of the integers that the strings spell

A chunk of lists is an array of integers, one row a list: how many values it has, these, and zeros.
Its bytes are a u32 length and a chunk of the numbers of values, then a chunk of all values in turn.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numcodecs import zstd
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.streams import fill, read_leb128, to_leb128
from skyfold.errors import CorruptDataError

_ZERO, _PCODEC, _PLAIN, _SHUFFLED, _DICTIONARY, _PARTS = range(6)
_STRINGS, _INTEGERS = range(2)
TYPES = ("u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8")
MAX_TEXT_BYTES = 2**28  # of one chunk: more is a decompression bomb
_HEAD = struct.Struct("<IBI")
_SHORT = 8192  # values; pcodec's highest level saves 0.2 % and takes ten times as long
_PCODEC_LEVEL, _PCODEC_LEVEL_LONG = 12, 8
_ZSTD_LEVEL = 19
_ZSTD_TRIAL = 3  # a fast look, which tells whether the slow one can win


@dataclass(frozen=True)
class NumbersCodec(ChunkCodec):
    """Integers, or bits of floats as unsigned integers; any shape.

    Examples
    --------
    >>> import numpy as np
    >>> codec = NumbersCodec()
    >>> chunk = np.array([3, 5, 3, 3, 0, 0])
    >>> data = codec.encode_chunk(chunk)
    >>> codec.decode_chunk(data, chunk.shape, chunk.dtype)
    array([3, 5, 3, 3, 0, 0])
    """

    codec_name: ClassVar[str] = "skyfold.numbers"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        return encode_numbers(chunk)

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        rows = shape[0] if len(shape) == 2 else 1
        return decode_numbers(data, int(np.prod(shape)), dtype, rows).reshape(shape)


@dataclass(frozen=True)
class TextCodec(ChunkCodec):
    """Strings as rows of bytes, shape (rows, width), filled with zeros on the right."""

    codec_name: ClassVar[str] = "skyfold.text"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        rows = np.ascontiguousarray(chunk)
        return encode_text(rows.view(f"S{rows.shape[-1]}").ravel().tolist())

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        strings = decode_text(data, int(np.prod(shape[:-1])))
        if max(map(len, strings), default=0) > shape[-1]:
            raise CorruptDataError(f"skyfold.text chunk holds strings wider than {shape[-1]} bytes")
        return np.array(strings, f"S{shape[-1]}").view(dtype).reshape(shape)


@dataclass(frozen=True)
class ListsCodec(ChunkCodec):
    """Lists of changing length as rows of integers, or bits of floats: number, values, zeros."""

    codec_name: ClassVar[str] = "skyfold.lists"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        counts = np.ascontiguousarray(chunk[:, 0])
        values = chunk[:, 1:][_filled(counts, chunk.shape[1] - 1)]
        return _part(encode_numbers(counts)) + encode_numbers(values)

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        rows, width = shape[0], shape[1] - 1
        first, second = _split(data)
        out = np.zeros(shape, dtype)
        counts = out[:, 0] = decode_numbers(first, rows, dtype)
        if int(counts.max(initial=0)) > width or int(counts.min(initial=0)) < 0:
            raise CorruptDataError(
                f"skyfold.lists chunk holds a list of {int(counts.max())} values where {width} fit"
            )
        total = int(counts.sum(dtype=np.int64))
        out[:, 1:][_filled(counts, width)] = decode_numbers(second, total, dtype)
        return out


def _filled(counts: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Which places of each row hold values, shape (rows, width)."""
    return np.arange(width) < counts[:, None].astype(np.int64)


def encode_numbers(chunk: NDArray[Any]) -> bytes:
    """Smallest bytes of a chunk of integers of 1 to 8 bytes; the same chunk, the same bytes.

    Rows of a chunk of two axes are coded together or in parts, whichever is smaller.
    """
    chunk = np.ascontiguousarray(chunk)
    best = _coded(chunk.ravel())
    if chunk.ndim == 2 and min(chunk.shape) > 1 and best[0] != _ZERO:
        parts = _parts(chunk)
        if len(parts) < len(best[2]):
            best = _PARTS, chunk.size, parts
    return _sealed(*best)


def _coded(values: NDArray[Any]) -> tuple[int, int, bytes]:
    """Method, number of values and bytes of values whose last zeros are left out."""
    used = np.flatnonzero(values)
    if not used.size:
        return _ZERO, 0, b""
    values = values[: used[-1] + 1]
    method, body = min(_candidates(values), key=lambda found: len(found[1]))
    return method, len(values), body


def _parts(chunk: NDArray[Any]) -> bytes:
    """Runs of rows, each run as long as it is smaller than its pieces."""
    parts: list[bytes] = []
    first, run = 0, _part_of(chunk[:1])
    for row in range(1, len(chunk)):
        alone = _part_of(chunk[row : row + 1])
        joined = _part_of(chunk[first : row + 1])
        if len(joined) <= len(run) + len(alone):
            run = joined
        else:
            parts.append(run)
            first, run = row, alone
    return b"".join([*parts, run])


def _part_of(rows: NDArray[Any]) -> bytes:
    method, count, body = _coded(rows.ravel())
    return b"".join(to_leb128(one) for one in (len(rows), method, count, len(body))) + body


def _candidates(values: NDArray[Any], *, nested: bool = False) -> list[tuple[int, bytes]]:
    found = [(_PCODEC, _pcodec(values))]
    plain = values.astype(values.dtype.newbyteorder("<"), copy=False).view(np.uint8)
    shuffled = plain.reshape(len(values), -1).T
    for method, data in ((_PLAIN, plain.tobytes()), (_SHUFFLED, shuffled.tobytes())):
        if len(_zstd(data, _ZSTD_TRIAL)) < 1.25 * len(found[0][1]) + 64:
            found.append((method, _zstd(data, _ZSTD_LEVEL)))
    if not nested:
        found += _dictionary(values)
    return found


def _pcodec(values: NDArray[Any]) -> bytes:
    """Type and stream of the reading that pcodec makes smallest."""
    readings = [_narrowed(values)]
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        readings.append(values.view(f"f{values.dtype.itemsize}"))
    coded = [_one_pcodec(reading) for reading in readings]
    return min(coded, key=len)


def _one_pcodec(values: NDArray[Any]) -> bytes:
    name = f"{values.dtype.kind}{values.dtype.itemsize}"
    level = _PCODEC_LEVEL if len(values) <= _SHORT else _PCODEC_LEVEL_LONG
    stream = standalone.simple_compress(values, ChunkConfig(compression_level=level))
    return bytes([TYPES.index(name)]) + bytes(stream)


def _narrowed(values: NDArray[Any]) -> NDArray[Any]:
    low, high = int(values.min()), int(values.max())
    for name in ("u2", "i2", "u4", "i4", "u8", "i8"):
        limits = np.iinfo(name)
        if limits.min <= low and high <= limits.max:
            return values.astype(name, copy=False)
    raise AssertionError("integers of eight bytes hold every integer of eight bytes")


def _dictionary(values: NDArray[Any]) -> list[tuple[int, bytes]]:
    distinct, numbers = np.unique(values, return_inverse=True)
    if len(distinct) > len(values) // 4 or len(distinct) < 2:
        return []
    first = _nested(distinct)
    return [(_DICTIONARY, _part(first) + _nested(numbers.astype(np.uint32)))]


def _nested(values: NDArray[Any]) -> bytes:
    method, body = min(_candidates(values, nested=True), key=lambda found: len(found[1]))
    return _sealed(method, len(values), body)


def _sealed(method: int, count: int, body: bytes) -> bytes:
    rest = bytes([method]) + count.to_bytes(4, "little") + body
    return zlib.crc32(rest).to_bytes(4, "little") + rest


def _part(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _opened(data: bytes, size: int, what: str) -> tuple[int, int, bytes]:
    """Method, number of values and body of sealed bytes, checked."""
    if len(data) < _HEAD.size or zlib.crc32(data[4:]) != int.from_bytes(data[:4], "little"):
        raise CorruptDataError(
            f"{what} chunk of {len(data)} bytes does not match its checksum; run `skyfold verify` "
            "and fetch the release again"
        )
    _, method, count = _HEAD.unpack_from(data)
    if count > size:
        raise CorruptDataError(
            f"{what} chunk claims {count} values where {size} fit; do not use it"
        )
    return method, count, data[_HEAD.size :]


def decode_numbers(data: bytes, size: int, dtype: np.dtype[Any], rows: int = 1) -> NDArray[Any]:
    """Exactly `size` values of a dtype, of so many rows; see `encode_numbers`.

    Raises
    ------
    CorruptDataError
        If the bytes are not those that were written, or hold more values.
    """
    method, count, body = _opened(data, size, "skyfold.numbers")
    if method == _PARTS:
        return _from_parts(body, size, rows, dtype)
    return _from_method(method, count, body, size, dtype)


def _from_parts(body: bytes, size: int, rows: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    found, filled, at = [], 0, 0
    width = size // max(rows, 1)
    while at < len(body):
        head = []
        for _ in range(4):
            number, at = read_leb128(body, at)
            head.append(number)
        held, method, count, length = head
        filled += held
        if filled > rows or count > held * width or at + length > len(body):
            raise CorruptDataError(f"skyfold.numbers chunk of {rows} rows has parts of more")
        found.append(_from_method(method, count, body[at : at + length], held * width, dtype))
        at += length
    if filled != rows:
        raise CorruptDataError(f"skyfold.numbers chunk holds {filled} of {rows} rows")
    return np.concatenate(found)


def _from_method(
    method: int, count: int, body: bytes, size: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Exactly `size` values of one stream."""
    out = np.zeros(size, dtype)
    if method == _PCODEC:
        out[:count] = _from_pcodec(body, count, dtype)
    elif method in (_PLAIN, _SHUFFLED):
        raw = np.frombuffer(_unzstd(body, count * dtype.itemsize), np.uint8)
        planes = raw.reshape(dtype.itemsize, count).T if method == _SHUFFLED else raw
        little = np.ascontiguousarray(planes).ravel().view(dtype.newbyteorder("<"))
        out[:count] = little
    elif method == _DICTIONARY:
        first, second = _split(body)
        distinct = decode_numbers(first, _count(first), dtype)
        out[:count] = distinct[decode_numbers(second, count, np.dtype(np.uint32))]
    elif method != _ZERO:
        raise CorruptDataError(f"skyfold.numbers chunk has method {method}; 0 to 5 are known")
    return out


def _count(data: bytes) -> int:
    return min(int.from_bytes(data[5:9], "little"), 2**20)


def _split(body: bytes) -> tuple[bytes, bytes]:
    end = 4 + int.from_bytes(body[:4], "little")
    return body[4:end], body[end:]


def _from_pcodec(body: bytes, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Exactly `count` values: the destination bounds the memory, whatever the stream claims."""
    values = np.zeros(count, TYPES[body[0]])
    fill(values, body[1:])
    return values.view(dtype) if values.dtype.kind == "f" else values.astype(dtype)


def _zstd(data: bytes, level: int) -> bytes:
    return bytes(zstd.compress(data, level))


def _unzstd(data: bytes, size: int) -> bytes:
    try:
        if size == 0:  # numcodecs takes such a stream for a broken one
            return b""
        plain = np.empty(size, np.uint8)
        zstd.decompress(data, plain)
        return plain.tobytes()
    except (RuntimeError, ValueError) as error:
        raise CorruptDataError(f"zstd stream cannot be read: {error}; fetch it again") from error


def encode_text(strings: list[bytes]) -> bytes:
    """Bytes of strings; trailing empty ones take none."""
    count = max((place + 1 for place, text in enumerate(strings) if text), default=0)
    kept = strings[:count]
    numbers = _as_integers(kept)
    if numbers is not None:
        return _sealed(_INTEGERS, count, encode_numbers(numbers))
    distinct = sorted(set(kept))
    codes = b""
    if len(distinct) <= count // 2:
        number = {text: place for place, text in enumerate(distinct)}
        codes = encode_numbers(np.array([number[text] for text in kept], np.uint32))
        kept = distinct
    return _sealed(_STRINGS, count, _strings(kept) + codes)


def _strings(texts: list[bytes]) -> bytes:
    lengths = np.array([len(text) for text in texts], np.uint32)
    data = b"".join(texts)
    body = _zstd(data, _ZSTD_LEVEL)
    columns = 0
    if len(set(lengths.tolist())) == 1:
        by_column = np.frombuffer(data, np.uint8).reshape(len(texts), -1).T.tobytes()
        turned = _zstd(by_column, _ZSTD_LEVEL)
        body, columns = (turned, 1) if len(turned) < len(body) else (body, 0)
    head = struct.pack("<IB", len(texts), columns)
    return head + _part(encode_numbers(lengths)) + _part(body)


def _as_integers(strings: list[bytes]) -> NDArray[np.int64] | None:
    """Numbers of strings that are plain decimal integers of 64 bits; None if one is not."""
    if not strings or max(map(len, strings)) > 20:
        return None
    try:
        values = [int(text) for text in strings]
    except ValueError:
        return None
    same = all(b"%d" % value == text for value, text in zip(values, strings, strict=True))
    inside = same and all(-(2**63) <= value < 2**63 for value in values)
    return np.array(values, np.int64) if inside else None


def decode_text(data: bytes, size: int) -> list[bytes]:
    """Exactly `size` strings; see `encode_text`.

    Raises
    ------
    CorruptDataError
        If the bytes are not those that were written, or hold more.
    """
    method, count, body = _opened(data, size, "skyfold.text")
    padding = [b""] * (size - count)
    if method == _INTEGERS:
        numbers = decode_numbers(body, count, np.dtype(np.int64)).tolist()
        return [b"%d" % number for number in numbers] + padding
    if method != _STRINGS:
        raise CorruptDataError(f"skyfold.text chunk has method {method}; 0 and 1 are known")
    texts, rest = _read_strings(body, max(count, 1))
    if rest:
        texts = [texts[code] for code in decode_numbers(rest, count, np.dtype(np.uint32)).tolist()]
    return texts + padding


def _read_strings(body: bytes, most: int) -> tuple[list[bytes], bytes]:
    number, columns = int.from_bytes(body[:4], "little"), body[4]
    if number > most:
        raise CorruptDataError(f"skyfold.text chunk holds {number} strings where {most} fit")
    lengths_part, rest = _split(body[5:])
    packed, codes = _split(rest)
    lengths = decode_numbers(lengths_part, number, np.dtype(np.uint32)).astype(np.int64)
    total = int(lengths.sum())
    if total > MAX_TEXT_BYTES:
        raise CorruptDataError(
            f"skyfold.text chunk claims {total} bytes; {MAX_TEXT_BYTES} are allowed"
        )
    raw = _unzstd(packed, total)
    if columns:
        raw = np.frombuffer(raw, np.uint8).reshape(-1, number).T.tobytes()
    ends = np.cumsum(lengths).tolist()
    starts = [0, *ends][:-1]
    return [raw[a:b] for a, b in zip(starts, ends, strict=True)], codes
