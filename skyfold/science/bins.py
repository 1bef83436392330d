"""The signal-to-noise bins in which losses of objects are recorded.

This module alone knows their edges and how their names read: ``"5-10"`` holds 5 <= S/N < 10,
``">50"`` everything from 50, ``">=5"`` is cumulative and overlaps the others, and ``"all"`` is
the bin of a measure that has no S/N.
"""

import math
import re
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skyfold.science import Sample

SN_BINS = ("3-5", "5-10", "10-20", "20-50", ">50", ">=5")
_NAME = re.compile(r"(?P<sign>>=|>)?(?P<low>\d+(?:\.\d+)?)(?:-(?P<high>\d+(?:\.\d+)?))?")


def limits(name: str) -> tuple[float, float] | None:
    """Return the lower (included) and upper (excluded) S/N of a bin; None if it has no S/N."""
    match = _NAME.fullmatch(name)
    if match is None or bool(match["sign"]) == bool(match["high"]):
        return None
    return float(match["low"]), float(match["high"] or math.inf)


def is_cumulative(name: str) -> bool:
    """Tell whether a bin overlaps those above its lower edge."""
    return name.startswith(">=")


def split(
    values: NDArray[Any],
    snr: NDArray[Any],
    *,
    measure: str,
    unit: str,
    statistic: Literal["p90", "mean"],
    areas: NDArray[np.int64] | None = None,
    definition: str = "",
    bins: tuple[str, ...] = SN_BINS,
) -> list[Sample]:
    """Return one sample for each S/N bin, empty ones included.

    Parameters
    ----------
    values, snr : ndarray, shape (n,)
        Loss and raw signal-to-noise ratio of each object; a NaN ratio is in no bin.
    measure, unit, statistic, areas, definition
        As in `skyfold.science.Sample`.
    bins : tuple of str
        Names of the bins.
    """
    samples = []
    for name in bins:
        low, high = limits(name) or (-math.inf, math.inf)
        within = (snr >= low) & (snr < high)
        chosen = np.asarray(values, np.float64)[within]
        held = None if areas is None else areas[within]
        samples.append(Sample(measure, name, chosen, unit, statistic, held, definition))
    return samples
