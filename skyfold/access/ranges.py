"""Which ranges of bytes are asked for together: near ones of one object in one request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NEAR = 0.1  # ranges are read as one where the gap is below this share of both


def joined(
    ranges: Sequence[tuple[str, int, int]],
) -> dict[tuple[str, int, int], list[int]]:
    """Ranges to request, each with the numbers of those asked for that it holds."""
    runs: list[tuple[str, int, int, list[int]]] = []
    reach = 0.0
    for number in sorted(range(len(ranges)), key=lambda number: ranges[number]):
        key, start, stop = ranges[number]
        allowed = NEAR * (stop - start)
        if runs and runs[-1][0] == key and start - runs[-1][2] <= reach + allowed:
            _, first, last, members = runs.pop()
            runs.append((key, first, max(last, stop), [*members, number]))
        else:
            runs.append((key, start, stop, [number]))
        reach = allowed
    return {(key, start, stop): members for key, start, stop, members in runs}
