"""What becomes of a codec's chunk that came damaged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from skyfold.errors import SkyfoldError


def require_named_damage(
    codec: Any, chunk: np.ndarray, *, places: Iterable[int] = (), cuts: Iterable[int]
) -> None:
    """Flip a bit at these places and 150 others: an error of the project, or a chunk of its shape.

    Chunks cut to these lengths are errors.
    """
    data = codec.encode_chunk(chunk)
    rng = np.random.default_rng(5)
    for place in [*places, *rng.integers(0, len(data), 150)]:
        broken = bytearray(data)
        broken[place] ^= 1 << rng.integers(8)
        try:
            back = codec.decode_checked(bytes(broken), chunk.shape, chunk.dtype)
        except SkyfoldError:
            continue
        assert back.shape == chunk.shape
    for length in cuts:
        assert length < len(data)
        with pytest.raises(SkyfoldError):
            codec.decode_checked(data[:length], chunk.shape, chunk.dtype)
