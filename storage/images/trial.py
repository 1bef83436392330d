"""An image encoded on trial: in memory, by the model and the steps of a release, then decoded.

What an archive does to pixels that are not in it: sources put in to be found again, galaxies of
known shear. Nothing is written; the byte codecs are left out, since they lose nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.images.window import Shared, decode_window
from skyfold.layout import layers_read
from storage.images.encoder import encode_image
from storage.images.image_input import read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.images.network import Network
    from storage.images.image_input import ImageRef, SurveyImage

__all__ = ["encode_on_trial", "trial_encoder"]


def trial_encoder(
    ref: ImageRef, entry: ImageEntry, network: Network, options: Mapping[str, Any]
) -> Callable[[NDArray[Any], slice, slice], Callable[[str], NDArray[Any]]]:
    """Return `encode_on_trial` of one image of a survey, which is read once, when first used.

    Parameters
    ----------
    ref : ImageRef
        Where the survey has the image.
    entry : ImageEntry
        As archived.
    network : Network
    options : mapping
        Of the file system.
    """
    image = cache(lambda: read_image(ref, storage_options=options))

    def encode(stored: NDArray[Any], rows: slice, columns: slice) -> Callable[[str], NDArray[Any]]:
        return encode_on_trial(image(), entry, network, stored, rows, columns)

    return encode


def encode_on_trial(
    image: SurveyImage,
    entry: ImageEntry,
    network: Network,
    stored: NDArray[Any],
    rows: slice,
    columns: slice,
) -> Callable[[str], NDArray[Any]]:
    """Encode other pixels in the place of a piece of an image.

    Parameters
    ----------
    image : SurveyImage
        Whose planes and gain hold for these pixels too.
    entry : ImageEntry
        Of this image.
    network : Network
    stored : ndarray, shape (ny, nx), dtype of the image
        Pixels to encode.
    rows, columns : slice
        The piece of the image that they stand for.

    Returns
    -------
    callable
        Gives the decoded pixels, shape (ny, nx), of a level.
    """

    def cut(plane: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if plane is None else np.ascontiguousarray(plane[rows, columns])

    piece = replace(
        image,
        stored=np.ascontiguousarray(stored),
        shape=stored.shape,
        mask=cut(image.mask),
        variance=cut(image.variance),
        relative_variance=cut(image.relative_variance),
    )
    archived = entry if entry.fwhm_pix else None  # of an image that was looked at only: None
    encoded = encode_image(piece, network, entry.step, archived)
    if encoded.mode != "ladder":
        return lambda level: stored
    small = encoded.described(replace(entry, shape=stored.shape))

    def read(names: tuple[str, ...], tiles_y: slice, tiles_x: slice) -> dict[str, NDArray[Any]]:
        return {name: encoded.layers[name] for name in names}

    whole = slice(0, stored.shape[0]), slice(0, stored.shape[1])
    shared = Shared(read, network)

    def decoded(level: str) -> NDArray[Any]:
        if "direct" in layers_read(level, entry.mode):
            return stored
        window = decode_window(small, level, *whole, read=shared.read, network=shared.network)
        return window.values

    return decoded
