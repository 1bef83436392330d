"""What a science case is, and which ones there are.

This module knows the contract between an image pair and a recorded loss: a case prepares its
work on the raw image once, then compares any number of decoded versions with it, and answers in
samples, one number per object. Cases are found by name: the built-in ones, and those that other
packages register under the entry point group ``skyfold.science``. A built-in name cannot be
taken over, so that a recorded number always means the same measurement.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import InvalidRequestError, UnknownNameError

__all__ = ["GROUP", "ImageContext", "Product", "Sample", "ScienceCase", "cases", "get_case"]

GROUP = "skyfold.science"
Product = Literal["image", "injected", "trailed", "diffuse", "sheared", "difference"]
_BUILT_IN = {
    "photometry": "skyfold.science.photometry:PHOTOMETRY",
    "astrometry": "skyfold.science.astrometry:ASTROMETRY",
    "shapes": "skyfold.science.shapes:SHAPES",
    "morphology": "skyfold.science.morphology:MORPHOLOGY",
    "low_surface_brightness": "skyfold.science.low_surface_brightness:LOW_SURFACE_BRIGHTNESS",
    "shear": "skyfold.science.shear:SHEAR",
    "transients": "skyfold.science.transients:TRANSIENTS",
    "movers": "skyfold.science.movers:MOVERS",
    "diffuse": "skyfold.science.diffuse:DIFFUSE",
    "anomalies": "skyfold.science.anomalies:ANOMALIES",
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
    scale_arcsec : float or None
        Width of a pixel on the sky [arcsec]; None without a WCS.
    product : {"image", "injected", "trailed", "diffuse", "sheared", "difference"}
        What raw and decoded are: the stored image; a copy with point sources, with trails, or with
        diffuse light, put in before it was encoded; two copies, one above the other, with
        galaxies of opposite shear put in; the image less another epoch of the same sky, both at
        one level.
    injected : ndarray, shape (n,), structured, or None
        What was put in. Point sources: ``x``, ``y`` [pixel, 0-based], ``flux`` [unit of the raw].
        Trails, as `skyfold.science.trails.inject_trails` gives them, diffuse light, as
        `skyfold.science.diffuse.inject_diffuse`, and galaxies, as
        `skyfold.science.galaxies.inject_sheared` does.

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
    scale_arcsec: float | None = None
    product: Product = "image"
    injected: NDArray[Any] | None = None

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

    def put_in(self, what: str) -> NDArray[Any]:
        """Return what was put into the image; InvalidRequestError without any."""
        if self.injected is None:
            raise InvalidRequestError(
                f"measuring what is lost of {what}: the context holds no {what}; pass what was "
                "put into the image as injected"
            )
        return self.injected


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
        (of rates, whose values are 0 and 1, and of biases).
    areas : ndarray, shape (n,), int, or None
        Piece of sky in which each object lies: objects of one piece may err together, and the
        interval is widened by as much as they are seen to. None: every object by itself.
    definition : str
        Empty: the definition by which the measure is recorded. Else the name of another that is as
        good, such as that of another finder of sources: the recorded interval then holds what it
        finds too.
    """

    measure: str
    bin: str
    values: NDArray[np.float64]
    unit: str
    statistic: Literal["p90", "mean"]
    areas: NDArray[np.int64] | None = None
    definition: str = ""


class ScienceCase(ABC):
    """One kind of science, and what a decoded image costs it.

    ::

        raw, context -> prepare -> state
        state, raw, decoded, context -> compare -> samples        once for each level

    A subclass sets `name`, `kind` (``"images"``) and `default_measure` (the measure that a need
    without one is about). Pixels that `ImageContext.mask` calls bad hold 0. `products` says which
    images the case is given: those stored, unless it asks for others.

    Examples
    --------
    A case of one's own, here how far the brightest pixel of each image moves:

    >>> class Peak(ScienceCase):
    ...     name, kind, default_measure = "peak", "images", "peak"
    ...     def prepare(self, raw, context):
    ...         return np.unravel_index(np.argmax(np.where(context.mask, -np.inf, raw)), raw.shape)
    ...     def compare(self, state, raw, decoded, context):
    ...         moved = (decoded[state] - raw[state]) / context.sigma[state]
    ...         return [Sample("peak", "all", np.array([moved]), "sigma", "p90")]

    The package that holds it lists it in its pyproject.toml, and every release that is measured
    where the package is installed has its rows::

        [project.entry-points."skyfold.science"]
        peak = "mysurvey.peak:PEAK"          # PEAK = Peak()
    """

    name: str
    kind: str
    default_measure: str
    products: tuple[Product, ...] = ("image",)

    @abstractmethod
    def prepare(self, raw: NDArray[Any], context: ImageContext) -> Any:
        """Return whatever `compare` needs of the raw image.

        Parameters
        ----------
        raw : ndarray, shape (ny, nx)
            In any unit; 0 where the context's mask is True.
        context : ImageContext

        Raises
        ------
        InvalidRequestError
            If raw and context differ in shape.
        MissingDependencyError
            If a library that the case measures with is not installed.
        """

    @abstractmethod
    def compare(
        self, state: Any, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return one sample for every measure and bin, empty ones included.

        Parameters
        ----------
        state : object
            What `prepare` returned.
        raw, decoded : ndarray, shape (ny, nx)
            In one unit.
        context : ImageContext

        Raises
        ------
        InvalidRequestError
            If decoded has another shape, or is not finite where raw is good; if tables have other
            rows than the context.
        """

    def measure(
        self, raw: NDArray[Any], decoded: NDArray[Any], context: ImageContext
    ) -> list[Sample]:
        """Return the samples of a single decoded image; see `prepare` and `compare`."""
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
    found = _cases()
    if name not in found:
        raise UnknownNameError(
            f"no science case is called {name!r}; there are {', '.join(sorted(found))}; choose "
            f"one of them, or install a package that registers it under {GROUP!r}"
        )
    return found[name]


def cases(kind: str | None = None) -> list[ScienceCase]:
    """Return every science case, or those for one kind of data, ordered by name."""
    return [case for _, case in sorted(_cases().items()) if kind in (None, case.kind)]


@cache
def _cases() -> dict[str, ScienceCase]:
    """Science cases by name; the built-in ones come last, and so win."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    found |= {name: EntryPoint(name, at, GROUP) for name, at in _BUILT_IN.items()}
    return {name: entry.load() for name, entry in found.items()}
