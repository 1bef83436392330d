"""Columns that follow from other columns: the arithmetic that finds their bits again.

Catalogs repeat themselves: a color is a difference of magnitudes, an error of a magnitude the ratio
of two fluxes, a magnitude the logarithm of a flux, one centroid nearly another. A column that is
told from one or two others stores how far its bits are from

    sum     a x + b y + c
    ratio   a x / y + c
    log     a log2(x) + c

cast to its type: the difference of both numbers in the order of floats, modulo 2**n, with the sign
in the last bit. It is 0 or small where the relation holds, and never wrong where it does not. Only
+ - * / in float64 take part, one after the other, so that every machine finds the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold import ladder
from skyfold.catalogs.columns import Floats

OPERATIONS = {"sum": (1, 2), "ratio": (2,), "log": (1,)}  # and how many columns each takes
_LN2 = 0.6931471805599453
_SERIES = [2 / (_LN2 * n) for n in (1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21)]
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class Relation:
    """How a column follows from others.

    Attributes
    ----------
    operation : {"sum", "ratio", "log"}
    columns : tuple of str
        The others: x, or x and y.
    factors : tuple of float
        a, or a and b of a sum of two.
    offset : float
        c [unit of the column].
    """

    operation: str
    columns: tuple[str, ...]
    factors: tuple[float, ...]
    offset: float = 0.0

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Relation:
        """Relation of its fields; ValueError if it is none."""
        found = cls(
            row["operation"], tuple(row["columns"]), tuple(row["factors"]), float(row["offset"])
        )
        counts = OPERATIONS.get(found.operation, ())
        factors = len(found.columns) if found.operation == "sum" else 1
        if len(found.columns) not in counts or len(found.factors) != factors:
            raise ValueError(f"{row} is not a relation of columns")
        return found

    def predict(self, others: Sequence[Floats]) -> Floats:
        """Value of the formula where the others have these values; 0 where it has none."""
        with np.errstate(all="ignore"):
            first = others[0]
            if self.operation == "ratio":
                value = self.factors[0] * (first / others[1])
            elif self.operation == "log":
                value = self.factors[0] * log2(first)
            else:
                value = self.factors[0] * first
                for factor, other in zip(self.factors[1:], others[1:], strict=True):
                    value = value + factor * other
            value = value + self.offset
        return np.where(np.isfinite(value), value, 0.0)


def log2(values: Floats) -> Floats:
    """Logarithm to base 2, the same bits on every machine; NaN where there is none.

    Notes
    -----
    ``2 artanh((m - 1) / (m + 1)) / ln 2`` of the mantissa m between sqrt(1/2) and sqrt(2) by its
    series: 11 terms reach 1e-17. The C library's logarithm may differ in its last bit.
    """
    mantissa, exponent = np.frexp(np.where(np.isfinite(values) & (values > 0), values, np.nan))
    low = mantissa < np.sqrt(0.5)
    mantissa = np.where(low, 2 * mantissa, mantissa)
    ratio = (mantissa - 1) / (mantissa + 1)
    square = ratio * ratio
    total = np.full_like(ratio, _SERIES[-1])
    for term in _SERIES[-2::-1]:
        total = total * square
        total = total + term
    return np.asarray(total * ratio + (exponent - low))


def to_rest(values: NDArray[Any], predicted: Floats) -> NDArray[Any]:
    """What is stored: unsigned integers of the size of the values."""
    signed = ladder.remainder(values, _NONE, _NONE, _cast(predicted, values.dtype))
    return ((signed << 1) ^ (signed >> 63)).astype(f"u{values.dtype.itemsize}")


def from_rest(rest: NDArray[Any], predicted: Floats, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Inverse of `to_rest`: the values in their dtype, every bit."""
    folded = rest.astype(np.uint64)
    signed = (folded >> np.uint64(1)) ^ (np.uint64(0) - (folded & np.uint64(1)))
    return ladder.apply_remainder(signed.view(np.int64), _NONE, _NONE, _cast(predicted, dtype))


def _cast(values: Floats, dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        return values.astype(dtype.newbyteorder("="))
