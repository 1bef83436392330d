"""What a science case is, and which ones there are.

This module knows the contract between an image pair and a recorded loss: a case prepares its
work on the raw image once, then compares any number of decoded versions with it, and answers in
samples, one number per object. Cases are found by name: the built-in ones, and those that other
packages register under the entry point group ``skyfold.science``. A built-in name cannot be
taken over, so that a recorded number always means the same measurement.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import InvalidRequestError, UnknownNameError

__all__ = ["GROUP", "ImageContext", "Sample", "ScienceCase", "cases", "get_case"]

GROUP = "skyfold.science"
_BUILT_IN = {
    "photometry": "skyfold.science.photometry:PHOTOMETRY",
    "detection": "skyfold.science.detection:DETECTION",
    "densities": "skyfold.science.densities:DENSITIES",
    "photoz": "skyfold.science.photoz:PHOTOZ",
    "colors": "skyfold.science.colors:COLORS",
    "positions": "skyfold.science.positions:POSITIONS",
    "selection": "skyfold.science.selection:SELECTION",
}


@dataclass(frozen=True, eq=False)
class ImageContext:
    """What a science case may know about an image beside its pixels.

    Attributes
    ----------
    sigma : ndarray, shape (ny, nx), float
        Standard deviation of each raw pixel, source noise included, in the unit of the raw.
    mask : ndarray, shape (ny, nx), bool
        True where the pixel is bad.
    counted : ndarray, shape (ny, nx), bool
        Objects whose centre pixel is True enter the record: the sky that training never saw.
    seed : int
        Seed of whatever a case draws at random.
    fwhm_pix : float or None
        Width of the point-spread function [pixel]; None: estimated from the raw image.

    Raises
    ------
    InvalidRequestError
        If the arrays are not two-dimensional and of one shape, or the width is not positive.
    """

    sigma: NDArray[Any]
    mask: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    seed: int = 0
    fwhm_pix: float | None = None

    def __post_init__(self) -> None:
        shapes = [np.shape(plane) for plane in (self.sigma, self.mask, self.counted)]
        if len(shapes[0]) != 2 or len(set(shapes)) != 1:
            raise InvalidRequestError(
                f"context of a science case: sigma, mask and counted have shapes {shapes}; "
                "all three must have the image's own (ny, nx); pass planes of one shape"
            )
        if self.fwhm_pix is not None and not 0 < self.fwhm_pix < np.inf:
            raise InvalidRequestError(
                f"context of a science case: fwhm_pix is {self.fwhm_pix}; it must be a positive "
                "number of pixels; pass None to have it estimated"
            )


@dataclass(frozen=True, eq=False)
class Sample:
    """Losses of one measure in one bin on one image.

    Attributes
    ----------
    measure, bin : str
        Such as ``"flux_1fwhm"`` and ``"5-10"``; ``"all"`` where there are no bins.
    values : ndarray, shape (n,), float64
        One number per object; a zero is no loss.
    unit : str
        ``"sigma"`` (of the measurement's own error), ``"fraction"``, or a unit of astropy.
    statistic : {"p90", "mean"}
        What a need is compared with: the 90th percentile of the absolute values, or the mean
        (of rates, whose values are 0 and 1).
    """

    measure: str
    bin: str
    values: NDArray[np.float64]
    unit: str
    statistic: Literal["p90", "mean"]


class ScienceCase(ABC):
    """One kind of science, and what a decoded image costs it.

    ::

        raw, context -> prepare -> state
        state, raw, decoded, context -> compare -> samples        once for each level

    A subclass sets `name`, `kind` (``"images"``) and `default_measure` (the measure that a need
    without one is about).
    """

    name: str
    kind: str
    default_measure: str

    @abstractmethod
    def prepare(self, raw: NDArray[Any], context: ImageContext) -> Any:
        """Return whatever `compare` needs of the raw image."""

    @abstractmethod
    def compare(
        self, state: Any, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return one sample for every measure and bin, empty ones included."""

    def measure(
        self, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return the samples of a single decoded image."""
        return self.compare(self.prepare(raw, context), raw, decoded, context)


def get_case(name: str) -> ScienceCase:
    """Return the science case of this name.

    Raises
    ------
    UnknownNameError
        If there is none; the message lists what there is.

    Examples
    --------
    >>> get_case("photometry").default_measure
    'flux_1fwhm'
    """
    found = _registered()
    if name not in found:
        raise UnknownNameError(
            f"no science case is called {name!r}; there are {', '.join(sorted(found))}; choose "
            f"one of them, or install a package that registers it under {GROUP!r}"
        )
    case: ScienceCase = found[name].load()
    return case


def cases(kind: str | None = None) -> list[ScienceCase]:
    """Return every science case, or those for one kind of data, ordered by name."""
    every = [get_case(name) for name in sorted(_registered())]
    return [case for case in every if kind in (None, case.kind)]


def _registered() -> dict[str, EntryPoint]:
    """Entry points by name; the built-in ones come last, and so win."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return found | {name: EntryPoint(name, at, GROUP) for name, at in _BUILT_IN.items()}
