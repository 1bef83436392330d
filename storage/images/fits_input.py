"""How one FITS file becomes stored arrays: fetching, decompressing, checking, choosing HDUs.

Knows what astropy forgives and an archive must not: data shorter than the header says, headers that
break off half way, unknown BITPIX. Arrays are the stored numbers: BSCALE and BZERO are not applied.
"""

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.image import BITPIX2DTYPE
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from skyfold.errors import InputError, SkyfoldError
from storage.config import is_url
from storage.images.fetching import (
    Options,
    decompress,
    digest_of,
    fetch,
    opener_of,
    reason_of,
    store_failures,
)
from storage.images.mapped import Content, as_file, part_of

HduSpec = int | str | tuple[int | str, ...] | None

_BLOCK_BYTES = 2880  # FITS standard 4.0, section 3.1
_BITPIX = (8, 16, 32, 64, -32, -64)
_SCAN_BLOCK_BYTES = 2**18  # a header takes a few kB: astropy's seeks should not fetch megabytes


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever astropy raises on a damaged file into `InputError`, and keep it from warning.

    Parameters
    ----------
    name : str
        The file or image, as the message names it.
    """
    with warnings.catch_warnings():
        # What matters among the warnings (truncation, broken headers) is checked and raised here.
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            yield
        except SkyfoldError:
            raise
        except Exception as error:  # a dozen unrelated types, after what the damage is
            raise InputError(
                f"{name}: not a readable FITS file ({reason_of(error)}); allowed are FITS files, "
                "plain, gzip, bzip2 or tile-compressed: fetch the file again or take it out of the "
                "configuration"
            ) from error


def glob_url(pattern: str, options: Options) -> list[str]:
    """Sorted URLs of the objects that match a pattern such as ``s3://bucket/night/*.fits``."""
    import fsspec

    with store_failures(pattern):
        system, path = fsspec.core.url_to_fs(pattern, **options)
        system.invalidate_cache()
        found = system.glob(path, detail=True)
        return sorted(
            system.unstrip_protocol(name)
            for name, info in found.items()
            if info["type"] != "directory"
        )


@contextmanager
def open_headers(url: str, options: Options) -> Iterator[Any]:
    """HDUs of a file, as astropy's lazy list in which compressed images are still tables.

    Only what is asked of the list is read, so looking at the first headers is cheap.

    Raises
    ------
    InputError
        If the file is missing or is not FITS.
    StoreUnavailableError
        If the store refuses or breaks off.
    """
    with ExitStack() as stack, reading(url):
        file = _open_stream(url, options, stack)
        with fits.open(file, memmap=False, disable_image_compression=True) as hdus:
            yield hdus


def _open_stream(url: str, options: Options, stack: ExitStack) -> Any:
    """Readable stream of the decompressed file; `stack` closes what it is made of."""
    import fsspec

    with store_failures(url):
        if is_url(url):
            system, path = fsspec.core.url_to_fs(url, **options)
            file = stack.enter_context(system.open(path, "rb", block_size=_SCAN_BLOCK_BYTES))
        else:
            file = stack.enter_context(open(url, "rb"))  # noqa: SIM115 - the stack closes it
        magic = file.read(3)
        file.seek(0)
    opener = opener_of(magic)
    return stack.enter_context(opener(file)) if opener else file


def image_axes(hdu: Any) -> tuple[int, ...]:
    """Shape of an HDU's image, slowest axis first; () if it is a table or holds no pixels."""
    header = hdu.header
    prefix = "Z" if header.get("ZIMAGE") is True else ""
    if not (prefix or isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU)):
        return ()
    axes = [header.get(f"{prefix}NAXIS{n}") for n in range(header.get(f"{prefix}NAXIS", 0), 0, -1)]
    if not all(isinstance(size, int) and size > 0 for size in axes):
        return ()
    return tuple(axes)


def select_hdus(hdus: Any, spec: HduSpec, name: str) -> list[int]:
    """Numbers of the HDUs that a configuration's `hdu` means, in the order given.

    Parameters
    ----------
    hdus : astropy.io.fits.HDUList
        As from `open_headers`; read no further than needed.
    spec : int, str, tuple of these, "all" or None
        A name without a version means every image of that name; None the first image of two or
        more axes, or else the first of one.
    name : str
        The file, for messages.

    Raises
    ------
    InputError
        If there is no such HDU, or it is not an image with pixels.
    """
    if spec is None:
        return [_first_image(hdus, name)]
    if spec == "all":
        images = [number for number, hdu in enumerate(hdus) if image_axes(hdu)]
        return images or [_first_image(hdus, name)]
    found: list[int] = []
    for item in spec if isinstance(spec, tuple) else [spec]:
        numbers = _find_images(hdus, item, name)
        found += numbers if len(numbers) == 1 else [one for one in numbers if one not in found]
    return found


def plane_hdu(hdus: Any, spec: HduSpec, name: str, version: int) -> int:
    """Number of the HDU of an image's plane: of several of one name that of the image's version.

    Parameters
    ----------
    hdus, spec, name
        As of `select_hdus`, of the plane's file.
    version : int
        EXTVER of the image.

    Raises
    ------
    InputError
        If there is no such HDU, or there are several and none or more have the image's version.
    """
    found = select_hdus(hdus, spec, name)
    fitting = [number for number in found if hdus[number].ver == version]
    if len(found) > 1 and len(fitting) != 1:
        versions = ", ".join(str(hdus[number].ver) for number in found)
        raise InputError(
            f"{name}: {len(found)} HDUs are called {spec!r}, of versions (EXTVER) {versions}, and "
            f"{len(fitting)} of them have the image's, {version}; give the plane's hdu by number, "
            "or each image an [[images]] table of its own"
        )
    return found[0] if len(found) == 1 else fitting[0]


def _first_image(hdus: Iterable[Any], name: str) -> int:
    lines: list[int] = []
    for number, hdu in enumerate(hdus):
        axes = image_axes(hdu)
        if len(axes) >= 2:
            return number
        lines += [number] if axes else []
    if not lines:
        raise InputError(f"{name}: holds no image, only tables or empty HDUs; take the file out")
    return lines[0]


def _find_images(hdus: Any, item: int | str, name: str) -> list[int]:
    """Numbers of the HDUs that a number, a name, or a name and version mean."""
    label, _, version = str(item).rpartition(",") if "," in str(item) else (str(item), "", "")
    if isinstance(item, str) and not version.strip().isdigit():
        called = item.strip().upper()
        numbers = [number for number, hdu in enumerate(hdus) if hdu.name.upper() == called]
        images = [number for number in numbers if image_axes(hdus[number])]
        if images:
            return images
    try:
        key = (label.strip(), int(version)) if version.strip().isdigit() else str(item).strip()
        number = item if isinstance(item, int) else int(hdus.index_of(key))
        hdu = hdus[number]
    except LookupError:
        raise InputError(
            f"{name}: has no HDU {item!r}, only {[(n, h.name) for n, h in enumerate(hdus)][:20]}; "
            "correct hdu in the configuration"
        ) from None
    if not image_axes(hdu):
        kind = "holds no pixels" if hdu.is_image else "is a table, not an image"
        raise InputError(f"{name}: HDU {item!r} {kind}; correct hdu in the configuration")
    return [number]


def keyword(name: str, *headers: Any) -> Any:
    """Value of a header keyword in the first header that has a readable one, or None."""
    for header in headers:
        try:
            value = header.get(name)
        except fits.VerifyError:
            continue
        value = value.strip() if isinstance(value, str) else value
        if value not in (None, "") and not isinstance(value, fits.card.Undefined):
            return value
    return None


@dataclass(frozen=True)
class FitsInput:
    """A whole FITS file, in memory or mapped, found to be complete.

    Attributes
    ----------
    name : str
        The file, for messages.
    digest : str
        SHA-256 of the file's bytes as they lie on the store, in hex.
    hdus : list of astropy HDUs
        In the file's order; compressed images are still tables.
    """

    name: str
    digest: str
    hdus: Any
    _plain: Content

    @classmethod
    def read(cls, url: str, options: Options) -> "FitsInput":
        """File read from a local path or URL, once.

        Raises
        ------
        InputError
            If the file is missing, empty, not FITS, truncated or has a broken header.
        StoreUnavailableError
            If the store refuses or breaks off.
        """
        raw = fetch(url, options)
        with reading(url):
            plain = decompress(raw)
            hdus = _complete_hdus(plain, url)
        return cls(url, digest_of(raw), hdus, plain)

    def stored(self, number: int) -> tuple[NDArray[Any], Any]:
        """Stored array of an image HDU, any shape, and its image header.

        In native byte order, or a view of the mapped file.
        """
        with reading(f"{self.name}[{number}]"):
            hdu = self.hdus[number]
            is_packed = hdu.header.get("ZIMAGE") is True
            if is_packed:
                hdu = _open_hdus(self._plain)[number]
            header = hdu.header.copy()
            header.tostring()  # parses every card here, where its warnings are expected
            if is_packed or isinstance(self._plain, bytes):
                return _native(hdu.data), header
            dtype = np.dtype(BITPIX2DTYPE[header["BITPIX"]]).newbyteorder(">")
            shape, start = image_axes(hdu), hdu.fileinfo()["datLoc"]
            flat = np.frombuffer(self._plain, dtype, math.prod(shape), start)
            return flat.reshape(shape), header

    def physical(self, number: int) -> "PhysicalPlane":
        """Image of an HDU in physical units, which is read row by row."""
        stored, header = self.stored(number)
        scale, zero = float(header.get("BSCALE", 1.0)), float(header.get("BZERO", 0.0))
        plane = stored.reshape(-1, stored.shape[-1])
        return PhysicalPlane(plane, scale, zero, blank_value(stored, header))


@dataclass(frozen=True, eq=False)
class PhysicalPlane:
    """Stored pixels, shape (ny, nx), and the scale that they are on."""

    stored: NDArray[Any]
    scale: float
    zero: float
    blank: int | None

    def rows(self, rows: slice) -> NDArray[np.float64]:
        """Some rows in physical units, with NaN where they are BLANK."""
        stored = part_of(self.stored, rows)
        values: NDArray[np.float64] = np.asarray(stored * self.scale + self.zero, np.float64)
        if self.blank is not None:
            values[stored == self.blank] = np.nan
        return values


def _open_hdus(plain: Content, **how: bool) -> Any:
    return fits.open(as_file(plain), memmap=False, do_not_scale_image_data=True, **how)


def _complete_hdus(plain: Content, name: str) -> Any:
    """Every HDU of the file, once each is known to be whole and of a known type."""
    hdus = _open_hdus(plain, disable_image_compression=True)
    end = 0
    for number, hdu in enumerate(hdus):
        bitpix = hdu.header.get("BITPIX")
        if bitpix not in _BITPIX:
            raise InputError(
                f"{name}: HDU {number} has BITPIX {bitpix!r}; allowed are {_BITPIX}; "
                "replace the file"
            )
        end = hdu.fileinfo()["datLoc"] + hdu.size
        if end > len(plain):
            raise InputError(
                f"{name}: truncated: HDU {number} ends at byte {end} but the file has "
                f"{len(plain)}; fetch the file again"
            )
    following = -(-end // _BLOCK_BYTES) * _BLOCK_BYTES
    if plain[following : following + 8] == b"XTENSION":
        raise InputError(
            f"{name}: the header of HDU {len(hdus)} is broken or cut off after {len(plain)} bytes; "
            "fetch the file again"
        )
    return hdus


def _native(array: NDArray[Any]) -> NDArray[Any]:
    # Swapping bytes, not values, keeps the payload of every NaN.
    if array.dtype.isnative:
        return np.ascontiguousarray(array)
    return array.byteswap().view(array.dtype.newbyteorder("="))


def blank_value(array: NDArray[Any], header: Any) -> int | None:
    """Stored value that means "no data" in an integer image, or None."""
    value = header.get("BLANK", header.get("ZBLANK"))
    integers = array.dtype.kind in "iu" and type(value) in (int, float)
    return int(value) if integers and value == int(value) else None
