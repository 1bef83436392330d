"""Coarse cells of the pixels that `sources` keeps, with errors that sums hardly see.

What is measured of a source is a sum over its pixels. If cells of several times the width were
chosen one by one, the error of a sum would grow with their width. They are chosen together: so
that errors of neighbours cancel in the sums that fluxes, positions and shapes are, and so that
their numbers take few bits. The start is error diffusion, as for printing (Floyd & Steinberg 1976,
Proc. SID 17, 75); then single cells are moved, alone or against a neighbour's, wherever that makes
``errors + price x bits`` less (direct binary search, Analoui & Allebach 1992, Proc. SPIE 1666, 96,
with the bits of rate-distortion optimised quantisation). An error is at most the width of a coarse
cell.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from skyfold.compiled import compiled
from skyfold.ladder import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

FINE, WIDEST = 4, 16  # quarters of a cell: the same cells as of `bounded`; more would save little
_LEAST_COARSE = 8  # quarters: narrower ones are dearer to `bounded` than they save
_LEAST, _BY_ROOT = 0.3, 1.18  # cells, and more for the root of a FWHM: wider for wider sums
_NARROW, _SLOPE = 1.5, 2.2  # FWHM [pixel] up to which cells are fine, and cells for each beyond
_CROWDED = (0.35, 0.6)  # share kept from which cells are narrower, and from which they are fine
_PRICE = 0.22  # squared cells of the width asked for, of error, that a bit is worth
_OUTER = 1.5  # times as dear is a bit of a pixel that only wide apertures reach
_START = 0.1  # cells by which the start prefers the number nearer zero
_ROUNDS = 3  # over all pixels; a fourth saves another hundredth of the bits
_LARGEST = 15  # cell whose bits are counted by themselves
_SIZES = 1.2, 8.0  # FWHM [pixel]: sums over more pixels see even less
# What errors weigh in: flux within one FWHM, Gaussian flux, its first and second moments, pixels.
# Second moments cost a tenth of the bits: with less, sheared galaxies lose 0.003 of their response.
_WEIGHTS = (1.0, 0.1, 0.25, 0.3, 0.1)
_RADII = (0.75, 0.9, 1.05, 1.25)  # [FWHM]: of one alone, errors would hide in what it cannot see
_FWHM_TO_SIGMA = 2 * math.sqrt(2 * math.log(2))


def coarseness(fwhm_pix: float, share: float, fine: float) -> int:
    """Width of a cell of `sources` in quarters of one of `bounded`.

    The width at which a flux within one FWHM keeps the error that it has in fine cells of the
    width that was asked for. It has one step, from 4 to 8: what lies between takes more bits of
    both levels together than either. Elsewhere it has none, so that the losses of a night hardly
    depend on its seeing.

    Parameters
    ----------
    fwhm_pix : float
        Of point sources [pixel].
    share : float
        Of pixels that `sources` keeps, 0 to 1. Of crowded fields `bounded` would pay more than
        `sources` saves.
    fine : float
        Width of a fine cell of the sky over the width that was asked for, at least 1: an odd
        number of integers may be wider.

    Notes
    -----
    Measured in `docs/decisions/shaped_errors.md`.
    """
    cells = min(_LEAST + _BY_ROOT * math.sqrt(fwhm_pix), 1 + _SLOPE * max(fwhm_pix - _NARROW, 0))
    free = np.interp(share, _CROWDED, (1, 0))
    quarters = round(FINE * min(max((1 + (cells - 1) * free) / fine, 1), WIDEST / FINE))
    if FINE < quarters < _LEAST_COARSE:
        return FINE if quarters < (FINE + _LEAST_COARSE) / 2 else _LEAST_COARSE
    return quarters


def shaped_cells(
    residuals: NDArray[np.float64],
    kept: NDArray[np.bool_],
    coarse: int,
    fwhm_pix: float,
    fine: float = 1.0,
    outer: NDArray[np.bool_] | None = None,
) -> NDArray[np.int32]:
    """Coarse cells of the kept pixels of some tiles; others take over no error.

    Parameters
    ----------
    residuals : ndarray, shape (n,), float64
        Kept pixels less the centre of their cell 0, in widths of fine cells.
    kept : ndarray of bool, shape (tiles, 256, 256)
        Of n pixels.
    coarse : int
        Width of a coarse cell in quarters of a fine one.
    fwhm_pix : float
        Of point sources [pixel].
    fine : float
        As `coarseness` takes it.
    outer : ndarray of bool, shape (n,), optional
        Pixels of no source's core.

    Returns
    -------
    ndarray, shape (n,), int32
    """
    weights = _weights(round(min(max(fwhm_pix, _SIZES[0]), _SIZES[1]), 1))
    reach = len(weights) // 2
    framed = np.pad(kept, ((0, 0), (reach, reach), (reach, reach)))
    places = np.flatnonzero(framed)
    number = np.full(framed.size, -1, np.int32)
    number[places] = np.arange(len(places))
    wanted = residuals * (FINE / coarse)
    whole = np.rint(wanted)
    wanted = (wanted - whole).astype(np.float32)  # at most half a cell: single precision will do
    base = whole.astype(np.int32)
    cells = np.zeros(len(places), np.int32)  # beyond the base
    plane = places, number, TILE + 2 * reach
    _diffuse(wanted, base, *plane, np.float32(_START), cells)
    pull = np.zeros(framed.size, np.float32)
    _pull(wanted - cells, places, TILE + 2 * reach, weights, pull)
    price = np.float32(_PRICE * (FINE / (coarse * fine)) ** 2)
    zone = np.zeros(len(places), np.uint8) if outer is None else outer.view(np.uint8)
    for _ in range(_ROUNDS):
        chosen = base + cells
        bits = [_bits(chosen[zone == 0]), np.float32(_OUTER) * _bits(chosen[zone == 1])]
        _improve(wanted, base, *plane, zone, weights, price * np.stack(bits), pull, cells)
    return base + cells


def _bits(cells: NDArray[np.int32]) -> NDArray[np.float32]:
    """Bits of a cell by its size, as often as each occurs; of larger ones those of `_LARGEST`."""
    counts = np.bincount(np.minimum(np.abs(cells), _LARGEST), minlength=_LARGEST + 1) + 0.5
    counts[1:] /= 2  # of either sign
    return -np.log2(counts / (counts[0] + 2 * counts[1:].sum())).astype(np.float32)


@lru_cache(256)
def _weights(fwhm_pix: float) -> NDArray[np.float32]:
    """How errors of two pixels count together, by their distance.

    The sum of the squared errors of each measurement, in units of those that white noise gives it,
    is a quadratic form of the pixels' errors; averaged over all positions it depends on
    distances alone: the autocorrelation of the measurements' weights.
    """
    half = math.ceil(1.5 * fwhm_pix) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    point, wide = (
        np.exp(-(x * x + y * y) / (2 * (scale * fwhm_pix / _FWHM_TO_SIGMA) ** 2))
        for scale in (1.0, 1.2)
    )
    circles = [
        np.clip(radius * fwhm_pix + 0.5 - np.hypot(y - dy, x - dx), 0, 1)
        for radius in _RADII
        for dy, dx in ((0, 0), (0.5, 0.5), (0, 0.5), (0.5, 0))
    ]
    groups = [circles, [point], [wide * y, wide * x], [wide * (x * x - y * y), wide * x * y]]
    side = 2 * (2 * half + 1)  # far enough that nothing comes around the edge
    power = np.full((side, side // 2 + 1), _WEIGHTS[-1])
    for weight, group in zip(_WEIGHTS[:-1], groups, strict=True):
        for one in group:
            spectrum = np.abs(np.fft.rfft2(one, (side, side))) ** 2
            power += weight / len(group) / (one**2).sum() * spectrum
    reach = math.ceil(2 * fwhm_pix) + 1
    near = np.fft.fftshift(np.fft.irfft2(power, (side, side)))
    inside = slice(side // 2 - reach, side // 2 + reach + 1)
    return np.ascontiguousarray(near[inside, inside], np.float32)


@compiled
def _diffuse(wanted, base, places, number, stride, start, cells):  # type: ignore[no-untyped-def]
    """Cells by error diffusion; `number` tells which pixel is where, -1 for none."""
    over = np.zeros(wanted.size, np.float32)
    for n in range(wanted.size):
        want = wanted[n] + over[n]
        cell = np.rint(want)
        side = np.sign(base[n] + cell)
        if side * (want - cell) < start - np.float32(0.5):
            cell -= side
        cell = min(max(cell, np.ceil(wanted[n] - 1)), np.floor(wanted[n] + 1))
        cells[n] = int(cell)
        error = want - cell
        at = places[n]
        for step, share in ((1, 7), (stride - 1, 3), (stride, 5), (stride + 1, 1)):
            m = number[at + step]
            if m >= 0:
                over[m] += error * np.float32(share / 16)


@compiled
def _pull(errors, places, stride, weights, pull):  # type: ignore[no-untyped-def]
    """Weighted sum of the errors around each pixel of the framed plane."""
    side = weights.shape[0]
    first = (side // 2) * (stride + 1)
    for n in range(errors.size):
        for row in range(side):
            at = places[n] - first + row * stride
            part, weight = pull[at : at + side], weights[row]
            for i in range(side):
                part[i] += errors[n] * weight[i]


@compiled
def _improve(  # type: ignore[no-untyped-def]
    wanted, base, places, number, stride, zone, weights, bits, pull, cells
):
    """One round: each pixel by one cell, alone or against one of its eight neighbours."""
    side, reach, top = weights.shape[0], weights.shape[0] // 2, bits.shape[1] - 1
    own, first = weights[reach, reach], reach * (stride + 1)
    for n in range(wanted.size):
        at, cell = places[n], cells[n]
        whole, its = base[n] + cell, bits[zone[n]]
        best, move, other = np.float32(-1e-6), 0, -1
        for sign in (-1, 1):
            if abs(wanted[n] - (cell + sign)) > 1:
                continue
            alone = own - 2 * sign * pull[at]
            alone += its[min(abs(whole + sign), top)] - its[min(abs(whole), top)]
            if alone < best:
                best, move, other = alone, sign, -1
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    m = number[at + dy * stride + dx]
                    if m < 0 or m == n or abs(wanted[m] - (cells[m] - sign)) > 1:
                        continue
                    near, dear = base[m] + cells[m], bits[zone[m]]
                    both = alone + own + 2 * sign * pull[at + dy * stride + dx]
                    both -= 2 * weights[reach + dy, reach + dx]
                    both += dear[min(abs(near - sign), top)] - dear[min(abs(near), top)]
                    if both < best:
                        best, move, other = both, sign, m
        if move == 0:
            continue
        for m, sign in ((n, move), (other, -move)):
            if m < 0:
                continue
            cells[m] += sign
            for row in range(side):
                start = places[m] - first + row * stride
                part, weight = pull[start : start + side], weights[row]
                for i in range(side):
                    part[i] -= sign * weight[i]
