"""Photometric redshifts: what decoded colors do to them, against the spectroscopic redshift.

The estimate is the mean redshift of the twenty nearest neighbours in color, among raw rows that
training saw (so one estimator, trained once on raw data, meets every level). Their weights fall to
zero at the next neighbour's distance, so that the estimate moves no more than the colors do. Its
quality is sigma_NMAD = 1.4826 median(|d - median d|) of d = (z_phot - z_spec) / (1 + z_spec), and
the share of |d| > 0.15.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.science import Sample, ScienceCase
from skyfold.science.tables import TableContext, magnitudes, require_rows

__all__ = ["PHOTOZ", "PhotoZ", "nmad"]

NEIGHBOURS = 20
OUTLIER = 0.15
MAX_TRAINING, MAX_COUNTED = 20_000, 5_000
MIN_TRAINING = 100
MAX_BANDS = 10
FOLDS = 25
_BLOCK = 256
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Raw colors with known redshift, and the rows to be estimated.

    Attributes
    ----------
    colors : ndarray, shape (m, bands), float64
    redshift : ndarray, shape (m,), float64
    rows : ndarray, shape (rows,), integer
        Counted rows that have a redshift.
    fill, weight : ndarray, shape (bands,)
        What stands for a missing color, and one over the spread of each.
    spec, raw : ndarray, shape (rows,)
        Spectroscopic redshift, and the estimate from raw colors.
    """

    colors: Floats
    redshift: Floats
    rows: NDArray[np.intp]
    fill: Floats
    weight: Floats
    spec: Floats
    raw: Floats

    def estimate(self, colors: Floats) -> Floats:
        """Redshift of rows of colors."""
        points = self._scaled(colors)
        known = self._scaled(self.colors)
        squares = (known * known).sum(axis=1)
        out = np.empty(len(points))
        for start in range(0, len(points), _BLOCK):
            block = points[start : start + _BLOCK]
            distance = squares - 2 * block @ known.T + (block * block).sum(axis=1)[:, None]
            near = np.argpartition(distance, NEIGHBOURS, axis=1)[:, : NEIGHBOURS + 1]
            close = np.maximum(np.take_along_axis(distance, near, axis=1), 0)
            edge = close.max(axis=1, keepdims=True)
            weight = (1 - close / np.where(edge > 0, edge, 1)) ** 2 + 1e-9
            out[start : start + _BLOCK] = np.average(self.redshift[near], axis=1, weights=weight)
        return out

    def _scaled(self, colors: Floats) -> Floats:
        return np.asarray(np.where(np.isfinite(colors), colors, self.fill) * self.weight)


class PhotoZ(ScienceCase):
    """Photometric redshifts from decoded colors.

    Measures: ``photoz_shift``, (z_decoded - z_raw) / (1 + z_spec) of each row; ``outlier_moved``,
    1 where a row becomes or ceases to be an outlier; ``nmad_change``, relative change of
    sigma_NMAD of all rows, plus how far each of 25 parts of them is from the mean of the parts.
    All in the bin ``all``.
    """

    name = "photoz"
    kind = "catalogs"
    default_measure = "photoz_shift"

    def prepare(self, raw: Any, context: Any) -> Neighbours | None:
        """Return the neighbours; None without redshifts, colors or enough rows."""
        if context.redshift is None or context.redshift not in raw:
            return None
        colors = _colors(raw, context)
        spec = raw[context.redshift]
        known = np.isfinite(spec) & (spec > -1)
        rng = np.random.default_rng(context.seed)
        training = _some(np.flatnonzero(known & ~context.counted), MAX_TRAINING, rng)
        rows = _some(np.flatnonzero(known & context.counted), MAX_COUNTED, rng)
        if colors.shape[1] < 2 or len(training) < MIN_TRAINING or not len(rows):
            return None
        return _neighbours(colors, spec, training, rows)

    def compare(self, state: Any, raw: Any, decoded: Any, context: Any) -> list[Sample]:
        """Return the changes of the estimates; none if there are no estimates."""
        require_rows(raw, decoded, context)
        if state is None:
            return []
        found = state.estimate(_colors(decoded, context)[state.rows])
        scale = 1 + state.spec
        before, after = (state.raw - state.spec) / scale, (found - state.spec) / scale
        moved = (np.abs(before) > OUTLIER) != (np.abs(after) > OUTLIER)
        folds = np.arange(len(before)) % FOLDS
        change = np.array(
            [
                nmad(after[folds == fold]) / nmad(before[folds == fold]) - 1
                for fold in range(FOLDS)
                if (folds == fold).sum() > 4 and nmad(before[folds == fold]) > 0
            ]
        )
        if change.size and nmad(before) > 0:  # a ratio of few rows is biased: they tell the scatter
            change += nmad(after) / nmad(before) - 1 - change.mean()
        return [
            Sample("photoz_shift", "all", after - before, "fraction", "p90"),
            Sample("outlier_moved", "all", moved.astype(np.float64), "fraction", "mean"),
            Sample("nmad_change", "all", change, "", "mean"),
        ]


def nmad(values: Floats) -> float:
    """1.4826 times the median absolute deviation from the median."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _colors(table: Any, context: TableContext) -> Floats:
    """Colors of neighbouring bands, and the middle band; shape (n, bands)."""
    _, mags = magnitudes(table, context)
    mags = mags[:, :MAX_BANDS]
    middle = mags[:, mags.shape[1] // 2 : mags.shape[1] // 2 + 1]
    return np.concatenate([mags[:, :-1] - mags[:, 1:], middle], axis=1)


def _some(rows: NDArray[np.intp], most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def _neighbours(
    colors: Floats, spec: Floats, training: NDArray[np.intp], rows: NDArray[np.intp]
) -> Neighbours:
    known = colors[training]
    some = np.isfinite(known).any(axis=0)
    fill, spread = np.zeros(known.shape[1]), np.ones(known.shape[1])
    fill[some] = np.nanmedian(known[:, some], axis=0)
    spread[some] = np.nanstd(known[:, some], axis=0)
    weight = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1), 0.0)
    weight[-1] /= 2  # brightness says less than color
    draft = Neighbours(known, spec[training], rows, fill, weight, spec[rows], spec[rows])
    raw = draft.estimate(colors[rows])
    return Neighbours(known, spec[training], rows, fill, weight, spec[rows], raw)


PHOTOZ = PhotoZ()
