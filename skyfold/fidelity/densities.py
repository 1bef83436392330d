"""Measuring the densities of a release: every science case, on rows that were never learnt from.

The producer's flow and a consumer who doubts the record run this same function.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.densities.index import LEVELS
from skyfold.science import cases
from skyfold.science.densities import DENSITIES, DensityContext
from skyfold.science.summary import summarise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.densities.library import DensitySet

__all__ = ["density_rows", "rows_to_measure"]

MEASURED_ROWS = 20000
_RUNS = 20  # runs of neighbouring rows that the measured ones are taken from


def density_rows(densities: DensitySet) -> list[dict[str, Any]]:
    """Rows of the fidelity record of one set of densities, for `FidelityRecord.from_rows`.

    Parameters
    ----------
    densities : DensitySet

    Returns
    -------
    list of dict
        ``kind="densities"``, ``set`` its name, ``bpp`` in bits per value of the stored bytes.
    """
    index = densities.index
    rows = rows_to_measure(densities)
    context = DensityContext(densities.grid, index.weights())
    raw = densities.read(rows, "exact")
    every = {DENSITIES.name: DENSITIES} | {case.name: case for case in cases("densities")}
    states = {name: case.prepare(raw, context) for name, case in every.items()}  # type: ignore[arg-type]
    out = []
    for level in LEVELS:
        decoded = raw if level == "exact" else densities.read(rows, level)
        samples = {
            name: case.compare(states[name], raw, decoded, context)  # type: ignore[arg-type]
            for name, case in every.items()
        }
        found = summarise(
            [samples],
            seed=zlib.crc32(f"densities/{index.name}/{level}".encode()),
            lossless=level == "exact",
        )
        stored = index.bytes_at(level)
        head = {
            "kind": "densities",
            "set": index.name,
            "band": "",
            "level": level,
            "bytes": stored,
            "bpp": 8 * stored / (index.rows * index.points),
            "held_out": not (level == "map" and index.cells),  # only the map is learnt from rows
        }
        out += [head | row for row in found]
    return out


def rows_to_measure(densities: DensitySet) -> NDArray[np.int64]:
    """Good rows that the record is measured on: runs spread evenly over the set."""
    count = len(densities)
    good = np.ones(count, bool)
    good[list(densities.bad_rows())] = False
    if count > MEASURED_ROWS:
        starts = np.linspace(0, count - MEASURED_ROWS // _RUNS, _RUNS).astype(int)
        chosen = np.zeros(count, bool)
        for start in starts.tolist():
            chosen[start : start + MEASURED_ROWS // _RUNS] = True
        good &= chosen
    return np.flatnonzero(good)
