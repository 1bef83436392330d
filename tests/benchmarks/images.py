"""One image under comparison, and what a codec's version of it costs.

Every codec is measured by the same code on the same sources, with the same noise: fluxes and
detections by `skyfold.science`, positions and shapes by Gaussian-weighted moments, pixels in units
of their noise. Losses of sources are in units of the measurement's own statistical error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from skyfold.science import ImageContext, Sample
from skyfold.science.detection import DETECTION
from skyfold.science.field import decoded_difference
from skyfold.science.photometry import PHOTOMETRY, Forced
from skyfold.science.sources import is_clear
from storage.images.prepared import Prepared, prepare
from storage.survey import SurveyImage

T = TypeVar("T")
FLUX_BINS = {
    "3-5": ("3-5",),
    ">=5": (">=5",),
    "5-20": ("5-10", "10-20"),
    ">20": ("20-50", ">50"),
}
SHAPE_SNR = 10.0  # below it the moments of single sources say little
MIN_OBJECTS = 8  # below it a 90th percentile is that of one object


@dataclass(frozen=True, eq=False)
class Subject:
    """An image ready to be measured.

    Attributes
    ----------
    raw : ndarray, shape (ny, nx), float64
        Stored units; 0 where bad.
    stored : ndarray
        The same as stored, nothing changed.
    level, sigma : float
        Sky and its noise, medians over the image [stored units].
    prepared : Prepared
        The image in skyfold's noise units, for codecs that work there too.
    """

    stored: NDArray[Any]
    raw: NDArray[np.float64]
    context: ImageContext
    level: float
    sigma: float
    prepared: Prepared

    @classmethod
    def of(cls, image: SurveyImage, noise: NDArray[np.float64] | None) -> Subject:
        """A subject from a survey image and the noise of its pixels; None: estimated here."""
        stored, prepared = image.stored, prepare(image)
        noise = _noise(prepared) if noise is None else noise
        mask = (prepared.fills.flags(slice(None)) != 0) | ~np.isfinite(stored.astype(np.float64))
        raw = np.where(mask, 0, stored.astype(np.float64))
        context = ImageContext(sigma=noise, mask=mask, counted=np.ones(mask.shape, bool), seed=1)
        level, sigma = float(np.median(raw[~mask])), float(np.median(noise[~mask]))
        return cls(stored, raw, context, level, sigma, prepared)

    def measure(self, decoded: NDArray[Any]) -> dict[str, Any]:
        """Losses of a decoded image, by name."""
        bad = self.context.mask
        values = np.where(bad, 0, np.nan_to_num(decoded.astype(np.float64)))
        if np.array_equal(values, self.raw):
            return self._none | {"lossless": True}
        return self._losses(values) | {"lossless": False}

    @cached_property
    def _none(self) -> dict[str, Any]:
        return self._losses(self.raw)

    def _losses(self, decoded: NDArray[np.float64]) -> dict[str, Any]:
        good = ~self.context.mask
        error = (decoded - self.raw)[good] / self.context.sigma[good]
        state = PHOTOMETRY.prepare(self.raw, self.context)
        flux = PHOTOMETRY.compare(state, self.raw, decoded, self.context)
        found = DETECTION.compare(state.field, self.raw, decoded, self.context)
        return {
            "max_error": float(np.abs(error).max()),
            "rms_error": float(np.sqrt(np.mean(error**2))),
            **_fluxes([one for one in _own(flux) if one.measure == "flux_1fwhm"]),
            **_rates(_own(found)),
            **_moments(state, self.raw, decoded),
        }


def _own(samples: list[Sample]) -> list[Sample]:
    """Samples of the sources that skyfold's finder sees, not those of another definition."""
    return [one for one in samples if not one.definition]


def _noise(prepared: Prepared) -> NDArray[np.float64]:
    """Noise of each pixel from its own value [stored units]."""
    (ny, nx), strip = prepared.shape, prepared.whole()
    sides = [
        [
            prepared.noise.pixel_sigma(
                strip.grid(y, x) - strip.background(y, x), strip.factor(y, x)
            )
            for x in range(prepared.tiles[1])
        ]
        for y in range(prepared.tiles[0])
    ]
    return np.ldexp(np.block(sides), prepared.noise.grid_exponent)[:ny, :nx]


def _fluxes(samples: list[Sample]) -> dict[str, Any]:
    """90th percentile of flux errors in each bin [sigma], and how many sources it holds."""
    by_bin = {one.bin: one.values for one in samples}
    joined = {name: np.concatenate([by_bin[b] for b in bins]) for name, bins in FLUX_BINS.items()}
    return {f"flux_p90 {name}": percentile(values) for name, values in joined.items()} | {
        f"sources {name}": len(values) for name, values in joined.items()
    }


def percentile(values: NDArray[np.float64]) -> float | None:
    """90th percentile of absolute values; None of too few."""
    return float(np.percentile(np.abs(values), 90)) if len(values) >= MIN_OBJECTS else None


def _rates(samples: list[Sample]) -> dict[str, Any]:
    """Sources of S/N >= 5 lost and created, as shares of those there are in the raw image."""
    found = {one.measure: one.values for one in samples if one.bin == ">=5"}
    total = max(len(found["lost"]), 1)
    return {name: float(found[name].sum() / total) for name in ("lost", "created")}


def _moments(
    state: Forced, raw: NDArray[np.float64], decoded: NDArray[np.float64]
) -> dict[str, Any]:
    """Changes of centroid, size and ellipticity of sources of S/N >= 10 [own errors], p90."""
    field = state.field
    sources, flux, error = state.circles["flux_1fwhm", ""]
    reach = math.ceil(2 * field.fwhm)
    sources = sources[(flux > SHAPE_SNR * error)]
    sources = sources[is_clear(field.good, sources, reach + 1.0)]
    names = ("centroid_p90", "size_p90", "ellipticity_p90")
    if len(sources) < MIN_OBJECTS:
        return dict.fromkeys(names)
    after = field.image + decoded_difference(field, raw, decoded)
    before, errors = _shapes(field.image, field.noise, sources, field.fwhm, reach)
    changes = (_shapes(after, field.noise, sources, field.fwhm, reach)[0] - before) / errors
    parts = changes[:2].ravel(), changes[2], changes[3:].ravel()
    return {name: percentile(part) for name, part in zip(names, parts, strict=True)}


def _shapes(
    image: NDArray[np.float32], noise: NDArray[Any], sources: NDArray[Any], fwhm: float, reach: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x, y, size and two ellipticities about each position, shape (5, n), and their errors.

    Moments under a fixed Gaussian weight, of 1.2 times the width of the point-spread function, at
    fixed positions: linear in the image up to their normalisation, so that errors are plain sums.
    """
    offsets = np.arange(-reach, reach + 1)
    row, column = (np.rint(sources[axis]).astype(int) for axis in ("y", "x"))
    at = (row[:, None, None] + offsets[:, None], column[:, None, None] + offsets)
    dy = offsets[:, None] - (sources["y"] - row)[:, None, None]
    dx = offsets - (sources["x"] - column)[:, None, None]
    spread = 1.2 * fwhm / 2.3548
    weight = np.exp(-(dx**2 + dy**2) / (2 * spread**2))
    light, variance = weight * image[at], (weight * noise[at]) ** 2
    total = light.sum((1, 2))
    size = (light * (dx**2 + dy**2)).sum((1, 2)) / total
    shape = size[:, None, None]
    arms = [dx, dy, dx**2 + dy**2, (dx**2 - dy**2) / shape, 2 * dx * dy / shape]
    values = np.array([(light * arm).sum((1, 2)) / total for arm in arms])
    errors = [
        np.sqrt((variance * (arm - value[:, None, None]) ** 2).sum((1, 2))) / np.abs(total)
        for arm, value in zip(arms, values, strict=True)
    ]
    return values, np.array(errors)


@dataclass(frozen=True)
class Cost:
    """What a call took: processor time of all threads, and memory above what was there before."""

    seconds: float
    peak_mb: float | None


def timed(call: Callable[[], T], times: int = 1) -> tuple[T, Cost]:
    """Result of a call, and its cost: the least time of so many calls, as others share a core."""
    before = _reset_peak()
    seconds = []
    for _ in range(times):
        start = time.process_time()
        result = call()
        seconds.append(max(time.process_time() - start, 1e-6))
    peak = None if before is None else max(_status("VmHWM") - before, 0) / 1024
    return result, Cost(min(seconds), peak)


def _reset_peak() -> int | None:
    """Forget the process's peak of memory where the system lets one; what it holds now [kB]."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
