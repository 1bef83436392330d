"""`skyfold.interlaced`: integers of a plane, each predicted from its decoded neighbours.

A plane is coded from coarse to fine: every 16th pixel of every 16th row, then the pixels between
them at distances 8, 4, 2 and 1, each time in three passes: odd rows and odd columns, even and
odd, odd and even. A pass knows all earlier ones, so it is computed at once, without a loop over
pixels. What is known predicts each value and how far it may be off; the second names the table
with which the difference is coded. Both are sums of integers with integer weights, which the
writer fits (`skyfold.codecs.interlaced_fit`, `interlaced_tables`) and stores
(`interlaced_plan`); no floating point chooses anything.

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
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.blocks import BlocksCodec
from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.coded import Reader, Writer, stacked
from skyfold.codecs.interlaced_kernels import weights_of_sums
from skyfold.codecs.interlaced_passes import CLIP, COARSEST, SMALLEST, Walk
from skyfold.codecs.interlaced_plan import Ints, Plan
from skyfold.codecs.quadtree import decode_mask, encode_mask
from skyfold.codecs.streams import compress, decompress, needs_more_than
from skyfold.codecs.words import to_state
from skyfold.compiled import reads_compiled
from skyfold.errors import CorruptDataError
from skyfold.ladder import LEAF

LIMIT = 1 << 17  # range of the values of a plane: sums of predictions stay below 2**31
WORTH = 0.995  # of the bytes of skyfold.blocks, which is read many times faster
_BLOCKS, _ALL, _SOME, _PLAIN = 0, 1, 2, 3

Fit: TypeAlias = tuple[Plan, list[tuple[Ints, Ints]]]


def decode_plane(
    plan: Plan, words: bytes, shape: tuple[int, int], used: NDArray[np.bool_] | None
) -> NDArray[np.int32]:
    """Plane of a stated shape; where `used` is False, zero.

    Raises
    ------
    CorruptDataError
        If the words hold none.
    """
    if reads_compiled():
        return _decode_compiled(plan, words, shape, used)
    try:
        return _decode_passes(plan, Reader(words, plan.tables), shape, used)
    except AssertionError as error:  # constriction's word for bytes that it cannot have written
        raise CorruptDataError(f"words of a predicted plane: {error}") from error


def _decode_passes(
    plan: Plan, reader: Reader, shape: tuple[int, int], used: NDArray[np.bool_] | None
) -> NDArray[np.int32]:
    walk = Walk(shape, used)
    coarsest = slice(None, None, COARSEST)
    coarse = walk.values[coarsest, coarsest]
    coded = np.ones(coarse.shape, bool) if used is None else used[coarsest, coarsest]
    last = np.full(np.count_nonzero(coded), len(plan.tables) - 1, np.uint8)
    coarse[coded] = reader.read(last)
    walk.sizes[coarsest, coarsest] = np.minimum(np.abs(coarse), CLIP)
    for known, distance, number in walk.passes():
        weights = plan.of(distance, number)
        residuals = reader.read(plan.contexts(known.expect(number, weights.context)))
        known.learn(number, residuals + known.predict(number, weights), residuals)
    values = walk.values + np.int32(plan.offset)
    return values if used is None else np.where(used, values, 0)


def _decode_compiled(
    plan: Plan, words: bytes, shape: tuple[int, int], used: NDArray[np.bool_] | None
) -> NDArray[np.int32]:
    from skyfold.codecs.kept_kernels import interlaced

    out = np.zeros(shape, np.int32)
    told = interlaced(
        *to_state(words),
        np.ones(shape, np.bool_) if used is None else used,
        plan.offset,
        plan.contexts(np.arange(plan.thresholds.max(initial=0) + 1)),
        *stacked(plan.tables),
        np.array([one.context for one in plan.weights], np.int64),
        np.array([one.steep for one in plan.weights]),
        np.array([weights_of_sums(one.value[0]) for one in plan.weights]),
        np.array([weights_of_sums(one.value[-1]) for one in plan.weights]),
        out,
    )
    if not told:
        raise CorruptDataError("words of a predicted plane, which no writer leaves behind")
    return out


def encode_passes(plan: Plan, passes: list[tuple[Ints, Ints]]) -> bytes:
    """Words of a plane.

    Parameters
    ----------
    passes : list of (doubts, residuals)
        Of what is coded, by pass; the coarsest pixels come first and have no doubts.
    """
    writer = Writer(plan.tables)
    for doubts, residuals in passes:
        last = np.full(len(residuals), len(plan.tables) - 1, np.uint8)
        writer.write(plan.contexts(doubts) if len(doubts) else last, residuals)
    return writer.words()


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
        leaves = coded_leaves(chunk.reshape(chunk.shape[-2:]))
        return encode_fit(chunk, leaves, fit_of(chunk, leaves))

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        kind, rest = (data[0], data[1:]) if data else (None, b"")
        if kind == _BLOCKS:
            return BlocksCodec().decode_chunk(rest, shape, dtype)
        if kind not in (_ALL, _SOME, _PLAIN):
            raise CorruptDataError(f"skyfold.interlaced chunk begins with {kind}; 0 to 3 is known")
        if not is_plane(shape):
            raise CorruptDataError(
                f"skyfold.interlaced chunk of shape {shape}: planes have sides of {SMALLEST} or "
                f"more, in steps of {COARSEST}"
            )
        plane = (shape[-2], shape[-1])
        if kind != _ALL:
            leaves, rest = read_mask(rest, plane)
            return decode_used(kind, rest, pixels_of(leaves), dtype).reshape(shape)
        return decode_plane(*Plan.from_bytes(rest), plane, None).reshape(shape).astype(dtype)


def fit_of(chunk: NDArray[Any], leaves: NDArray[np.bool_]) -> Fit | None:
    """Plan of a plane, and what it leaves to be coded; None if neighbours tell nothing.

    Parameters
    ----------
    chunk : ndarray, shape (1, ny, nx), integers
        For which `is_near_plane` holds.
    leaves : ndarray of bool, shape (ny / 2, nx / 2)
        Which are coded; the others are zero.
    """
    from skyfold.codecs.interlaced_fit import fit_plane, is_predictable

    plane = chunk.reshape(chunk.shape[-2:]).astype(np.int32)
    used = None if leaves.all() else pixels_of(leaves)
    return fit_plane(plane, used) if is_predictable(plane, used) else None


def encode_fit(chunk: NDArray[Any], leaves: NDArray[np.bool_], fit: Fit | None) -> bytes:
    """Bytes of a chunk by a fit of it, or in another way where that takes fewer."""
    plane = chunk.reshape(chunk.shape[-2:])
    if not leaves.all():
        kind, body = _of_some(plane[pixels_of(leaves)], fit)
        return bytes([kind]) + write_mask(leaves) + body
    predicted = _predicted(fit)
    data = bytes([_ALL]) + (predicted or b"")
    if predicted and needs_more_than(plane, len(data)):
        return data
    plain = bytes([_BLOCKS]) + BlocksCodec().encode_chunk(chunk)
    return data if predicted and len(data) < WORTH * len(plain) else plain


def encode_used(plane: NDArray[Any], leaves: NDArray[np.bool_]) -> tuple[int, bytes]:
    """Values of some leaves of a plane, in the fewer bytes of two ways.

    Parameters
    ----------
    plane : ndarray, shape (ny, nx), integers
        For which `is_near_plane` holds; zero in other leaves.
    leaves : ndarray of bool, shape (ny / 2, nx / 2)

    Returns
    -------
    kind : int
        2 or 3, as a chunk begins.
    data : bytes
        What stands behind the mask.
    """
    return _of_some(plane[pixels_of(leaves)], fit_of(plane, leaves))


def _of_some(values: NDArray[Any], fit: Fit | None) -> tuple[int, bytes]:
    predicted = _predicted(fit)
    if predicted is not None and needs_more_than(values, len(predicted)):
        return _SOME, predicted
    plain = compress(values)
    if predicted is not None and len(predicted) < WORTH * len(plain):
        return _SOME, predicted
    return _PLAIN, plain


def _predicted(fit: Fit | None) -> bytes | None:
    """Plan and words."""
    return None if fit is None else fit[0].to_bytes() + encode_passes(*fit)


def encode_plain(plane: NDArray[Any], leaves: NDArray[np.bool_]) -> bytes:
    """Chunk of a plane, some leaves of which are coded, as a pcodec stream."""
    return bytes([_PLAIN]) + write_mask(leaves) + compress(plane[pixels_of(leaves)])


def decode_used(
    kind: int, data: bytes, used: NDArray[np.bool_], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Inverse of `encode_used`: the plane, zero where `used` is False."""
    if kind == _SOME:
        shape = (used.shape[0], used.shape[1])
        return decode_plane(*Plan.from_bytes(data), shape, used).astype(dtype)
    values = np.zeros(used.shape, dtype)
    values[used] = decompress(data, int(np.count_nonzero(used)), dtype)
    return values


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


def is_near_plane(chunk: NDArray[Any], smallest: int = SMALLEST) -> bool:
    """Whether a chunk can be coded here: a plane of integers near each other, and not too large."""
    if chunk.dtype.kind not in "iu" or not is_plane(chunk.shape, smallest):
        return False
    least, most = int(chunk.min()), int(chunk.max())
    fits = np.can_cast(chunk.dtype, np.int32) or (least >= -(1 << 31) and most < 1 << 31)
    return fits and most - least < LIMIT


def is_plane(shape: tuple[int, ...], smallest: int = SMALLEST) -> bool:
    """Whether a chunk has the shape of a plane that can be coded here."""
    ny, nx = shape[-2:]
    whole = all(side % COARSEST == 0 and side >= smallest for side in (ny, nx))
    return whole and math.prod(shape) == ny * nx


def pixels_of(leaves: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each pixel lies in one of the leaves."""
    return np.repeat(np.repeat(leaves, LEAF, axis=1), LEAF, axis=0)
