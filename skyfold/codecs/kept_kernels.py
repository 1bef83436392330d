"""What reads chunks of `skyfold.kept` and of `skyfold.interlaced`, compiled: the same numbers.

Every index is limited by what `Plan.from_bytes` of either codec lets through, or here.
"""

from __future__ import annotations

import numpy as np

from skyfold.codecs.interlaced_passes import CLIP, COARSEST, DISTANCES, FAR, NEAR, PAD, PASSES
from skyfold.codecs.read_kernels import group, leaves
from skyfold.compiled import compiled_exactly

_DEEPEST = 4
_LARGEST = 30
_DISTANCES = np.array(DISTANCES)
_PASSES, _NEAR, _FAR = np.array(PASSES), np.array(NEAR), np.array(FAR)


@compiled_exactly
def kept(  # type: ignore[no-untyped-def]
    words, state, share, style, turned, unit, of_depths, of_doubts, sums, shifts, out
):
    """Plane of a chunk of `skyfold.kept`; False where constriction raises.

    Parameters
    ----------
    share, style
        As `leaves` takes them.
    turned : bool
        Whether the mask is of leaves that are not coded.
    unit : int
    of_depths : ndarray, shape (5,), uint8
        Context of each depth.
    of_doubts : ndarray, shape (31,), uint8
        Context of each number of units of doubt.
    sums, shifts
        As `group` takes them.
    out : ndarray, shape (ny, nx), int32
        Zeros.
    """
    told = leaves(words, state, share, style, (out.shape[0] // 16, out.shape[1] // 16))
    if told.size == 0:
        return False
    ny, nx = told.shape
    count = 0
    where = np.empty((told.size, 2), np.int64)
    for y in range(ny):
        for x in range(nx):
            if (told[y, x] != 0) != turned:
                where[count, 0], where[count, 1] = y, x
                count += 1
    contexts = np.empty(2 * count, np.uint8)
    # Steps to the nearest leaf that is not coded, forth and back; beyond the edge there is none.
    away = np.zeros((ny + 2, nx + 2), np.int64)
    for y in range(ny + 2):
        away[y, 0], away[y, nx + 1] = _DEEPEST + 1, _DEEPEST + 1
    for x in range(nx + 2):
        away[0, x], away[ny + 1, x] = _DEEPEST + 1, _DEEPEST + 1
    for n in range(count):
        y, x = where[n, 0] + 1, where[n, 1] + 1
        above = min(away[y - 1, x - 1], away[y - 1, x], away[y - 1, x + 1])
        away[y, x] = min(above, away[y, x - 1], _DEEPEST) + 1
    for n in range(count - 1, -1, -1):
        y, x = where[n, 0] + 1, where[n, 1] + 1
        below = min(away[y + 1, x - 1], away[y + 1, x], away[y + 1, x + 1])
        away[y, x] = min(away[y, x], min(below, away[y, x + 1]) + 1)
    for n in range(count):
        contexts[n] = of_depths[away[where[n, 0] + 1, where[n, 1] + 1] - 1]
    read = np.empty(2 * count, np.int32)
    # Sizes with a frame of zeros: nothing lies beyond the edge.
    first = np.zeros((ny + 2, nx + 2), np.int64)
    second = np.zeros_like(first)
    if not group(words, state, contexts[:count], sums, shifts, read[:count]):
        return False
    for n in range(count):
        y, x = where[n, 0], where[n, 1]
        out[2 * y, 2 * x] = read[n]
        first[y + 1, x + 1] = min(abs(np.int64(read[n])), CLIP)
    for n in range(count):
        y, x = where[n, 0] + 1, where[n, 1] + 1
        doubt = first[y, x] + first[y, x + 1] + first[y + 1, x] + first[y + 1, x + 1]
        contexts[n] = of_doubts[min(doubt // unit, _LARGEST)]
    if not group(words, state, contexts[:count], sums, shifts, read[:count]):
        return False
    for n in range(count):
        y, x = where[n, 0], where[n, 1]
        out[2 * y + 1, 2 * x + 1] = read[n]
        second[y + 1, x + 1] = min(abs(np.int64(read[n])), CLIP)
    for n in range(count):
        y, x = where[n, 0] + 1, where[n, 1] + 1
        both = first[y, x] + second[y, x]
        right = both + first[y, x + 1] + second[y - 1, x]
        left = both + first[y + 1, x] + second[y, x - 1]
        contexts[n] = of_doubts[min(right // unit, _LARGEST)]
        contexts[count + n] = of_doubts[min(left // unit, _LARGEST)]
    if not group(words, state, contexts, sums, shifts, read):
        return False
    for n in range(count):
        y, x = where[n, 0], where[n, 1]
        out[2 * y, 2 * x + 1] = read[n]
        out[2 * y + 1, 2 * x] = read[count + n]
    return True


@compiled_exactly
def mirror(plane):  # type: ignore[no-untyped-def]
    """Fill the padding with the mirror image about the outermost pixels."""
    below, beyond = plane.shape[0] - 1, plane.shape[1] - 1
    for k in range(PAD):
        for x in range(PAD, beyond + 1 - PAD):
            plane[k, x] = plane[2 * PAD - k, x]
            plane[below - k, x] = plane[below - 2 * PAD + k, x]
    for y in range(below + 1):
        for k in range(PAD):
            plane[y, k] = plane[y, 2 * PAD - k]
            plane[y, beyond - k] = plane[y, beyond - 2 * PAD + k]


@compiled_exactly
def interlaced(  # type: ignore[no-untyped-def]
    words, state, used, offset, contexts_of, sums, shifts, doubtful, limits, calm, steep, out
):
    """Plane of a chunk of `skyfold.interlaced`; False where constriction raises.

    Parameters
    ----------
    used : ndarray of bool, shape (ny, nx)
        Which pixels are coded; the others are zero.
    offset : int
    contexts_of : ndarray, shape (n,), uint8
        Context of each doubt up to the last that has one of its own.
    sums, shifts
        As `group` takes them; the last table is of the coarsest pixels.
    doubtful : ndarray, shape (6, 4), int64
        Weights of contexts, of the passes at distance 1, then of the others.
    limits : ndarray, shape (6,), int64
        From which a pixel is steep; 0 for never.
    calm, steep : ndarray, shape (6, 8), int64
        Weights of near sums, of differences and of far pairs, as of
        `skyfold.codecs.interlaced_kernels.weights_of_sums`.
    out : ndarray, shape (ny, nx), int32
        Zeros.
    """
    sizes = np.zeros(out.shape, np.int32)
    contexts, read = np.empty(out.size // 4, np.uint8), np.empty(out.size // 4, np.int32)
    where, far = np.empty(out.size // 4, np.int64), np.empty(6, np.int64)
    count = 0
    for y in range(0, out.shape[0], COARSEST):
        for x in range(0, out.shape[1], COARSEST):
            if used[y, x]:
                contexts[count] = sums.shape[0] - 1
                count += 1
    if not group(words, state, contexts[:count], sums, shifts, read[:count]):
        return False
    count = 0
    for y in range(0, out.shape[0], COARSEST):
        for x in range(0, out.shape[1], COARSEST):
            if used[y, x]:
                out[y, x] = read[count]
                sizes[y, x] = min(abs(np.int64(read[count])), CLIP)
                count += 1
    for distance in _DISTANCES:
        ny, nx = out.shape[0] // distance, out.shape[1] // distance
        across = nx + 2 * PAD
        values = np.empty((ny + 2 * PAD, across), np.int32)
        known = np.empty((ny + 2 * PAD, across), np.int32)
        for y in range(ny):
            for x in range(nx):
                values[y + PAD, x + PAD] = out[y * distance, x * distance]
                known[y + PAD, x + PAD] = sizes[y * distance, x * distance]
        v, r = values.reshape(-1), known.reshape(-1)
        mirror(values)
        mirror(known)
        for number in range(3):
            one = number if distance == 1 else 3 + number
            a = _NEAR[number, 0, 0] * across + _NEAR[number, 0, 1]
            b = _NEAR[number, 1, 0] * across + _NEAR[number, 1, 1]
            for k in range(6):
                far[k] = _FAR[number, k, 0] * across + _FAR[number, k, 1]
            f0, f1, f2, f3, f4, f5 = far[0], far[1], far[2], far[3], far[4], far[5]
            w0, w1, w2, w3 = doubtful[one, 0], doubtful[one, 1], doubtful[one, 2], doubtful[one, 3]
            limit, count = limits[one], 0
            for y in range(_PASSES[number, 0], ny, 2):
                for x in range(_PASSES[number, 1], nx, 2):
                    if not used[y * distance, x * distance]:
                        continue
                    at = (y + PAD) * across + x + PAD
                    apart = abs(np.int64(v[at + a]) - v[at - a])
                    apart = min(apart + abs(np.int64(v[at + b]) - v[at - b]), CLIP)
                    doubt = w0 + w2 * apart
                    doubt += w1 * (np.int64(r[at + a]) + r[at - a] + r[at + b] + r[at - b])
                    doubt += w3 * (np.int64(r[at + f4]) + r[at - f4] + r[at + f5] + r[at - f5])
                    doubt = min(doubt >> 4, 65535)
                    contexts[count] = contexts_of[min(doubt, contexts_of.size - 1)]
                    where[count] = at
                    count += 1
            if not group(words, state, contexts[:count], sums, shifts, read[:count]):
                return False
            for n in range(count):
                at = where[n]
                up, down = np.int64(v[at + a]), np.int64(v[at - a])
                left, right = np.int64(v[at + b]), np.int64(v[at - b])
                w = calm
                if limit > 0 and min(abs(up - down) + abs(left - right), CLIP) >= limit:
                    w = steep
                whole = w[one, 0] * (up + down + left + right) + w[one, 1] * (
                    up + down - left - right
                )
                whole += w[one, 2] * (np.int64(v[at + f0]) + v[at - f0])
                whole += w[one, 3] * (np.int64(v[at + f1]) + v[at - f1])
                whole += w[one, 4] * (np.int64(v[at + f2]) + v[at - f2])
                whole += w[one, 5] * (np.int64(v[at + f3]) + v[at - f3])
                whole += w[one, 6] * (np.int64(v[at + f4]) + v[at - f4])
                whole += w[one, 7] * (np.int64(v[at + f5]) + v[at - f5])
                v[at] = read[n] + ((whole + 256) >> 9)
                r[at] = min(abs(np.int64(read[n])), CLIP)
            mirror(values)
            mirror(known)
        for y in range(ny):
            for x in range(nx):
                out[y * distance, x * distance] = values[y + PAD, x + PAD]
                sizes[y * distance, x * distance] = known[y + PAD, x + PAD]
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            out[y, x] = out[y, x] + offset if used[y, x] else 0
    return True
