"""How quantised latents become bytes, in the two ways that releases hold.

The bytes named ``skyfold.latents`` are

- a CRC-32, started from the digest of the tables;
- words of a range coder: every latent, as `skyfold.codecs.latent_passes` says. Zero bytes at the
  end are left out, and all of them if every latent is 0.

The bytes named ``skyfold.sparse_latents`` first tell the squares of 4 x 4 latents that hold nothing
but zeros: blank sky, what lies beyond an image, and where there is no measurement. These are

- the CRC-32;
- one byte s, and words as above: whether each square of each image holds any, in C order, as
  symbols 1 and 0, where 1 has the probability (s + 1/2) / 256; then the latents of those that do.
  Nothing at all if every latent is 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.latent_passes import Known, decode_passes, encode_passes
from skyfold.codecs.latent_tables import LatentTables, get_tables
from skyfold.codecs.words import decode_booleans, encode_booleans, to_bytes, to_decoder, to_state
from skyfold.compiled import reads_compiled
from skyfold.errors import CorruptDataError, InvalidRequestError

SQUARE = 4  # latents along a side of those that are told to hold nothing
TOGETHER = 32  # chunks that are coded side by side: keys of theirs and 192 tables take 16 bits


def encode_latents(latents: NDArray[np.int16], tables: LatentTables) -> bytes:
    """Bytes ``skyfold.latents`` of one chunk; see `encode_together`."""
    return encode_together([latents], tables)[0]


def encode_together(
    chunks: Sequence[NDArray[np.int16]], tables: LatentTables, sparse: bool = False
) -> list[bytes]:
    """Code chunks of quantised latents; the same latents and tables always give the same bytes.

    Several chunks take little more time than one: their contexts are found together.

    Parameters
    ----------
    chunks : sequence of ndarray, shape (n, h, w, C), int16
        Of one shape; any values.
    tables : LatentTables
        Tables of the model, of C channels.
    sparse : bool, optional
        Whether as ``skyfold.sparse_latents``.

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
        latents = np.concatenate([chunks[number] for number in some])
        heads, where = [b""] * len(some), None
        if sparse:
            squares, where = used_squares(latents), coded_places(latents)
            told = zip(coders, np.split(squares, len(some)), strict=True)
            heads = [bytes([encode_booleans(coder, one)]) for coder, one in told]
        encode_passes(latents, where, coders, tables)
        for number, head, coder in zip(some, heads, coders, strict=True):
            coded[number] = _seal(head + to_bytes(coder), tables)
    return coded


def used_squares(latents: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Which squares of `SQUARE` by `SQUARE` latents hold any that is not 0.

    Parameters
    ----------
    latents : ndarray, shape (n, h, w, C)

    Returns
    -------
    ndarray of bool, shape (n, ceil(h / SQUARE), ceil(w / SQUARE))
    """
    used = latents.any(axis=-1)
    rows = np.logical_or.reduceat(used, range(0, used.shape[1], SQUARE), axis=1)
    return np.logical_or.reduceat(rows, range(0, used.shape[2], SQUARE), axis=2)


def coded_places(latents: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Which places of latents ``skyfold.sparse_latents`` codes: those of used squares.

    Parameters
    ----------
    latents : ndarray, shape (n, h, w, C)

    Returns
    -------
    ndarray of bool, shape (n, h, w)
    """
    return _latents_of(used_squares(latents), latents.shape)


def _latents_of(squares: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which places of latents of a shape (n, h, w, C) lie in these squares."""
    whole = np.repeat(np.repeat(squares, SQUARE, axis=1), SQUARE, axis=2)
    return whole[:, : shape[1], : shape[2]]


def decode_latents(data: bytes, shape: tuple[int, ...], tables: LatentTables) -> NDArray[np.int16]:
    """Latents of bytes ``skyfold.latents``, of a shape (n, h, w, C); see `decode_together`."""
    return decode_together([data], shape, tables)


def decode_together(
    chunks: Sequence[bytes], shape: tuple[int, ...], tables: LatentTables, sparse: bool = False
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
        try:
            found = _decoded([bodies[number] for number in some], shape, tables, sparse)
        except (AssertionError, ValueError) as error:
            raise CorruptDataError(
                f"{len(some)} chunks hold no latents of shape {shape}: {error}; fetch them again"
            ) from error
        out[some] = found.reshape(len(some), *shape)
    return out.reshape(len(chunks) * shape[0], *shape[1:])


def _decoded(
    bodies: Sequence[bytes], shape: tuple[int, ...], tables: LatentTables, sparse: bool
) -> NDArray[np.int32]:
    """Latents of chunks of which none is empty, shape (len(bodies) * n, h, w, C)."""
    if reads_compiled():
        return np.concatenate([_decoded_alone(body, shape, tables, sparse) for body in bodies])
    coders = [to_decoder(body[sparse:]) for body in bodies]
    whole, where = (len(bodies) * shape[0], *shape[1:]), None
    if sparse:
        part = (shape[0], -(-shape[1] // SQUARE), -(-shape[2] // SQUARE))
        told = zip(coders, bodies, strict=True)
        squares = [decode_booleans(coder, part, body[0]) for coder, body in told]
        where = _latents_of(np.concatenate(squares), whole)
    known = Known(whole, where)
    decode_passes(known, coders, tables)
    return np.moveaxis(_of_16_bits(known.latents), 0, -1)


def _decoded_alone(
    body: bytes, shape: tuple[int, ...], tables: LatentTables, sparse: bool
) -> NDArray[np.int32]:
    """As `_decoded`, of one chunk, compiled."""
    from skyfold.codecs.latent_kernels import read_latents
    from skyfold.codecs.read_kernels import booleans

    words, state = to_state(body[sparse:])
    coded = np.ones(shape[:3], np.bool_)
    told = True
    if sparse:
        part = (shape[0], -(-shape[1] // SQUARE), -(-shape[2] // SQUARE))
        squares = np.zeros(part, np.bool_)
        told = booleans(words, state, body[0], squares.reshape(-1))
        coded = np.ascontiguousarray(_latents_of(squares, shape))
    out = np.zeros(shape, np.int32)
    named = (tables.sums, tables.weights, tables.thresholds, tables.value_thresholds)
    if not (told and read_latents(words, state, coded, *named, out)):
        raise ValueError("words that no writer leaves behind")
    return _of_16_bits(out)


def _of_16_bits(latents: NDArray[np.int32]) -> NDArray[np.int32]:
    """The latents, if there are such; ValueError otherwise."""
    least, most = latents.min(initial=0), latents.max(initial=0)
    if least < -32768 or most > 32767:
        raise ValueError(f"values from {least} to {most}, beyond 16 bits")
    return latents


def _unsealed(data: bytes, tables: LatentTables) -> bytes:
    body = data[4:]
    if len(data) < 4 or _seal(body, tables) != data:
        raise CorruptDataError(
            f"{len(data)} bytes of latents do not match their checksum under tables "
            f"{tables.digest[:12]}; fetch them again, or the model that they were written with"
        )
    return body


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
    sparse: ClassVar[bool] = False
    tables: str

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see `encode_together`."""
        return self.encode_chunks([chunk])[0]

    def encode_chunks(self, chunks: Sequence[NDArray[Any]]) -> list[bytes]:
        """Bytes of chunks of one shape; see `encode_together`."""
        return encode_together(chunks, get_tables(self.tables), self.sparse)

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape; see `decode_together`."""
        return self.decode_chunks([data], shape, dtype)

    def decode_chunks(
        self, chunks: Sequence[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunks of one shape, one after another; see `decode_together`."""
        found = decode_together(chunks, shape, get_tables(self.tables), self.sparse)
        return found.astype(dtype, copy=False)


@dataclass(frozen=True)
class SparseLatentsCodec(LatentsCodec):
    """`LatentsCodec` that tells first where all latents are 0, and codes the others."""

    codec_name: ClassVar[str] = "skyfold.sparse_latents"
    sparse: ClassVar[bool] = True
