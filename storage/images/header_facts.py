"""What the header of an image says of its pixels: their scale, their gain, when they were taken.

What the configuration says goes first. A keyword that it names has to be there; of the usual ones,
those that say nothing of these pixels are passed over.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.errors import InputError
from storage.images.fits_input import keyword

if TYPE_CHECKING:
    from storage.images.image_input import ImageRef

_MJD_ZERO = datetime(1858, 11, 17)
# GAIN is in electrons per ADU: it says nothing about pixels in other units.
_COUNT_UNITS = {"adu", "dn", "ct", "count", "counts"}


def scale_of(ref: ImageRef, header: Any) -> tuple[float, float]:
    """BSCALE and BZERO; InputError where they give no physical values."""
    scale = header.get("BSCALE", 1.0), header.get("BZERO", 0.0)
    numbers = all(isinstance(value, int | float) and np.isfinite(value) for value in scale)
    if not numbers or scale[0] == 0:
        raise InputError(
            f"{ref.file}[{ref.hdu}]: BSCALE {scale[0]!r} and BZERO {scale[1]!r} give no physical "
            "values; BSCALE must be a number other than 0: correct the header"
        )
    return float(scale[0]), float(scale[1])


def gain_of(ref: ImageRef, *headers: Any) -> float | None:
    """Gain [electrons per physical unit], None if unknown; InputError where a named one is none."""
    if isinstance(ref.gain, float):
        return ref.gain
    if ref.gain is None:
        unit = keyword("BUNIT", *headers)
        in_counts = unit is None or str(unit).lower() in _COUNT_UNITS
        value = keyword("GAIN", *headers)
        value = keyword("EGAIN", *headers) if value is None else value
        return _positive(value) if in_counts else None
    name = ref.gain.removeprefix("header:").strip()
    found = _positive(keyword(name, *headers))
    if found is None:
        raise InputError(
            f"{ref.file}[{ref.hdu}]: {name} is {keyword(name, *headers)!r}, which is no gain; it "
            "must be a number above 0: correct gain in the configuration"
        )
    return found


def time_of(ref: ImageRef, *headers: Any) -> str | None:
    """Start of the exposure, ISO 8601, None if unknown; InputError where a given one is none."""
    if ref.time is None:
        date = _iso_time(keyword("DATE-OBS", *headers), keyword("TIME-OBS", *headers))
        day_only = date is None or date.endswith("T00:00:00")
        return (_iso_time(keyword("MJD-OBS", *headers), None) if day_only else None) or date
    value: Any = ref.time
    if ref.time.startswith("header:"):
        value = keyword(ref.time.removeprefix("header:").strip(), *headers)
    found = _iso_time(value, None)
    if found is None:
        raise InputError(
            f"{ref.file}[{ref.hdu}]: time {ref.time!r} gives {value!r}; it must be an ISO 8601 "
            "time or a Modified Julian Date: correct time in the configuration"
        )
    return found


def _positive(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 < value < np.inf else None


def _iso_time(value: Any, clock: Any) -> str | None:
    """ISO 8601 of an ISO date, of DD/MM/YY (before 2000, FITS standard 4.0) or of an MJD."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (_MJD_ZERO + timedelta(days=float(value))).isoformat()
        text = re.sub(r"^(\d\d)/(\d\d)/(\d\d)$", r"19\3-\2-\1", str(value))
        if isinstance(clock, str) and len(text) == len("2000-01-01"):
            text = f"{text}T{clock}"
        when = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    return (when if when.tzinfo is None else when.astimezone(UTC).replace(tzinfo=None)).isoformat()
