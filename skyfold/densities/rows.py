"""Decoding rows of densities: layers of whole numbers to values, in one place for all.

The reader calls it, and the writer before it stores anything, so that what is checked and what is
read are the same. It also knows what is no density.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.amplitude import (
    Float,
    Int,
    core_amplitude,
    hermite_shapes,
    masses,
    step_units,
    wavelet,
)
from skyfold.densities.index import FLOORS, NARROW, SHAPES, DensityIndex
from skyfold.errors import CorruptDataError

TINY = 1e-6  # of a row's largest value: what lies less below zero is taken for zero


def to_masses(stored: NDArray[Any], weights: Float) -> tuple[Float, NDArray[np.str_]]:
    """Probability masses of stored rows, and why a row has none.

    Parameters
    ----------
    stored : ndarray, shape (n, points)
    weights : ndarray, shape (points,), float64
        Of `DensityIndex.weights`.

    Returns
    -------
    masses : ndarray, shape (n, points), float64
        Rows of sum 1; 0 in rows that are no densities.
    reason : ndarray, shape (n,), str
        Empty for a density.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = stored.astype(np.float64)
        finite = np.isfinite(values)
        safe = np.where(finite, values, 0.0)
        top = safe.max(axis=1, keepdims=True)
        scaled = np.maximum(safe, 0) / np.where(top > 0, top, 1.0) * weights
    total = scaled.sum(axis=1, keepdims=True)
    faults = {
        "holds NaN": np.isnan(values).any(axis=1),
        "holds infinity": ~finite.all(axis=1),
        "is negative": (safe < -TINY * np.maximum(top, 0)).any(axis=1),
        "sums to zero": ~(total[:, 0] > 0),
    }
    reason = np.select(list(faults.values()), list(faults), "")
    good = (reason == "")[:, np.newaxis]
    return np.where(good, scaled / np.where(good, total, 1.0), 0.0), reason


def decode_rows(
    layers: Mapping[str, NDArray[Any]],
    level: str,
    index: DensityIndex,
    prototypes: NDArray[np.int32] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Densities of a chunk, and what its checksum is of.

    Parameters
    ----------
    layers : mapping of ndarray
        Those that `Shard.layers` names; `exact` alone serves every level.
    level : str
    index : DensityIndex
    prototypes : ndarray, shape (cells, points), int32, optional
        What the layer `map` names.

    Returns
    -------
    values : ndarray, shape (n, points)
    checked : ndarray, shape (n, points)
        Amplitudes, or the stored values where they are what was read.
    """
    stored = layers.get("exact")
    if stored is not None:
        if level == "exact":
            return stored, stored
        mass, reason = to_masses(stored, index.weights())
        mass[reason != ""] = np.nan
        return (mass / index.weights()).astype(value_dtype(index, level)), stored
    if "map" in layers:
        amplitude, used = _from_map(layers["map"][:, 0], prototypes)
    else:
        amplitude = decode_amplitude(layers["latent"], layers.get("bounded"))
        used = layers["latent"][:, 0] != 0
    values = np.full(amplitude.shape, np.nan)
    values[used] = masses(amplitude[used], FLOORS[level]) / index.weights()
    return values.astype(value_dtype(index, level)), amplitude


def _from_map(
    cells: NDArray[Any], prototypes: NDArray[np.int32] | None
) -> tuple[Int, NDArray[np.bool_]]:
    """Amplitudes of the rows' cells, and which rows have one."""
    if prototypes is None or cells.max(initial=-1) >= len(prototypes) or cells.min(initial=-1) < -1:
        raise CorruptDataError(
            f"rows of densities name the cell {cells.max(initial=-1)} of a map of "
            f"{0 if prototypes is None else len(prototypes)}; fetch the release again"
        )
    used = cells >= 0
    amplitude = np.zeros((len(cells), prototypes.shape[1]), np.int64)
    amplitude[used] = prototypes[cells[used]]
    return amplitude, used


def value_dtype(index: DensityIndex, level: str) -> np.dtype[Any]:
    """Of decoded values: the stored one, or float64 where that is an integer."""
    stored = np.dtype(index.dtype)
    return stored if level == "exact" or stored.kind == "f" else np.dtype("f8")


def decode_amplitude(latent: NDArray[np.int32], bounded: NDArray[np.int32] | None) -> Int:
    """Amplitudes of rows [units], from `latent` or from both layers; 0 where the step is."""
    points = latent.shape[1] - NARROW["latent"]
    transform = wavelet(points)
    used = latent[:, 0] != 0
    out = np.zeros((len(latent), points), np.int64)
    rows = latent[used].astype(np.int64)
    core = core_amplitude(rows[:, 1 : NARROW["latent"]], hermite_shapes(SHAPES), points)
    out[used] = core + transform.on_grid(_coefficients(rows, NARROW["latent"]))
    if bounded is not None:
        out[used] += transform.on_grid(_coefficients(bounded[used].astype(np.int64), 1))
    return out


def _coefficients(rows: Int, narrow: int) -> Int:
    """Coefficients in units; a step that no encoder writes is left to the checksum."""
    return rows[:, narrow:] * step_units(np.clip(rows[:, :1], 0, 30))


def checksum(values: NDArray[Any]) -> int:
    """CRC-32 of a chunk's little-endian bytes in C order."""
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return zlib.crc32(little.tobytes())
