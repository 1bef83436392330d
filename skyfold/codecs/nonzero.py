"""`skyfold.nonzero`: numbers of any width of which many are zero, in runs.

Bytes of a chunk::

    u8     0: every value is zero, nothing follows
           1: no value is zero; a pcodec stream of all values follows, in C order
           2: u32 n, then n bytes of a pcodec stream of u32 run lengths; then, a pcodec stream of
              the values that are not zero

Runs are of zeros, of others, of zeros, and so on, in C order through the whole chunk; the first may
be empty, and the last is left out. A value is zero if all of its bits are: minus zero and NaN are
values. 8-bit types are widened to 16 bits for pcodec.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pcodec import standalone

from skyfold.codecs.chunk import ChunkCodec
from skyfold.codecs.streams import compress, decompress
from skyfold.errors import CorruptDataError

_ZERO, _ALL, _RUNS = 0, 1, 2


@dataclass(frozen=True)
class NonzeroCodec(ChunkCodec):
    """Pcodec of the values that are not zero, and the runs in which they come.

    Examples
    --------
    >>> import numpy as np
    >>> chunk = np.array([[0, 0, 0.5, 0.5, 0]])
    >>> codec = NonzeroCodec()
    >>> codec.decode_chunk(codec.encode_chunk(chunk), chunk.shape, chunk.dtype).tolist()
    [[0.0, 0.0, 0.5, 0.5, 0.0]]
    """

    codec_name: ClassVar[str] = "skyfold.nonzero"

    def encode_chunk(self, chunk: NDArray[Any]) -> bytes:
        """Bytes of a chunk; see the module's description of the format."""
        flat = np.ascontiguousarray(chunk).ravel()
        used = flat.view(f"u{flat.dtype.itemsize}") != 0
        if not used.any():
            return bytes([_ZERO])
        if used.all():
            return bytes([_ALL]) + compress(flat)
        edges = np.flatnonzero(np.diff(used, prepend=False))
        runs = compress(np.diff(edges, prepend=0).astype(np.uint32))
        head = bytes([_RUNS]) + len(runs).to_bytes(4, "little") + runs
        return head + compress(flat[used])

    def decode_chunk(
        self, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        """Chunk of a stated shape and dtype."""
        kind = data[0] if data else None
        if kind == _ZERO and len(data) == 1:
            return np.zeros(shape, dtype)
        size = int(np.prod(shape))
        if kind == _ALL:
            return decompress(data[1:], size, dtype).reshape(shape)
        if kind != _RUNS:
            raise CorruptDataError(f"skyfold.nonzero chunk begins with {kind}; 0, 1 or 2 is known")
        length = int.from_bytes(data[1:5], "little")
        used = _read_runs(data[5 : 5 + length], size)
        flat = np.zeros(size, dtype)
        flat[used] = decompress(data[5 + length :], int(used.sum()), dtype)
        return flat.reshape(shape)


def _read_runs(data: bytes, size: int) -> NDArray[np.bool_]:
    """Where values are not zero; there are at most as many runs as values."""
    runs = np.zeros(size, np.uint32)
    progress = standalone.simple_decompress_into(data, runs)
    edges = np.cumsum(runs[: progress.n_processed], dtype=np.int64)
    if not progress.finished or (len(edges) and edges[-1] >= size):
        raise CorruptDataError(f"runs of a skyfold.nonzero chunk reach beyond its {size} values")
    turns = np.zeros(size, np.int64)
    np.add.at(turns, edges, 1)
    return np.asarray(np.cumsum(turns) % 2 == 1)
