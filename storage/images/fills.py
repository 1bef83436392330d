"""Which pixels of an image are no measurement: not-a-number, blank, padding, masked by the survey.

The rule is found by looking at the image once; flags are then made of it for whichever rows are
asked for, so that an image needs no plane of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.images.index import FLAG_FILL, FLAG_MASKED, MAX_FILLS
from skyfold.ladder import SAFE_INTEGER
from storage.images.mapped import part_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from storage.survey import SurveyImage

PADDING_FRACTION = 0.005  # exact zeros rarer than this are pixels like any other
SCATTERED = 0.5  # correlation of zeros with those beside them: of padding it is near 1
OF_COUNTS = 0.2  # share of scattered zeros, from which they are of a map of few counts
USUAL = 5.0  # times the spread of other values, within which zero is one of them
SAMPLE = 100_000  # pixels that tell how often a value occurs, and how far values spread
ROWS = 256  # looked at together
REACH = 27  # log2 of times the spread; by the noise itself `storage.images.prepared` decides


@dataclass(frozen=True, eq=False)
class Fills:
    """The pixels of an image that are no measurement.

    Attributes
    ----------
    image : SurveyImage
    zero : bool
        Whether exact zeros are padding.
    reach : float
        Size beyond which there are no cells [stored unit].
    values : ndarray, shape (n,), stored dtype
        Not-a-number, infinities, blank, zero padding, and numbers too large for cells.
    good, masked : int
        Pixels that are measurements, and those of them that the survey masks, which are not good.
    largest : float
        Size of the largest measurement [stored unit]; 0 of integers.
    """

    image: SurveyImage
    zero: bool
    reach: float
    values: NDArray[Any]
    good: int = 0
    masked: int = 0
    largest: float = 0.0

    @property
    def exponent(self) -> int:
        """log2 of about how far values spread [stored unit]; 0 of integers and where none do."""
        return math.frexp(self.reach)[1] - REACH if math.isfinite(self.reach) else 0

    def flags(self, rows: slice) -> NDArray[np.uint8]:
        """Flags of some rows, shape (n, nx).

        0 good, 1 masked by the survey, 2 and up index + 2 into the values.
        """
        stored = part_of(self.image.stored, rows)
        flags = np.zeros(stored.shape, np.uint8)
        if self.image.mask is not None:
            flags[self.image.mask[rows]] = FLAG_MASKED
        if self.values.size:
            is_fill = self.is_fill(stored)
            number = np.searchsorted(self.values, _one_nan(stored[is_fill]))
            flags[is_fill] = number.astype(np.uint8) + FLAG_FILL
        return flags

    def usable(self, rows: slice) -> NDArray[np.bool_]:
        """Pixels that noise is measured from: the good ones, or all that is coded if none is."""
        flags = self.flags(rows)
        return flags == 0 if self.good else flags < FLAG_FILL

    def is_fill(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Whether pixels stand for no measurement."""
        if stored.dtype.kind != "f":
            blank = self.image.blank
            return np.zeros(stored.shape, bool) if blank is None else stored == blank
        is_fill = ~(np.abs(stored) <= np.float64(self.reach)) | ~np.isfinite(stored)
        if self.zero:
            is_fill |= stored == 0
        return is_fill


def find_fills(image: SurveyImage, reach: float | None = None) -> Fills | None:
    """Which pixels are no measurement; None if there are more such values than flags can name.

    Parameters
    ----------
    image : SurveyImage
    reach : float, optional
        Size beyond which there are no cells [stored unit]; told by the spread of floats.
    """
    is_float = image.stored.dtype.kind == "f"
    zero = is_float and _is_padded(image.stored)
    if reach is None:
        reach = _reach(image.stored, zero=zero) if is_float else math.inf
    fills = Fills(image, zero, reach, part_of(image.stored, slice(0))[:, 0])
    good = masked = 0
    values, largest = fills.values, 0.0
    for rows in slices(len(image.stored), ROWS):
        stored = part_of(image.stored, rows)
        is_fill = fills.is_fill(stored)
        values = np.unique(np.concatenate([values, np.unique(_one_nan(stored[is_fill]))]))
        if len(values) > MAX_FILLS:
            return None
        bad = np.zeros(1, bool) if image.mask is None else image.mask[rows] & ~is_fill
        masked += int(np.count_nonzero(bad))
        if is_float:
            largest = max(largest, float(np.abs(stored[~is_fill]).max(initial=0)))
        good += is_fill.size - int(np.count_nonzero(is_fill)) - int(np.count_nonzero(bad))
    return Fills(image, zero, reach, values, good, masked, largest)


def slices(length: int, height: int) -> Iterator[slice]:
    """Slices of a length, of one height and what is left."""
    for start in range(0, length, height):
        yield slice(start, min(start + height, length))


def _is_padded(stored: NDArray[Any]) -> bool:
    """Whether exact zeros are far more common than any other value, and no measurements.

    Counts over an exposure that varies are zero here and there, and otherwise of no common value.
    """
    parts = (part_of(stored, rows) for rows in slices(len(stored), ROWS))
    zeros = sum(int(np.count_nonzero(part == 0)) for part in parts)
    if zeros < PADDING_FRACTION * stored.size:
        return False
    others = _sample(stored, lambda part: part[(part != 0) & np.isfinite(part)])
    if not others.size:
        return True
    common = np.unique(others, return_counts=True)[1].max() / others.size
    share = zeros / stored.size
    return bool(share > 3 * common) and not (
        _is_scattered(stored, share) and _is_usual(share, others)
    )


def _is_scattered(stored: NDArray[Any], share: float) -> bool:
    """Whether pixels are zero whatever those beside them are: correlations along both axes."""
    found = np.zeros((2, 2))  # pairs that are both zero, and all, along y and x
    for rows in slices(len(stored), ROWS):
        zero = part_of(stored, rows) == 0
        for axis, (one, next_) in enumerate(((zero[:-1], zero[1:]), (zero[:, :-1], zero[:, 1:]))):
            found[axis] += np.count_nonzero(one & next_), one.size
    both = np.divide(found[:, 0], found[:, 1], out=np.zeros(2), where=found[:, 1] > 0)
    return bool((both - share**2).max() < SCATTERED * share * (1 - share))


def _is_usual(share: float, others: NDArray[Any]) -> bool:
    """Whether zero is a value such as the others, or of most of few counts."""
    middle = np.median(others)
    spread = 1.4826 * np.median(np.abs(others - middle))
    return bool(share > OF_COUNTS or np.abs(middle) < USUAL * spread)


def _reach(stored: NDArray[Any], *, zero: bool) -> float:
    """Largest value that cells have numbers for, whose place on the grid is an exact integer."""
    wide = _sample(stored, lambda part: part[np.isfinite(part) & ~(zero & (part == 0))])
    if not wide.size:
        return math.inf
    wide = wide.astype(np.float64)
    spread = 1.4826 * float(np.median(np.abs(wide - np.median(wide))))
    most = float(np.finfo(stored.dtype).max) / 4  # no centre of a cell near it overflows
    return min(spread * 2.0**REACH, most) if spread else math.inf


def _sample(stored: NDArray[Any], wanted: Any) -> NDArray[Any]:
    """Every so many of the wanted pixels."""
    count = sum(wanted(part_of(stored, rows)).size for rows in slices(len(stored), ROWS))
    every, seen, found = max(count // SAMPLE, 1), 0, []
    for rows in slices(len(stored), ROWS):
        part = wanted(part_of(stored, rows))
        found.append(part[-seen % every :: every].copy())  # a view would keep all of it
        seen += part.size
    return np.concatenate(found)


def _one_nan(values: NDArray[Any]) -> NDArray[Any]:
    """All NaN as one and the same."""
    if values.dtype.kind != "f":
        return values
    return np.where(np.isnan(values), values.dtype.type(np.nan), values)


def is_safe_integer(stored: NDArray[Any]) -> bool:
    """Whether every stored integer is exact in float64 with room for a cell."""
    if stored.dtype.kind == "f":
        return True
    parts = (part_of(stored, rows) for rows in slices(len(stored), ROWS))
    return all(max(-int(one.min()), int(one.max())) < SAFE_INTEGER for one in parts)
