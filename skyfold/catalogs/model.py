"""The model of a table: a self-organizing map and a decoder of latents, as plain arrays.

Values are first taken to noise units by a piecewise linear map that training fitted to the
column's own errors. The *map* gives each row a cell, the *latents* are integers: coordinates
along principal components, counted from those of the cell. Decoding multiplies integers held in
float64 whose sums stay below 2**53, so it is exact in any order and on every machine::

    row -> noise units y -> cell number, latents z  |  z -> (W z + b) / 2**20 -> y' -> prediction M

An autoencoder adds to W z + b, in the same units, V h of a hidden layer
h = floor(max(A z' + a, 0) / 2**12), where z' is z within +-2048; principal components have none.

An error is predicted from the predicted value, by a curve: surveys have a typical error at each
brightness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.access.model_files import pack_model, unpack_model
from skyfold.access.trust import reading
from skyfold.catalogs.columns import Floats, interpolate
from skyfold.errors import CorruptDataError

WEIGHT_UNIT = 2**20
LATENT_LIMIT = 2**24
MAX_LATENTS = 256
MAX_HIDDEN = 1024
MAX_BYTES = 2**28
ARRAYS = "table.npz"
HIDDEN_REACH = 2048  # of a latent, as the hidden layer sees it
HIDDEN_SCALE = 64  # by which it divides what it sees
HIDDEN_BITS = 12  # of its sums that are cut off
_BLOCK = 512  # rows of one product: its distances stay in the cache
_NAMES = [
    "targets",
    "knots_y",
    "knots_v",
    "weights",
    "offset",
    "hidden_weights",
    "hidden_offset",
    "hidden_out",
    "encoder",
    "encoder_in",
    "encoder_offset",
    "encoder_out",
    "centres",
    "prototypes",
    "features",
    "feature_mean",
    "feature_scale",
    "som",
    "curve_error",
    "curve_target",
    "curve_v",
    "curve_e",
]


@dataclass(frozen=True, eq=False)
class TableModel:
    """Arrays of one catalog's model.

    Attributes
    ----------
    targets : ndarray, shape (m,), int64
        Numbers of the real elements that are modelled.
    knots_y, knots_v : ndarray, shape (m, k), float64
        Noise units and values [unit of the column], both rising.
    weights, offset : ndarray, shape (m, c) and (m,), int64
        Of the decoder, in units of 2**-20 noise units.
    hidden_weights, hidden_offset, hidden_out : ndarray, shape (h, c), (h,) and (m, h), int64
        A and a [2**-20], and V [2**-12]; h is 0 for principal components.
    encoder : ndarray, shape (c, m), float64
        Latents of noise units less the offset.
    encoder_in, encoder_offset, encoder_out : ndarray, shape (g, m), (g,) and (c, g), float64
        Hidden layer of the encoder, which a reader does not need.
    centres : ndarray, shape (cells, c), int64
        Latents of each cell of the map.
    prototypes : ndarray, shape (cells, r), float64
        Value of each real element in each cell [unit of the column]; NaN where unknown.
    features, feature_mean, feature_scale : ndarray, shape (f,)
        Modelled elements that the map is made of (places in `targets`), and their scaling.
    som : ndarray, shape (ny, nx, f), float32
        Weights of the map's units in scaled features.
    curve_error, curve_target : ndarray, shape (e,), int64
        Real element that holds an error, and place in `targets` of the value that predicts it.
    curve_v, curve_e : ndarray, shape (e, k), float64
        The curves.
    card : dict
        What it is and how it was trained.
    """

    targets: NDArray[np.int64]
    knots_y: Floats
    knots_v: Floats
    weights: NDArray[np.int64]
    offset: NDArray[np.int64]
    hidden_weights: NDArray[np.int64]
    hidden_offset: NDArray[np.int64]
    hidden_out: NDArray[np.int64]
    encoder: Floats
    encoder_in: Floats
    encoder_offset: Floats
    encoder_out: Floats
    centres: NDArray[np.int64]
    prototypes: Floats
    features: NDArray[np.int64]
    feature_mean: Floats
    feature_scale: Floats
    som: NDArray[np.float32]
    curve_error: NDArray[np.int64]
    curve_target: NDArray[np.int64]
    curve_v: Floats
    curve_e: Floats
    card: dict[str, Any]

    @property
    def cells(self) -> int:
        """Number of cells of the map."""
        return self.som.shape[0] * self.som.shape[1]

    @property
    def channels(self) -> int:
        """Number of latents of a row."""
        return self.weights.shape[1]

    def to_units(self, values: Floats) -> Floats:
        """Noise units, shape (m, n), of the values of the modelled elements; NaN where NaN."""
        units = np.full(values.shape, np.nan)
        for place, row in enumerate(values):
            good = np.isfinite(row)
            knots = self.knots_v[place], self.knots_y[place]
            units[place, good] = interpolate(row[good], *knots)
        return units

    def assign(self, units: Floats) -> NDArray[np.int32]:
        """Cell number of each row, shape (n,), of noise units, shape (m, n)."""
        scaled = (units[self.features] - self.feature_mean[:, None]) / self.feature_scale[:, None]
        rows = np.nan_to_num(scaled).T.astype(np.float32)
        return assign_cells(np.clip(rows, -10, 10), self.som)

    def encode(self, units: Floats, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """Latents less those of the cell, shape (c, n); a missing value counts as its cell's."""
        filled = np.where(np.isnan(units), self.predict_units(self.centres[cells].T), units)
        centred = filled - self.offset[:, None] / WEIGHT_UNIT
        seen = np.clip(centred, -HIDDEN_REACH, HIDDEN_REACH) / HIDDEN_SCALE
        hidden = np.maximum(self.encoder_in @ seen + self.encoder_offset[:, None], 0)
        whole = np.rint(self.encoder @ centred + self.encoder_out @ hidden)
        whole = np.clip(whole, -LATENT_LIMIT, LATENT_LIMIT).astype(np.int64)
        return (whole - self.centres[cells].T).astype(np.int32)

    def latents(self, rest: NDArray[Any], cells: NDArray[Any]) -> NDArray[np.int64]:
        """Whole latents, shape (c, n), of what `encode` gave."""
        return rest.astype(np.int64) + self.centres[cells].T

    def predict_units(self, latents: NDArray[np.int64]) -> Floats:
        """Noise units, shape (m, n), of whole latents: exact."""
        return np.asarray(self._sums(latents, slice(None)) / WEIGHT_UNIT)

    def _sums(self, latents: NDArray[np.int64], places: slice) -> Floats:
        """W z + b + V h of some targets: whole numbers below 2**53."""
        product = self.weights[places].astype(np.float64) @ latents.astype(np.float64)
        if len(self.hidden_weights):
            product = product + self.hidden_out[places].astype(np.float64) @ self._hidden(latents)
        return np.asarray(product + self.offset[places, None])

    def _hidden(self, latents: NDArray[np.int64]) -> Floats:
        seen = np.clip(latents, -HIDDEN_REACH, HIDDEN_REACH).astype(np.float64)
        total = self.hidden_weights.astype(np.float64) @ seen + self.hidden_offset[:, None]
        return np.floor(np.maximum(total, 0) / 2**HIDDEN_BITS)

    def predict(self, latents: NDArray[np.int64], element: int) -> Floats | None:
        """Predicted values M of one real element; None if it is not modelled."""
        where = np.flatnonzero(self.targets == element)
        if where.size:
            return self._predict_target(latents, int(where[0]))
        where = np.flatnonzero(self.curve_error == element)
        if not where.size:
            return None
        curve = int(where[0])
        value = self._predict_target(latents, int(self.curve_target[curve]))
        return interpolate(value, self.curve_v[curve], self.curve_e[curve])

    def _predict_target(self, latents: NDArray[np.int64], place: int) -> Floats:
        units = self._sums(latents, slice(place, place + 1))[0] / WEIGHT_UNIT
        return interpolate(units, self.knots_y[place], self.knots_v[place])

    def to_files(self) -> dict[str, bytes]:
        """Files of the model by name; the same model always gives the same bytes."""
        return pack_model(self, ARRAYS, _NAMES)

    @classmethod
    def from_files(cls, files: dict[str, bytes], digest: str) -> TableModel:
        """Inverse of `to_files`.

        Raises
        ------
        CorruptDataError
            If the files are not those of the digest, or not a model.
        """
        with reading(f"models/{digest}", "a model of a table"):
            model = cls(**unpack_model(files, digest, ARRAYS, _NAMES, MAX_BYTES))
            model._check(digest)
        return model

    def _check(self, digest: str) -> None:
        """What decoding relies on: shapes that fit, and products below 2**53."""
        elements, channels = self.weights.shape
        fits = self.knots_v.shape == self.knots_y.shape and len(self.knots_v) == elements
        fits &= self.centres.shape == (self.cells, channels) and channels <= MAX_LATENTS
        fits &= len(self.targets) == elements == len(self.offset)
        fits &= _rising(self.knots_v) and _rising(self.knots_y) and _rising(self.curve_v)
        hidden = len(self.hidden_weights)
        fits &= self.hidden_weights.shape == (hidden, channels) and hidden <= MAX_HIDDEN
        fits &= self.hidden_out.shape == (elements, hidden) and self.hidden_offset.shape == (
            hidden,
        )
        limit = 2.0**53 / (4 * LATENT_LIMIT * max(channels, 1))
        if not fits or np.abs(self.weights).max(initial=0) > limit or not self._hidden_is_exact():
            raise CorruptDataError(
                f"model {digest} of a catalog has weights of shape {self.weights.shape} up to "
                f"{np.abs(self.weights).max(initial=0)}; at most {limit:.0f} can be decoded "
                "exactly: "
                "ask the release's publisher"
            )

    def _hidden_is_exact(self) -> bool:
        """Whether no sum of the hidden layer can reach 2**51; in float64, which cannot overflow."""
        weights, offset = (
            np.abs(x.astype(np.float64)) for x in (self.hidden_weights, self.hidden_offset)
        )
        highest = weights.sum(axis=1) * HIDDEN_REACH + offset
        total = np.abs(self.hidden_out.astype(np.float64)) @ (highest / 2**HIDDEN_BITS)
        return bool(max(highest.max(initial=0), total.max(initial=0)) < 2.0**51)


def _rising(knots: Floats) -> bool:
    return bool(np.isfinite(knots).all() and (np.diff(knots, axis=1) > 0).all())


def assign_cells(rows: NDArray[np.float32], som: NDArray[np.float32]) -> NDArray[np.int32]:
    """Best-matching unit of each row, by one matrix product a block of rows.

    Parameters
    ----------
    rows : ndarray, shape (n, f), float32
        Scaled features; finite.
    som : ndarray, shape (ny, nx, f), float32

    Returns
    -------
    ndarray, shape (n,), int32
        ``y * nx + x``.
    """
    units = som.reshape(-1, som.shape[-1])
    # |x - w|^2 less |x|^2, which is the same for every unit: one product with a column of ones.
    turned = np.concatenate([-2 * units, (units * units).sum(axis=1, keepdims=True)], axis=1).T
    turned = np.ascontiguousarray(turned)
    block = np.ones((_BLOCK, rows.shape[1] + 1), np.float32)
    distance = np.empty((_BLOCK, len(units)), np.float32)
    out = np.empty(len(rows), np.int32)
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        block[: len(part), :-1] = part
        np.matmul(block, turned, out=distance)
        out[start : start + len(part)] = distance[: len(part)].argmin(axis=1)
    return out


def u_matrix(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean distance of each cell's weights from those of the four cells beside it, shape (ny, nx).

    Ultsch & Siemon (1990), in units of the features.
    """
    total, number = np.zeros(weights.shape[:2]), np.zeros(weights.shape[:2])
    along_y = np.linalg.norm(weights[1:] - weights[:-1], axis=-1)
    along_x = np.linalg.norm(weights[:, 1:] - weights[:, :-1], axis=-1)
    for part, step in (
        (np.s_[1:], along_y),
        (np.s_[:-1], along_y),
        (np.s_[:, 1:], along_x),
        (np.s_[:, :-1], along_x),
    ):
        total[part] += step
        number[part] += 1
    return (total / np.maximum(number, 1)).astype(np.float32)
