"""The model of a table: a self-organizing map and a linear decoder, as plain arrays.

Values are first taken to noise units by a piecewise linear map that training fitted to the
column's own errors. The *map* gives each row a cell, the *latents* are integers: coordinates
along principal components, counted from those of the cell. Decoding multiplies integers held in
float64 whose sums stay below 2**53, so it is exact in any order and on every machine::

    row -> noise units y -> cell number, latents z  |  z -> (W z + b) / 2**20 -> y' -> prediction M

An error is predicted from the predicted value, by a curve: surveys have a typical error at each
brightness.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.columns import Floats, interpolate
from skyfold.errors import CorruptDataError

WEIGHT_UNIT = 2**20
LATENT_LIMIT = 2**24
MAX_LATENTS = 256
MAX_BYTES = 2**28
CARD, ARRAYS = "card.json", "table.npz"
_BLOCK = 512  # rows of one product: its distances stay in the cache
_NAMES = [
    "targets",
    "knots_y",
    "knots_v",
    "weights",
    "offset",
    "encoder",
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
    encoder : ndarray, shape (c, m), float64
        Latents of noise units less the offset.
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
    encoder: Floats
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
        whole = np.rint(self.encoder @ centred)
        whole = np.clip(whole, -LATENT_LIMIT, LATENT_LIMIT).astype(np.int64)
        return (whole - self.centres[cells].T).astype(np.int32)

    def latents(self, rest: NDArray[Any], cells: NDArray[Any]) -> NDArray[np.int64]:
        """Whole latents, shape (c, n), of what `encode` gave."""
        return rest.astype(np.int64) + self.centres[cells].T

    def predict_units(self, latents: NDArray[np.int64]) -> Floats:
        """Noise units, shape (m, n), of whole latents: exact."""
        product = self.weights.astype(np.float64) @ latents.astype(np.float64)
        return np.asarray((product + self.offset[:, None]) / WEIGHT_UNIT)

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
        product = self.weights[place].astype(np.float64) @ latents.astype(np.float64)
        units = (product + float(self.offset[place])) / WEIGHT_UNIT
        return interpolate(units, self.knots_y[place], self.knots_v[place])

    def to_files(self) -> dict[str, bytes]:
        """Files of the model by name; the same model always gives the same bytes."""
        sink = io.BytesIO()
        np.savez_compressed(sink, **{name: getattr(self, name) for name in _NAMES})
        return {
            CARD: json.dumps(self.card, sort_keys=True, indent=1).encode(),
            ARRAYS: sink.getvalue(),
        }

    @classmethod
    def from_files(cls, files: dict[str, bytes], digest: str) -> TableModel:
        """Inverse of `to_files`.

        Raises
        ------
        CorruptDataError
            If the files are not those of the digest, or not a model.
        """
        met = files_digest(files)
        if met != digest:
            raise CorruptDataError(
                f"model {digest} of a catalog has files of digest {met}; fetch the release again, "
                "or ask its publisher"
            )
        try:
            arrays = _read_arrays(files[ARRAYS])
            model = cls(**arrays, card=json.loads(files[CARD]))
        except (KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise CorruptDataError(f"model {digest} cannot be read: {error}") from error
        model._check(digest)
        return model

    def _check(self, digest: str) -> None:
        """What decoding relies on: shapes that fit, and products below 2**53."""
        elements, channels = self.weights.shape
        fits = self.knots_v.shape == self.knots_y.shape and len(self.knots_v) == elements
        fits &= self.centres.shape == (self.cells, channels) and channels <= MAX_LATENTS
        fits &= len(self.targets) == elements == len(self.offset)
        fits &= _rising(self.knots_v) and _rising(self.knots_y) and _rising(self.curve_v)
        limit = 2.0**53 / (2 * LATENT_LIMIT * max(channels, 1))
        if not fits or np.abs(self.weights).max(initial=0) > limit:
            raise CorruptDataError(
                f"model {digest} of a catalog has weights of shape {self.weights.shape} up to "
                f"{np.abs(self.weights).max(initial=0)}; at most {limit:.0f} can be decoded "
                "exactly: "
                "ask the release's publisher"
            )


def _rising(knots: Floats) -> bool:
    return bool(np.isfinite(knots).all() and (np.diff(knots, axis=1) > 0).all())


def _read_arrays(data: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(item.file_size for item in archive.infolist())
    if size > MAX_BYTES:
        raise ValueError(f"arrays of {size} bytes; {MAX_BYTES} are allowed")
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return {name: stored[name] for name in _NAMES}


def files_digest(files: dict[str, bytes]) -> str:
    """SHA-256, hex, over the names and digests of a model's files."""
    lines = [
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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
