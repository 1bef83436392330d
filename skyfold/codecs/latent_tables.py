"""The frozen tables of `skyfold.latents`: integers, their bytes, and those known in this process.

Tables are stored with their model and never computed again: a last digit that differs between two
machines would ruin what is decoded with them.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.words import sums_of
from skyfold.errors import CorruptDataError, UnknownCodecError

DIRECT = 8  # largest magnitude with a symbol of its own
SYMBOLS = 2 * DIRECT + 1 + 2 * 15  # the rest of int16 has 15 bit lengths of either sign
TOTAL = (1 << 24) - SYMBOLS  # sum of the counts of a table
FIXED = 256  # weights and thresholds are in units of 1 / FIXED
PASSES = ((0, 0), (1, 1), (0, 1), (1, 0))
VALUE_CLASSES = 3
_MAGIC = b"SKYLAT01"
_HEADER = struct.Struct("<8sHH")
_MAX_CHANNELS, _MAX_CLASSES = 256, 64

Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class LatentTables:
    """Frozen integers with which the latents of one model are coded.

    Parameters
    ----------
    magnitude_weights, value_weights : ndarray, shape (C, 4, 2 C + 3), int16
        Weights, in 1/256, of what is known before a symbol of a channel and pass: a constant (1),
        the sums over its four nearest and its four diagonal neighbours in the channel, then for
        each earlier channel the symbol here and the sum of the eight around it.
    thresholds : ndarray, shape (C, K - 1), int32
        Rising cuts of the expected magnitude, in 1/256.
    value_thresholds : ndarray, shape (C, 2), int32
        Rising cuts of the size of the expected value, in 1/256.
    counts : ndarray, shape (C, K, 3, SYMBOLS), int32
        Counts, not negative, of sum `TOTAL`.

    Raises
    ------
    CorruptDataError
        If shapes disagree or a value lies outside its range.
    """

    magnitude_weights: NDArray[np.int16]
    value_weights: NDArray[np.int16]
    thresholds: Ints
    value_thresholds: Ints
    counts: Ints

    def __post_init__(self) -> None:
        channels, classes = self.counts.shape[:2] if self.counts.ndim == 4 else (0, 0)
        if not (0 < channels <= _MAX_CHANNELS and 0 < classes <= _MAX_CLASSES):
            raise _bad_tables(
                f"counts of shape {self.counts.shape}", "1-256 channels, 1-64 classes"
            )
        for name, (shape, dtype) in _layout(channels, classes).items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise _bad_tables(f"{name} {array.shape} {array.dtype}", f"{shape} {dtype}")
        if self.counts.min() < 0 or (self.counts.sum(-1, dtype=np.int64) != TOTAL).any():
            raise _bad_tables("counts that are negative or of another sum", f"sum {TOTAL}")
        cuts = np.diff(self.thresholds, axis=1), np.diff(self.value_thresholds, axis=1)
        if any((cut < 0).any() for cut in cuts) or (self.value_thresholds < 1).any():
            raise _bad_tables("thresholds that fall", "rising ones")

    @property
    def channels(self) -> int:
        """Number of channels of the latents."""
        return int(self.counts.shape[0])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @cached_property
    def weights(self) -> Ints:
        """Weights of magnitudes and of values, shape (C, 4, 2, 2 C + 3), as sums take them."""
        both = (self.magnitude_weights, self.value_weights)
        return np.stack(both, axis=2).astype(np.int32)

    @cached_property
    def models(self) -> list[list[Any]]:
        """Range-coder models; counts of this total are taken as they are, exactly."""
        make = constriction.stream.model.Categorical
        flat = self.counts.reshape(self.channels, -1, SYMBOLS).astype(np.float64)
        return [[make(row, perfect=False) for row in rows] for rows in flat]

    @cached_property
    def sums(self) -> NDArray[np.int64]:
        """Where symbols begin and end, in 2**-24, shape (C, 3 K, SYMBOLS + 1)."""
        return sums_of(self.counts.reshape(self.channels, -1, SYMBOLS))

    def to_bytes(self) -> bytes:
        """Give the tables as bytes: the same tables always as the same bytes."""
        channels, classes = self.counts.shape[:2]
        parts = [_HEADER.pack(_MAGIC, channels, classes)]
        for name, (_, dtype) in _layout(channels, classes).items():
            parts.append(getattr(self, name).astype(dtype.newbyteorder("<")).tobytes())
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read tables back.

        Raises
        ------
        CorruptDataError
            If the bytes are not what `to_bytes` gives.
        """
        if len(data) < _HEADER.size or data[:8] != _MAGIC:
            raise _bad_tables(f"{len(data)} bytes that begin {data[:8]!r}", f"{_MAGIC!r}")
        _, channels, classes = _HEADER.unpack_from(data)
        if not (0 < channels <= _MAX_CHANNELS and 0 < classes <= _MAX_CLASSES):
            raise _bad_tables(f"{channels} channels, {classes} classes", "1-256 and 1-64")
        arrays, offset = {}, _HEADER.size
        for name, (shape, dtype) in _layout(channels, classes).items():
            size = int(np.prod(shape))
            if len(data) - offset < size * dtype.itemsize:
                raise _bad_tables(f"{len(data)} bytes", f"more, for {channels} channels")
            raw = np.frombuffer(data, dtype.newbyteorder("<"), size, offset)
            arrays[name] = raw.reshape(shape).astype(dtype)
            offset += size * dtype.itemsize
        if offset != len(data):
            raise _bad_tables(f"{len(data)} bytes", f"{offset}")
        return cls(**arrays)


def _layout(channels: int, classes: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and dtype of each array, in the order of the bytes."""
    weights = ((channels, len(PASSES), 2 * channels + 3), np.dtype(np.int16))
    return {
        "magnitude_weights": weights,
        "value_weights": weights,
        "thresholds": ((channels, classes - 1), np.dtype(np.int32)),
        "value_thresholds": ((channels, VALUE_CLASSES - 1), np.dtype(np.int32)),
        "counts": ((channels, classes, VALUE_CLASSES, SYMBOLS), np.dtype(np.int32)),
    }


def _bad_tables(met: str, allowed: str) -> CorruptDataError:
    return CorruptDataError(
        f"tables of latents cannot be read: met {met}; allowed is {allowed}; "
        "fetch the model of the release again"
    )


_REGISTRY: dict[str, LatentTables] = {}


def register_tables(tables: LatentTables) -> str:
    """Make tables known to the codec in this process, and return their digest."""
    return _REGISTRY.setdefault(tables.digest, tables).digest


def get_tables(digest: str) -> LatentTables:
    """Return the registered tables of this digest.

    Raises
    ------
    UnknownCodecError
        If none are registered under it.
    """
    if digest not in _REGISTRY:
        raise UnknownCodecError(
            f"latents cannot be coded: their tables {digest} are not known here "
            f"({len(_REGISTRY)} others are); open the release's model first"
        )
    return _REGISTRY[digest]
