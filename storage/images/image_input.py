"""What one image brings to the archive: stored pixels, planes, and facts from its header.

Knows what makes a pixel bad, in which unit a weight is, and which image cannot be archived. Where
images come from is in `storage.survey`, how FITS is read in `storage.images.fits_input`, and what
headers say in `storage.images.header_facts`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import EmptyInputError, InputError
from skyfold.quantum import Quantum
from storage.images.fills import ROWS, slices
from storage.images.fits_input import (
    FitsInput,
    PhysicalPlane,
    blank_value,
    image_axes,
    plane_hdu,
    reading,
    select_hdus,
)
from storage.images.header_facts import gain_of, scale_of, time_of
from storage.images.mapped import part_of
from storage.images.quantised import quantisation, read_quantum

Bad = NDArray[np.bool_]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class PlaneRef:
    """Where a mask, weight or variance plane lies; `hdu` None means the one that fits the image."""

    file: str
    url: str
    hdu: int | str | None = None
    bits: tuple[int, ...] | None = None
    relative: bool = False


@dataclass(frozen=True)
class ImageRef:
    """One image of the survey, not yet read.

    Attributes
    ----------
    id : str
        Unique in the survey: ``set/stem``, or ``set/stem/hdu`` where a file gives several images.
    file, url : str
        The file as the glob found it, and its absolute path or URL.
    hdu : int
        Number of the HDU.
    gain, time : float or str, optional
        As configured; None means the header's usual keywords.
    """

    id: str
    set: str
    band: str
    file: str
    url: str
    hdu: int
    mask: PlaneRef | None = None
    weight: PlaneRef | None = None
    variance: PlaneRef | None = None
    gain: float | str | None = None
    time: str | None = None


@dataclass
class SurveyImage:
    """One image as it is stored, with what is known about its pixels.

    Attributes
    ----------
    stored : ndarray, shape (ny, nx)
        In native byte order, or a view of a mapped file: `storage.images.mapped.part_of` reads
        either. Stored numbers: ``physical = stored * bscale + bzero``. A line is (1, n), a cube
        (prod(leading axes), nx); `shape` is the original shape.
    header : astropy.io.fits.Header
        Header of the image's HDU, as an image header where the file is tile-compressed.
    blank : int or None
        Stored integer that means "no data".
    mask : ndarray of bool, shape (ny, nx), or None
        True where bad by the mask, weight or variance plane; None without such a plane.
    variance : ndarray of float64, shape (ny, nx), or None
        [physical units squared]; NaN where the plane gives none, and masked there.
    relative_variance : ndarray of float64, shape (ny, nx), or None
        By a relative weight, in a unit of its own; NaN where that gives none.
    gain : float or None
        [electrons per physical unit]
    time : str or None
        Start of the exposure (DATE-OBS with a time of day, or else MJD-OBS), ISO 8601.
    quant_step : float or None
        [stored units] step of floats that had been quantised before; `quant_method` says how:
        ZQUANTIZ of a tile-compressed file (NO_DITHER, SUBTRACTIVE_DITHER_1 or _2), or LATTICE.
    digest : str
        SHA-256 of the file's bytes, in hex.
    quantum : (Quantum, ndarray) or None
        How floats of a tile-compressed file were quantised, and scale and zero of its tiles, shape
        (2, tiles), scale 0 where that does not give the stored bits.
    """

    ref: ImageRef
    stored: NDArray[Any]
    shape: tuple[int, ...]
    header: Any
    bscale: float
    bzero: float
    blank: int | None
    mask: NDArray[np.bool_] | None
    variance: NDArray[np.float64] | None
    gain: float | None
    time: str | None
    quant_step: float | None
    quant_method: str | None
    digest: str
    quantum: tuple[Quantum, NDArray[np.float64]] | None = None
    relative_variance: NDArray[np.float64] | None = None


def read_image(ref: ImageRef, *, storage_options: Mapping[str, Any]) -> SurveyImage:
    """Image with its header, planes and facts; each file is read once.

    Parameters
    ----------
    ref : ImageRef
        From `find_images`.
    storage_options : mapping
        Options of the file system behind URLs.

    Raises
    ------
    InputError
        If the file or a plane is missing, damaged or of the wrong kind or shape, or if the image
        has no valid or only one value. The message names file, HDU and reason.
    StoreUnavailableError
        If an object store refuses or breaks off.
    """
    with reading(f"{ref.file}[{ref.hdu}]"):
        return _read_image(ref, storage_options)


def _read_image(ref: ImageRef, storage_options: Mapping[str, Any]) -> SurveyImage:
    files = {ref.url: FitsInput.read(ref.url, storage_options)}
    source = files[ref.url]
    number = select_hdus(source.hdus, ref.hdu, ref.file)[0]
    array, header = source.stored(number)
    blank = blank_value(array, header)
    stored = _as_rows(array)
    _refuse_empty(ref, stored, blank)
    for plane in (ref.mask, ref.weight, ref.variance):
        if plane is not None and plane.url not in files:
            files[plane.url] = FitsInput.read(plane.url, storage_options)
    mask, variance = _planes(ref, files, stored.shape)
    is_relative = ref.weight is not None and ref.weight.relative
    step = quantisation(source.hdus[number], stored)
    bscale, bzero = scale_of(ref, header)
    headers = (header, source.hdus[0].header)
    return SurveyImage(
        ref=ref,
        stored=stored,
        shape=array.shape,
        header=header,
        bscale=bscale,
        bzero=bzero,
        blank=blank,
        mask=mask,
        variance=None if is_relative else variance,
        gain=gain_of(ref, *headers),
        time=time_of(ref, *headers),
        quant_step=step.step if step else None,
        quant_method=step.method if step else None,
        digest=source.digest,
        quantum=read_quantum(source.hdus[number], stored),
        relative_variance=variance if is_relative else None,
    )


def _as_rows(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(-1, array.shape[-1])


def _refuse_empty(ref: ImageRef, stored: NDArray[Any], blank: int | None) -> None:
    is_float, first = stored.dtype.kind == "f", part_of(stored, slice(1))[0, 0]
    valid = differs = False
    for rows in slices(len(stored), ROWS):
        part = part_of(stored, rows)
        valid |= bool(
            np.isfinite(part).any() if is_float else blank is None or (part != blank).any()
        )
        differs |= bool((part != first).any())
        if valid and differs:
            return
    if not valid:
        raise EmptyInputError(
            f"{ref.file}[{ref.hdu}]: all {stored.size} pixels are {'NaN' if is_float else 'BLANK'};"
            " at least one value is needed: take the image out"
        )
    raise EmptyInputError(
        f"{ref.file}[{ref.hdu}]: constant: all {stored.size} stored values are {first}; an "
        "image needs at least two values: take it out"
    )


def _planes(
    ref: ImageRef, files: dict[str, FitsInput], shape: tuple[int, ...]
) -> tuple[Bad | None, Values | None]:
    """Mask (True is bad) and variance [physical units squared] from the planes that there are.

    By a relative weight, in a unit of its own.
    """
    if not (ref.mask or ref.weight or ref.variance):
        return None, None
    bad, variance = np.zeros(shape, bool), None
    if ref.mask is not None:
        plane = _physical(ref, ref.mask, files, shape)
        for rows in slices(shape[0], ROWS):
            bad[rows] |= _is_masked(plane.rows(rows), ref.mask.bits)
    for one in (ref.weight, ref.variance):
        if one is not None:
            variance = _variance(ref, one, _physical(ref, one, files, shape), bad)
    return bad, variance


def _is_masked(values: Values, bits: tuple[int, ...] | None) -> Bad:
    if bits is None:
        return ~(values == 0)
    chosen = sum(1 << bit for bit in set(bits))
    return (np.where(np.isfinite(values), values, chosen).astype(np.int64) & chosen) != 0


def _variance(ref: ImageRef, one: PlaneRef, plane: PhysicalPlane, bad: Bad) -> Values:
    """Variance by a plane; what it cannot tell is bad from here on."""
    variance = np.empty(bad.shape)
    usable = 0
    for rows in slices(len(bad), ROWS):
        values = plane.rows(rows)
        if one is ref.weight:
            with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                values = 1.0 / values
        unusable = ~(np.isfinite(values) & (values > 0))
        usable += int(np.count_nonzero(~unusable))
        bad[rows] |= unusable
        variance[rows] = np.where(unusable, np.nan, values)
    if not usable:
        raise InputError(
            f"{one.file}: no pixel of the weight or variance plane for {ref.file}[{ref.hdu}] "
            "is above 0 and finite; correct the plane or take it out of the configuration"
        )
    return variance


def _physical(
    ref: ImageRef, one: PlaneRef, files: dict[str, FitsInput], shape: tuple[int, ...]
) -> PhysicalPlane:
    source = files[one.url]
    spec = one.hdu
    if spec is None and ref.hdu < len(source.hdus) and image_axes(source.hdus[ref.hdu]):
        spec = ref.hdu
    version = files[ref.url].hdus[ref.hdu].ver
    plane = source.physical(plane_hdu(source.hdus, spec, one.file, version))
    if plane.stored.shape != shape:
        raise InputError(
            f"{one.file}: the plane has shape {plane.stored.shape} but image {ref.file}[{ref.hdu}] "
            f"has {shape}; they must be equal: correct the plane's file or hdu"
        )
    return plane
