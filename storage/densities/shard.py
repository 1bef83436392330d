"""Rows of a shard to its layers, each bound checked on decoded rows before anything is written.

A row that is no density, or that cannot be brought within the bounds, is listed with the reason and
kept at `exact` alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.model import assign_cells
from skyfold.codecs.amplitude import UNIT, Float, masses
from skyfold.densities.index import FLOORS, LEVELS, NARROW, DensityIndex
from skyfold.densities.rows import checksum, decode_rows, to_masses
from storage.densities.encoder import encode_together


class EncodedShard:
    """Layers of a shard, growing chunk by chunk.

    Attributes
    ----------
    layers : dict of ndarray
        By name.
    bad : dict
        Rows of the shard that are no densities, and why.
    """

    def __init__(
        self,
        stored: NDArray[Any],
        index: DensityIndex,
        prototypes: NDArray[np.int32] | None = None,
    ) -> None:
        rows = len(stored)
        self.prototypes = None if prototypes is None else prototypes.reshape(-1, index.points)
        self.index = index
        self.bad: dict[int, str] = {}
        self.layers: dict[str, NDArray[Any]] = {
            "latent": np.zeros((rows, NARROW["latent"] + index.points), np.int32),
            "bounded": np.zeros((rows, NARROW["bounded"] + index.points), np.int32),
            "exact": stored,
            "checksum": np.zeros((-(-rows // index.chunk_rows), len(LEVELS)), np.uint32),
        }
        if prototypes is not None:
            self.layers["map"] = np.full((rows, 1), -1, np.int32)

    def add(self, number: int) -> None:
        """Encode one chunk."""
        each = self.index.chunk_rows
        rows = slice(number * each, (number + 1) * each)
        stored = self.layers["exact"][rows]
        mass, reason = to_masses(stored, self.index.weights())
        reason = self._encode(rows, mass, reason)
        for row in np.flatnonzero(reason != "").tolist():
            self.bad[rows.start + row] = str(reason[row])
        if self.prototypes is not None:
            self._assign(number, rows, mass, reason)
        layers = {name: self.layers[name][rows] for name in ("latent", "bounded")}
        sums = self.layers["checksum"][number]
        first = {"latent": layers["latent"]}
        sums[1] = checksum(decode_rows(first, "latent", self.index)[1])
        sums[2] = checksum(decode_rows(layers, "bounded", self.index)[1])
        sums[3] = checksum(stored)

    def _assign(self, number: int, rows: slice, mass: Float, reason: NDArray[np.str_]) -> None:
        """Cell of the nearest prototype (in Hellinger distance) of each good row."""
        assert self.prototypes is not None
        units = (self.prototypes / UNIT).astype(np.float32)[np.newaxis]
        found = assign_cells(np.sqrt(mass).astype(np.float32), units)
        cells = np.where(reason == "", found, -1).astype(np.int32)[:, np.newaxis]
        self.layers["map"][rows] = cells
        decoded = decode_rows({"map": cells}, "map", self.index, self.prototypes)
        self.layers["checksum"][number, 0] = checksum(decoded[1])

    def _encode(self, rows: slice, mass: Float, reason: NDArray[np.str_]) -> NDArray[np.str_]:
        """Fill in the layers of good rows; those that miss a bound after all are bad."""
        index, good = self.index, np.flatnonzero(reason == "")
        encoded = encode_together(mass[good], index.bounds)
        kept = np.ones(len(good), bool)
        for level, amplitude in encoded.amplitudes.items():
            decoded = masses(amplitude, FLOORS[level])
            kept &= index.bounds.used(level, mass[good], decoded) <= 1
        reason = reason.astype("U40")
        reason[good[~kept]] = "cannot be brought within the bounds"
        place = rows.start + good[kept]
        self.layers["latent"][place] = encoded.latent[kept]
        self.layers["bounded"][place] = encoded.bounded[kept]
        return reason


def encode_shard(
    stored: NDArray[Any], index: DensityIndex, prototypes: NDArray[np.int32] | None = None
) -> EncodedShard:
    """All layers of a shard's rows, shape (n, points); `map` where there are prototypes."""
    shard = EncodedShard(stored, index, prototypes)
    for number in range(len(shard.layers["checksum"])):
        shard.add(number)
    return shard
