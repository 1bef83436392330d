"""What reads range-coded chunks, compiled: the numbers of the modules that describe them.

`leaves` is of `skyfold.codecs.leaves`, `group` of `skyfold.codecs.coded`. The coder is
constriction's, whose state here is three numbers: how far the point lies above the lower end of the
range, the range, and how many words are taken. Each gives False where constriction raises: a point
beyond the range, which no writer leaves behind.
"""

from __future__ import annotations

import numpy as np

from skyfold.codecs.latent_tables import PASSES
from skyfold.codecs.tables import DIRECT, LENGTHS
from skyfold.compiled import compiled_exactly, compiled_inside

_Y = np.array([y for y, _ in PASSES])
_X = np.array([x for _, x in PASSES])
_PRECISION = np.uint64(24)
_ONE = np.uint64(1)
_WORD = np.uint64(32)
_LEAST = np.uint64(1 << 32)
_NONE = np.uint64(0)
APART = 1 << 40  # of numbers that are read, from symbols whose plain bits are not


@compiled_inside
def take(words, state, begin, size):  # type: ignore[no-untyped-def]
    """Go on behind a symbol that begins there, and has that size of 2**24."""
    scale = state[1] >> _PRECISION
    state[0] -= scale * begin
    state[1] = scale * size
    if state[1] < _LEAST:
        at = np.int64(state[2])
        word = np.uint64(words[at]) if at < words.size else _NONE
        state[0] = (state[0] << _WORD) | word
        state[1] <<= _WORD
        state[2] += _ONE


@compiled_inside
def symbol(words, state, sums, middle):  # type: ignore[no-untyped-def]
    """Next symbol of a table, looked for from the middle; -1 if there is none."""
    point, scale = state[0], state[1] >> _PRECISION
    if point >= scale << _PRECISION:
        return -1
    found = middle
    while point < scale * np.uint64(sums[found]):
        found -= 1
    while point >= scale * np.uint64(sums[found + 1]):
        found += 1
    begin = np.uint64(sums[found])
    take(words, state, begin, np.uint64(sums[found + 1]) - begin)
    return found


@compiled_inside
def plain(words, state, bits):  # type: ignore[no-untyped-def]
    """Next number of so many bits, all alike; -1 if there is none."""
    scale = state[1] >> _PRECISION
    size = (_ONE << _PRECISION) >> np.uint64(bits)
    found = (state[0] // scale) // size
    if found >= _ONE << np.uint64(bits):
        return -1
    take(words, state, found * size, size)
    return np.int64(found)


@compiled_inside
def boolean(words, state, share):  # type: ignore[no-untyped-def]
    """Next symbol 0 or 1, where 1 has the probability (share + 1/2) / 256; -1 if there is none."""
    scale = state[1] >> _PRECISION
    if state[0] >= scale << _PRECISION:
        return -1
    whole = _ONE << _PRECISION
    true = np.uint64(2 * share + 1) * (whole >> np.uint64(9))
    if state[0] < scale * (whole - true):
        take(words, state, _NONE, whole - true)
        return 0
    take(words, state, whole - true, true)
    return 1


@compiled_exactly
def booleans(words, state, share, out):  # type: ignore[no-untyped-def]
    """Booleans of one probability, into a flat array."""
    for n in range(out.size):
        bit = boolean(words, state, share)
        if bit < 0:
            return False
        out[n] = bit
    return True


@compiled_exactly
def group(words, state, contexts, sums, shifts, out):  # type: ignore[no-untyped-def]
    """Integers of a group, each of the table that its context names.

    Parameters
    ----------
    contexts : ndarray, shape (n,), uint8
    sums : ndarray, shape (tables, symbols + 1), int64
        As of `sums_of`.
    shifts : ndarray, shape (tables,), int64
    out : ndarray, shape (n,), int32
    """
    starts = np.zeros(sums.shape[0] + 1, np.int64)
    for context in contexts:
        starts[context + 1] += 1
    for table in range(sums.shape[0]):
        starts[table + 1] += starts[table]
    order, place = np.empty(contexts.size, np.int64), starts.copy()
    for n in range(contexts.size):
        order[place[contexts[n]]] = n
        place[contexts[n]] += 1
    found = np.empty(contexts.size, np.int64)
    for table in range(sums.shape[0]):
        first, last, longest = starts[table], starts[table + 1], 0
        for k in range(first, last):
            one = symbol(words, state, sums[table], DIRECT)
            if one < 0:
                return False
            found[k] = one - DIRECT
            if one > 2 * DIRECT:
                longest = max(longest, (one - 2 * DIRECT - 1) % LENGTHS)
                found[k] = one  # until its plain bits are known
        tail = 2 * DIRECT + 1
        for length in range(longest + 1):
            for k in range(first, last):
                if found[k] < tail or found[k] >= tail + 2 * LENGTHS:
                    continue
                if (found[k] - tail) % LENGTHS == length:
                    bits = plain(words, state, length) if length else 0
                    if bits < 0:
                        return False
                    size = DIRECT + (1 << length) + bits
                    found[k] = (size if found[k] - tail < LENGTHS else -size) + APART
        for k in range(first, last):
            whole = found[k] - APART if found[k] > APART // 2 else found[k]
            if shifts[table] > 0:
                low = plain(words, state, shifts[table])
                if low < 0:
                    return False
                whole = (whole << shifts[table]) + low
            out[order[k]] = whole
    return True


@compiled_exactly
def leaves(words, state, share, style, squares):  # type: ignore[no-untyped-def]
    """Mask of leaves, shape (8 ny, 8 nx), uint8, of squares (ny, nx) of 16 pixels; or of no size.

    Parameters
    ----------
    share : int
    style : ndarray, shape (512,), uint8
        Entries of the style.
    """
    used = np.zeros(squares, np.uint8)
    if not booleans(words, state, share, used.reshape(-1)):
        return np.zeros((0, 0), np.uint8)
    for _ in range(3):
        ny, nx = used.shape
        planes = np.zeros((5, ny + 2, nx + 2), np.uint8)
        u, a, d, b = planes[0], planes[1], planes[2], planes[3]
        for y in range(ny):
            for x in range(nx):
                u[y + 1, x + 1] = used[y, x]
        quarters = np.zeros((2 * ny, 2 * nx), np.uint8)
        for number in range(4):
            for y in range(1, ny + 1):
                for x in range(1, nx + 1):
                    if u[y, x] == 0:
                        continue
                    n, s, w, e = y - 1, y + 1, x - 1, x + 1
                    if number == 0:
                        entry = u[n, x] + 2 * u[y, w] + 4 * u[n, w] + 8 * u[s, x] + 16 * u[y, e]
                        entry += 32 * (u[n, e] + u[s, w])
                    elif number == 1:
                        entry = 96 + a[y, x] + 2 * a[y, e] + 4 * a[s, x] + 8 * a[s, e]
                        entry += 16 * (u[n, x] + u[y, w]) + 48 * u[y, e] + 96 * u[s, x]
                    elif number == 2:
                        entry = 288 + a[y, x] + 2 * a[y, e] + 4 * d[y, x] + 8 * d[n, x]
                        entry += 16 * (a[n, x] + a[n, e] + a[s, x] + a[s, e])
                        entry += 16 * (d[y, w] + d[y, e] + d[n, w] + d[n, e])
                    else:
                        entry = 432 + a[y, x] + 2 * a[s, x] + 4 * d[y, x] + 8 * d[y, w]
                        entry += 16 * (b[y, x] + b[y, w] + b[s, x] + b[s, w])
                    bit = 1  # a last one, where the other three hold nothing
                    if number < 3 or a[y, x] + d[y, x] + b[y, x] > 0:
                        bit = boolean(words, state, style[entry])
                        if bit < 0:
                            return np.zeros((0, 0), np.uint8)
                    planes[number + 1, y, x] = bit
                    quarters[2 * y - 2 + _Y[number], 2 * x - 2 + _X[number]] = bit
        used = quarters
    return used
