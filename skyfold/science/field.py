"""A raw image made ready for measuring, and its decoded images as the same cases see them.

This module knows the definitions on which the science cases of images stand:

- *Scale.* Images are centred on the raw's median and divided by its median noise before single
  precision touches them, so that no result depends on their unit.
- *Sky.* It is measured on each image by itself, as its user would (`skyfold.science.sky`).
- *Sources.* They are found in the raw image, and in decoded ones by the same search
  (`skyfold.science.sources`), with the noise of the context for both.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import InvalidRequestError
from skyfold.science import ImageContext
from skyfold.science.matched_filter import THRESHOLD, filter_spread, matched_filter, peaks_of
from skyfold.science.sky import Plane, SkyMesh
from skyfold.science.sources import (
    PEAKS,
    at_centre,
    circle_sum,
    is_clear,
    islands,
    load_sep,
)
from skyfold.science.widths import estimate_fwhm

_REACH = 3.0  # [FWHM], to which an island's light may reach


@dataclass(frozen=True, eq=False)
class Field:
    """A raw image made ready for measuring.

    Attributes
    ----------
    centre, unit : float
        Median and median noise of the raw, in its own unit; every plane here is in `unit`.
    good : ndarray, shape (ny, nx), bool
    noise : ndarray, shape (ny, nx), float32
        One standard deviation; 1 where not good.
    free : ndarray, shape (ny, nx), bool
        Good pixels away from sources: where sky is measured when sources are known.
    blind_sky, free_sky : SkyMesh
        Where sky is measured before sources are known, and after.
    far : ndarray, shape (ny, nx), bool
        Those of `free` that are away from islands above the threshold too, whatever the axes of
        what is in them.
    level, image : ndarray, shape (ny, nx), float32
        That sky, and the centred raw less it; image is 0 where not good.
    fwhm : float
        [pixel]
    spread : ndarray, shape (ny, nx), float32
        Standard deviation of the matched filter's sums.
    sources : ndarray, shape (n,), structured
        Of sep: ``x``, ``y`` [pixel, 0-based], ``a``, ``b``, ``theta``, ``npix``.
    peaks : ndarray, shape (m,), structured
        ``x``, ``y`` of every peak of the matched filter.
    """

    centre: float
    unit: float
    good: NDArray[np.bool_]
    noise: Plane
    free: NDArray[np.bool_]
    blind_sky: SkyMesh
    free_sky: SkyMesh
    far: NDArray[np.bool_]
    level: Plane
    image: Plane
    fwhm: float
    spread: Plane
    sources: NDArray[Any]
    peaks: NDArray[Any]
    _kept: dict[str, tuple[ref[NDArray[Any]], Any]] = field(default_factory=dict)

    def once(self, name: str, image: NDArray[Any], work: Callable[[], Any]) -> Any:
        """Return what was last worked out of an image under a name, or work it out now."""
        kept = self._kept.get(name)
        if kept is None or kept[0]() is not image:
            kept = self._kept[name] = ref(image), work()
        return kept[1]


# Every case asks for the same field; it lives as long as the context it belongs to.
_PREPARED: WeakKeyDictionary[ImageContext, tuple[ref[NDArray[Any]], Field]] = WeakKeyDictionary()


def prepare_field(raw: NDArray[Any], context: ImageContext) -> Field:
    """Return the sources and sky of a raw image, worked out once for each context.

    Parameters
    ----------
    raw : ndarray, shape (ny, nx), any integer or float dtype
        Pixels that are not finite, or without positive finite noise, count as bad.
    context : ImageContext

    Raises
    ------
    InvalidRequestError
        If raw and context differ in shape.
    MissingDependencyError
        If sep is not installed.
    """
    kept = _PREPARED.get(context)
    if kept is None or kept[0]() is not raw:
        kept = ref(raw), _prepare(raw, context)
        _PREPARED[context] = kept
    return kept[1]


def _prepare(raw: NDArray[Any], context: ImageContext) -> Field:
    """Find the sources with the sky of a blind search, then the sky away from them."""
    good, centre, unit = _ground(raw, context)
    # the limits keep squares and their inverses within single precision
    noise = np.clip(np.where(good, context.sigma / unit, 1.0), 1e-6, 1e6).astype(np.float32)
    flat = scaled(raw, good, centre, unit)
    blind_sky = SkyMesh(noise, good)
    blind = _less(flat, blind_sky.level(flat), good)
    fwhm = context.fwhm_pix or estimate_fwhm(blind, noise, good)
    spread = filter_spread(noise, good, fwhm)
    significance = matched_filter(blind, noise, good, fwhm, spread)
    sources = islands(significance)
    free = good & ~_around(sources, fwhm, good.shape)
    free_sky = SkyMesh(noise, free)
    level = free_sky.level(flat)
    image = _less(flat, level, good)
    return Field(
        centre,
        unit,
        good,
        noise,
        free,
        blind_sky,
        free_sky,
        free & ~grown(significance > THRESHOLD, int(np.ceil(_REACH * fwhm))),
        level,
        image,
        fwhm,
        spread,
        sources,
        peaks_of(significance),
    )


def decoded_flat(field: Field, decoded: NDArray[Any]) -> Plane:
    """Return a decoded image centred and in units of the noise; see `scaled`."""
    found: Plane = field.once(
        "flat", decoded, lambda: scaled(decoded, field.good, field.centre, field.unit)
    )
    return found


def decoded_difference(field: Field, raw: NDArray[Any], decoded: NDArray[Any]) -> Plane:
    """Return decoded minus raw, each less its own sky away from sources, in ``field.unit``.

    The difference is taken before single precision, so equal images give exactly zero.
    """

    def difference() -> Plane:
        lifted = field.free_sky.level(decoded_flat(field, decoded)) - field.level
        change = np.asarray(decoded, np.float64) - np.asarray(raw, np.float64)
        return _less(change / field.unit, lifted, field.good)

    found: Plane = field.once("difference", decoded, difference)
    return found


def decoded_image(field: Field, raw: NDArray[Any], decoded: NDArray[Any]) -> Plane:
    """Return a decoded image less its own sky away from sources, alike ``field.image``."""
    found: Plane = field.once(
        "image", decoded, lambda: field.image + decoded_difference(field, raw, decoded)
    )
    return found


def decoded_sources(field: Field, decoded: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return what each finder finds in a decoded image, by a search that knows no sources yet."""

    def search() -> dict[str, NDArray[Any]]:
        flat = decoded_flat(field, decoded)
        blind = _less(flat, field.blind_sky.level(flat), field.good)
        significance = matched_filter(blind, field.noise, field.good, field.fwhm, field.spread)
        return {"": islands(significance), PEAKS: peaks_of(significance)}

    found: dict[str, NDArray[Any]] = field.once("sources", decoded, search)
    return found


def scaled(image: NDArray[Any], good: NDArray[np.bool_], centre: float, unit: float) -> Plane:
    """Return a centred image in units of the noise, 0 where not good.

    Raises
    ------
    InvalidRequestError
        If the shape is another one, or a good pixel is not finite.
    """
    if np.shape(image) != good.shape:
        raise InvalidRequestError(
            f"comparing images: one has shape {np.shape(image)}, its raw image {good.shape}; "
            "they must agree; decode the whole image, not a cutout"
        )
    values = (np.asarray(image, np.float64) - centre) / unit
    broken = int(np.count_nonzero(good & ~np.isfinite(values)))
    if broken:
        raise InvalidRequestError(
            f"comparing images: {broken} pixels are not finite where the raw image is good; a "
            "decoded image must be finite there; check the decoder, or mask these pixels"
        )
    return np.where(good, values, 0).astype(np.float32)


def signal_to_noise(field: Field, sources: NDArray[Any]) -> NDArray[np.float64]:
    """Return the raw signal-to-noise ratio within one FWHM; NaN where bad pixels are near."""
    error = np.sqrt(circle_sum(field.noise**2, sources, field.fwhm))
    snr = circle_sum(field.image, sources, field.fwhm) / np.maximum(error, 1e-30)
    return np.where(is_clear(field.good, sources, field.fwhm), snr, np.nan)


def counted_sources(field: Field, context: ImageContext, finder: str = "") -> NDArray[Any]:
    """Return the raw sources of a finder that enter the record, structured as the field's."""
    found = field.peaks if finder == PEAKS else field.sources
    return found[at_centre(context.counted, found)]


def _ground(raw: NDArray[Any], context: ImageContext) -> tuple[NDArray[np.bool_], float, float]:
    """Good pixels, median and median noise."""
    if np.shape(raw) != context.mask.shape:
        raise InvalidRequestError(
            f"measuring an image: it has shape {np.shape(raw)}, its context "
            f"{context.mask.shape}; they must agree; pass the image's own sigma and mask"
        )
    good = ~np.asarray(context.mask, bool) & np.isfinite(context.sigma) & (context.sigma > 0)
    good &= np.isfinite(raw)
    if not good.any():
        return good, 0.0, 1.0
    return good, float(np.median(raw[good])), float(np.median(context.sigma[good]))


def _less(image: NDArray[Any], level: Plane, good: NDArray[np.bool_]) -> Plane:
    """Image less a level where good, 0 elsewhere."""
    return np.where(good, image - level, 0).astype(np.float32)


def _around(sources: NDArray[Any], fwhm: float, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels that may hold a source's light or its apertures."""
    covered = np.zeros(shape, bool)
    reach = np.maximum(6 * sources["a"], 2.5 * fwhm), np.maximum(6 * sources["b"], 2.5 * fwhm)
    load_sep().mask_ellipse(covered, sources["x"], sources["y"], *reach, sources["theta"], r=1.0)
    return covered


def grown(covered: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Return the pixels within so many rows and columns of a covered one."""
    for axis in (0, 1):
        beyond = [(reach + 1, reach) if side == axis else (0, 0) for side in (0, 1)]
        count = np.cumsum(np.pad(covered, beyond), axis=axis, dtype=np.int32).swapaxes(0, axis)
        covered = (count[2 * reach + 1 :] > count[: -2 * reach - 1]).swapaxes(0, axis)
    return covered
