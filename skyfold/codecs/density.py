"""`skyfold.density`: amplitudes of densities, as whole numbers, with a range coder.

A chunk has one row a density: first `columns` narrow columns (the step; then, where there is a
core, position, width and shape coefficients), then one residual coefficient for each grid point.
A row whose step is 0 holds no density, and all of it is 0. Bytes of a chunk::

    u32    CRC-32 of all that follows
    u8     0: no row holds a density, nothing follows
           1: all rows do
           2: u32 n, then n bytes of zlib: one bit a row, padded to bytes
    4      for each narrow column but the position: i16 offset, u8 plain bits, u8 table
    u16    n, then n bytes of zlib: table of each context, or n = 0: the built-in ones
    rest   32-bit words of the range coder, zero bytes at the end left out

The range coder (constriction, 32-bit words, 64-bit state) holds the columns in order, then the
coefficients in order of their bands. A narrow column is ``offset + (high << bits) + plain``, with
`high` coded by its table; a position is coded as one of as many as its width allows. Numbers up to
8 are symbols, larger ones a symbol for their bit length and plain bits, as in `skyfold.latents`.
A coefficient's table follows from its band's scale against the core's width (without a core: its
level), its distance from the core (without: the step), and the magnitudes already known: of the
two before it in its band, and of the one above it in the next coarser band.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs import words
from skyfold.codecs.amplitude import (
    MAX_POINTS,
    MAX_WIDTH,
    MIN_POINTS,
    MIN_WIDTH,
    positions,
    wavelet,
)
from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.density_tables import (
    CONTEXTS,
    POSITION,
    Known,
    built_in_map,
    costs,
    fit_map,
    histogram_of,
    models,
    tables,
)
from skyfold.codecs.latent_passes import join, split
from skyfold.codecs.latent_tables import SYMBOLS
from skyfold.errors import CorruptDataError, InvalidRequestError

_EMPTY, _ALL, _SOME = 0, 1, 2


@lru_cache(maxsize=256)
def _uniform(size: int) -> Any:
    return constriction.stream.model.Uniform(size)


# --- narrow columns --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    """How a narrow column is cut: offset, plain bits, table of what is above them."""

    offset: int
    bits: int
    table: int

    @classmethod
    def fit(cls, values: NDArray[np.int32]) -> _Column:
        offset = int(np.median(values)) if len(values) else 0
        best, found = np.inf, cls(offset, 0, 0)
        for bits in range(9):
            symbols, extra, _ = split((values - offset) >> bits)
            counts = np.bincount(symbols, minlength=SYMBOLS)
            cost = counts @ costs().T + extra.sum() + bits * len(values)
            if cost.min() < best:
                best, found = cost.min(), cls(offset, bits, int(cost.argmin()))
        return found

    def to_bytes(self) -> bytes:
        return struct.pack("<hBB", self.offset, self.bits, self.table)


def _read_column(data: bytes) -> _Column:
    offset, bits, table = struct.unpack("<hBB", data)
    if bits > 8 or table >= len(tables()):
        raise CorruptDataError(f"skyfold.density names table {table} with {bits} plain bits")
    return _Column(offset, bits, table)


# --- the coder -------------------------------------------------------------------------------


class _Writer:
    """Range coder that is told numbers; `_Reader` has the same methods and finds them."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def numbers(self, order: NDArray[Any], runs: list[tuple[int, int]], values: Any) -> Any:
        symbols, bits, plain = split(values[order])
        start = 0
        for table, count in runs:
            self._coder.encode(symbols[start : start + count], models()[table])
            start += count
        for length in np.unique(bits[bits > 0]):
            self._coder.encode(plain[bits == length], _uniform(1 << int(length)))
        return values

    def uniform(self, size: int, values: NDArray[np.int32]) -> NDArray[np.int32]:
        if size > 1 and len(values):
            self._coder.encode(np.ascontiguousarray(values), _uniform(size))
        return values

    def to_bytes(self) -> bytes:
        return words.to_bytes(self._coder)


class _Reader:
    """Range decoder; `values` only say how many are asked for."""

    def __init__(self, data: bytes) -> None:
        self._coder = words.to_decoder(data)

    def _plain(self, bits: NDArray[np.int32]) -> NDArray[np.int32]:
        plain = np.zeros_like(bits)
        for length in np.unique(bits[bits > 0]):
            chosen = bits == length
            plain[chosen] = self._coder.decode(_uniform(1 << int(length)), int(chosen.sum()))
        return plain

    def numbers(self, order: NDArray[Any], runs: list[tuple[int, int]], values: Any) -> Any:
        symbols = [self._coder.decode(models()[table], count) for table, count in runs]
        out = np.empty(len(values), np.int32)
        out[order] = join(np.concatenate([*symbols, np.empty(0, np.int32)]), self._plain)
        return out

    def uniform(self, size: int, values: NDArray[np.int32]) -> NDArray[np.int32]:
        if size > 1 and len(values):
            return np.asarray(self._coder.decode(_uniform(size), len(values)), np.int32)
        return np.zeros(len(values), np.int32)


def _code(
    coder: _Writer | _Reader,
    rows: NDArray[np.int32],
    descriptors: list[_Column],
    chosen: NDArray[np.uint8],
) -> NDArray[np.int32]:
    """Pass all rows through a coder; what comes back is what they hold."""
    columns = len(descriptors) + (len(descriptors) > 1)
    out = np.zeros_like(rows)
    has_core = columns > 1
    order = [0, 2, 1, *range(3, columns)] if has_core else [0]
    for column in order:
        if has_core and column == POSITION:
            _check_widths(out[:, 2])
            out[:, column] = _code_positions(
                coder, rows[:, column], out[:, 2], rows.shape[1] - columns
            )
        else:
            one = descriptors[column - (has_core and column > POSITION)]
            out[:, column] = _code_narrow(coder, rows[:, column], one)
    known = Known(out[:, :columns], wavelet(rows.shape[1] - columns))
    for column in range(rows.shape[1] - columns):
        table = chosen[known.context(column)]
        runs = np.bincount(table, minlength=1)
        used = np.flatnonzero(runs)
        values = coder.numbers(
            np.argsort(table, kind="stable"),
            list(zip(used.tolist(), runs[used].tolist(), strict=True)),
            rows[:, columns + column],
        )
        out[:, columns + column] = values
        known.learn(column, values)
    return out


def _check_widths(width: NDArray[np.int32]) -> None:
    if width.min() < MIN_WIDTH or width.max() > MAX_WIDTH:
        raise InvalidRequestError(
            f"densities cannot be coded: met widths from {width.min()} to {width.max()}; allowed "
            f"are {MIN_WIDTH} to {MAX_WIDTH}; fetch the chunk again"
        )


def _code_narrow(
    coder: _Writer | _Reader, values: NDArray[np.int32], one: _Column
) -> NDArray[np.int32]:
    shifted = values - one.offset
    everything = np.arange(len(values))
    high = coder.numbers(everything, [(one.table, len(values))], shifted >> one.bits)
    plain = coder.uniform(1 << one.bits, shifted & ((1 << one.bits) - 1))
    return np.asarray((high << one.bits) + plain + one.offset, np.int32)


def _code_positions(
    coder: _Writer | _Reader, values: NDArray[np.int32], width: NDArray[np.int32], points: int
) -> NDArray[np.int32]:
    out = np.zeros_like(values)
    for one in np.unique(width):
        chosen = width == one
        out[chosen] = coder.uniform(int(positions(one, points)), values[chosen])
    return out


# --- the codec -------------------------------------------------------------------------------


@dataclass(frozen=True)
class DensityCodec(ChunkCodec):
    """Zarr codec of amplitudes, chunks of shape (rows, columns + points) and type int32.

    Parameters
    ----------
    columns : int
        Narrow columns: 1 (the step alone), or 3 and one for each shape.
    """

    codec_name: ClassVar[str] = "skyfold.density"
    columns: int

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        self._check(chunk.shape, chunk.dtype)
        used = chunk[:, 0] != 0
        if not used.any():
            return _seal(bytes([_EMPTY]))
        head = bytes([_ALL])
        if not used.all():
            bitmap = zlib.compress(np.packbits(used).tobytes(), 9)
            head = bytes([_SOME]) + len(bitmap).to_bytes(4, "little") + bitmap
        rows = np.ascontiguousarray(chunk[used])
        if self.columns > 1:
            _check_widths(rows[:, 2])
        narrow = [column for column in range(self.columns) if column != POSITION]
        descriptors = [_Column.fit(rows[:, column]) for column in narrow]
        chosen = self._map(rows)
        writer = _Writer()
        _code(writer, rows, descriptors, chosen)
        is_built_in = np.array_equal(chosen, built_in_map(core=self.columns > 1))
        table_map = b"" if is_built_in else zlib.compress(chosen.tobytes(), 9)
        parts = [head, *(one.to_bytes() for one in descriptors)]
        parts += [len(table_map).to_bytes(2, "little"), table_map, writer.to_bytes()]
        return _seal(b"".join(parts))

    def _map(self, rows: NDArray[np.int32]) -> NDArray[np.uint8]:
        """The chunk's own map, where it saves more than it takes."""
        counts = histogram_of(rows, self.columns)
        known = built_in_map(core=self.columns > 1)
        own = fit_map(counts, known)
        bits = counts @ costs().T
        each = np.arange(CONTEXTS)
        saved = (bits[each, known] - bits[each, own]).sum() / 8
        return own if saved > len(zlib.compress(own.tobytes(), 9)) else known

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        self._check(shape, dtype)
        body = data[4:]
        if len(body) < 1 or _seal(body) != data:
            raise CorruptDataError(
                f"{len(data)} bytes of densities do not match their checksum; fetch them again"
            )
        out = np.zeros(shape, np.int32)
        if body[0] == _EMPTY:
            return out
        used, rest = _read_used(body, shape[0])
        count = self.columns - (self.columns > 1)
        descriptors = [_read_column(rest[4 * i : 4 * i + 4]) for i in range(count)]
        chosen, words = _read_map(rest[4 * count :], core=self.columns > 1)
        rows = np.zeros((int(used.sum()), shape[1]), np.int32)
        try:
            out[used] = _code(_Reader(words), rows, descriptors, chosen)
        except (AssertionError, ValueError, IndexError) as error:
            raise CorruptDataError(
                f"{len(data)} bytes hold no densities of shape {shape}: {error}"
            ) from error
        return out

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        points = shape[-1] - self.columns
        if len(shape) != 2 or dtype != np.int32 or not MIN_POINTS <= points <= MAX_POINTS:
            raise InvalidRequestError(
                f"densities cannot be coded: met shape {shape}, {dtype}; allowed is (rows, "
                f"{self.columns} + {MIN_POINTS} to {MAX_POINTS}), int32"
            )


def _seal(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "little") + body


def _read_used(body: bytes, rows: int) -> tuple[NDArray[np.bool_], bytes]:
    if body[0] == _ALL:
        return np.ones(rows, bool), body[1:]
    length = int.from_bytes(body[1:5], "little")
    packed = _inflate(body[5 : 5 + length], -(-rows // 8))
    return np.unpackbits(packed, count=rows).astype(bool), body[5 + length :]


def _read_map(data: bytes, *, core: bool) -> tuple[NDArray[np.uint8], bytes]:
    length = int.from_bytes(data[:2], "little")
    if not length:
        return built_in_map(core=core), data[2:]
    chosen = _inflate(data[2 : 2 + length], CONTEXTS)
    if chosen.max() >= len(tables()):
        raise CorruptDataError(f"skyfold.density names table {chosen.max()} of {len(tables())}")
    return chosen, data[2 + length :]


def _inflate(data: bytes, size: int) -> NDArray[np.uint8]:
    """Exactly `size` bytes, whatever the stream claims."""
    try:
        found = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise CorruptDataError(f"skyfold.density chunk: {error}; fetch it again") from error
    if len(found) != size:
        raise CorruptDataError(f"skyfold.density chunk holds {len(found)} of {size} bytes")
    return np.frombuffer(found, np.uint8)
