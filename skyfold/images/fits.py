"""How an image becomes FITS again: its file's header, and pixels on the scale that this gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from skyfold.images.cutouts import bound_at
from skyfold.images.index import ImageEntry

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
    header = image_header(entry)
    had = {card for card in ("BSCALE", "BZERO") if card in header}
    values = values.reshape(entry.shape)
    header["HIERARCH SKYFOLD LEVEL"] = (level, "fidelity level of these pixels")
    bound = bound_at(entry, level)
    told = bound if np.isfinite(bound) else "none"
    header["HIERARCH SKYFOLD BOUND"] = (told, "largest error [noise units]")
    if level in ("latent", "sources") and entry.mode != "direct":
        for card in ("BSCALE", "BZERO", "BLANK"):
            header.remove(card, ignore_missing=True)
        return fits.PrimaryHDU(values * entry.bscale + entry.bzero, header)
    hdu = fits.PrimaryHDU(values, header, do_not_scale_image_data=True)
    for card, value, plain in (("BSCALE", entry.bscale, 1.0), ("BZERO", entry.bzero, 0.0)):
        if value != plain or card in had:  # astropy takes them out of an integer's header
            hdu.header[card] = value
    if entry.blank is not None:
        hdu.header["BLANK"] = entry.blank
    return hdu
