"""The loops of `skyfold.codecs.latent_passes`, compiled: the same numbers.

Of a writer, who knows all latents, and of a reader, to whom each pass tells more of them.
"""

# mypy: disable-error-code="arg-type"
from __future__ import annotations

import numpy as np

from skyfold.codecs.latent_tables import DIRECT, PASSES
from skyfold.codecs.read_kernels import APART, plain, symbol
from skyfold.compiled import compiled_exactly

_CLIP = 15  # see skyfold.codecs.latent_passes
_BITS = 15  # lengths of what is beyond, on either side
_Y = np.array([y for y, _ in PASSES])
_X = np.array([x for _, x in PASSES])


@compiled_exactly
def places_of(coded):  # type: ignore[no-untyped-def]
    """Image, row and column of what is coded, pass by pass, shape (m, 3); where passes begin."""
    images, height, width = coded.shape
    starts, total = np.zeros(5, np.int64), 0
    where = np.empty((coded.size, 3), np.int64)
    for step in range(4):
        for image in range(images):
            for y in range(_Y[step], height, 2):
                for x in range(_X[step], width, 2):
                    if coded[image, y, x]:
                        where[total, 0], where[total, 1], where[total, 2] = image, y, x
                        total += 1
        starts[step + 1] = total
    return where[:total], starts


@compiled_exactly
def framed(where, height, width):  # type: ignore[no-untyped-def]
    """Where places lie in flat planes with one more row and column on each side."""
    flat = np.empty(where.shape[0], np.int64)
    for n in range(where.shape[0]):
        image, y, x = where[n, 0], where[n, 1], where[n, 2]
        flat[n] = (image * (height + 2) + y + 1) * (width + 2) + x + 1
    return flat


@compiled_exactly
def find_tables(  # type: ignore[no-untyped-def]
    weights, thresholds, cuts, flat, across, sizes, values, features, expected, keys, turned
):
    """Table of each symbol of a pass of a channel, and whether its sign is turned, filled in.

    Parameters
    ----------
    weights : ndarray, shape (2, at least 2 c + 3), int32
        Of this pass of channel c.
    thresholds, cuts : ndarray of int32, shapes (K - 1,) and (2,)
    flat : ndarray, shape (m,), int64
        Places of the pass, as of `framed`.
    across : int
        From a place to that below it.
    sizes, values : ndarray, shape (places with the frame,), int32
        What is known of the channel.
    features, expected : ndarray, shapes (2, 2 c + 3, m) and (2, m), int32
        Of the channels before, but for the second and third, filled in here; room for sums.
    keys, turned : ndarray, shape (m,), int64 and bool
    """
    for n in range(flat.size):
        at = flat[n]
        up, down = at - across, at + across
        features[0, 1, n] = sizes[up] + sizes[down] + sizes[at - 1] + sizes[at + 1]
        features[1, 1, n] = values[up] + values[down] + values[at - 1] + values[at + 1]
        features[0, 2, n] = sizes[up - 1] + sizes[up + 1] + sizes[down - 1] + sizes[down + 1]
        features[1, 2, n] = values[up - 1] + values[up + 1] + values[down - 1] + values[down + 1]
    for kind in range(2):
        for n in range(flat.size):
            expected[kind, n] = weights[kind, 0]
        for k in range(1, features.shape[1]):
            weight = weights[kind, k]
            for n in range(flat.size):
                expected[kind, n] += weight * features[kind, k, n]
    for n in range(flat.size):
        size, value = expected[0, n], expected[1, n]
        key = 0
        while key < thresholds.size and thresholds[key] <= size:
            key += 1
        side = int(abs(value) >= cuts[0]) + int(abs(value) >= cuts[1])
        turned[n] = value < 0 and side > 0
        keys[n] = key * 3 + side


@compiled_exactly
def learn_channel(flat, across, sizes, values, features, count):  # type: ignore[no-untyped-def]
    """Take a channel's latents, and those around each, for the channels after it; forget it."""
    for n in range(flat.size):
        at = flat[n]
        up, down = at - across, at + across
        features[0, count, n], features[1, count, n] = sizes[at], values[at]
        around = sizes[up - 1] + sizes[up] + sizes[up + 1] + sizes[at - 1] + sizes[at + 1]
        features[0, count + 1, n] = around + sizes[down - 1] + sizes[down] + sizes[down + 1]
        around = values[up - 1] + values[up] + values[up + 1] + values[at - 1] + values[at + 1]
        features[1, count + 1, n] = around + values[down - 1] + values[down] + values[down + 1]
    for n in range(flat.size):
        sizes[flat[n]], values[flat[n]] = 0, 0


@compiled_exactly
def contexts(latents, coded, weights, thresholds, cuts):  # type: ignore[no-untyped-def]
    """What a writer codes of latents that it knows.

    Parameters
    ----------
    latents : ndarray, shape (n, h, w, C), int16
    coded, weights, thresholds, cuts
        As `read_latents` takes them.

    Returns
    -------
    where, starts : ndarray of int64, shapes (m, 3) and (5,)
        As of `places_of`.
    found, tables, turned : ndarray, shape (C, m), int32, uint8 and bool
        Latents, their tables, and whether their signs are turned.
    """
    images, height, width, channels = latents.shape
    where, starts = places_of(coded)
    flat, across, total = framed(where, height, width), width + 2, where.shape[0]
    found = np.empty((channels, total), np.int32)
    tables, turned = np.empty((channels, total), np.uint8), np.empty((channels, total), np.bool_)
    features, expected = (
        np.empty((2, 2 * channels + 5, total), np.int32),
        np.empty((2, total), np.int32),
    )
    sizes = np.zeros(images * (height + 2) * across, np.int32)
    values, keys = np.zeros_like(sizes), np.empty(total, np.int64)
    for channel in range(channels):
        count = 2 * channel + 3
        for step in range(4):
            a, b = starts[step], starts[step + 1]
            find_tables(
                weights[channel, step],
                thresholds[channel],
                cuts[channel],
                flat[a:b],
                across,
                sizes,
                values,
                features[:, :count, a:b],
                expected[:, a:b],
                keys[a:b],
                turned[channel, a:b],
            )
            for n in range(a, b):
                one = np.int32(latents[where[n, 0], where[n, 1], where[n, 2], channel])
                found[channel, n], tables[channel, n] = one, keys[n]
                one = min(max(one, -_CLIP), _CLIP)
                values[flat[n]], sizes[flat[n]] = one, abs(one)
        learn_channel(flat, across, sizes, values, features, count)
    return where, starts, found, tables, turned


@compiled_exactly
def read_latents(  # type: ignore[no-untyped-def]
    words, state, coded, sums, weights, thresholds, cuts, out
):
    """Latents of one chunk; False where constriction raises.

    Parameters
    ----------
    coded : ndarray of bool, shape (n, h, w)
        Where they are coded; elsewhere they are 0.
    sums : ndarray, shape (C, tables, symbols + 1), int64
        As of `sums_of`.
    weights : ndarray, shape (C, 4, 2, 2 C + 3), int32
    thresholds : ndarray, shape (C, K - 1), int32
    cuts : ndarray, shape (C, 2), int32
        `value_thresholds` of the tables.
    out : ndarray, shape (n, h, w, C), int32
        Zeros.
    """
    images, height, width, channels = out.shape
    where, starts = places_of(coded)
    flat, across, total = framed(where, height, width), width + 2, where.shape[0]
    features = np.empty((2, 2 * channels + 5, total), np.int32)  # the last's are not asked for
    expected = np.empty((2, total), np.int32)
    sizes = np.zeros(images * (height + 2) * across, np.int32)
    values = np.zeros_like(sizes)
    keys, order = np.empty(total, np.int64), np.empty(total, np.int64)
    turned, found = np.empty(total, np.bool_), np.empty(total, np.int64)
    for channel in range(channels):
        count = 2 * channel + 3
        for step in range(4):
            first, last = starts[step], starts[step + 1]
            find_tables(
                weights[channel, step],
                thresholds[channel],
                cuts[channel],
                flat[first:last],
                across,
                sizes,
                values,
                features[:, :count, first:last],
                expected[:, first:last],
                keys[first:last],
                turned[first:last],
            )
            begins = np.zeros(sums.shape[1] + 1, np.int64)
            for n in range(first, last):
                begins[keys[n] + 1] += 1
            for table in range(sums.shape[1]):
                begins[table + 1] += begins[table]
            for n in range(first, last):
                order[first + begins[keys[n]]] = n
                begins[keys[n]] += 1
            longest = 0
            for k in range(first, last):
                n = order[k]
                one = symbol(words, state, sums[channel, keys[n]], DIRECT)
                if one < 0:
                    return False
                found[n] = one
                if one > 2 * DIRECT:
                    longest = max(longest, 1 + (one - 2 * DIRECT - 1) % _BITS)
            for bits in range(longest):
                for k in range(first, last):
                    n = order[k]
                    tail = found[n] - 2 * DIRECT - 1
                    if tail < 0 or tail >= 2 * _BITS or tail % _BITS != bits:
                        continue
                    low = plain(words, state, bits) if bits else 0
                    if low < 0:
                        return False
                    size = DIRECT + (1 << bits) + low
                    found[n] = APART + DIRECT + (size if tail < _BITS else -size)
            for n in range(first, last):
                one = (found[n] - APART if found[n] > APART // 2 else found[n]) - DIRECT
                one = -one if turned[n] else one
                out[where[n, 0], where[n, 1], where[n, 2], channel] = one
                one = min(max(one, -_CLIP), _CLIP)
                values[flat[n]], sizes[flat[n]] = one, abs(one)
        learn_channel(flat, across, sizes, values, features, count)
    return True
