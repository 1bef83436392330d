"""Measuring a release again, and holding what comes out against its fidelity record.

This module knows what a consumer can repeat: every science case that is installed here, on the
same images, rows and sky as the producer, with raw pixels from `exact` or from the survey's own
files. What needs the producer's encoder (injected sources, sheared galaxies) cannot be
repeated from a release.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.table import Table

from skyfold.errors import CorruptDataError, InvalidRequestError
from skyfold.fidelity.catalogs import catalog_rows
from skyfold.fidelity.densities import density_rows
from skyfold.fidelity.images import images_to_measure, measure_image, record_of
from skyfold.fidelity.record import FidelityRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

__all__ = ["compare_records", "measure_release", "require_same_raw"]

LABELS = ("kind", "set", "band", "level", "case", "measure", "bin")
SAME, INSIDE, OUTSIDE = "same", "inside", "outside"
ALONE, NEW = "not measured here", "not recorded"
_ROUNDING = 1e-6  # of a number: other processors and library versions round otherwise
_CHUNK = 1 << 20


def measure_release(
    release: DataRelease, progress: Callable[[int, int], None] | None = None
) -> FidelityRecord:
    """Measure every science case of a release again.

    Parameters
    ----------
    release : DataRelease
    progress : callable, optional
        Called with parts done and in all.

    Returns
    -------
    FidelityRecord
        As the release's own, without what takes the producer's encoder.

    Raises
    ------
    MissingDependencyError
        If a library that a case needs is not installed.
    CorruptDataError
        If a decoded tile is not what was written.
    """
    images, catalogs, densities = (
        images_to_measure(release),
        list(release.catalogs),
        list(release.densities),
    )
    total, done = len(images) + len(catalogs) + len(densities), 0
    report = progress or (lambda done, total: None)
    measured, tables = [], []
    for image_id in images:
        measured.append((image_id, measure_image(release, image_id)))
        report(done := done + 1, total)
    for name in catalogs:
        tables += catalog_rows(release.catalogs[name])
        report(done := done + 1, total)
    for name in densities:
        tables += density_rows(release.densities[name])
        report(done := done + 1, total)
    return record_of(release, measured, tables)


def compare_records(recorded: FidelityRecord, measured: FidelityRecord) -> Table:
    """Hold a record that was measured again against the one that was stored.

    Returns
    -------
    Table
        A row for each of either record: what it is about, ``n`` recorded, ``recorded`` and
        ``measured`` (the row's statistic; NaN where there is none), their ``difference``, ``low``
        and ``high`` as recorded, and ``verdict``: ``same`` (within a millionth), ``inside`` the
        recorded interval, ``outside`` of it, ``not measured here``, or ``not recorded``.
    """
    old, new = (
        {tuple(row[name] for name in LABELS): row for row in record.rows()}
        for record in (recorded, measured)
    )
    rows = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        about = before or after or {}
        row = dict(zip(LABELS, key, strict=True)) | {"n": about["n"], "unit": about["unit"]}
        numbers = _value(before), _value(after)
        row |= {"recorded": numbers[0], "measured": numbers[1]}
        row |= {"difference": numbers[1] - numbers[0]}
        row |= {name: math.nan if not before else _real(before[name]) for name in ("low", "high")}
        rows.append(row | {"verdict": _verdict(before, after)})
    return Table(rows=rows or None, names=None if rows else [*LABELS, "n", "verdict"])


def require_same_raw(release: DataRelease, files: Sequence[Path]) -> list[str]:
    """Compare survey files with `exact`, bit for bit.

    Parameters
    ----------
    release : DataRelease
    files : sequence of Path
        FITS files of the survey; each image of the release that came from one is compared.

    Returns
    -------
    list of str
        Ids of the images that were compared.

    Raises
    ------
    InvalidRequestError
        If no image of the release came from a file, by its SHA-256.
    CorruptDataError
        If `exact` is not what the file holds.
    """
    compared = []
    for path in files:
        digest = _digest(path)
        entries = [one for one in release.images.entries.values() if one.digest == digest]
        if not entries:
            names = ", ".join(sorted({one.file for one in release.images.entries.values()})[:5])
            raise InvalidRequestError(
                f"{path} with SHA-256 {digest[:12]}... is no file that this release was made of; "
                f"its images came from {names} and others: give one of them, unchanged"
            )
        for entry in entries:
            _require_same(release, entry, path)
            compared.append(entry.id)
    return compared


def _require_same(release: DataRelease, entry: ImageEntry, path: Path) -> None:
    with fits.open(path, do_not_scale_image_data=True, memmap=False) as hdus:
        raw = np.asarray(hdus[entry.hdu].data)
    native = raw.astype(raw.dtype.newbyteorder("="), copy=False).reshape(entry.plane)
    exact = release.images.read(entry.id, "exact").values
    if native.dtype != exact.dtype or native.tobytes() != exact.tobytes():
        raise CorruptDataError(
            f"image {entry.id}: `exact` is not what {path} holds in HDU {entry.hdu}; the release "
            "is damaged: run `skyfold verify` and fetch it again"
        )


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            found.update(block)
    return found.hexdigest()


def _value(row: dict[str, Any] | None) -> float:
    """The number that a row's interval is about; NaN without one."""
    if row is None:
        return math.nan
    return _real(row["bias" if row["statistic"] == "mean" else "p90"])


def _real(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _verdict(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    if before is None:
        return NEW
    if after is None:
        return ALONE
    old, new = _value(before), _value(after)
    if math.isnan(old) or math.isnan(new):
        return SAME if math.isnan(old) and math.isnan(new) else OUTSIDE
    if before["n"] == after["n"] and math.isclose(old, new, rel_tol=_ROUNDING, abs_tol=1e-12):
        return SAME
    return INSIDE if before["low"] <= new <= before["high"] else OUTSIDE
