"""How quantised latents become bytes: integer contexts, frozen integer tables, a range coder.

The bytes named ``skyfold.latents`` are defined here and nowhere else:

- Channels are coded one after the other, each in four interlaced passes of its rows and columns:
  (even, even), (odd, odd), (even, odd), (odd, even).
- What is already known gives two integers for each symbol: its expected magnitude and its expected
  value, each a sum of small integers times the integer weights of the model.
- The expected magnitude, cut by thresholds, and the size of the expected value, cut by two, name
  the table. Where a value is expected, the symbol is coded with its sign turned to that side.
- Values up to `DIRECT` are symbols; larger ones are a symbol for the sign and the bit length of
  the excess, and that many plain bits, so that every int16 value can be coded.
- Table entry i stands for the probability (count_i + 1) / 2**24, exactly, in the range coder of
  constriction (32-bit words, 64-bit state). No floating point takes part.
- A CRC-32 comes first, started from the digest of the tables; zero bytes at the end are left out.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.latent_tables import (
    DIRECT,
    PASSES,
    VALUE_CLASSES,
    Ints,
    LatentTables,
    get_tables,
)
from skyfold.errors import CorruptDataError, InvalidRequestError

CLIP = 15  # larger magnitudes add no more to an expectation
PLAIN_BITS = 14  # most that stand beside a symbol
TOGETHER = 32  # chunks that are decoded side by side: keys of theirs and 192 tables take 16 bits


class Known:
    """What a decoder knows of the latents, and the features that follow from it.

    Parameters
    ----------
    shape : tuple of int
        Shape (n, h, w, C) of the latents.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        n, h, w, channels = shape
        self.latents = np.zeros((channels, n, h, w), np.int32)
        # of each pass apart, so that a pass reads them without a gap
        self._features = [
            np.ones((2, 2 * channels + 3, n, len(range(y, h, 2)), len(range(x, w, 2))), np.int32)
            for y, x in PASSES
        ]
        self._padded = np.zeros((2, n, h + 2, w + 2), np.int32)  # magnitudes, values

    def features(self, channel: int, step: int) -> Ints:
        """Features of the magnitudes and of the values, shape (2, 2 channel + 3, m)."""
        used = 2 * channel + 3
        part = self._features[step][:, :used]
        part[:, 1], part[:, 2] = _edges_corners(self._padded, *PASSES[step])
        return part.reshape(2, used, -1)

    def learn(self, channel: int, step: int, symbols: Ints) -> None:
        """Take in the latents of one pass; after a channel's last, those around each, too."""
        y, x = PASSES[step]
        plane = self.latents[channel, :, y::2, x::2]
        plane[...] = symbols.reshape(plane.shape)
        inside = self._padded[:, :, 1 + y : -1 : 2, 1 + x : -1 : 2]
        inside[1] = np.minimum(np.maximum(plane, -CLIP), CLIP)
        inside[0] = np.abs(inside[1])
        if step == len(PASSES) - 1:
            self._learn_channel(2 * channel + 3)
            self._padded[...] = 0

    def _learn_channel(self, first: int) -> None:
        here = self._padded[..., 1:-1, 1:-1]
        rows = self._padded[..., :-2, :] + self._padded[..., 1:-1, :] + self._padded[..., 2:, :]
        around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] - here
        for part, (y, x) in zip(self._features, PASSES, strict=True):
            part[:, first] = here[..., y::2, x::2]
            part[:, first + 1] = around[..., y::2, x::2]


def _edges_corners(padded: Ints, y: int, x: int) -> tuple[Ints, Ints]:
    """Sums of the four nearest and the four diagonal neighbours; 0 where not yet known."""
    height, width = padded.shape[-2] - 2, padded.shape[-1] - 2
    rows = [padded[..., dy + y : dy + height : 2, :] for dy in range(3)]

    def shifted(row: Ints, dx: int) -> Ints:
        return row[..., dx + x : dx + width : 2]

    outer = rows[0] + rows[2]
    edges = shifted(outer, 1) + shifted(rows[1], 0) + shifted(rows[1], 2)
    return edges, shifted(outer, 0) + shifted(outer, 2)


def contexts(
    tables: LatentTables, channel: int, step: int, features: Ints
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Table of each symbol of a pass, and whether its sign is turned.

    Parameters
    ----------
    tables : LatentTables
        Weights and thresholds.
    channel, step : int
        The channel, and which of its four passes.
    features : ndarray, shape (2, 2 channel + 3, m), int32
        As `Known.features` gives them.

    Returns
    -------
    table, turned : ndarray, shape (m,), intp and bool
    """
    weights = tables.weights[channel, step, :, : 2 * channel + 3]
    # several times faster than @, which walks down the columns of integers
    magnitude, value = np.einsum("kf,kfm->km", weights, features)
    scale_class = np.searchsorted(tables.thresholds[channel], magnitude, side="right")
    size, cuts = np.abs(value), tables.value_thresholds[channel]
    value_class = (size >= cuts[0]).view(np.int8) + (size >= cuts[1])
    return scale_class * VALUE_CLASSES + value_class, (value < 0) & (value_class > 0)


def split(latents: Ints) -> tuple[Ints, Ints, Ints]:
    """Symbol, number of plain bits and those bits, of each value.

    Symbols are -DIRECT..DIRECT, then the bit lengths 1..15 of what is more, then those of what is
    less.
    """
    excess = np.maximum(np.abs(latents) - DIRECT, 0)
    if not excess.any():
        return (latents + DIRECT).astype(np.int32), excess, excess
    length = np.frexp(excess.astype(np.float64))[1].astype(np.int32)
    tail = 2 * DIRECT + length + np.where(latents < 0, 15, 0)
    bits = np.maximum(length - 1, 0)
    plain = np.where(excess > 0, excess - (1 << bits), 0)
    return np.where(excess > 0, tail, latents + DIRECT).astype(np.int32), bits, plain


def join(symbols: Ints, read_plain: Callable[[Ints], Ints]) -> Ints:
    """Values of the symbols; `read_plain` gives the plain bits for the number of each."""
    tail = symbols - (2 * DIRECT + 1)
    is_tail = tail >= 0
    if not is_tail.any():
        return symbols - DIRECT
    bits = np.where(is_tail, tail % 15, 0).astype(np.int32)
    excess = (1 << bits) + read_plain(bits)
    large = np.where(tail < 15, 1, -1) * (DIRECT + excess)
    return np.where(is_tail, large, symbols - DIRECT).astype(np.int32)


def encode_latents(latents: NDArray[np.int16], tables: LatentTables) -> bytes:
    """Code quantised latents of shape (n, h, w, C); see `encode_together`."""
    return encode_together([latents], tables)[0]


def encode_together(chunks: Sequence[NDArray[np.int16]], tables: LatentTables) -> list[bytes]:
    """Code chunks of quantised latents; the same latents and tables always give the same bytes.

    Several chunks take little more time than one: their contexts are found together.

    Parameters
    ----------
    chunks : sequence of ndarray, shape (n, h, w, C), int16
        Of one shape; any values.
    tables : LatentTables
        Tables of the model, of C channels.

    Returns
    -------
    list of bytes
        Of each chunk; four bytes if all are zero.

    Raises
    ------
    InvalidRequestError
        If a chunk has another shape or dtype.
    """
    for chunk in chunks:
        _check(chunk.shape, chunk.dtype, tables)
    coded = [_seal(b"", tables)] * len(chunks)
    full = [number for number, chunk in enumerate(chunks) if chunk.any()]
    for at in range(0, len(full), TOGETHER):
        some = full[at : at + TOGETHER]
        coders = [constriction.stream.queue.RangeEncoder() for _ in some]
        _encode_from(np.concatenate([chunks[number] for number in some]), coders, tables)
        for number, coder in zip(some, coders, strict=True):
            words = coder.get_compressed().astype("<u4").tobytes()
            coded[number] = _seal(words.rstrip(b"\0"), tables)
    return coded


def _encode_from(latents: NDArray[np.int16], coders: list[Any], tables: LatentTables) -> None:
    """Encode chunks side by side: as many images for each coder."""
    known = Known(latents.shape)
    planes = np.moveaxis(latents, -1, 0).astype(np.int32)
    uniform = [_uniform(length) for length in range(1, PLAIN_BITS + 1)]
    for channel, models in enumerate(tables.models):
        first_keys = np.arange(len(coders))[:, np.newaxis] * len(models)
        for step, (y, x) in enumerate(PASSES):
            table, turned = contexts(tables, channel, step, known.features(channel, step))
            values = planes[channel, :, y::2, x::2].ravel()
            symbols, bits, plain = split(np.where(turned, -values, values))
            keys = (first_keys + table.reshape(len(coders), -1)).ravel().astype(np.uint16)
            order = keys.argsort(kind="stable")  # of 16 bits: by digits, several times faster
            _encode_runs(coders, models, keys, symbols[order])
            some = order[bits[order] > 0]
            if some.size:
                owner = some // (len(order) // len(coders))
                lengths = owner * PLAIN_BITS + bits[some] - 1
                ordered = some[lengths.argsort(kind="stable")]
                _encode_runs(coders, uniform, lengths, plain[ordered])
            known.learn(channel, step, values)


def _encode_runs(
    coders: list[Any], models: Sequence[Any], keys: NDArray[Any], symbols: Ints
) -> None:
    """Encode symbols in the order of their keys; inverse of `_decode_runs`."""
    numbers, start = np.bincount(keys), 0
    for key in np.flatnonzero(numbers).tolist():
        stop = start + int(numbers[key])
        coders[key // len(models)].encode(symbols[start:stop], models[key % len(models)])
        start = stop


def decode_latents(data: bytes, shape: tuple[int, ...], tables: LatentTables) -> NDArray[np.int16]:
    """Latents of one chunk of a stated shape (n, h, w, C); see `decode_together`."""
    return decode_together([data], shape, tables)


def decode_together(
    chunks: Sequence[bytes], shape: tuple[int, ...], tables: LatentTables
) -> NDArray[np.int16]:
    """Latents of chunks of one stated shape (n, h, w, C), one after another on the first axis.

    Several chunks take little more time than one: their contexts are found together.

    Raises
    ------
    CorruptDataError
        If the bytes are not those that were written with these tables.
    InvalidRequestError
        If the shape does not fit the tables.
    """
    _check(shape, np.dtype(np.int16), tables)
    out = np.zeros((len(chunks), *shape), np.int16)
    bodies = [_unsealed(data, tables) for data in chunks]
    full = [number for number, body in enumerate(bodies) if body]
    for at in range(0, len(full), TOGETHER):
        some = full[at : at + TOGETHER]
        known = Known((len(some) * shape[0], *shape[1:]))
        try:
            _decode_into(known, [_decoder(bodies[number]) for number in some], tables)
        except (AssertionError, ValueError) as error:
            raise CorruptDataError(
                f"{len(some)} chunks hold no latents of shape {shape}: {error}; fetch them again"
            ) from error
        out[some] = np.moveaxis(known.latents, 0, -1).reshape(len(some), *shape)
    return out.reshape(-1, *shape[1:])


def _unsealed(data: bytes, tables: LatentTables) -> bytes:
    body = data[4:]
    if len(data) < 4 or _seal(body, tables) != data:
        raise CorruptDataError(
            f"{len(data)} bytes of latents do not match their checksum under tables "
            f"{tables.digest[:12]}; fetch them again, or the model that they were written with"
        )
    return body


def _decoder(body: bytes) -> Any:
    words = np.frombuffer(body + bytes(-len(body) % 4), "<u4").astype(np.uint32)
    return constriction.stream.queue.RangeDecoder(words)


def _decode_into(known: Known, coders: list[Any], tables: LatentTables) -> None:
    """Decode chunks side by side: `known` holds as many images for each coder."""
    for channel, models in enumerate(tables.models):
        first_keys = np.arange(len(coders))[:, np.newaxis] * len(models)
        for step in range(len(PASSES)):
            table, turned = contexts(tables, channel, step, known.features(channel, step))
            keys = (first_keys + table.reshape(len(coders), -1)).ravel().astype(np.uint16)
            found = _decode_runs(coders, models, keys)
            order = keys.argsort(kind="stable")  # of 16 bits: by digits, several times faster
            values = np.empty_like(found)
            values[order] = _joined(found, order, coders)
            known.learn(channel, step, np.where(turned, -values, values))


def _decode_runs(coders: list[Any], models: Sequence[Any], keys: NDArray[Any]) -> Ints:
    """Symbols in the order of their keys: the coder's number times the models, plus the model's."""
    numbers = np.bincount(keys)
    used = np.flatnonzero(numbers)
    owners, rows = np.divmod(used, len(models))
    runs = zip(owners.tolist(), rows.tolist(), numbers[used].tolist(), strict=True)
    parts = [coders[owner].decode(models[row], number) for owner, row, number in runs]
    return np.concatenate([*parts, np.empty(0, np.int32)])


def _joined(symbols: Ints, order: NDArray[np.intp], coders: list[Any]) -> Ints:
    """Values of the symbols of a pass in the order of its runs; `order` gives their places."""
    values = symbols - DIRECT
    large = np.flatnonzero(symbols > 2 * DIRECT)
    if large.size:
        owner = order[large] // (len(order) // len(coders))
        values[large] = join(symbols[large], partial(_read_plain, coders, owner))
    return values


def _read_plain(coders: list[Any], owner: NDArray[np.intp], bits: Ints) -> Ints:
    """Plain bits of one pass; each coder holds its own by their number."""
    plain = np.zeros_like(bits)
    some = np.flatnonzero(bits)
    models = [_uniform(length) for length in range(1, PLAIN_BITS + 1)]
    keys = owner[some] * PLAIN_BITS + bits[some] - 1
    plain[some[keys.argsort(kind="stable")]] = _decode_runs(coders, models, keys)
    return plain


@cache
def _uniform(bits: int) -> Any:
    return constriction.stream.model.Uniform(1 << bits)


def _seal(body: bytes, tables: LatentTables) -> bytes:
    """Put the checksum first; it depends on the tables too."""
    return zlib.crc32(body, zlib.crc32(tables.digest.encode())).to_bytes(4, "little") + body


def _check(shape: tuple[int, ...], dtype: np.dtype[Any], tables: LatentTables) -> None:
    if len(shape) != 4 or shape[-1] != tables.channels or dtype != np.int16:
        raise InvalidRequestError(
            f"latents cannot be coded: met shape {shape}, {dtype}; allowed is (n, h, w, "
            f"{tables.channels}), int16; use the model that made them"
        )


@dataclass(frozen=True)
class LatentsCodec(ChunkCodec):
    """Zarr codec of quantised latents, chunks of shape (n, h, w, C) and type int16.

    Parameters
    ----------
    tables : str
        Digest of the tables, which `register_tables` must have made known.
    """

    codec_name: ClassVar[str] = "skyfold.latents"
    tables: str

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see `encode_latents`."""
        return encode_latents(chunk, get_tables(self.tables))

    def encode_chunks(self, chunks: Sequence[NDArray[Any]]) -> list[bytes]:
        """Bytes of chunks of one shape; see `encode_together`."""
        return encode_together(chunks, get_tables(self.tables))

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape; see `decode_latents`."""
        return decode_latents(data, shape, get_tables(self.tables)).astype(dtype, copy=False)

    def decode_chunks(
        self, chunks: Sequence[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunks of one shape, one after another; see `decode_together`."""
        return decode_together(chunks, shape, get_tables(self.tables)).astype(dtype, copy=False)
