"""Training the model of a release's objects from a sample: components, map, curves of novelty."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.som import quantization_error, side_for, topographic_error, train_som
from skyfold.objects.model import LIMIT, ObjectModel, flatten

__all__ = ["train_objects"]

MAX_SIZE = 16
MAX_SIDE = 20
REFERENCE = 2048  # objects whose distances say how isolated another is
KNOTS = 24
NEIGHBOURS = 400  # objects, at most, whose median is taken at a knot
_REACH = 0.8  # of the range of a step that 99.9 % of the sample use
_FLOOR = 0.05  # least robust standard deviation, as a share of the median


def train_objects(
    features: NDArray[Any], snr: NDArray[Any], residual: NDArray[Any], *, seed: int = 1
) -> ObjectModel:
    """Model of objects, from a sample of them.

    Parameters
    ----------
    features : ndarray, shape (n, f)
        Pooled latents; n >= 1.
    snr, residual : ndarray, shape (n,)
        S/N, and how far what the network left is from noise [standard deviations].
    seed : int

    Returns
    -------
    ObjectModel
    """
    centre, components = _components(flatten(features))
    none, flat = np.zeros((1, 1, len(components)), np.float32), np.array([[0.0], [1.0]])
    known = none[0].astype(np.int8)
    draft = ObjectModel(centre, components, none, known, np.zeros(1), flat, flat, {})
    vectors = draft.vectors(features)
    rows = vectors.astype(np.float32)
    som = train_som(rows, min(side_for(len(rows)), MAX_SIDE), seed=seed)
    chosen = np.random.default_rng(seed).permutation(len(vectors))[:REFERENCE]
    draft = replace(draft, som=som, reference=vectors[np.sort(chosen)], card=_card(rows, som, seed))
    knots = _knots(snr)
    place = np.log10(np.maximum(snr, 1e-3))
    curves = _curve(place, residual, knots), _curve(place, draft.isolation(vectors), knots)
    return replace(draft, knots=knots, residual_curve=curves[0], isolation_curve=curves[1])


def _card(rows: NDArray[np.float32], som: NDArray[np.float32], seed: int) -> dict[str, Any]:
    return {
        "kind": "objects",
        "seed": seed,
        "objects": len(rows),
        "som": {
            "shape": list(som.shape[:2]),
            "quantization_error": quantization_error(rows, som),
            "topographic_error": topographic_error(rows, som),
        },
    }


def _components(flat: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean, and principal components scaled so that a vector's numbers use their range."""
    centre = flat.mean(axis=0)
    moved = flat - centre
    _, vectors = np.linalg.eigh(moved.T @ moved / len(flat))
    basis = vectors[:, ::-1][:, :MAX_SIZE].T
    basis *= np.where(basis.sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    reach = float(np.quantile(np.abs(moved @ basis.T).max(axis=1), 0.999))
    return centre, basis * (_REACH * LIMIT / reach if reach > 0 else 1.0)


def _knots(snr: NDArray[Any]) -> NDArray[np.float64]:
    """Rising logarithms of S/N: quantiles, where these differ."""
    place = np.log10(np.maximum(np.asarray(snr, np.float64), 1e-3))
    return np.unique(np.quantile(place, np.linspace(0, 1, KNOTS)).round(6))


def _curve(
    place: NDArray[np.float64], values: NDArray[Any], knots: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Median and robust standard deviation of the values nearest each knot, shape (2, k)."""
    half = min(len(values), max(len(values) // KNOTS, 30), NEIGHBOURS)
    every = max(_deviation(values), _FLOOR * abs(float(np.median(values))), 1e-6)
    out = np.empty((2, len(knots)))
    for number, knot in enumerate(knots):
        nearest = np.argpartition(np.abs(place - knot), half - 1)[:half]
        middle = float(np.median(values[nearest]))
        spread = _deviation(values[nearest])
        out[:, number] = middle, max(spread, _FLOOR * abs(middle), _FLOOR * every)
    return out


def _deviation(values: NDArray[Any]) -> float:
    """Standard deviation by the median of absolute deviations."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
