"""Tables of `skyfold.density`, and which of them codes a coefficient.

Knows a family of integer tables, each given by the share of zero and how fast larger numbers become
rarer; the contexts that choose among them, from whole numbers that a decoder already has; and the
choice that simulated densities made, which serves where a chunk is too small to bring its own.
"""

from __future__ import annotations

import base64
import zlib
from functools import lru_cache
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.amplitude import Int, Wavelet, position_step, wavelet, width_units
from skyfold.codecs.latent_passes import split
from skyfold.codecs.latent_tables import DIRECT, SYMBOLS, TOTAL

_ZERO_SHARES = (8, 20, 36, 56, 80, 104, 128, 150, 170, 188, 204, 218, 228, 236, 242, 246, 249, 251)
_FINE_SHARES = (50, 90, 120, 160, 190, 215)  # of 2**16, from which certainty is near
_TAILS = (20, 56, 96, 136, 172, 204, 228, 246)  # of 256: each symbol against the one before
_DISTANCES = np.array([1, 2, 3, 4, 6, 9, 14])  # half widths
_MAGNITUDES = np.array([1, 2, 3, 5, 8, 13])
CONTEXTS = 8 * 8 * 7
_CLIP = 64
POSITION = 1  # the column of it


@lru_cache(maxsize=1)
def tables() -> Int:
    """Counts of every table, shape (tables, symbols), of the sum `TOTAL` each."""
    zeros = [TOTAL * share // 256 for share in _ZERO_SHARES]
    zeros += [TOTAL - TOTAL * share // 65536 for share in _FINE_SHARES]
    return np.array([_table(zero, tail) for zero in zeros for tail in _TAILS], np.int64)


def _table(zero: int, tail: int) -> list[int]:
    """Counts of symbols -8..8 and of the bit lengths of larger numbers, falling as `tail` says."""
    rest = (TOTAL - zero) // 2
    near = []
    for _ in range(DIRECT):
        near.append(rest * (256 - tail) // 256)
        rest -= near[-1]
    far = []
    for _ in range(15):
        far.append(rest // 2)
        rest -= far[-1]
    zero = TOTAL - 2 * sum(near) - 2 * sum(far)
    return [*reversed(near), zero, *near, *far, *far]


@lru_cache(maxsize=1)
def models() -> list[Any]:
    """Range-coder models of the tables; counts of this sum are taken as they are."""
    make = constriction.stream.model.Categorical
    return [make(row.astype(np.float64), perfect=False) for row in tables()]


@lru_cache(maxsize=1)
def costs() -> NDArray[np.float64]:
    """Bits of each symbol in each table."""
    return np.asarray(24 - np.log2(tables() + 1.0))


class Known:
    """What a decoder knows when it comes to a coefficient, and the context that follows."""

    def __init__(self, narrow: NDArray[np.int32], transform: Wavelet) -> None:
        rows, points = len(narrow), len(transform.level)
        self.transform = transform
        self.size = np.zeros((points + 1, rows), np.int64)  # the last row stands for none
        self._narrow = narrow.astype(np.int64)
        if narrow.shape[1] > POSITION + 1:
            self._width = self._narrow[:, POSITION + 1]
            self._place = self._narrow[:, POSITION] * position_step(self._width)
            self._units = width_units(self._width)

    def context(self, column: int) -> Int:
        """Context of one coefficient of every row."""
        known, transform = self.size, self.transform
        before = int(transform.before[column])
        earlier = int(transform.before[before]) if before >= 0 else -1
        sizes = 2 * (known[before] + known[int(transform.parent[column])]) + known[earlier]
        third = np.searchsorted(_MAGNITUDES, sizes, side="right")
        level = int(transform.level[column])
        if self._narrow.shape[1] <= POSITION + 1:
            second = np.minimum(self._narrow[:, 0] // 3, 7)
            return (min(level, 7) * 8 + second) * 7 + third
        first = np.clip(level - self._width // 8 + 3, 0, 7)
        away = np.abs(int(transform.centre[column]) - self._place) * 512 // self._units
        second = np.searchsorted(_DISTANCES, away, side="right")
        return (first * 8 + second) * 7 + third

    def learn(self, column: int, values: NDArray[np.int32]) -> None:
        """Take in one coefficient of every row."""
        self.size[column] = np.minimum(np.abs(values), _CLIP)


@lru_cache(maxsize=2)
def built_in_map(*, core: bool) -> NDArray[np.uint8]:
    """Table of each context where a chunk brings none, with and without a core."""
    data = zlib.decompress(base64.b85decode(_WITH_CORE if core else _WITHOUT_CORE))
    return np.frombuffer(data, np.uint8)


# Best tables of 6000 simulated galaxies (`flows.simulate`) and 4000 mixtures of peaks, once and for
# ever; `tests/benchmarks/densities.py --fit` makes such maps.
_WITH_CORE = (
    "c-ke7zfaph6o98P)i?PV@Lh-Ag~8`3rUSMsH9i&9J_h>?QjWBeNjeZCB!h~SRzjlfa^Z(`Y+*oRWXzaI@V{{p)2C"
    "1GeNWGrx*e7sQ~W+EGHSH`JC<Z-YIT?gk55G*Q#PA_Q@LQq6ki6MSfo;rnb!Y@WiY$clR9H}S|1fXGM}`E<u+L?>"
    "VDZ{b6u-)+jh0edc;inLz$BKcsf=&ThtRJQ@ZT8su!VUd#dsXO>Lb=bgAvAOYax;%8c&Iiqok$l~IV7<ygicygq0"
    "|9KhS-Q592o-VCha^MAGr@$*$vi5TDM=0I}V@|1ZlILqw@0!<`BYsZ{3<bo0BA)|0_pC?-s{<<E07YTm2`ZJWgQ+"
    "i#3AW(7YTgq-okn5Dby#>LWL9xZC#m^r+Ndo+GW1rzT^ZX6sz0YEwPz3X?@7Y57{zuPsRz{G+H&>Y>b^^NrZZ8IV"
    "yU7PBDTQl52<pCbEIb!EpsE<gaD||QK)y*3hU?WyKp_MdC%a!ie_DS9Xbye$"
)
_WITHOUT_CORE = (
    "c-o!IAritc6olb(lqiBqP_HgBj=07VS6p#DLS=A!1#VGpN8TeMnL$;3GdueO@Xl&r7SbQy>A~#N9NcItINp^_0ZY"
    "T)@rjYiw^Z^=g}af1wIO%BQeYO}QaUpB3fzTN*gBrUF@c=XT35IuI{=dqh1?M%F=WdBq$=Fm^B{G>3tLC{K~kv7("
    "e4Z5UwG&"
)


def fit_map(histogram: Int, start: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Best table of each context, from counts of shape (contexts, symbols).

    Contexts that are too rare to say keep the table they start with.
    """
    bits = (histogram + 0.0) @ costs().T
    bits[np.arange(CONTEXTS), start] -= 4.0  # what naming another table costs
    return np.asarray(bits.argmin(axis=1), np.uint8)


def histogram_of(chunk: NDArray[np.int32], columns: int) -> Int:
    """How often each symbol occurs in each context of a chunk's rows."""
    used = chunk[chunk[:, 0] != 0]
    known = Known(used[:, :columns], wavelet(chunk.shape[1] - columns))
    counts = np.zeros(CONTEXTS * SYMBOLS, np.int64)
    for column in range(chunk.shape[1] - columns):
        values = used[:, columns + column]
        pair = known.context(column) * SYMBOLS + split(values)[0]
        counts += np.bincount(pair, minlength=len(counts))
        known.learn(column, values)
    return counts.reshape(CONTEXTS, SYMBOLS)
