"""How an image becomes FITS again: its file's header, and pixels on the scale that this gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skyfold.images.cutouts import bound_at
from skyfold.images.index import ImageEntry
from skyfold.ladder import TILE

_PIXELS = 2**22  # decoded and written together
_OF_THE_FILE = ("XTENSION", "PCOUNT", "GCOUNT", "TFIELDS", "CHECKSUM", "DATASUM")


def image_header(entry: ImageEntry) -> fits.Header:
    """Header of an image's file, without the cards that say how the file held it.

    Parameters
    ----------
    entry : ImageEntry
        Complete, as `ImageLibrary.complete` gives it.
    """
    header = fits.Header.fromstring(entry.header, sep="\n")
    for card in _OF_THE_FILE:
        header.remove(card, ignore_missing=True)
    return header


def image_hdu(entry: ImageEntry, values: NDArray[Any], level: str) -> fits.PrimaryHDU:
    """A whole image as FITS; `ImageLibrary.hdu` says on which scale.

    Parameters
    ----------
    entry : ImageEntry
        Complete, as `ImageLibrary.complete` gives it.
    values : ndarray, shape (ny, nx)
        Decoded pixels in stored units.
    level : str
        At which they were decoded.
    """
    return _hdu(entry, _on_scale(entry, values, level).reshape(entry.shape), level)


def write_image(
    entry: ImageEntry, level: str, path: Path, read: Callable[[slice], NDArray[Any]]
) -> None:
    """Write a whole image as FITS, some rows of tiles after the other.

    Parameters
    ----------
    entry : ImageEntry
        Complete, as `ImageLibrary.complete` gives it.
    path : Path
        No file must be there.
    read : callable
        Decodes some rows of the image, as a plane in stored units.
    """
    ny, nx = entry.plane
    height = max(_PIXELS // nx // TILE, 1) * TILE
    rows = [slice(top, min(top + height, ny)) for top in range(0, ny, height)]
    first = _on_scale(entry, read(rows[0]), level)
    hdu = _hdu(entry, np.broadcast_to(np.zeros((), first.dtype), entry.shape), level)
    hdu.verify("silentfix")
    with fits.StreamingHDU(path, hdu.header) as out:
        out.write(first)
        for some in rows[1:]:
            out.write(_on_scale(entry, read(some), level))


def _is_physical(entry: ImageEntry, level: str) -> bool:
    return level in ("latent", "sources") and entry.mode != "direct"


def _on_scale(entry: ImageEntry, values: NDArray[Any], level: str) -> NDArray[Any]:
    """Decoded pixels as the file holds them: physical values, or stored ones."""
    return values * entry.bscale + entry.bzero if _is_physical(entry, level) else values


def _hdu(entry: ImageEntry, values: NDArray[Any], level: str) -> fits.PrimaryHDU:
    """Pixels of the file, of the shape that it had, with its header."""
    header = image_header(entry)
    had = {card for card in ("BSCALE", "BZERO") if card in header}
    header["HIERARCH SKYFOLD LEVEL"] = (level, "fidelity level of these pixels")
    bound = bound_at(entry, level)
    told = bound if np.isfinite(bound) else "none"
    header["HIERARCH SKYFOLD BOUND"] = (told, "largest error [noise units]")
    if _is_physical(entry, level):
        for card in ("BSCALE", "BZERO", "BLANK"):
            header.remove(card, ignore_missing=True)
        return fits.PrimaryHDU(values, header)
    hdu = fits.PrimaryHDU(values, header, do_not_scale_image_data=True)
    for card, value, plain in (("BSCALE", entry.bscale, 1.0), ("BZERO", entry.bzero, 0.0)):
        if value != plain or card in had:  # astropy takes them out of an integer's header
            hdu.header[card] = value
    if entry.blank is not None:
        hdu.header["BLANK"] = entry.blank
    return hdu
