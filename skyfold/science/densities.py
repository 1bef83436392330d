"""Densities: how far a decoded probability density is from the stored one, and what that costs.

This module knows the distances between densities and the one number that cosmology asks for: how
far the mean of a stack n(z) moves. A row's loss is given in pure numbers, or in its own standard
deviation; the stack's in units of 1 + z.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.amplitude import divergence, hellinger
from skyfold.errors import InvalidRequestError
from skyfold.science import Sample, ScienceCase

__all__ = ["DENSITIES", "Densities", "DensityContext"]

Float = NDArray[np.float64]
STACKS = 5  # tomographic bins, of equal numbers of rows by their mean


@dataclass(frozen=True, eq=False)
class DensityContext:
    """What the case may know beside the values.

    Attributes
    ----------
    grid : ndarray, shape (points,), float64
    weights : ndarray, shape (points,), float64
        Probability mass of each point to one unit of its value.

    Raises
    ------
    InvalidRequestError
        If the two are not of one length.
    """

    grid: Float
    weights: Float

    def __post_init__(self) -> None:
        if np.shape(self.grid) != np.shape(self.weights) or np.ndim(self.grid) != 1:
            raise InvalidRequestError(
                f"context of densities: grid {np.shape(self.grid)} and weights "
                f"{np.shape(self.weights)}; both must be (points,); pass arrays of one length"
            )

    def masses(self, values: NDArray[Any]) -> Float:
        """Probability masses, rows of sum 1, of densities that are not negative."""
        mass = np.maximum(values.astype(np.float64), 0) * self.weights
        return np.asarray(mass / mass.sum(axis=1, keepdims=True))


class Densities(ScienceCase):
    """Distances and moments of densities, one number a row.

    ``kld`` is the Kullback-Leibler divergence from the stored density [nats], ``hellinger`` the
    Hellinger distance, ``cdf_distance`` the largest difference of the cumulated densities,
    ``mean_shift`` that of the means in the row's standard deviation, ``width_change`` the relative
    change of the standard deviation (of rows wider than a grid step), and ``stack_mean_shift`` the
    shift of the mean of a stack in units of 1 + its mean (of 1, on a grid that begins below 0: it
    is then no redshift): its bias is the stack's, for five stacks of equal numbers of rows from
    low to high means.
    """

    name = "densities"
    kind = "densities"
    default_measure = "kld"

    def prepare(self, raw: NDArray[Any], context: Any) -> tuple[Any, ...]:
        """Masses of the stored rows, their means, standard deviations and stacks."""
        mass = context.masses(raw)
        mean, width = _moments(mass, context.grid)
        order = np.argsort(np.argsort(mean, kind="stable"), kind="stable")
        return mass, mean, width, order * STACKS // max(len(mass), 1)

    def compare(
        self, state: Any, raw: NDArray[Any], decoded: NDArray[Any], context: Any
    ) -> list[Sample]:
        """Return one sample for each measure, and one for each stack."""
        mass, mean, width, stack = state
        if raw is decoded:
            kld = distance = apart = np.zeros(len(mass))
            other_mean, other_width = mean, width
        else:
            other = context.masses(decoded)
            kld, distance = divergence(mass, other), hellinger(mass, other)
            apart = np.abs(np.cumsum(other - mass, axis=1)).max(axis=1)
            other_mean, other_width = _moments(other, context.grid)
        shift = other_mean - mean
        wide = width > np.diff(context.grid).min()
        samples = [
            Sample("kld", "all", kld, "", "p90"),
            Sample("hellinger", "all", distance, "", "p90"),
            Sample("cdf_distance", "all", apart, "", "p90"),
            Sample("mean_shift", "all", shift[wide] / width[wide], "sigma", "p90"),
            Sample("width_change", "all", (other_width / width - 1)[wide], "", "p90"),
        ]
        for number in range(STACKS):
            inside = stack == number
            is_redshift = inside.any() and context.grid[0] >= 0
            values = shift[inside] / (1 + mean[inside].mean() if is_redshift else 1)
            samples.append(Sample("stack_mean_shift", f"n{number + 1}", values, "", "mean"))
        return samples


def _moments(mass: Float, grid: Float) -> tuple[Float, Float]:
    """Mean and standard deviation of each row."""
    mean = mass @ grid
    variance = (mass * (grid - mean[:, np.newaxis]) ** 2).sum(axis=1)
    return mean, np.sqrt(variance)


DENSITIES = Densities()
