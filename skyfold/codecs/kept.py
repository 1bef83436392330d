"""`skyfold.kept`: integers of some leaves of 2 x 2 pixels, each coded by the sizes around it.

The layer `sources` holds a few thousand small numbers a tile, which neighbours hardly predict; but
a large one is seldom alone. So a number's table is chosen by what is known around it: of the
upper left pixel of a leaf, how deep the leaf lies among those that are coded; of the lower right
one, the sizes of the four upper left ones around it; of the other two, those of the four direct
neighbours. Little is stored of how: a few bytes, where a plan of `skyfold.interlaced` takes a
hundred.

Bytes of a chunk::

    u8      form: 0 a skyfold.interlaced chunk follows, 1 this, of a plane as that codec takes it,
            but for that sides may be less than 64:
    u8      style of the mask of leaves, and 128 more where it is of those that are not coded
    u8      share of the mask (`skyfold.codecs.leaves`)
    u8      unit of doubts, at least 1
    u8      bit i: whether contexts of depths part between depth i and i + 1
    u8      bit i: whether contexts of doubts part at `STEPS[i]` units
    u8 u8   scale and shape of the table of each context (`skyfold.codecs.tables`): of depths from
            the lowest, then of doubts
    u32 ... words of a range coder: the mask, then the upper left pixels of all coded leaves, then
            the lower right ones, then all upper right ones followed by all lower left ones

Leaves that are not coded are 0. The depth of a leaf is 0 beside one that is not coded, corners too,
else one more than the least of those around it, and at most 4; nothing counts beyond the edge.
With sizes of at most 32768 and 0 beyond the edge, a doubt is the sum of those of the four nearest
upper left pixels, for a lower right one; for the others, of the upper left ones to either side of
it and the lower right ones to its two other sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.coded import Ints, Reader, Writer, stacked
from skyfold.codecs.interlaced import (
    InterlacedCodec,
    coded_leaves,
    encode_plain,
    is_near_plane,
    is_plane,
    pixels_of,
)
from skyfold.codecs.interlaced_passes import SMALLEST
from skyfold.codecs.leaf_styles import STYLES
from skyfold.codecs.leaves import ROOT, decode_leaves, encode_leaves
from skyfold.codecs.streams import needs_more_than
from skyfold.codecs.tables import SCALES, SHAPES
from skyfold.codecs.words import to_state
from skyfold.compiled import reads_compiled
from skyfold.errors import CorruptDataError

STEPS = (1, 2, 3, 5, 7, 10, 15, 30)  # units of doubt
DEEPEST = 4
_CLIP = 1 << 15
_OTHER, _KEPT = 0, 1
_TURNED = 128
_HEAD = 3  # bytes of a plan before its tables
_LEAST = 9  # bytes of a mask's head, and of a plan
_STEP_OF = np.searchsorted(STEPS, np.arange(STEPS[-1] + 1), side="right").astype(np.uint8)

Bits: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """What the writer chose for the numbers of a chunk.

    Attributes
    ----------
    unit : int
        Of doubts, 1 to 255.
    depths, doubts : int
        Bits of where contexts part.
    tables : tuple of (int, int)
        Scale and shape of the table of each context, those of depths first.
    """

    unit: int
    depths: int
    doubts: int
    tables: tuple[tuple[int, int], ...]

    def of_depths(self, depths: Bits) -> Bits:
        """Contexts of depths."""
        return _parted(self.depths, DEEPEST)[depths]

    def of_steps(self, steps: Bits) -> Bits:
        """Contexts of doubts, given as the number of `STEPS` that they reach."""
        first = self.depths.bit_count() + 1
        return (first + _parted(self.doubts, len(STEPS)))[steps]

    def to_bytes(self) -> bytes:
        """As the module's description says."""
        pairs = (number for pair in self.tables for number in pair)
        return bytes([self.unit, self.depths, self.doubts, *pairs])

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[Plan, bytes]:
        """Plan, and the bytes after it; CorruptDataError where there is no plan."""
        if len(data) < _HEAD:
            raise CorruptDataError(f"plan of a skyfold.kept chunk has {len(data)} bytes; 7 or more")
        unit, depths, doubts = data[:_HEAD]
        end = _HEAD + 2 * (depths.bit_count() + doubts.bit_count() + 2)
        tables = tuple(zip(data[_HEAD:end:2], data[_HEAD + 1 : end : 2], strict=False))
        known = all(scale < SCALES and shape < SHAPES for scale, shape in tables)
        if not unit or depths >> DEEPEST or len(data) < end or not known:
            raise CorruptDataError(
                f"skyfold.kept chunk has a plan that there is not: {data[:end]!r}"
            )
        return cls(unit, depths, doubts, tables), data[end:]


def _parted(bits: int, count: int) -> Bits:
    """Number of the context that each of `count` + 1 classes is in."""
    return np.cumsum([0, *(bits >> n & 1 for n in range(count))]).astype(np.uint8)


def depths_of(leaves: Mask) -> Bits:
    """How deep leaves lie among those of a mask, 0 to `DEEPEST`, shape of `leaves`."""
    depths, inner = np.zeros(leaves.shape, np.uint8), leaves
    for _ in range(DEEPEST):
        rows = inner.copy()
        rows[1:] &= inner[:-1]
        rows[:-1] &= inner[1:]
        inner = rows.copy()
        inner[:, 1:] &= rows[:, :-1]
        inner[:, :-1] &= rows[:, 1:]
        depths += inner
    return depths


def second_doubts(upper_left: Ints) -> Ints:
    """Doubts of lower right pixels by the upper left ones, shape of a plane of leaves."""
    size = np.minimum(np.abs(upper_left), _CLIP)
    size[:, :-1] += size[:, 1:]
    size[:-1] += size[1:]
    return size


def last_doubts(upper_left: Ints, lower_right: Ints) -> Ints:
    """Doubts of upper right and lower left pixels, shape (2, *plane of leaves)."""
    first, second = (np.minimum(np.abs(one), _CLIP) for one in (upper_left, lower_right))
    doubts = np.stack([first + second, first + second])
    doubts[0, :, :-1] += first[:, 1:]
    doubts[0, 1:] += second[:-1]
    doubts[1, :-1] += first[1:]
    doubts[1, :, 1:] += second[:, :-1]
    return doubts


def steps_of(doubts: Ints, unit: int) -> Bits:
    """How many of `STEPS` doubts reach."""
    return _STEP_OF[np.minimum(doubts if unit == 1 else doubts // unit, STEPS[-1])]


def quarters(plane: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Upper left, lower right, upper right and lower left pixels of all leaves."""
    return (plane[y::2, x::2] for y, x in ((0, 0), (1, 1), (0, 1), (1, 0)))


@dataclass(frozen=True)
class KeptCodec(ChunkCodec):
    """Integers of planes, of few leaves; `skyfold.interlaced` where that takes fewer bytes.

    Examples
    --------
    >>> import numpy as np
    >>> chunk = np.zeros((1, 64, 64), np.int32)
    >>> chunk[0, 20:30, 20:30] = np.arange(10) - 5
    >>> codec = KeptCodec()
    >>> data = codec.encode_chunk(chunk)
    >>> bool((codec.decode_chunk(data, chunk.shape, chunk.dtype) == chunk).all())
    True
    """

    codec_name: ClassVar[str] = "skyfold.kept"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        if is_near_plane(chunk, ROOT) and chunk.any():
            plane = chunk.reshape(chunk.shape[-2:]).astype(np.int32)
            leaves = coded_leaves(plane)
            if not leaves.all():
                return _smallest(chunk, plane, leaves)
        return bytes([_OTHER]) + InterlacedCodec().encode_chunk(chunk)

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        if data[:1] == bytes([_OTHER]):
            return InterlacedCodec().decode_chunk(data[1:], shape, dtype)
        if data[:1] != bytes([_KEPT]) or not is_plane(shape, ROOT):
            raise CorruptDataError(
                f"skyfold.kept chunk of shape {shape} begins with {data[:1]!r}; 0, or 1 of a plane"
            )
        try:
            return (
                _decoded(data[1:], (shape[-2], shape[-1])).reshape(shape).astype(dtype, copy=False)
            )
        except AssertionError as error:  # constriction's word for bytes that it cannot have written
            raise CorruptDataError(f"skyfold.kept chunk: {error}") from error


def _decoded(data: bytes, shape: tuple[int, int]) -> NDArray[np.int32]:
    if len(data) < _LEAST:
        raise CorruptDataError(
            f"skyfold.kept chunk ends after {len(data)} bytes; 9 or more follow 1"
        )
    style, share = data[0] % _TURNED, data[1]
    if style >= len(STYLES):
        raise CorruptDataError(f"skyfold.kept chunk has a mask of style {style}; 0 to 2 is known")
    plan, words = Plan.from_bytes(data[2:])
    if reads_compiled():
        return _decoded_compiled(plan, words, shape, (share, style, data[0] >= _TURNED))
    reader = Reader(words, plan.tables)
    leaves = decode_leaves(reader.coder, shape, share, style)
    if data[0] >= _TURNED:
        leaves = ~leaves
    plane = np.zeros(shape, np.int32)
    first, second, third, fourth = quarters(plane)
    first[leaves] = reader.read(plan.of_depths(depths_of(leaves)[leaves]))
    steps = steps_of(second_doubts(first)[leaves], plan.unit)
    second[leaves] = reader.read(plan.of_steps(steps))
    steps = steps_of(last_doubts(first, second)[:, leaves], plan.unit)
    third[leaves], fourth[leaves] = reader.read(plan.of_steps(steps))
    return plane


def _decoded_compiled(
    plan: Plan, words: bytes, shape: tuple[int, int], mask: tuple[int, int, bool]
) -> NDArray[np.int32]:
    """Plane of a plan and words, as `_decoded` gives it; AssertionError as constriction's."""
    from skyfold.codecs.kept_kernels import kept

    share, style, turned = mask
    out = np.zeros(shape, np.int32)
    told = kept(
        *to_state(words),
        share,
        np.frombuffer(STYLES[style], np.uint8),
        turned,
        plan.unit,
        plan.of_depths(np.arange(DEEPEST + 1, dtype=np.uint8)),
        plan.of_steps(_STEP_OF),
        *stacked(plan.tables),
        out,
    )
    if not told:
        raise AssertionError("words that no writer leaves behind")
    return out


def _smallest(chunk: NDArray[Any], plane: NDArray[np.int32], leaves: Mask) -> bytes:
    """Bytes of a plane of which some leaves are coded."""
    from skyfold.codecs.interlaced_fit import is_worth_prediction

    used = pixels_of(leaves)
    kept = bytes([_KEPT]) + _encoded(plane, leaves)
    if min(plane.shape) < SMALLEST or is_worth_prediction(plane, used):
        other = InterlacedCodec().encode_chunk(chunk)
    elif needs_more_than(plane[used], len(kept), of_entropy=1.0):
        return kept
    else:
        other = encode_plain(chunk.reshape(plane.shape), leaves)
    return kept if len(kept) <= len(other) + 1 else bytes([_OTHER]) + other


def _encoded(plane: NDArray[np.int32], leaves: Mask) -> bytes:
    """What stands behind the form 1."""
    from skyfold.codecs.kept_fit import fit_kept

    first, second, third, fourth = (one[leaves] for one in quarters(plane))
    depths = depths_of(leaves)[leaves]
    upper_left, lower_right, *_ = quarters(plane)
    doubts = second_doubts(upper_left)[leaves]
    last = last_doubts(upper_left, lower_right)[:, leaves].ravel()
    rest = np.concatenate([third, fourth])
    plan = fit_kept(
        (depths, first), (np.concatenate([doubts, last]), np.concatenate([second, rest]))
    )
    writer = Writer(plan.tables)
    turned = bool(leaves.mean() > 0.5)
    share, style = encode_leaves(writer.coder, ~leaves if turned else leaves)
    writer.write(plan.of_depths(depths), first)
    writer.write(plan.of_steps(steps_of(doubts, plan.unit)), second)
    writer.write(plan.of_steps(steps_of(last, plan.unit)), rest)
    head = bytes([style + _TURNED * turned, share]) + plan.to_bytes()
    return head + writer.words()
