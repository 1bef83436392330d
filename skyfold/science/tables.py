"""What a science case may know about a catalog's rows beside their values.

A table here is a mapping from column name to float64 values, NaN where missing. Only columns of
one number a row are in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import InvalidRequestError

__all__ = ["Table", "TableContext", "magnitudes"]

Floats = NDArray[np.float64]
Table = Mapping[str, Floats]
_MAG_PER_RELATIVE_ERROR = 2.5 / np.log(10)


@dataclass(frozen=True, eq=False)
class TableContext:
    """What a science case may know about the rows of a catalog.

    Attributes
    ----------
    counted : ndarray, shape (n,), bool
        Rows that enter the record: those that training never saw.
    sigma : dict of str to ndarray, shape (n,), float64
        1-sigma error of the raw values of each column that has one [unit of the column].
    flux : frozenset of str
        Those among them that hold fluxes; the others hold magnitudes or what reads like them.
    redshift, ra, dec : str or None
        Columns that have a role.
    seed : int
        Seed of whatever a case draws at random.

    Raises
    ------
    InvalidRequestError
        If an error has not one number a row.
    """

    counted: NDArray[np.bool_]
    sigma: Mapping[str, Floats] = field(default_factory=dict)
    flux: frozenset[str] = frozenset()
    redshift: str | None = None
    ra: str | None = None
    dec: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [name for name, values in self.sigma.items() if values.shape != self.counted.shape]
        if wrong:
            raise InvalidRequestError(
                f"context of a science case: the errors of {wrong[0]!r} have shape "
                f"{self.sigma[wrong[0]].shape}, the rows are {self.counted.shape}; pass one a row"
            )

    def snr(self, raw: Table, name: str) -> Floats:
        """Signal-to-noise ratio of a column's raw values; NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            if name in self.flux:
                return np.asarray(raw[name] / self.sigma[name])
            return np.asarray(_MAG_PER_RELATIVE_ERROR / self.sigma[name])


def magnitudes(table: Table, context: TableContext) -> tuple[list[str], Floats]:
    """Names and magnitudes, shape (n, columns), of the columns that have errors.

    Fluxes become ``-2.5 log10(flux)``; where one is below its error, it counts as missing.
    """
    names = [name for name in context.sigma if name in table]
    out = np.full((len(context.counted), len(names)), np.nan)
    for place, name in enumerate(names):
        values = table[name]
        if name in context.flux:
            seen = values > context.sigma[name]
            out[seen, place] = -2.5 * np.log10(values[seen])
        else:
            out[:, place] = values
    return names, out


def require_rows(raw: Any, decoded: Any, context: TableContext) -> None:
    """Raise `InvalidRequestError` if two tables do not have the context's rows."""
    for name, values in [*raw.items(), *decoded.items()]:
        if values.shape != context.counted.shape:
            raise InvalidRequestError(
                f"comparing tables: column {name!r} has shape {values.shape}, the rows are "
                f"{context.counted.shape}; pass the same rows of both"
            )
