"""Mutations of bytes without coverage: flips, truncations, splices, extreme numbers, repeats."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_EXTREMES = (b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80", b"\0" * 8, b"-1", b"1e999", b"\xff" * 8)


def mutations(seeds: Sequence[bytes], source: random.Random) -> Iterator[bytes]:
    """Endless mutants of some seeds; the same source gives the same mutants."""
    yield from seeds
    while True:
        data = bytearray(source.choice(seeds))
        for _ in range(source.choice((1, 1, 2, 4, 8))):
            data = _mutate(data, seeds, source)
        yield bytes(data)


def _mutate(data: bytearray, seeds: Sequence[bytes], source: random.Random) -> bytearray:
    at = source.randrange(len(data) + 1)
    end = min(len(data), at + source.choice((1, 2, 4, 16, 256)))
    kind = source.randrange(6)
    if kind == 0 and data:
        data[at - 1] ^= 1 << source.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        other = source.choice(seeds)
        data = data[:at] + other[source.randrange(len(other) + 1) :]
    elif kind == 3:
        data[at:end] = source.choice(_EXTREMES)
    elif kind == 4:
        data[at:at] = data[at:end] * source.choice((1, 3, 50))
    else:
        data[at:end] = source.randbytes(end - at)
    return data
