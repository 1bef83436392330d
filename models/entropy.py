"""How the frozen tables of `skyfold.latents` are found from a model's own latents.

Knows the fit, which the reader never repeats: linear expectations of the magnitude and the value
of each latent from what is decoded before it, cuts that lose least, and counts that expect what
the training set never showed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.latent_passes import CLIP, Known, find_contexts, split
from skyfold.codecs.latent_tables import (
    DIRECT,
    FIXED,
    PASSES,
    SYMBOLS,
    TOTAL,
    VALUE_CLASSES,
    LatentTables,
)
from skyfold.errors import InvalidRequestError

__all__ = ["fit_tables", "measure_bits"]

CLASSES = 10  # classes of expected magnitude for each channel
FINE_CLASSES = 40  # from which those are merged
VALUE_CUTS = (0.3, 1.0)  # of the size of the expected value; flat within 1 % around
FLOOR = 0.05  # added to an expected magnitude where it weighs an error: blank sky is near 0
MAX_SYMBOLS = 400_000  # of one channel and pass: more teach nothing
PRIOR_SYMBOLS = 12.0  # symbols that the parent distribution counts for in each table

Floats = NDArray[np.float64]


def fit_tables(latents: NDArray[np.int16]) -> LatentTables:
    """Frozen coding tables for latents like these.

    Parameters
    ----------
    latents : ndarray, shape (n, h, w, C), int16
        Quantised latents of the training set.

    Returns
    -------
    LatentTables
        Any int16 latents of C channels can be coded with them; those like `latents` cost least.

    Raises
    ------
    InvalidRequestError
        If there are none, or they have another shape or dtype.

    Notes
    -----
    Expectations are iterated least squares, each error weighed by the expected magnitude, as for
    an exponential distribution (McCullagh & Nelder 1989, section 8.3).
    """
    if latents.ndim != 4 or latents.dtype != np.int16 or not latents.size:
        raise InvalidRequestError(
            f"tables cannot be fitted: met latents of shape {latents.shape}, {latents.dtype}; "
            "allowed is (n, h, w, C), int16, none of them 0; encode some tiles first"
        )
    channels = latents.shape[-1]
    weights, passes = _fit_weights(_limit(latents))
    thresholds, counts = zip(
        *(_fit_channel(passes[4 * c : 4 * c + 4]) for c in range(channels)), strict=True
    )
    cuts = np.array([[round(cut * FIXED) for cut in VALUE_CUTS]] * channels, np.int32)
    return LatentTables(*weights, np.array(thresholds, np.int32), cuts, np.array(counts, np.int32))


def measure_bits(latents: NDArray[np.int16], tables: LatentTables) -> NDArray[np.float64]:
    """Estimated bits of each channel under the tables, shape (C,), as `skyfold.latents` codes them.

    The coder adds below 0.1 %; `skyfold.sparse_latents` takes fewer where little is.
    """
    known = find_contexts(latents, None, tables)
    cost = 24 - np.log2(tables.counts + 1.0).reshape(tables.channels, -1, SYMBOLS)
    symbols, plain_bits, _ = split(np.where(known.turned, -known.values, known.values))
    channel = np.arange(tables.channels)[:, np.newaxis]
    bits: NDArray[np.float64] = cost[channel, known.tables, symbols].sum(axis=1)
    return bits + plain_bits.sum(axis=1)


def _limit(latents: NDArray[np.int16]) -> NDArray[np.int16]:
    """Evenly spaced images, so that no pass has more than `MAX_SYMBOLS` symbols."""
    per_image = max(1, latents.shape[1] * latents.shape[2] // 4)
    step = max(1, -(-len(latents) * per_image // MAX_SYMBOLS))
    return latents[::step]


Pass = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]


def _fit_weights(
    latents: NDArray[np.int16],
) -> tuple[tuple[NDArray[np.int16], NDArray[np.int16]], list[Pass]]:
    """Integer weights, and of each pass: values, expected magnitudes, expected values."""
    channels = latents.shape[-1]
    weights = np.zeros((2, channels, len(PASSES), 2 * channels + 3), np.int16)
    known, passes = Known(latents.shape), []
    for channel in range(channels):
        for step, (y, x) in enumerate(PASSES):
            magnitudes, signed = np.moveaxis(known.features(channel, step), 1, 0)
            values = latents[:, y::2, x::2, channel].astype(np.int32).ravel()
            used = slice(0, len(magnitudes))
            size, size_weights = _expect(magnitudes, np.minimum(np.abs(values), CLIP))
            value_weights = _expect_value(signed, np.clip(values, -CLIP, CLIP), size)
            weights[0, channel, step, used] = size_weights
            weights[1, channel, step, used] = value_weights
            expected = size_weights.astype(np.int32) @ magnitudes
            passes.append((values, expected, value_weights.astype(np.int32) @ signed))
            known.learn(channel, step, values)
    return (weights[0], weights[1]), passes


def _expect(features: NDArray[np.int32], target: NDArray[np.int32]) -> tuple[Floats, NDArray]:
    """Expected magnitudes, shape (m,), and their weights in 1/256."""
    f = features.astype(np.float64)
    size = np.full(f.shape[1], max(target.mean(), FLOOR))
    solution = np.zeros(len(f))
    for _ in range(4):
        solution = _solve(f, target, 1 / (size + FLOOR) ** 2)
        size = np.maximum(solution @ f, FLOOR)
    return size, _to_fixed(solution)


def _expect_value(features: NDArray[np.int32], target: NDArray[np.int32], size: Floats) -> NDArray:
    """Weights in 1/256 of the expected value; without a constant, so that it has no side."""
    f = features[1:].astype(np.float64)
    solution = _solve(f, target, 1 / (size + FLOOR) ** 2)
    return np.concatenate([np.zeros(1, np.int16), _to_fixed(solution)])


def _solve(f: Floats, target: NDArray[np.int32], weight: Floats) -> Floats:
    """Weighted least squares with a little ridge: some features are always 0."""
    normal = (f * weight) @ f.T
    ridge = 1e-4 * np.trace(normal) / len(f) + 1e-9
    return np.linalg.solve(normal + ridge * np.eye(len(f)), (f * weight) @ target)


def _to_fixed(solution: Floats) -> NDArray[np.int16]:
    return np.clip(np.rint(solution * FIXED), -32768, 32767).astype(np.int16)


def _fit_channel(passes: list[Pass]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Thresholds and counts of one channel's tables, from its four passes."""
    values, expected, value = (np.concatenate(part) for part in zip(*passes, strict=True))
    side = np.searchsorted([round(cut * FIXED) for cut in VALUE_CUTS], np.abs(value), side="right")
    symbols = split(np.where((value < 0) & (side > 0), -values, values))[0]
    fine = _fine_cuts(expected)
    index = np.searchsorted(fine, expected, side="right")
    shape = (len(fine) + 1, VALUE_CLASSES, SYMBOLS)
    flat = (index * VALUE_CLASSES + side) * SYMBOLS + symbols
    counts = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)
    thresholds, counts = _merge(fine, counts)
    return thresholds.astype(np.int32), _smooth(counts)


def _fine_cuts(expected: NDArray[np.int32]) -> NDArray[np.int64]:
    """Quantiles ever closer to the top, where few symbols hold most of the bits."""
    tail = np.geomspace(1, 1e-4, FINE_CLASSES)[1:]
    cuts = np.unique(np.quantile(expected, 1 - tail, method="higher"))
    extra = np.arange(FINE_CLASSES - 1 - len(cuts)) + cuts[-1] + 1
    return np.concatenate([cuts, extra])


def _merge(cuts: NDArray[np.int64], counts: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Join neighbouring classes, each time those that cost least, until `CLASSES` are left."""
    while len(counts) > CLASSES:
        bits = _bits(counts)
        loss = _bits(counts[1:] + counts[:-1]) - bits[1:] - bits[:-1]
        at = int(np.argmin(loss))
        counts[at] += counts[at + 1]
        counts, cuts = np.delete(counts, at + 1, 0), np.delete(cuts, at)
    return cuts, counts


def _bits(counts: Floats) -> Floats:
    """Ideal bits of the symbols of each class, shape (classes,)."""
    total = counts.sum(-1, keepdims=True)
    return -(counts * np.log2(np.maximum(counts, 1e-9) / np.maximum(total, 1))).sum((1, 2))


def _smooth(counts: Floats) -> NDArray[np.int32]:
    """Counts of sum `TOTAL`; a table leans on its class, that on its channel, that on a prior."""
    sizes = np.abs(np.arange(2 * DIRECT + 1) - DIRECT)
    prior = np.concatenate([0.5**sizes, np.tile(0.5 ** (DIRECT / 2 + np.arange(1, 16)), 2)])
    channel = _lean(counts.sum((0, 1)), prior / prior.sum())
    classes = _lean(counts.sum(1), channel)
    exact = _lean(counts, classes[:, np.newaxis]) * TOTAL
    whole = np.floor(exact).astype(np.int64)
    top = np.expand_dims(whole.argmax(-1), -1)
    np.put_along_axis(
        whole, top, np.take_along_axis(whole, top, -1) + TOTAL - whole.sum(-1, keepdims=True), -1
    )
    return whole.astype(np.int32)


def _lean(counts: Floats, parent: Floats) -> Floats:
    """Distribution of counts to which the parent adds `PRIOR_SYMBOLS`."""
    return (counts + PRIOR_SYMBOLS * parent) / (counts.sum(-1, keepdims=True) + PRIOR_SYMBOLS)
