"""The words of a range coder as bytes, and booleans among what they hold.

The coder is that of constriction: words of 32 bits, a state of 64, probabilities of 24. Words are
little-endian, and the zero bytes at their end are left out.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

_PARTS = 512  # of a range coder's probability: a boolean's is an odd number of them


def to_bytes(coder: Any) -> bytes:
    """All that a constriction RangeEncoder has written."""
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    return words.rstrip(b"\0")


def to_decoder(data: bytes) -> Any:
    """Constriction RangeDecoder of what `to_bytes` gave."""
    words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
    return constriction.stream.queue.RangeDecoder(words)


def to_state(data: bytes) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Words of what `to_bytes` gave, and where a decoder that is compiled begins.

    See `skyfold.codecs.read_kernels`.
    """
    words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
    first = [*words[:2].tolist(), 0, 0]
    return words, np.array([first[0] << 32 | first[1], 2**64 - 1, 2], np.uint64)


def sums_of(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Where symbols begin and end, in 2**-24, of counts to each of which constriction adds 1."""
    sums = np.zeros((*counts.shape[:-1], counts.shape[-1] + 1), np.int64)
    np.cumsum(counts + 1, axis=-1, out=sums[..., 1:], dtype=np.int64)
    return sums


def encode_booleans(coder: Any, booleans: NDArray[np.bool_]) -> int:
    """Tell booleans in C order, and return what a reader has to know beside the words.

    This is a byte s: each is true with probability (s + 1/2) / 256, and symbol 1 if it is.
    """
    share = min(int(256 * booleans.mean()), 255)
    coder.encode(booleans.ravel().astype(np.int32), _model(share))
    return share


def decode_booleans(coder: Any, shape: tuple[int, ...], share: int) -> NDArray[np.bool_]:
    """Booleans of a shape, from a range decoder; `share` as `encode_booleans` returned it."""
    found: NDArray[np.bool_] = coder.decode(_model(share), int(np.prod(shape))) == 1
    return found.reshape(shape)


@cache
def _model(share: int) -> Any:
    """Model of exactly this probability: constriction adds 1 to each count."""
    true = (2 * share + 1) * ((1 << 24) // _PARTS)
    counts = np.array([(1 << 24) - true, true], np.float64) - 1
    return constriction.stream.model.Categorical(counts, perfect=False)
