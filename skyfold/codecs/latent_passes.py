"""How latents become the symbols of a range coder, and back: what both latent codecs stand on.

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
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs import latent_kernels as kernels
from skyfold.codecs.latent_tables import DIRECT, PASSES, VALUE_CLASSES, Ints, LatentTables
from skyfold.compiled import reads_compiled

CLIP = 15  # larger magnitudes add no more to an expectation
PLAIN_BITS = 14  # most that stand beside a symbol


class Known:
    """What a decoder knows of the latents, and the features that follow from it.

    Parameters
    ----------
    shape : tuple of int
        Shape (n, h, w, C) of the latents.
    coded : ndarray of bool, shape (n, h, w), optional
        Where they are coded; elsewhere they are known to be 0. Everywhere, if not given.

    Attributes
    ----------
    places : list of ndarray, shape (m,), intp
        For each pass, which of its places are coded, in C order.
    where : list of ndarray, shape (m, 3), intp
        Image, row and column of each.
    """

    def __init__(self, shape: tuple[int, ...], coded: NDArray[np.bool_] | None = None) -> None:
        n, h, w, channels = shape
        self.latents = np.zeros((channels, n, h, w), np.int32)
        coded = np.ones((n, h, w), np.bool_) if coded is None else coded
        self.places = [np.flatnonzero(coded[:, y::2, x::2]) for y, x in PASSES]
        self.where = _where(self.places, (n, h, w))
        indexes = [one.T for one in self.where]
        self._in_plane = [(image * h + row) * w + column for image, row, column in indexes]
        self._in_padded = [
            (image * (h + 2) + row + 1) * (w + 2) + column + 1 for image, row, column in indexes
        ]
        # of each pass apart, so that a pass reads them without a gap
        self._features = [
            np.ones((2 * channels + 3, 2, places.size), np.int32) for places in self.places
        ]
        self._padded = np.zeros((2, n, h + 2, w + 2), np.int32)  # magnitudes, values
        self._flat = self._padded.reshape(2, -1)

    def owners(self, chunks: int) -> list[NDArray[np.intp]]:
        """For each place of each pass, which of so many chunks of as many images holds it."""
        _, n, h, w = self.latents.shape
        images = n // chunks
        sizes = [images * len(range(y, h, 2)) * len(range(x, w, 2)) for y, x in PASSES]
        return [places // max(size, 1) for places, size in zip(self.places, sizes, strict=True)]

    def features(self, channel: int, step: int) -> Ints:
        """Features of the magnitudes and of the values, shape (2 channel + 3, 2, m)."""
        features, places = self._features[step], self.places[step]
        edges, corners = _edges_corners(self._padded, *PASSES[step])
        _gather(edges.reshape(2, -1), places, features[1])
        _gather(corners.reshape(2, -1), places, features[2])
        return features[: 2 * channel + 3]

    def learn(self, channel: int, step: int, symbols: Ints) -> None:
        """Take in the latents of one pass; after a channel's last, those around each, too."""
        self.latents[channel].reshape(-1)[self._in_plane[step]] = symbols
        limited = np.minimum(np.maximum(symbols, -CLIP), CLIP)
        self._flat[0][self._in_padded[step]] = np.abs(limited)
        self._flat[1][self._in_padded[step]] = limited
        if step == len(PASSES) - 1:
            self._learn_channel(2 * channel + 3)
            self._padded[...] = 0

    def _learn_channel(self, first: int) -> None:
        rows = self._padded[..., :-2, :] + self._padded[..., 1:-1, :] + self._padded[..., 2:, :]
        around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
        around -= self._padded[..., 1:-1, 1:-1]
        around = around.reshape(2, -1)
        pairs = zip(self._features, self._in_plane, self._in_padded, strict=True)
        for features, in_plane, in_padded in pairs:
            _gather(self._flat, in_padded, features[first])
            _gather(around, in_plane, features[first + 1])


def _where(places: list[NDArray[np.intp]], shape: tuple[int, int, int]) -> list[NDArray[np.intp]]:
    """Image, row and column of places of passes."""
    n, h, w = shape
    where = []
    for some, (y, x) in zip(places, PASSES, strict=True):
        part = (n, len(range(y, h, 2)), len(range(x, w, 2)))
        image, row, column = np.unravel_index(some, part) if some.size else (some, some, some)
        where.append(np.stack([image, y + 2 * row, x + 2 * column], axis=1))
    return where


def _gather(planes: Ints, places: NDArray[np.intp], out: Ints) -> None:
    """What is at these places of two flat planes."""
    planes.take(places, axis=1, out=out, mode="clip")  # another mode would copy first


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
    features : ndarray, shape (2 channel + 3, 2, m), int32
        As `Known.features` gives them.

    Returns
    -------
    table, turned : ndarray, shape (m,), intp and bool
    """
    weights = tables.weights[channel, step, :, : 2 * channel + 3]
    # several times faster than @, which walks down the columns of integers
    magnitude, value = np.einsum("kf,fkm->km", weights, features)
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


@dataclass(frozen=True)
class Contexts:
    """What is coded of latents, pass by pass, and in which contexts.

    Attributes
    ----------
    where : ndarray, shape (m, 3), intp
        Image, row and column.
    starts : ndarray, shape (5,), intp
        Where each pass begins in it.
    values : ndarray, shape (C, m), int32
        The latents there.
    tables : ndarray, shape (C, m), uint8
        Table of each symbol.
    turned : ndarray of bool, shape (C, m)
        Whether its sign is turned.
    """

    where: NDArray[np.intp]
    starts: NDArray[np.intp]
    values: Ints
    tables: NDArray[np.uint8]
    turned: NDArray[np.bool_]


def find_contexts(
    latents: NDArray[np.int16], coded: NDArray[np.bool_] | None, tables: LatentTables
) -> Contexts:
    """Contexts of latents that are all known: those of a writer.

    Parameters
    ----------
    latents : ndarray, shape (n, h, w, C), int16
    coded : ndarray of bool, shape (n, h, w), or None
        Where they are coded; elsewhere they are 0. Everywhere, if not given.
    tables : LatentTables
    """
    if reads_compiled():
        coded = np.ones(latents.shape[:3], np.bool_) if coded is None else coded
        named = (tables.weights, tables.thresholds, tables.value_thresholds)
        return Contexts(*kernels.contexts(np.ascontiguousarray(latents), coded, *named))
    known = Known(latents.shape, coded)
    where = np.concatenate(known.where)
    starts = np.cumsum([0, *(len(one) for one in known.where)])
    values = latents[tuple(where.T)].T.astype(np.int32)
    found, turned = np.empty(values.shape, np.uint8), np.empty(values.shape, np.bool_)
    for channel in range(tables.channels):
        for step in range(len(PASSES)):
            some = slice(starts[step], starts[step + 1])
            its = contexts(tables, channel, step, known.features(channel, step))
            found[channel, some], turned[channel, some] = its
            known.learn(channel, step, values[channel, some])
    return Contexts(where, starts, values, found, turned)


def encode_passes(
    latents: NDArray[np.int16],
    coded: NDArray[np.bool_] | None,
    coders: Sequence[Any],
    tables: LatentTables,
) -> None:
    """Encode the latents of chunks side by side, each with a coder of its own.

    Parameters
    ----------
    latents : ndarray, shape (n, h, w, C), int16
        As many images of each chunk, one chunk after another.
    coded
        As `find_contexts` takes it.
    coders : sequence of constriction RangeEncoder
        One of each chunk.
    tables : LatentTables
    """
    known = find_contexts(latents, coded, tables)
    uniform = [_uniform(length) for length in range(1, PLAIN_BITS + 1)]
    owners = known.where[:, 0] // (len(latents) // len(coders))
    every = split(np.where(known.turned, -known.values, known.values))
    for channel, models in enumerate(tables.models):
        for step in range(len(PASSES)):
            some = slice(known.starts[step], known.starts[step + 1])
            symbols, bits, plain = (one[channel, some] for one in every)
            its = owners[some]
            keys = (its * len(models) + known.tables[channel, some]).astype(np.uint16)
            order = keys.argsort(kind="stable")  # of 16 bits: by digits, several times faster
            _encode_runs(coders, models, keys, symbols[order])
            large = order[bits[order] > 0]
            if large.size:
                lengths = its[large] * PLAIN_BITS + bits[large] - 1
                ordered = large[lengths.argsort(kind="stable")]
                _encode_runs(coders, uniform, lengths, plain[ordered])


def decode_passes(known: Known, coders: Sequence[Any], tables: LatentTables) -> None:
    """Decode chunks side by side into `known`; inverse of `encode_passes`."""
    owners = known.owners(len(coders))
    for channel, models in enumerate(tables.models):
        for step in range(len(PASSES)):
            table, turned = contexts(tables, channel, step, known.features(channel, step))
            keys = (owners[step] * len(models) + table).astype(np.uint16)
            found = _decode_runs(coders, models, keys)
            order = keys.argsort(kind="stable")  # of 16 bits: by digits, several times faster
            values = np.empty_like(found)
            values[order] = _joined(found, owners[step][order], coders)
            known.learn(channel, step, np.where(turned, -values, values))


def _encode_runs(
    coders: Sequence[Any], models: Sequence[Any], keys: NDArray[Any], symbols: Ints
) -> None:
    """Encode symbols in the order of their keys; inverse of `_decode_runs`."""
    numbers, start = np.bincount(keys), 0
    for key in np.flatnonzero(numbers).tolist():
        stop = start + int(numbers[key])
        coders[key // len(models)].encode(symbols[start:stop], models[key % len(models)])
        start = stop


def _decode_runs(coders: Sequence[Any], models: Sequence[Any], keys: NDArray[Any]) -> Ints:
    """Symbols in the order of their keys: the coder's number times the models, plus the model's."""
    numbers = np.bincount(keys)
    used = np.flatnonzero(numbers)
    owners, rows = np.divmod(used, len(models))
    runs = zip(owners.tolist(), rows.tolist(), numbers[used].tolist(), strict=True)
    parts = [coders[owner].decode(models[row], number) for owner, row, number in runs]
    return np.concatenate([*parts, np.empty(0, np.int32)])


def _joined(symbols: Ints, owners: NDArray[np.intp], coders: Sequence[Any]) -> Ints:
    """Values of the symbols of a pass, in the order of its runs."""
    values = symbols - DIRECT
    large = np.flatnonzero(symbols > 2 * DIRECT)
    if large.size:
        values[large] = join(symbols[large], partial(_read_plain, coders, owners[large]))
    return values


def _read_plain(coders: Sequence[Any], owner: NDArray[np.intp], bits: Ints) -> Ints:
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
