"""One pass over all rows of a catalog: what is gathered of each batch, and what it tells.

What is kept grows by 16 bytes a row (sky cell and id), so a catalog larger than memory passes too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.index import CatalogInfo
from skyfold.catalogs.positions import NO_CELL, in_degrees, on_sky, sky_cells
from skyfold.errors import InputError
from storage.catalogs.pairs import find_angles, find_errors, find_positions
from storage.catalogs.reader import Batch, InputColumn, longest
from storage.config import CatalogConfig

SAMPLE_ROWS = 65536


class Scan:
    """What is gathered of each batch.

    Attributes
    ----------
    positions : tuple of str, or None
        Names of right ascension and declination.
    angles : set of str
        Names of all columns that are coordinates of positions.
    keys : ndarray, shape (rows,), int64
        Sky cell of each row; -1 without positions.
    chosen : ndarray, shape (sampled rows,), int64
        Numbers of the rows of the sample.
    sample : list of Batch
        Those rows.
    widths : dict
        Longest text or list of each column.
    pairs : dict
        Error column of each value column; see `find_errors`.
    """

    def __init__(
        self,
        config: CatalogConfig,
        columns: Sequence[InputColumn],
        rows: int,
    ) -> None:
        self.config = config
        self.positions = find_positions(columns, config.ra, config.dec)
        self.angles = {name for pair in find_angles(columns) for name in pair}
        self.units = {column.name: column.unit for column in columns}
        self.rows = rows
        self.keys = np.full(rows, -1, np.int64)
        self.ids: NDArray[Any] | None = None
        self.no_id: list[NDArray[np.int64]] = []
        self.widths: dict[str, int] = {}
        self.present = dict.fromkeys((column.name for column in columns), 0)
        self.bad_errors: dict[str, int] = {}
        self.off_sky = self.swapped = 0
        self.pairs = find_errors(columns, config.errors)
        rng = np.random.default_rng(0)
        size = min(rows, SAMPLE_ROWS)
        self.chosen = (
            np.sort(rng.choice(rows, size, replace=False)) if size < rows else np.arange(rows)
        )
        self.sample: list[Batch] = []

    def take(self, first: int, batch: Batch) -> None:
        """Gather what matters of one batch of rows."""
        rows = len(next(iter(batch.values()))[0])
        if self.positions is not None:
            self.keys[first : first + rows] = self._sky_cells(batch)
        if self.config.id is not None:
            self._take_ids(first, *batch[self.config.id])
        for name, (values, nulls) in batch.items():
            if values.dtype.kind in "SO":
                self.widths[name] = max(self.widths.get(name, 0), longest(values))
            self.present[name] += _count_present(values, nulls, self.config.missing)
        for value, (error, _, _) in self.pairs.items():
            self._count_bad(value, batch[value][0], batch[error][0])
        inside = self.chosen[(self.chosen >= first) & (self.chosen < first + rows)] - first
        if inside.size:
            self.sample.append(
                {k: (v[inside], None if m is None else m[inside]) for k, (v, m) in batch.items()}
            )

    def _sky_cells(self, batch: Batch) -> NDArray[np.int64]:
        first, second = (
            in_degrees(batch[name][0], self.units[name]) for name in self.positions or ()
        )
        cells = sky_cells(first, second)
        measured = np.isfinite(first) & np.isfinite(second)
        off = measured & (cells == NO_CELL)
        self.off_sky += int(off.sum())
        self.swapped += int((off & on_sky(second, first)).sum())
        return cells

    def _take_ids(self, first: int, values: NDArray[Any], nulls: NDArray[np.bool_] | None) -> None:
        """Ids of all rows, or their hashes where they are text; rows without one are noted."""
        lacks = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
        self.no_id.append(first + np.flatnonzero(lacks if nulls is None else lacks | nulls))
        if values.dtype.kind == "S":
            values = np.array([_text_key(one) for one in values.tolist()], np.int64)
        if self.ids is None:
            self.ids = np.empty(self.rows, values.dtype)
        self.ids[first : first + len(values)] = values

    def _count_bad(self, value: str, values: NDArray[Any], errors: NDArray[Any]) -> None:
        with np.errstate(invalid="ignore"):
            bad = ~(errors > 0) | ~np.isfinite(errors)
        if bad.shape != values.shape:
            bad = np.broadcast_to(bad.reshape(len(bad), *[1] * (values.ndim - 1)), values.shape)
        bad = (
            bad
            & np.isfinite(values)
            & ~np.isin(values, np.array(self.config.missing, values.dtype))
        )
        self.bad_errors[value] = self.bad_errors.get(value, 0) + int(bad.sum())

    def require_positions(self) -> None:
        """Raise InputError if most rows have a position on the sky only the other way round."""
        if self.swapped > self.rows / 2:
            raise InputError(
                f"{self.swapped} of {self.rows} rows have a declination beyond 90 deg, and none if "
                f"ra and dec are swapped: ra is {self.config.ra!r} and dec {self.config.dec!r} in "
                "the configuration; swap them, or leave both out"
            )

    def kept_rows(self) -> tuple[NDArray[np.int64], list[str]]:
        """Rows to archive: all but those whose id an earlier row has; and the reasons."""
        if self.ids is None:
            return np.arange(self.rows), []
        nameless = np.concatenate(self.no_id)
        if not _has_doubles(np.delete(self.ids, nameless)):
            return np.arange(self.rows), []
        named = np.delete(np.arange(self.rows), nameless)
        _, first = np.unique(self.ids[named], return_index=True)
        kept = np.sort(np.concatenate([named[first], nameless]))
        doubles = np.setdiff1d(np.arange(self.rows), kept)
        some = ", ".join(str(row) for row in doubles[:10])
        return kept, [
            f"catalog {self.config.name!r}: {len(doubles)} rows have an id ({self.config.id}) "
            "that an "
            "earlier row has, and are not archived: rows "
            f"{some}{', ...' if len(doubles) > 10 else ''}; "
            "correct the ids, or take id out of the configuration to keep them"
        ]

    def notices(self, info: CatalogInfo) -> list[str]:
        """Columns without any value, and values whose error says nothing."""
        out = [
            f"column {name!r} holds no value in any row; it is kept as it is, and not modelled"
            for name, count in self.present.items()
            if not count
        ]
        if lacking := sum(map(len, self.no_id)):
            out.append(f"{lacking} rows have no id ({self.config.id}); they are kept")
        if self.off_sky:
            out.append(
                f"{self.off_sky} rows have a position that is not on the sky (declination beyond "
                "90 deg, or right ascension beyond 720 deg); they are kept, and no cone finds them"
            )
        return out + [
            f"{count} values of {name!r} have an error that is zero, negative or not a number; "
            "they are "
            "kept exactly at `bounded`"
            for name, count in self.bad_errors.items()
            if count and info.column(name).kind == "scaled"
        ]


def _has_doubles(ids: NDArray[Any]) -> bool:
    ids.sort()
    return bool((ids[1:] == ids[:-1]).any())


def _text_key(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def _count_present(
    values: NDArray[Any], nulls: NDArray[np.bool_] | None, missing: tuple[float, ...]
) -> int:
    here = np.ones(values.shape, bool) if nulls is None else ~nulls
    if values.dtype.kind == "f":
        here &= ~np.isnan(values) & ~np.isin(values, np.array(missing, values.dtype))
    return int(here.sum())
