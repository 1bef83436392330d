"""What the writer of `skyfold.interlaced` chooses: weights of a plane, and of its contexts.

Least squares on the plane itself. Another writer may choose otherwise: a reader takes the integers
as they are stored. Where neighbours say nothing, as in white noise, all weights are zero, and a
reader then does no arithmetic for them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs import interlaced_kernels as kernels
from skyfold.codecs.interlaced_passes import CLIP, COARSEST, DISTANCES, PAD, PASSES, Known
from skyfold.codecs.interlaced_plan import Ints, Plan, Weights
from skyfold.codecs.interlaced_tables import (
    MIN_SPREAD,
    SAMPLE,
    Passes,
    quantiles,
    with_tables,
)
from skyfold.compiled import can_compile

MIN_CODED = 2048  # pixels below which what is stored of a fit is not worth it
MIN_CORRELATION = 0.15  # of neighbours, below which pcodec is as good to a thousandth
_AROUND = 3  # times what one neighbour explains, four explain
_PLAN = 300  # bytes that a prediction has to save: its plan, and what contexts alone save
MIN_GAIN = 0.004  # bits a pixel below which a prediction is left out: it only fits noise
STEEP = 0.9  # share of pixels that are calm
_NO_CONTEXT = np.array([16, 0, 0, 0], np.int32)
_RIDGE = 1e-4

Floats = NDArray[np.floating[Any]]
Plane = NDArray[Any]
Used = NDArray[np.bool_] | None


def is_predictable(values: Ints, used: Used) -> bool:
    """Whether neighbours say anything of each other, in value or in size.

    White noise, which is most of what a good model leaves, is not worth a fit.
    """
    used = values != 0 if used is None else used
    cut = _centred(values, used)
    if cut is None:
        return False
    apart = np.abs(cut)
    apart -= apart[used].mean()
    return max(_neighbours_agree(one, used) for one in (cut, apart)) > MIN_CORRELATION


def is_worth_prediction(values: Ints, used: NDArray[np.bool_]) -> bool:
    """Whether predictions by neighbours may save more than the weights that they take."""
    cut = _centred(values, used)
    if cut is None:
        return False
    explained = min(_AROUND * _neighbours_agree(cut, used) ** 2, 0.99)
    return bool(-0.5 * math.log2(1 - explained) * np.count_nonzero(used) > 8 * _PLAN)


def _centred(values: Ints, used: NDArray[np.bool_]) -> Floats | None:
    """Values about zero, without what is far off; None where there are too few."""
    coded = values[used]
    if coded.size < MIN_CODED:
        return None
    size = 4 * float(np.abs(coded).mean())
    return np.clip(values - _typical(coded), -size, size).astype(np.float32)


def _neighbours_agree(values: Floats, used: NDArray[np.bool_]) -> float:
    """Correlation, of either sign, of neighbours in some lines: the larger of both directions."""
    found = []
    for lines, there in ((values[::4], used[::4]), (values.T[::4], used.T[::4])):
        found.append(abs(_correlation(lines, there[:, :-1] & there[:, 1:])))
    return max(found)


def _correlation(lines: Floats, both: NDArray[np.bool_]) -> float:
    """Of each value and the next of its line, where both are used."""
    one, other = lines[:, :-1][both], lines[:, 1:][both]
    power = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / power if power else 0.0


def fit_plane(values: Ints, used: Used) -> tuple[Plan, Passes]:
    """Plan of a plane, and what it leaves to be coded.

    Parameters
    ----------
    values : ndarray, shape (ny, nx), int32
        Zero where `used` is False.
    used : ndarray, shape (ny, nx), bool, or None
        Which pixels are coded; None: all.

    Returns
    -------
    plan : Plan
    passes : list of (doubts, residuals)
        Of the pixels coded in each pass, the coarsest first.
    """
    offset = _typical(values if used is None else values[used])
    values = values - np.int32(offset)
    if used is not None:
        values *= used
    known = {distance: _known(values, distance) for distance in DISTANCES}
    kinds = [(distance, number) for distance in (1, 2) for number in range(len(PASSES))]
    weights = {place: _value_weights(known[place[0]], used, *place) for place in kinds}
    sizes, residuals = _predicted(values, used, known, weights)
    for distance, one in known.items():
        one.know_sizes(sizes[::distance, ::distance])
    for place in kinds:
        context = _context_weights(known[place[0]], sizes, used, *place)
        weights[place] = replace(weights[place], context=context)
    draft = Plan(offset, np.empty(0, np.int32), (), tuple(weights[place] for place in kinds))
    passes = [(np.empty(0, np.int32), residuals[0])]
    for (distance, number), left in zip(_order(), residuals[1:], strict=True):
        one = known[distance]
        one.narrow(number, None if used is None else _places(used, distance, number))
        passes.append((_expected(one, number, draft.of(distance, number).context), left))
    return with_tables(draft, passes), passes


def _typical(values: Ints) -> int:
    return int(np.median(values.ravel()[:: max(values.size // 4096, 1) | 1]))


def _order() -> list[tuple[int, int]]:
    return [(distance, number) for distance in DISTANCES for number in range(len(PASSES))]


def _known(values: Ints, distance: int) -> Known:
    here = values[::distance, ::distance]
    return Known(here, here)


def _sampled(used: Used, shape: tuple[int, int], distance: int, number: int) -> NDArray[np.bool_]:
    """Some of the pixels of a pass that are coded, of rows an odd step apart.

    An even step could fall in with the outputs of a detector.
    """
    y, x = (side // (2 * distance) for side in shape)
    coded = np.ones((y, x), bool) if used is None else _places(used, distance, number)
    every = (int(np.count_nonzero(coded)) // SAMPLE) | 1
    chosen = np.zeros((y, x), bool)
    chosen[::every] = coded[::every]
    return chosen


def _places(plane: Plane, distance: int, number: int) -> Plane:
    y, x = (step * distance for step in PASSES[number])
    return plane[y :: 2 * distance, x :: 2 * distance]


def _value_weights(known: Known, used: Used, distance: int, number: int) -> Weights:
    """Weights of a prediction by least squares, for all pixels or for calm and steep ones."""
    shape = (
        (known.values.shape[0] - 2 * PAD) * distance,
        (known.values.shape[1] - 2 * PAD) * distance,
    )
    known.narrow(number, _sampled(used, shape, distance, number))
    matrix = _matrix(known, number)
    features, target, apart = matrix[:-2] / 512, matrix[-2], matrix[-1]
    none = Weights(_NO_CONTEXT, 0, (np.zeros(len(features), np.int32),))
    if target.size < 16 * len(features):
        return none
    off = np.abs(target - 128 * features[0])  # 128 / 512 of the sum of four is their mean
    trust = 1 / (1 + (off / (3 * quantiles(off[::8], 0.5)[0] + 0.5)) ** 2)
    found = _solve(features, target, trust)
    missed = target - found.astype(np.float32) @ features
    if _spread(target, trust) - _spread(missed, trust) < MIN_GAIN:
        return none
    steep = int(min(quantiles(apart[::4], STEEP)[0], CLIP - 1)) + 1
    is_steep = apart >= steep
    if np.count_nonzero(is_steep) < 16 * len(features):
        return Weights(_NO_CONTEXT, 0, (found,))
    parts = [_solve(features, target, trust * one) for one in (~is_steep, is_steep)]
    calm, other = (one.astype(np.float32) @ features for one in parts)
    missed_by_both = target - np.where(is_steep, other, calm)
    if _spread_in(missed, is_steep) - _spread_in(missed_by_both, is_steep) < MIN_GAIN:
        return Weights(_NO_CONTEXT, 0, (found,))
    return Weights(_NO_CONTEXT, steep, tuple(parts))


def _matrix(known: Known, number: int) -> Floats:
    """Features, values and near differences of the pixels of a pass, as rows of float32."""
    if can_compile():
        near, far = known.steps(number)
        return kernels.features(known.values.ravel(), known.pixels(number), near, far, CLIP)
    columns = [*known.features(number), known.target(number), known.apart(number)]
    return np.stack([one.ravel() for one in columns]).astype(np.float32)


def _residuals(known: Known, number: int, weights: Weights) -> Ints:
    """Values of a pass less their prediction, shape (n,)."""
    if not any(one.any() for one in weights.value):
        return known.target(number).ravel()
    if can_compile():
        what = known.values.ravel(), known.pixels(number), *known.steps(number)
        calm, steep = (kernels.weights_of_sums(weights.value[at]) for at in (0, -1))
        return kernels.residuals(*what, calm, steep, weights.steep, CLIP)
    return (known.target(number) - known.predict(number, weights)).ravel()


def _doubts(known: Known, number: int) -> Ints:
    """What weights of contexts are of, shape (3, n)."""
    if can_compile():
        what = known.values.ravel(), known.sizes.ravel(), known.pixels(number)
        return kernels.doubts(*what, *known.steps(number), CLIP)
    return np.stack([one.ravel() for one in known.doubts(number)])


def _expected(known: Known, number: int, weights: Ints) -> Ints:
    """As `Known.expect`, shape (n,)."""
    if not weights[1:].any() or not can_compile():
        return known.expect(number, weights).ravel()
    total = weights[1:] @ _doubts(known, number) + weights[0]
    return np.minimum(total >> 4, 65535)


def _solve(features: Floats, target: Floats, trust: Floats) -> Ints:
    weighted = features * trust
    normal = (weighted @ features.T).astype(np.float64)
    normal.flat[:: len(normal) + 1] += _RIDGE * np.trace(normal) / len(normal) + 1e-9
    found = np.linalg.solve(normal, (weighted @ target).astype(np.float64))
    return np.clip(np.rint(found), [0, *[-128] * 7], [255, *[127] * 7]).astype(np.int32)


def _spread(residuals: Floats, trust: Floats) -> float:
    """Bits that the scale of residuals costs each."""
    return 0.5 * float(np.log2(max(float((trust * residuals) @ residuals), 1e-9)))


def _spread_in(residuals: Floats, is_steep: NDArray[np.bool_]) -> float:
    """Bits that the scales of residuals cost each, steep ones apart."""
    sizes, number = np.abs(residuals), int(np.count_nonzero(is_steep))
    steep, share = float(sizes @ is_steep), number / sizes.size
    calm = (float(sizes.sum()) - steep) / max(sizes.size - number, 1) + 0.3
    return (1 - share) * math.log2(calm) + share * math.log2(steep / number + 0.3)


def _predicted(
    values: Ints, used: Used, known: dict[int, Known], weights: dict[tuple[int, int], Weights]
) -> tuple[Ints, list[Ints]]:
    """Sizes of all residuals, as a plane, and the residuals of each pass."""
    sizes = np.zeros_like(values)
    coarsest = slice(None, None, COARSEST)
    first = values[coarsest, coarsest]
    sizes[coarsest, coarsest] = np.minimum(np.abs(first), CLIP)
    residuals = [first.ravel() if used is None else first[used[coarsest, coarsest]]]
    for distance, number in _order():
        one, place = known[distance], _places(sizes, distance, number)
        coded = None if used is None else _places(used, distance, number)
        one.narrow(number, coded)
        left = _residuals(one, number, weights[min(distance, 2), number])
        size = np.minimum(np.abs(left), CLIP)
        place[... if coded is None else coded] = size.reshape(place.shape if coded is None else -1)
        residuals.append(left)
    return sizes, residuals


def _context_weights(known: Known, sizes: Ints, used: Used, distance: int, number: int) -> Ints:
    """Weights of a doubt: what the size of a residual is seen to depend on, times 8."""
    chosen = _sampled(used, (sizes.shape[0], sizes.shape[1]), distance, number)
    known.narrow(number, chosen)
    target = _places(sizes, distance, number)[chosen].astype(np.float32)
    if target.size < 64:
        return _NO_CONTEXT
    features = np.ones((4, target.size), np.float32)
    features[1:] = _doubts(known, number)
    typical = float(target.mean()) + 0.25
    weighted = features / (typical + 0.25 * features[1]) ** 2
    normal = (weighted @ features.T).astype(np.float64)
    normal.flat[:: len(normal) + 1] += _RIDGE * np.diag(normal) + 1e-12
    found = np.linalg.solve(normal, (weighted @ target).astype(np.float64)) * 128
    found = np.clip(np.rint(found), 0, [65535, 255, 255, 255]).astype(np.int32)
    low, high = quantiles(found.astype(np.float32) @ features[:, ::4], 0.02, 0.98)
    return found if high > MIN_SPREAD * max(low, 1e-9) else _NO_CONTEXT
