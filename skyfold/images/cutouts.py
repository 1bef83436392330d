"""Cutouts: boxes of images as `CCDData`, in physical units, many at a time."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from astropy import units as u
from astropy.nddata import CCDData, StdDevUncertainty

from skyfold import sky
from skyfold.errors import InvalidRequestError, OutsideFootprintError, SkyfoldError
from skyfold.images.index import FLAG_FILL, ImageEntry
from skyfold.images.tiles import Job, pieces

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.io import fits
    from numpy.typing import NDArray

    from skyfold.images.library import ImageLibrary
    from skyfold.images.window import Window

_SPELLINGS = {  # of BUNIT, in lower case
    "electrons": u.electron,
    "e": u.electron,
    "counts": u.count,
    "cts": u.count,
    "photons": u.photon,
    "dn": u.DN,
    "sec": u.s,
    "seconds": u.s,
}
MAX_PIXELS = 2**28  # of one cutout: a size in the wrong unit would fill the memory


class Cutout(CCDData):  # type: ignore[misc]
    """Pixels of an image with WCS, mask, uncertainty and unit; ``meta`` says where they are from.

    A `astropy.nddata.CCDData` in all; arithmetic and slicing give CCDData.

    Examples
    --------
    >>> cutout.meta["level"], cutout.meta["image"]  # doctest: +SKIP
    ('sources', 'night1/r')
    >>> cutout.write("cutout.fits")  # doctest: +SKIP
    """

    def to_hdu(self, *arguments: Any, **options: Any) -> fits.HDUList:
        """As of CCDData: image, mask, uncertainty; what the cutout is stands in its header."""
        meta = self.header
        try:
            self.meta = {}  # CCDData knows strings alone under long keywords
            hdus = super().to_hdu(*arguments, **options)
        finally:
            self.meta = meta
        for key, value in meta.items():
            shown = "none" if isinstance(value, float) and not np.isfinite(value) else value
            hdus[0].header[f"HIERARCH SKYFOLD {key}"] = shown
        return hdus

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Picture with celestial axes; see `skyfold.plot.plot_cutout`."""
        from skyfold.plot import plot_cutout

        return plot_cutout(self, ax, **options)


class Cutouts(list["Cutout | None"]):
    """Cutouts in the order asked for, None where there is none.

    Attributes
    ----------
    failures : dict of int to SkyfoldError
        Why there is none, by place in the list.
    """

    def __init__(self, found: Iterable[Cutout | None], failures: dict[int, SkyfoldError]) -> None:
        super().__init__(found)
        self.failures = failures

    def __repr__(self) -> str:
        return f"<Cutouts: {len(self) - len(self.failures)} of {len(self)} positions>"

    def require_all(self) -> Self:
        """The list, if nothing failed; raises the first failure."""
        for error in self.failures.values():
            raise error
        return self

    def only(self) -> Cutout:
        """The one cutout of a list of one; raises its failure."""
        (found,) = self.require_all()
        assert found is not None
        return found


@dataclass(frozen=True)
class Box:
    """A box of pixels of one image, which may reach beyond it.

    Attributes
    ----------
    entry : ImageEntry
    y0, x0 : int
        First pixel; may be negative.
    shape : (int, int)
    """

    entry: ImageEntry
    y0: int
    x0: int
    shape: tuple[int, int]

    @classmethod
    def around(cls, entry: ImageEntry, x: float, y: float, size: Any) -> Box:
        """Box of a size around a pixel position, which is in its middle or up to half a pixel off.

        Raises
        ------
        InvalidRequestError
            If the size is no positive angle or number of pixels, or more than 2**28 pixels.
        """
        wcs = entry.celestial_wcs()
        assert wcs is not None  # the position came from it
        shape = sky.box_in_pixels(wcs, size)
        if shape[0] * shape[1] > MAX_PIXELS:
            raise InvalidRequestError(
                f"size {size} is {shape[0]} x {shape[1]} pixels of image {entry.id}; a cutout has "
                f"at most {MAX_PIXELS} pixels: give a smaller size, or read() the whole image"
            )
        if not np.isfinite([x, y]).all():  # the projection does not reach: far off, and padded
            return cls(entry, -shape[0], -shape[1], shape)
        y0, x0 = (
            int(np.floor(at - (side - 1) / 2 + 0.5)) for at, side in zip((y, x), shape, strict=True)
        )
        return cls(entry, y0, x0, shape)

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of the image that it holds."""
        ny, nx = self.entry.plane
        return (
            slice(max(self.y0, 0), min(self.y0 + self.shape[0], ny)),
            slice(max(self.x0, 0), min(self.x0 + self.shape[1], nx)),
        )

    @property
    def is_inside(self) -> bool:
        """Whether it holds any pixel of the image."""
        return all(part.start < part.stop for part in self.inside)

    def job(self, level: str) -> Job:
        """What to decode; OutsideFootprintError if it holds no pixel of the image."""
        if not self.is_inside:
            raise OutsideFootprintError(
                f"the cutout lies outside image {self.entry.id}; leave image_id out to find one "
                "that covers it"
            )
        return Job(self.entry, *self.inside, level)


def cut_all(
    library: ImageLibrary,
    boxes: list[Box | SkyfoldError] | list[Box],
    level: str,
    progress: Callable[[int, int], None] | None = None,
) -> Cutouts:
    """Cutouts of boxes, in their order; an error in place of a box is that box's failure."""
    jobs: dict[int, Job] = {}
    failures: dict[int, SkyfoldError] = {}
    for number, box in enumerate(boxes):
        try:
            jobs[number] = _job(box, level)
        except SkyfoldError as error:
            failures[number] = error
    every = list(jobs.values())
    total = max(pieces(every), 1)
    for done in library.decode(every):
        if progress:
            progress(len(failures) + done * len(every) // total, len(boxes))
    found: list[Cutout | None] = [None] * len(boxes)
    for number, job in jobs.items():
        try:
            found[number] = _cutout(library, boxes[number], level, job.window())  # type: ignore[arg-type]
        except SkyfoldError as error:
            failures[number] = error
        job.planes = []  # memory: many cutouts are made of few
    return Cutouts(found, dict(sorted(failures.items())))


def _job(box: Box | SkyfoldError, level: str) -> Job:
    if isinstance(box, SkyfoldError):
        raise box
    return box.job(level)


def _cutout(library: ImageLibrary, box: Box, level: str, window: Window) -> Cutout:
    entry = box.entry
    place = (
        slice(window.rows.start - box.y0, window.rows.stop - box.y0),
        slice(window.columns.start - box.x0, window.columns.stop - box.x0),
    )
    values, mask, sigma = physical(entry, window)
    noise = None if sigma is None else StdDevUncertainty(_padded(sigma, box.shape, place, np.nan))
    wcs = entry.celestial_wcs()
    return Cutout(
        _padded(values, box.shape, place, np.nan),
        unit=unit_of(entry),
        mask=_padded(mask, box.shape, place, fill=True),
        uncertainty=noise,
        wcs=None if wcs is None else sky.shifted_wcs(wcs, box.x0, box.y0, box.shape),
        meta={
            "level": level,
            "bound": bound_at(entry, level),
            "release": library.release.url,
            "image": entry.id,
            "band": entry.band,
            "set": entry.set,
            "time": entry.time,
            "x0": box.x0,
            "y0": box.y0,
        },
    )


def scalar_position(position: SkyCoord) -> SkyCoord:
    """One-dimensional positions; those of one position are of length one."""
    sky.require_position(position)
    return position.reshape(-1)


def physical(
    entry: ImageEntry, window: Window
) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.float64] | None]:
    """Values, mask and noise with the header's scale applied."""
    values = window.values
    exact_float = values.dtype.kind == "f" and (entry.bscale, entry.bzero) == (1, 0)
    if not exact_float:
        values = values * entry.bscale + entry.bzero
    mask = (window.flags != 0) | ~np.isfinite(values)
    if window.values.dtype.kind != "f" and entry.blank is not None:
        mask |= window.values == entry.blank
    values = np.where(mask & (window.flags >= FLAG_FILL) & (values != 0), np.nan, values)
    sigma = None if window.sigma is None else window.sigma * abs(entry.bscale)
    return values, mask, sigma


def _padded(
    plane: NDArray[Any], shape: tuple[int, int], place: tuple[slice, slice], fill: Any
) -> NDArray[Any]:
    if plane.shape == shape:
        return plane
    out = np.full(shape, fill, plane.dtype if plane.dtype.kind in "fb" else float)
    out[place] = plane
    return out


def unit_of(entry: ImageEntry) -> u.UnitBase:
    """Unit of BUNIT; adu without one.

    Spellings of surveys, such as ``ELECTRONS/S``, are known. What astropy does not know is a unit
    by itself, of that name: pixels of one image are never said to be of another's unit.
    """
    return _unit(entry.unit.strip() or "adu")


@cache
def _unit(text: str) -> u.UnitBase:
    seconds = re.sub(r"/ ?S\b", "/s", text)  # no image is in units of a siemens
    respelled = re.sub(r"\be-(?=$|[ /*.])", "electron", text.lower())
    with u.set_enabled_aliases(_SPELLINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)  # such as of several slashes
        for spelling in (seconds, respelled):
            try:
                return u.Unit(spelling)
            except (ValueError, TypeError):
                continue
    return u.def_unit(text)


def bound_at(entry: ImageEntry, level: str) -> float:
    """Largest error at a level [noise units]; infinite where there is none."""
    if level == "exact" or entry.mode == "direct":
        return 0.0
    return entry.bound if level == "bounded" else float("inf")
