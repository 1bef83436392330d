"""Whether floats were already rounded to a step before they came here, and to which.

Bits below that step carry nothing. The step is read from a tile-compressed image's ZSCALE, or
found as the spacing of a lattice ``zero + n * step`` on which every value lies within rounding.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skyfold.quantum import Quantum
from storage.images.mapped import part_of

Floats = NDArray[np.float64]

_METHODS = ("NO_DITHER", "SUBTRACTIVE_DITHER_1", "SUBTRACTIVE_DITHER_2")
_ROWS = 256  # looked at together
_PIXELS = 2**22  # likewise
_SAMPLE = 8192
_SLACK = 2.0  # roundings of n*step and of the sum, each half a spacing, with a factor 2 to spare
_WORKING = 2.0**-42
_LOG_CHANCE = np.log(1e-12)  # of a lattice being met by continuous values


class Quantisation(NamedTuple):
    """Step in stored units, and how it came about: ZQUANTIZ's value, or ``LATTICE``."""

    step: float
    method: str


def quantisation(table_hdu: Any, stored: NDArray[Any]) -> Quantisation | None:
    """Step of already quantised floats, or None for integers and for unquantised floats.

    Parameters
    ----------
    table_hdu : astropy HDU
        The HDU with image compression disabled: a table if the image is tile-compressed.
    stored : ndarray, any shape
        The stored values.

    Notes
    -----
    ZSCALE, ZQUANTIZ: FITS standard 4.0, section 10.2. Steps differ between tiles: the median of the
    quantised ones is returned, and None if most bytes lie in tiles that were stored losslessly.
    """
    if stored.dtype.kind != "f":
        return None
    tiles = _tile_steps(table_hdu) if table_hdu.header.get("ZIMAGE") is True else np.array([])
    if tiles.size:
        method = str(table_hdu.header.get("ZQUANTIZ", "NO_DITHER")).strip()
        return Quantisation(float(np.median(tiles)), method)
    step = lattice_step(stored)
    return None if step is None else Quantisation(step, "LATTICE")


def read_quantum(hdu: Any, stored: NDArray[Any]) -> tuple[Quantum, Floats] | None:
    """How a tile-compressed float image was quantised, where that gives every bit of a tile.

    Parameters
    ----------
    hdu : astropy HDU
        With image compression disabled.
    stored : ndarray, shape (ny, nx), float32 or float64

    Returns
    -------
    Quantum
    parameters : ndarray, shape (2, tiles), float64
        Scale and zero of each tile; scale 0 for a tile of which not every bit would come back.
    None
        If nothing is quantised, or in another way.
    """
    header = hdu.header
    if stored.dtype.kind != "f" or header.get("ZIMAGE") is not True or header.get("ZNAXIS") != 2:
        return None
    if not {"ZSCALE", "ZZERO"} <= set(hdu.columns.names):
        return None
    method = str(header.get("ZQUANTIZ", "NO_DITHER")).strip()
    if method not in _METHODS:
        return None
    side = int(header.get("ZTILE2", 1)), int(header.get("ZTILE1", stored.shape[1]))
    quantum = Quantum(*side, method != "NO_DITHER", int(header.get("ZDITHER0", 0)))
    parameters = np.array([hdu.data["ZSCALE"], hdu.data["ZZERO"]], np.float64)
    parameters[:, ~np.isfinite(parameters).all(axis=0)] = 0
    ny, nx = stored.shape
    if min(side) < 1 or parameters.shape[1] != np.prod(quantum.grid((ny, nx))):
        return None
    for start in range(0, ny, _ROWS):
        rows = slice(start, min(start + _ROWS, ny))
        off = _differing(quantum, parameters, stored[rows], (ny, nx), rows)
        parameters[0, off] = 0
    return (quantum, parameters) if parameters[0].any() else None


def _differing(
    quantum: Quantum, parameters: Floats, part: NDArray[Any], plane: tuple[int, int], rows: slice
) -> NDArray[np.intp]:
    """Numbers of the tiles of some rows with a finite pixel that would not come back."""
    window = quantum.window(parameters, plane, rows, slice(0, plane[1]))
    finite = np.where(np.isfinite(part), part, 1)
    back = window.apply(window.remainder(finite, finite), finite)
    bits = f"u{part.dtype.itemsize}"
    y, x = np.nonzero((back.view(bits) != finite.view(bits)) & np.isfinite(part))
    across = quantum.grid(plane)[1]
    return np.unique((y + rows.start) // quantum.rows * across + x // quantum.columns)


def _tile_steps(hdu: Any) -> Floats:
    """Steps of the quantised tiles; none if most of the compressed bytes are not quantised."""
    if "ZSCALE" not in hdu.columns.names:
        steps = np.atleast_1d(np.float64(hdu.header.get("ZSCALE", 0.0)))
        return steps[steps > 0]
    rows = hdu.data
    steps = np.asarray(rows["ZSCALE"], dtype=np.float64)
    quantised = np.isfinite(steps) & (steps > 0)
    lossless = 0
    for name in {"GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA"} & set(hdu.columns.names):
        lossless += sum(tile.nbytes for tile in rows[name])
    coded = sum(tile.nbytes for tile in rows["COMPRESSED_DATA"]) if lossless else 1
    return steps[quantised] if coded > lossless else steps[:0]


def lattice_step(stored: NDArray[Any]) -> float | None:
    """Spacing of the lattice on which all finite, non-zero values lie, or None.

    Parameters
    ----------
    stored : ndarray, any shape, float32 or float64
        NaN, infinities and exact zeros (padding) are left out.

    Notes
    -----
    The step is the approximate greatest common divisor of the differences in a sample; a line
    through (n, value) over growing ranges makes it precise, and all values are checked at the end.
    Steps as fine as float32 rounding are no quantisation: floats that were cast show such lattices.
    A few values scattered over millions of steps do not settle the divisor: None then.
    """
    flat, dtype = stored.reshape(-1), stored.dtype.newbyteorder("=")
    every = max(1, flat.size // (4 * _SAMPLE))
    sample = _usable(part_of(flat, slice(None, None, every)))[: 4 * _SAMPLE]
    sample = sample[:: max(1, sample.size // _SAMPLE)]
    values = np.unique(sample)
    if values.size < 4:
        return None
    typical = float(np.median(np.abs(sample)))
    error = _rounding(values, typical, dtype)
    step = _common_divisor(np.diff(values), error[1:] + error[:-1])
    single = np.float32(min(typical, float(np.finfo("f4").max) / 2))
    if step is None or step < 4 * float(np.spacing(single)):
        return None
    line = _fit_line(values, error, step)
    if line is None:
        return None
    zero, step = line
    chance = np.sort(np.log(np.minimum(4 * error / step, 1.0)))[2:].sum()
    if chance >= _LOG_CHANCE:
        return None
    for start in range(0, flat.size, _PIXELS):
        values = _usable(part_of(flat, slice(start, start + _PIXELS)))
        limit = 2 * _rounding(values, typical, dtype)
        off = np.abs(values - (zero + np.rint((values - zero) / step) * step))
        if (off > limit).any():
            return None
    return float(f"{step:.12g}")  # a fit's last digits differ between versions of numpy


def _usable(values: NDArray[Any]) -> Floats:
    return values[np.isfinite(values) & (values != 0)].astype(np.float64)


def _rounding(values: Floats, typical: float, dtype: np.dtype[Any]) -> Floats:
    """Bound of the rounding error of each value, at least that of a typical value."""
    # The search itself runs in float64, whose own last bits cannot be told from the values'.
    with np.errstate(over="ignore"):
        size = np.maximum(np.abs(values), typical).astype(dtype)
        return np.asarray(_SLACK * np.maximum(np.spacing(size), _WORKING * size), dtype=np.float64)


def _common_divisor(differences: Floats, error: Floats) -> float | None:
    """Greatest common divisor of numbers known within `error`, or None if lost in the errors."""
    clear = differences > error
    differences, error = differences[clear], error[clear]
    if differences.size < 3:
        return None
    best = int(np.argmin(differences))
    step, step_error = differences[best], error[best]
    while step > 4 * step_error:
        count = np.rint(differences / step)
        rest = np.abs(differences - count * step)
        doubt = error + count * step_error
        clear = (rest > doubt) & (doubt < step / 4)
        if not clear.any():
            return float(step)
        # The nearest multiple is subtracted, so the step at least halves: the loop ends.
        best = int(np.argmin(np.where(clear, rest, np.inf)))
        step, step_error = rest[best], doubt[best]
    return None


def _fit_line(values: Floats, error: Floats, step: float) -> tuple[float, float] | None:
    """(zero, step) of the lattice through all values, or None if one lies off it."""
    zero = float(values[np.argmin(np.abs(values - np.median(values)))])
    distance = np.abs(values - zero)
    radius = float(np.sort(distance)[min(8, distance.size - 1)])
    while True:
        near = distance <= radius
        count = np.rint((values[near] - zero) / step)
        if np.ptp(count) == 0:
            return None
        weight = 1 / error[near]
        slope, start = np.polynomial.polynomial.polyfit(count, values[near], 1, w=weight)[::-1]
        off = np.abs(values[near] - (start + slope * count))
        if slope <= 0 or np.any(off > 2 * error[near]):
            return None
        zero, step = float(start), float(slope)
        if near.all():
            return zero, step
        radius *= 2
