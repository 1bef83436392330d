"""The arithmetic of `skyfold.codecs.interlaced_passes`, compiled: for writers, which fit.

All sums are of the same integers, so the bytes are the same with these and without. Planes are
those of `Known`, padded and flat; places are of pixels of a pass among them; steps are those to
neighbours, as numbers of pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyfold.compiled import compiled_exactly

Ints = NDArray[np.int32]


def weights_of_sums(weights: Ints) -> tuple[int, ...]:
    """Weights of near sums, of differences and of far pairs themselves, for `residuals`."""
    near, across, *far = weights.tolist()
    return near - sum(far), across, *(2 * one for one in far)


@compiled_exactly
def features(plane, places, near, far, clip):  # type: ignore[no-untyped-def]
    """What weights of values are of, then the values, then how far near ones are apart.

    Rows of float32, shape (2 + far + 2, places); see `Known.features` and `Known.apart`.
    """
    out = np.empty((far.size + 4, places.size), np.float32)
    for n in range(places.size):
        at = places[n]
        up, down = plane[at + near[0]], plane[at - near[0]]
        left, right = plane[at + near[1]], plane[at - near[1]]
        near_sum = up + down + left + right
        out[0, n] = near_sum
        out[1, n] = (up + down) - (left + right)
        for k in range(far.size):
            out[2 + k, n] = 2 * (plane[at + far[k]] + plane[at - far[k]]) - near_sum
        out[far.size + 2, n] = plane[at]
        out[far.size + 3, n] = min(abs(up - down) + abs(left - right), clip)
    return out


@compiled_exactly
def residuals(plane, places, near, far, calm, steep, limit, clip):  # type: ignore[no-untyped-def]
    """Values less their prediction, int32; `limit` is where pixels are steep, 0 for never.

    Weights are those of `weights_of_sums`; see `Known.predict`. Neighbours and weights are written
    out: as loops they take three times as long.
    """
    out = np.empty(places.size, np.int32)
    a, b = near
    f0, f1, f2, f3, f4, f5 = far
    c0, c1, c2, c3, c4, c5, c6, c7 = calm
    s0, s1, s2, s3, s4, s5, s6, s7 = steep
    for n in range(places.size):
        at = places[n]
        up, down = plane[at + a], plane[at - a]
        left, right = plane[at + b], plane[at - b]
        total, across = up + down + left + right, up + down - left - right
        p0, p1 = plane[at + f0] + plane[at - f0], plane[at + f1] + plane[at - f1]
        p2, p3 = plane[at + f2] + plane[at - f2], plane[at + f3] + plane[at - f3]
        p4, p5 = plane[at + f4] + plane[at - f4], plane[at + f5] + plane[at - f5]
        if limit > 0 and min(abs(up - down) + abs(left - right), clip) >= limit:
            found = s0 * total + s1 * across + s2 * p0 + s3 * p1
            found += s4 * p2 + s5 * p3 + s6 * p4 + s7 * p5
        else:
            found = c0 * total + c1 * across + c2 * p0 + c3 * p1
            found += c4 * p2 + c5 * p3 + c6 * p4 + c7 * p5
        out[n] = plane[at] - ((found + 256) >> 9)
    return out


@compiled_exactly
def doubts(plane, sizes, places, near, far, clip):  # type: ignore[no-untyped-def]
    """What weights of contexts are of, int32, shape (3, places); see `Known.doubts`."""
    out = np.empty((3, places.size), np.int32)
    for n in range(places.size):
        at = places[n]
        out[0, n] = sizes[at + near[0]] + sizes[at - near[0]]
        out[0, n] += sizes[at + near[1]] + sizes[at - near[1]]
        apart = abs(plane[at + near[0]] - plane[at - near[0]])
        apart += abs(plane[at + near[1]] - plane[at - near[1]])
        out[1, n] = min(apart, clip)
        out[2, n] = sizes[at + far[-2]] + sizes[at - far[-2]]
        out[2, n] += sizes[at + far[-1]] + sizes[at - far[-1]]
    return out


@compiled_exactly
def symbol_counts(values, shift, direct, lengths, count):  # type: ignore[no-untyped-def]
    """How often residuals have each symbol; see `skyfold.codecs.tables.split`."""
    out = np.zeros(count, np.float64)
    for value in values:
        whole = value >> shift
        if abs(whole) <= direct:
            out[whole + direct] += 1
            continue
        excess, length = abs(whole) - direct, 0
        while excess:
            excess >>= 1
            length += 1
        out[2 * direct + length + (lengths if whole < 0 else 0)] += 1
    return out
