"""`skyfold.interlaced`: integers of a plane, each predicted from its decoded neighbours.

A plane is coded from coarse to fine: every 16th pixel of every 16th row, then the pixels between
them at distances 8, 4, 2 and 1, each time in three passes: odd rows and odd columns, even and
odd, odd and even. A pass knows all earlier ones, so it is computed at once, without a loop over
pixels. What is known predicts each value and how far it may be off; the second names the table
with which the difference is coded. Both are sums of integers with integer weights, which the
writer fits (`skyfold.codecs.interlaced_fit`) and stores; no floating point chooses anything.

Bytes of a chunk that is a plane, its sides multiples of 16 and at least 64::

    u8          form: 0 a skyfold.blocks chunk follows, 1 all values are predicted, 2 those of some
                leaves of 2 x 2 pixels are and the others are zero, 3 those of some leaves follow
    (2, 3) u8   0 the mask is of leaves that are coded, 1 of those that are not
    (2, 3)      the mask (`skyfold.codecs.quadtree`)
    (3)         a pcodec stream of the values, in C order of the plane; nothing else
    i32         offset, taken off every value
    u8          K, number of contexts
    (K - 1) u16 rising thresholds of the contexts
    (K + 1) u8 u8  scale and shape of the table of each context (`skyfold.codecs.tables`), then
                of the coarsest pixels, which are not predicted
    2 x 3 x     for distance 1, then for all others, each time for the three passes:
                u16 and 3 u8 weights of the context; u16 from which a pixel is steep, 0 for never;
                u8 and 7 i8 weights of the prediction; and unless never, of steep pixels
    u32 ...     words of constriction's range coder
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.blocks import BlocksCodec
from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.interlaced_passes import CLIP, COARSEST, SMALLEST, Ints, Plan, Walk
from skyfold.codecs.quadtree import decode_mask, encode_mask
from skyfold.codecs.streams import compress, decompress, needs_more_than
from skyfold.codecs.tables import DIRECT, Table, get_table, join, lengths, split
from skyfold.errors import CorruptDataError
from skyfold.ladder import LEAF

LIMIT = 1 << 17  # range of the values of a plane: sums of predictions stay below 2**31
WORTH = 0.995  # of the bytes of skyfold.blocks, which is read many times faster
_BLOCKS, _ALL, _SOME, _PLAIN = 0, 1, 2, 3


def decode_plane(
    data: bytes, shape: tuple[int, int], used: NDArray[np.bool_] | None
) -> NDArray[np.int32]:
    """Plane of a stated shape; where `used` is False, zero."""
    plan, body = Plan.from_bytes(data)
    words = np.frombuffer(body + bytes(-len(body) % 4), "<u4").astype(np.uint32)
    decoder = _Decoder(constriction.stream.queue.RangeDecoder(words), plan)
    walk = Walk(shape, used)
    coarsest = slice(None, None, COARSEST)
    coarse = walk.values[coarsest, coarsest]
    coded = np.ones(coarse.shape, bool) if used is None else used[coarsest, coarsest]
    last = np.full(np.count_nonzero(coded), len(plan.tables) - 1, np.uint8)
    coarse[coded] = decoder.read(last)
    walk.sizes[coarsest, coarsest] = np.minimum(np.abs(coarse), CLIP)
    for known, distance, number in walk.passes():
        weights = plan.of(distance, number)
        residuals = decoder.read(plan.contexts(known.expect(number, weights.context)))
        known.learn(number, residuals + known.predict(number, weights), residuals)
    values = walk.values + np.int32(plan.offset)
    return values if used is None else np.where(used, values, 0)


class _Decoder:
    """Reads residuals, of one context after the other."""

    def __init__(self, coder: Any, plan: Plan) -> None:
        self.coder = coder
        self.tables = [get_table(*pair) for pair in plan.tables]

    def read(self, contexts: NDArray[np.uint8]) -> Ints:
        """Residuals of a pass, of the shape of their contexts."""
        order, runs = grouped(contexts.ravel())
        parts = [self._run(self.tables[context], count) for context, count in runs]
        read = np.empty(contexts.size, np.int32)
        read[order] = np.concatenate([*parts, np.empty(0, np.int32)])
        return read.reshape(contexts.shape)

    def _run(self, table: Table, count: int) -> Ints:
        symbols = self.coder.decode(table.model, count)
        whole = symbols - DIRECT
        if symbols.max() > 2 * DIRECT:
            bits = lengths(symbols)
            whole = join(symbols, bits, self._plain(bits))
        if not table.shift:
            return whole
        low = self.coder.decode(_uniform(table.shift), count)
        return (whole << table.shift) + low

    def _plain(self, bits: Ints) -> Ints:
        plain = np.zeros_like(bits)
        for length in np.unique(bits[bits > 0]):
            one = bits == length
            plain[one] = self.coder.decode(_uniform(length), int(one.sum()))
        return plain


def grouped(contexts: NDArray[np.uint8]) -> tuple[NDArray[np.intp], list[tuple[int, int]]]:
    """Order by context, and the number of each that there is."""
    counts = np.bincount(contexts)
    runs = [(int(context), int(counts[context])) for context in np.flatnonzero(counts)]
    return np.argsort(contexts, kind="stable"), runs


def _uniform(bits: int) -> Any:
    return constriction.stream.model.Uniform(1 << int(bits))


def encode_passes(plan: Plan, passes: list[tuple[Ints, Ints]]) -> bytes:
    """Bytes of a plane.

    Parameters
    ----------
    passes : list of (doubts, residuals)
        Of what is coded, by pass; the coarsest pixels come first and have no doubts.
    """
    coder = constriction.stream.queue.RangeEncoder()
    for doubts, residuals in passes:
        last = np.full(len(residuals), len(plan.tables) - 1, np.uint8)
        contexts = plan.contexts(doubts) if len(doubts) else last
        order, runs = grouped(contexts)
        _write(coder, [(get_table(*plan.tables[one]), n) for one, n in runs], residuals[order])
    return plan.to_bytes() + coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def _write(coder: Any, runs: list[tuple[Table, int]], residuals: Ints) -> None:
    """Code residuals, of which so many follow one another in each table."""
    shifts = np.repeat([table.shift for table, _ in runs], [count for _, count in runs])
    symbols, bits, plain = split(residuals, shifts if shifts.any() else 0)
    with_plain, start = np.flatnonzero(bits), 0
    for table, count in runs:
        run = slice(start, start + count)
        coder.encode(symbols[run], table.model)
        first, last = np.searchsorted(with_plain, (start, start + count))
        if last > first:
            _write_plain(coder, bits[with_plain[first:last]], plain[with_plain[first:last]])
        if table.shift:
            coder.encode(residuals[run] & ((1 << table.shift) - 1), _uniform(table.shift))
        start += count


def _write_plain(coder: Any, bits: Ints, plain: Ints) -> None:
    for length in np.flatnonzero(np.bincount(bits)).tolist():
        coder.encode(plain[bits == length], _uniform(length))


@dataclass(frozen=True)
class InterlacedCodec(ChunkCodec):
    """Integers of planes, predicted; `skyfold.blocks` where that takes no more bytes.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:64, :64]
    >>> chunk = (y * x // 8).astype(np.int32)[np.newaxis]
    >>> codec = InterlacedCodec()
    >>> data = codec.encode_chunk(chunk)
    >>> bool((codec.decode_chunk(data, chunk.shape, chunk.dtype) == chunk).all())
    True
    """

    codec_name: ClassVar[str] = "skyfold.interlaced"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        if not is_near_plane(chunk) or not chunk.any():
            return bytes([_BLOCKS]) + BlocksCodec().encode_chunk(chunk)
        plane = chunk.reshape(chunk.shape[-2:])
        leaves = coded_leaves(plane)
        if not leaves.all():
            kind, body = encode_used(plane, pixels_of(leaves))
            return bytes([kind]) + write_mask(leaves) + body
        predicted = _predicted(plane, None)
        data = bytes([_ALL]) + (predicted or b"")
        if predicted and needs_more_than(plane, len(data)):
            return data
        plain = bytes([_BLOCKS]) + BlocksCodec().encode_chunk(chunk)
        return data if predicted and len(data) < WORTH * len(plain) else plain

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        kind, rest = (data[0], data[1:]) if data else (None, b"")
        if kind == _BLOCKS:
            return BlocksCodec().decode_chunk(rest, shape, dtype)
        if kind not in (_ALL, _SOME, _PLAIN):
            raise CorruptDataError(f"skyfold.interlaced chunk begins with {kind}; 0 to 3 is known")
        if not _is_plane(shape):
            raise CorruptDataError(
                f"skyfold.interlaced chunk of shape {shape}: planes have sides of {SMALLEST} or "
                f"more, in steps of {COARSEST}"
            )
        plane = (shape[-2], shape[-1])
        if kind != _ALL:
            leaves, rest = read_mask(rest, plane)
            return decode_used(kind, rest, pixels_of(leaves), dtype).reshape(shape)
        return _decode_predicted(rest, plane, None).reshape(shape).astype(dtype)


def encode_used(plane: NDArray[Any], used: NDArray[np.bool_]) -> tuple[int, bytes]:
    """Values of some pixels of a plane, in the fewer bytes of two ways.

    Parameters
    ----------
    plane : ndarray, shape (ny, nx), integers
        For which `is_near_plane` holds; zero where `used` is False.
    used : ndarray of bool, shape of `plane`
        Leaf by leaf.

    Returns
    -------
    kind : int
        2 or 3, as a chunk begins.
    data : bytes
        What stands behind the mask.
    """
    predicted, values = _predicted(plane, used), plane[used]
    if predicted is not None and needs_more_than(values, len(predicted)):
        return _SOME, predicted
    plain = compress(values)
    if predicted is not None and len(predicted) < WORTH * len(plain):
        return _SOME, predicted
    return _PLAIN, plain


def decode_used(
    kind: int, data: bytes, used: NDArray[np.bool_], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Inverse of `encode_used`: the plane, zero where `used` is False."""
    if kind == _SOME:
        return _decode_predicted(data, (used.shape[0], used.shape[1]), used).astype(dtype)
    values = np.zeros(used.shape, dtype)
    values[used] = decompress(data, int(np.count_nonzero(used)), dtype)
    return values


def _predicted(plane: NDArray[Any], used: NDArray[np.bool_] | None) -> bytes | None:
    """Plan and words of a plane; None where neighbours say nothing of each other."""
    from skyfold.codecs.interlaced_fit import fit_plane, is_predictable

    plane = plane.astype(np.int32)
    return encode_passes(*fit_plane(plane, used)) if is_predictable(plane, used) else None


def _decode_predicted(
    data: bytes, shape: tuple[int, int], used: NDArray[np.bool_] | None
) -> NDArray[np.int32]:
    try:
        return decode_plane(data, shape, used)
    except AssertionError as error:  # constriction's word for bytes that it cannot have written
        raise CorruptDataError(f"skyfold.interlaced chunk: {error}") from error


def coded_leaves(plane: NDArray[Any]) -> NDArray[np.bool_]:
    """Leaves with a value that is not zero, and those of zeros that stand alone among them."""
    rows = (plane[::LEAF] != 0) | (plane[1::LEAF] != 0)
    used = rows[:, ::LEAF] | rows[:, 1::LEAF]
    edge = np.pad(used, 1, mode="edge").astype(np.int8)
    around = edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:]
    return used | (around >= 3)


def write_mask(leaves: NDArray[np.bool_]) -> bytes:
    """Bytes of a mask: of these leaves, or of the others where those are fewer."""
    turned = bool(leaves.mean() > 0.5)
    return bytes([turned]) + encode_mask(~leaves if turned else leaves)


def read_mask(data: bytes, plane: tuple[int, int]) -> tuple[NDArray[np.bool_], bytes]:
    """Leaves of a mask, and the bytes that follow it; CorruptDataError where there is none."""
    if data[:1] not in (b"\0", b"\1"):
        raise CorruptDataError(f"mask of a skyfold.interlaced chunk begins with {data[:1]!r}")
    leaves, rest = decode_mask(data[1:], plane)
    return ~leaves if data[0] else leaves, rest


def is_near_plane(chunk: NDArray[Any]) -> bool:
    """Whether a chunk can be coded here: a plane of integers near each other."""
    if chunk.dtype.kind not in "iu" or not _is_plane(chunk.shape):
        return False
    return int(chunk.max()) - int(chunk.min()) < LIMIT


def _is_plane(shape: tuple[int, ...]) -> bool:
    ny, nx = shape[-2:]
    whole = all(side % COARSEST == 0 and side >= SMALLEST for side in (ny, nx))
    return whole and math.prod(shape) == ny * nx


def pixels_of(leaves: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each pixel lies in one of the leaves."""
    return np.repeat(np.repeat(leaves, LEAF, axis=1), LEAF, axis=0)
