"""The model of a release's objects: how pooled latents become vectors, cells and novelty.

It is plain arrays and arithmetic, so that a reader can place an object of its own on the same map.
*Vectors* are principal components of the pooled latents, on a logarithmic scale of their size,
rounded to whole numbers between -127 and 127: sums of their squares are exact in single precision.
The *cell* is the best-matching unit of a self-organizing map of vectors.

*Novelty* compares an object with others of its brightness, since the network leaves more of a
bright object than of a faint one, whatever they are. Two numbers are measured: ``residual``, the
significance of what the network left at the object, and ``isolation``, the distance of its vector
from the eighth nearest of a sample of all objects. Each becomes a number of robust standard
deviations above the running median at that S/N; novelty is the root of the sum of the squares of
those two, where a number below 0 counts as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.access.model_files import pack_model, unpack_model
from skyfold.access.trust import reading
from skyfold.catalogs.model import assign_cells

__all__ = ["LIMIT", "ObjectModel", "flatten"]

LIMIT = 127
ARRAYS = "objects.npz"
MAX_BYTES = 2**24
_BLOCK = 2**16
_NEAR_BLOCK = 2048
_NAMES = (
    "centre",
    "components",
    "som",
    "reference",
    "knots",
    "residual_curve",
    "isolation_curve",
)
NEIGHBOUR = 8
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ObjectModel:
    """Arrays that turn measurements of objects into vectors, cells and novelty.

    Attributes
    ----------
    centre : ndarray, shape (f,), float64
        Mean of the flattened features.
    components : ndarray, shape (d, f), float64
        Principal components, in units of a vector's steps.
    som : ndarray, shape (ny, nx, d), float32
        Weights of the map's units, in steps.
    reference : ndarray, shape (m, d), int8
        Vectors of a sample of the objects.
    knots : ndarray, shape (k,), float64
        Rising logarithms (base 10) of S/N at which the curves are given.
    residual_curve, isolation_curve : ndarray, shape (2, k), float64
        Running median and robust standard deviation.
    card : dict
        What it is and how it was trained.
    """

    centre: Floats
    components: Floats
    som: NDArray[np.float32]
    reference: NDArray[np.int8]
    knots: Floats
    residual_curve: Floats
    isolation_curve: Floats
    card: dict[str, Any]

    @property
    def size(self) -> int:
        """Numbers in a vector."""
        return len(self.components)

    @property
    def cells(self) -> int:
        """Cells of the map."""
        return self.som.shape[0] * self.som.shape[1]

    def vectors(self, features: NDArray[Any]) -> NDArray[np.int8]:
        """Vectors, shape (n, d), of pooled latents, shape (n, f)."""
        return np.clip(np.rint(self.project(features)), -LIMIT, LIMIT).astype(np.int8)

    def project(self, features: NDArray[Any]) -> Floats:
        """Vectors before they are rounded and limited."""
        return (flatten(features) - self.centre) @ self.components.T

    def assign(self, vectors: NDArray[np.int8]) -> NDArray[np.int32]:
        """Cell of the map, ``y * nx + x``, of each vector, shape (n,)."""
        parts = [
            assign_cells(vectors[start : start + _BLOCK].astype(np.float32), self.som)
            for start in range(0, len(vectors), _BLOCK)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    def isolation(self, vectors: NDArray[Any]) -> Floats:
        """Distance [step] of vectors, shape (n, d), from the eighth nearest reference, shape (n,).

        Of the last one, where there are fewer.
        """
        known = self.reference.astype(np.float64)
        place = min(NEIGHBOUR, len(known)) - 1
        squares = (known**2).sum(axis=1)
        out = np.empty(len(vectors))
        for start in range(0, len(vectors), _NEAR_BLOCK):
            part = vectors[start : start + _NEAR_BLOCK].astype(np.float64)
            apart = squares - 2 * part @ known.T + (part**2).sum(axis=1, keepdims=True)
            nearest = np.partition(apart, place, axis=1)[:, place]
            out[start : start + len(part)] = np.sqrt(np.maximum(nearest, 0))
        return out

    def novelty(self, snr: NDArray[Any], residual: NDArray[Any], isolation: NDArray[Any]) -> Floats:
        """Novelty [robust standard deviations], shape (n,); the module says what it means."""
        place = np.log10(np.maximum(np.asarray(snr, np.float64), 1e-3))
        parts = [
            np.maximum(self._above(place, np.asarray(values, np.float64), curve), 0)
            for values, curve in (
                (residual, self.residual_curve),
                (isolation, self.isolation_curve),
            )
        ]
        return np.hypot(*parts)

    def _above(self, place: Floats, values: Floats, curve: Floats) -> Floats:
        middle, scatter = (np.interp(place, self.knots, row) for row in curve)
        return (values - middle) / scatter

    def to_files(self) -> dict[str, bytes]:
        """Files of the model by name; the same model always gives the same bytes."""
        return pack_model(self, ARRAYS, _NAMES)

    @classmethod
    def from_files(cls, files: dict[str, bytes], digest: str) -> ObjectModel:
        """Inverse of `to_files`.

        Raises
        ------
        CorruptDataError
            If the files are not those of the digest, or not a model.
        """
        with reading(f"models/{digest}", "a model of objects"):
            model = cls(**unpack_model(files, digest, ARRAYS, _NAMES, MAX_BYTES))
            model._check()
        return model

    def _check(self) -> None:
        """What its use relies on: shapes that fit, knots that rise, scatter above 0."""
        size, features = self.components.shape
        fits = self.centre.shape == (features,) and self.som.shape[2] == size
        curves = (self.residual_curve, self.isolation_curve)
        fits &= self.reference.shape[1:] == (size,) and len(self.reference) > 0
        fits &= all(curve.shape == (2, len(self.knots)) for curve in curves)
        fits &= bool((np.diff(self.knots) > 0).all())
        if not fits or not all((curve[1] > 0).all() for curve in curves):
            raise ValueError(f"arrays of shapes {self.components.shape} and {self.som.shape}")


def flatten(features: NDArray[Any]) -> Floats:
    """Features on a scale that is linear near 0 and logarithmic far from it.

    The inverse hyperbolic sine, which is used for magnitudes by Lupton, Gunn & Szalay (1999, AJ
    118, 1406) for the same reason: it takes values of either sign, and of any size.
    """
    return np.arcsinh(np.asarray(features, np.float64))
