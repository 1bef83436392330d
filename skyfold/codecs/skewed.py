"""`skyfold.skewed`: raw integers of a plane, predicted, whose residuals may be skewed.

In a crowded field a pixel is seldom far below what its neighbours say, and often far above: a star
of its own. So the table of a context may have another scale and shape for residuals below 0 than
for the others. All else is as in `skyfold.interlaced`.

Bytes of a chunk::

    u8         form: 0 a skyfold.interlaced chunk follows, 1 a plane all of which is coded, 2 one
               of which some leaves of 2 x 2 pixels are, and the others are zero:
    (2)        the mask, as there
    ...        the plan, as there; its tables are of residuals below 0
    (K + 1) x  of each context, then of the coarsest pixels: u8 and u8 scale and shape of the table
               of residuals from 0 on, u8 a: their probability is (a + 1/2) / 256; or 0 0 0, and
               the plan's table is of all
    u32 ...    words of constriction's range coder, as there
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.interlaced import (
    WORTH,
    Fit,
    InterlacedCodec,
    coded_leaves,
    decode_plane,
    encode_fit,
    encode_passes,
    fit_of,
    is_near_plane,
    is_plane,
    pixels_of,
    read_mask,
    write_mask,
)
from skyfold.codecs.interlaced_plan import Plan
from skyfold.codecs.tables import SCALES, SHAPES
from skyfold.errors import CorruptDataError

_OTHER, _ALL, _SOME = 0, 1, 2
_ALIKE = bytes(3)


@dataclass(frozen=True)
class SkewedCodec(ChunkCodec):
    """Raw integers of planes; `skyfold.interlaced` where residuals have no skewness.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.mgrid[:64, :64]
    >>> chunk = (y * x // 8).astype(np.int16)[np.newaxis]
    >>> codec = SkewedCodec()
    >>> data = codec.encode_chunk(chunk)
    >>> bool((codec.decode_chunk(data, chunk.shape, chunk.dtype) == chunk).all())
    True
    """

    codec_name: ClassVar[str] = "skyfold.skewed"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        if not is_near_plane(chunk) or not chunk.any():
            return bytes([_OTHER]) + InterlacedCodec().encode_chunk(chunk)
        leaves = coded_leaves(chunk.reshape(chunk.shape[-2:]))
        fit = fit_of(chunk, leaves)
        other = bytes([_OTHER]) + encode_fit(chunk, leaves, fit)
        skewed = _skewed(leaves, fit)
        return skewed if skewed is not None and len(skewed) < WORTH * len(other) else other

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        kind, rest = (data[0], data[1:]) if data else (None, b"")
        if kind == _OTHER:
            return InterlacedCodec().decode_chunk(rest, shape, dtype)
        if kind not in (_ALL, _SOME) or not is_plane(shape):
            raise CorruptDataError(
                f"skyfold.skewed chunk of shape {shape} begins with {kind}; 0, or 1 or 2 of a plane"
            )
        plane, used = (shape[-2], shape[-1]), None
        if kind == _SOME:
            leaves, rest = read_mask(rest, plane)
            used = pixels_of(leaves)
        plan, words = _with_sides(*Plan.from_bytes(rest))
        return decode_plane(plan, words, plane, used).reshape(shape).astype(dtype)


def _with_sides(plan: Plan, data: bytes) -> tuple[Plan, bytes]:
    """Plan with the tables of residuals from 0 on, and the bytes after these."""
    tables = []
    for number, pair in enumerate(plan.tables):
        its = data[3 * number : 3 * number + 3]
        if len(its) < len(_ALIKE) or its[0] >= SCALES or its[1] >= SHAPES:
            raise CorruptDataError(f"skyfold.skewed chunk names a table that there is not: {its!r}")
        tables.append(pair if its == _ALIKE else (*pair, *its))
    return replace(plan, tables=tuple(tables)), data[3 * len(tables) :]


def _skewed(leaves: NDArray[np.bool_], fit: Fit | None) -> bytes | None:
    """Chunk of the form 1 or 2; None where neighbours say nothing, or both sides are alike."""
    from skyfold.codecs.skewed_fit import with_sides

    sided = with_sides(*fit) if fit else None
    if fit is None or sided is None:
        return None
    head = bytes([_ALL]) if leaves.all() else bytes([_SOME]) + write_mask(leaves)
    sides = b"".join(bytes(one[2:]) or _ALIKE for one in sided.tables)
    return head + sided.to_bytes() + sides + encode_passes(sided, fit[1])
