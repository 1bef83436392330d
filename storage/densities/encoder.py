"""Rows of densities to the whole numbers of their levels: `skyfold.codecs.amplitude` backwards.

Knows how a row's core is fitted, how coarse a step it can bear, and that every bound is met: each
trial is decoded with the reader's own functions, and a row takes the coarsest step that keeps it
within the bound, so that easy rows are cheap and hard ones are not spoilt. Where the means of rows
near one another are shifted to one side, some of them take a finer step, since such shifts would
add up in a stack.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.amplitude import (
    BIN,
    UNIT,
    Float,
    Int,
    core_amplitude,
    core_responses,
    find_cores,
    hermite_shapes,
    masses,
    position_step,
    positions,
    step_units,
    wavelet,
)
from skyfold.densities.index import FLOORS, SHAPES, Bounds

DEAD_ZONE = 0.4  # coefficients below 0.6 of a step become 0: fewer bits at the same divergence
FIRST_STEP, LAST_STEP = 7, 30
STACK_SHIFT = 1 / 65536  # of the mean of rows that lie near one another, as a share of the grid
_STACK_ROWS, _STACKS = 64, 8  # rows of a group of such rows, at least; groups, at most
_FINER = 16  # times smaller is the bound on the shift of a row that is encoded again
_LEAST_LOSS = 0.5  # squared length on the grid of a unit of wavelet coefficients, at least


@dataclass(frozen=True)
class EncodedRows:
    """Whole numbers of rows of densities.

    Attributes
    ----------
    latent : ndarray, shape (n, 3 + shapes + points), int32
        Step, position, width, shape coefficients, residual coefficients.
    bounded : ndarray, shape (n, 1 + points), int32
        Step and coefficients of what is left.
    amplitudes : dict of ndarray, shape (n, points), int64
        What a reader finds at either level [units].
    """

    latent: NDArray[np.int32]
    bounded: NDArray[np.int32]
    amplitudes: dict[str, Int]


def encode_rows(mass: Float, bounds: Bounds) -> EncodedRows:
    """Encode good rows, each by itself.

    Parameters
    ----------
    mass : ndarray, shape (n, points), float64
        Probability masses: not negative, rows of sum 1.
    bounds : Bounds
        That each row must keep.
    """
    shapes = hermite_shapes(SHAPES)
    core = fit_cores(mass, shapes)
    start = core_amplitude(core, shapes, mass.shape[1])
    steps, coefficients, latent = _refine(mass, start, "latent", bounds)
    finer, rest, bounded = _refine(mass, latent, "bounded", bounds)
    return EncodedRows(
        np.concatenate([steps[:, np.newaxis], core, coefficients], axis=1).astype(np.int32),
        np.concatenate([finer[:, np.newaxis], rest], axis=1).astype(np.int32),
        {"latent": latent, "bounded": bounded},
    )


def encode_together(mass: Float, bounds: Bounds) -> EncodedRows:
    """Encode good rows so that the shifts of their means do not add up; see `encode_rows`."""
    encoded = encode_rows(mass, bounds)
    rows = shifted_rows(mass, masses(encoded.amplitudes["latent"], FLOORS["latent"]))
    strict = replace(bounds, mean_shift=bounds.mean_shift / _FINER)
    if not len(rows):
        return encoded
    again = encode_rows(mass[rows], strict)
    encoded.latent[rows], encoded.bounded[rows] = again.latent, again.bounded
    for level, amplitude in encoded.amplitudes.items():
        amplitude[rows] = again.amplitudes[level]
    return encoded


def fit_cores(mass: Float, shapes: NDArray[np.int32]) -> Int:
    """Position, width and shape coefficients of each row's main peak, shape (n, 2 + shapes)."""
    points, count = mass.shape[1], len(shapes)
    place, width = find_cores(mass)
    index = np.rint(place * BIN / position_step(width)).astype(np.int64)
    index = np.clip(index, 0, positions(width, points) - 1)
    core = np.zeros((len(mass), 2 + count), np.int64)
    core[:, 0], core[:, 1] = index, width
    response = core_responses(core, shapes, points)
    normal = np.einsum("ang,bng->nab", response, response, optimize=True)
    normal += 1e-9 * normal.trace(axis1=1, axis2=2)[:, None, None] * np.eye(count)
    right = np.einsum("ang,ng->na", response, np.sqrt(mass))
    found = np.linalg.solve(normal, right[..., np.newaxis])[..., 0]
    core[:, 2:] = np.clip(np.rint(found), -32767, 32767)
    return core


def shifted_rows(mass: Float, decoded: Float) -> Int:
    """Rows that shift the mean of their stack most, without which it would keep to its bound.

    Parameters
    ----------
    mass, decoded : ndarray, shape (n, points), float64
        Probability masses.
    """
    place = np.arange(mass.shape[1]) / mass.shape[1]
    shift = (decoded - mass) @ place
    stacks = np.clip(len(mass) // _STACK_ROWS, 1, _STACKS)
    found = []
    for rows in np.array_split(np.argsort(mass @ place, kind="stable"), stacks):
        total = shift[rows].sum()
        largest = rows[np.argsort(-shift[rows] * np.sign(total), kind="stable")]
        left = abs(total) - np.cumsum(shift[largest] * np.sign(total))
        allowed = STACK_SHIFT * len(rows)
        count = 0 if abs(total) <= allowed else 1 + int(np.argmax(left <= allowed))
        found.append(largest[:count])
    return np.sort(np.concatenate(found)).astype(np.int64)


def _refine(mass: Float, start: Int, level: str, bounds: Bounds) -> tuple[Int, Int, Int]:
    """Coarsest step of each row that brings it within a bound, coefficients, and what they give."""
    transform = wavelet(mass.shape[1])
    wanted = (np.sqrt(mass) * UNIT - start) @ transform.analysis
    steps = np.full(len(mass), LAST_STEP)
    coefficients = np.zeros(mass.shape, np.int64)
    found = start.copy()
    todo = np.arange(len(mass))
    # what is lost between unit vectors is twice the square of their Hellinger distance, and no more
    # than their divergence; a row that loses more need not be decoded
    limit = 2 * bounds.hellinger**2 if level == "bounded" else bounds.divergence
    for step in (1, *range(FIRST_STEP, LAST_STEP + 1)):
        size = int(step_units(np.array(step)))
        target = wanted[todo]
        trial = np.sign(target) * np.floor(np.abs(target) / size + DEAD_ZONE)
        lost = ((target - trial * size) ** 2).sum(axis=1) / UNIT**2
        hopeful = (lost * _LEAST_LOSS <= limit) | (step == LAST_STEP)
        trial, tried = trial[hopeful], todo[hopeful]
        amplitude = start[tried] + transform.on_grid(trial * size)
        decoded = masses(amplitude, FLOORS[level])
        good = (bounds.used(level, mass[tried], decoded) <= 1) | (step == LAST_STEP)
        done = tried[good]
        steps[done], coefficients[done], found[done] = step, trial[good], amplitude[good]
        todo = np.setdiff1d(todo, done, assume_unique=True)
        if not len(todo):
            break
    return steps, coefficients, found
