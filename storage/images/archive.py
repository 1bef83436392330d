"""What happens to one image of a survey: looked at, sampled for training, encoded and written."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.wcs.utils import proj_plane_pixel_scales

from skyfold import sky
from skyfold.errors import EmptyInputError, InputError, TooManyBadInputsError
from skyfold.fidelity.holdout import FRACTION, HoldOut, in_pixels, order_for
from skyfold.ladder import TILE
from storage.builder import ReleaseBuilder
from storage.images.encoder import encode_image
from storage.images.entries import describe_image
from storage.images.fills import slices
from storage.images.prepared import Prepared, prepare
from storage.images.writer import find_written, write_image
from storage.survey import ImageRef, SetAside, read_image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.images.network import Network

WINDOWS = 8  # of a large image, of which training sees the best


def inspect_image(
    ref: ImageRef, *, options: Mapping[str, Any], step: float, smallest: str = "reads"
) -> ImageEntry | SetAside:
    """Entry of an image that can be archived, or the reason why it cannot."""
    try:
        image = read_image(ref, storage_options=options)
    except InputError as error:
        is_empty = isinstance(error, EmptyInputError)
        return SetAside(file=ref.file, reason=str(error), set=ref.set, is_empty=is_empty)
    return describe_image(image, model="", step=step, smallest=smallest)


def require_few_bad(bad: list[SetAside], total: int, allowed: float) -> None:
    """Raise if more than the allowed share of a survey's images are damaged; empty ones are not.

    Raises
    ------
    TooManyBadInputsError
    """
    bad = [one for one in bad if not one.is_empty]
    if total and len(bad) > allowed * total:
        some = "; ".join(one.reason for one in bad[:3])
        raise TooManyBadInputsError(
            f"{len(bad)} of {total} images cannot be archived, and [limits] bad_fraction allows "
            f"{allowed:.0%}: {some}"
        )


def plan_hold_out(
    entries: list[ImageEntry], seed: int, base: Mapping[str, Any] | None = None
) -> dict[str, HoldOut]:
    """For each set, which sky training must not see.

    With a base, which sky the training of its model did not see: its rules, where it has the set.
    """
    by_set: dict[str, list[tuple[str, tuple[int, int], Any]]] = defaultdict(list)
    for entry in entries:
        wcs = sky.read_wcs(entry.fits_header())
        by_set[entry.set].append((entry.set, entry.plane, wcs))
    if base is None:
        return {name: _rule(images, seed).with_its_share(images) for name, images in by_set.items()}
    rules = {
        name: HoldOut(**base[name]) if name in base else _rule(images, seed)
        for name, images in by_set.items()
    }
    return {name: rule.with_both_sides(by_set[name]) for name, rule in rules.items()}


def _rule(images: list[tuple[str, tuple[int, int], Any]], seed: int) -> HoldOut:
    scales = [proj_plane_pixel_scales(wcs)[0] for _, _, wcs in images if wcs is not None]
    return HoldOut(seed, order_for(float(np.median(scales))) if scales else 0, FRACTION)


def training_image(
    ref: ImageRef,
    rule: HoldOut,
    *,
    options: Mapping[str, Any],
    pixels: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
    """One image as training sees it, or a window of a large one.

    Parameters
    ----------
    rule : HoldOut
        Which sky training must not see.
    pixels : int
        At most so many; the best of a few windows is taken of more.

    Returns
    -------
    image : ndarray, shape (ny, nx), float32
        Noise units; offsets of rows and columns are left in.
    bad : ndarray of bool, shape (ny, nx)
        No measurement, masked by the survey, or held out.
    None
        If all of the image is held out.

    Raises
    ------
    NotLadderableError
        If the image has no noise.
    """
    image = read_image(ref, storage_options=options)
    ny, nx = image.stored.shape
    prepared = prepare(image).with_stripes()
    held_out = rule.is_held_out(ref.set, (ny, nx), sky.read_wcs(image.header))
    bad = in_pixels(held_out, (ny, nx))
    for rows in slices(ny, TILE):
        bad[rows] |= prepared.fills.flags(rows) != 0
    rows, columns = _best_window(bad, pixels, rng)
    bad = bad[rows, columns].copy()
    return None if bad.all() else (_noise_units(prepared, rows, columns), bad)


def _noise_units(prepared: Prepared, rows: slice, columns: slice) -> NDArray[np.float32]:
    """A window of an image in noise units."""
    found = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.float32)
    for ty in range(rows.start // TILE, -(-rows.stop // TILE)):
        tiles = prepared.strip(ty, ty + 1).noise_units()
        plane = tiles.transpose(1, 0, 2).reshape(TILE, -1)[:, columns]
        first, last = max(rows.start, ty * TILE), min(rows.stop, (ty + 1) * TILE)
        found[first - rows.start : last - rows.start] = plane[first - ty * TILE : last - ty * TILE]
    return found


def _best_window(
    bad: NDArray[np.bool_], pixels: int, rng: np.random.Generator
) -> tuple[slice, slice]:
    """The best of a few windows of at most so many pixels, as square as the image allows."""
    ny, nx = bad.shape
    if bad.size <= pixels:
        return slice(0, ny), slice(0, nx)
    side = int(pixels**0.5)
    height = min(ny, max(side, pixels // nx))
    width = min(nx, pixels // height)
    tops = rng.integers(0, ny - height + 1, WINDOWS).tolist()
    lefts = rng.integers(0, nx - width + 1, WINDOWS).tolist()
    windows = [
        (slice(top, top + height), slice(left, left + width))
        for top, left in zip(tops, lefts, strict=True)
    ]
    return min(windows, key=lambda window: int(np.count_nonzero(bad[window])))


def archive_image(
    builder: ReleaseBuilder,
    network: Network,
    ref: ImageRef,
    entry: ImageEntry,
    *,
    options: Mapping[str, Any],
    smallest: str = "reads",
) -> tuple[ImageEntry, bool]:
    """Encode one image and write it, unless it is there already.

    Parameters
    ----------
    entry : ImageEntry
        As planned: with group and row.
    smallest : {"reads", "storage"}
        As `storage.images.shards.make_shards` takes it.

    Returns
    -------
    ImageEntry
        As written.
    bool
        Whether it was encoded now.

    Raises
    ------
    InputError
        If the file changed its shape or dtype since it was planned, or cannot be read any more.
    """
    image = read_image(ref, storage_options=options)
    if image.shape != entry.shape or image.stored.dtype.name != entry.dtype:
        raise InputError(
            f"{ref.file} HDU {ref.hdu} was {entry.dtype} {entry.shape} when planned, and is "
            f"{image.stored.dtype.name} {image.shape} now; run train again"
        )
    now = describe_image(image, model=network.digest, step=entry.step, smallest=smallest)
    planned = _placed(now, entry)
    written = find_written(builder, planned)
    if written is not None:
        return written, False
    encoded = encode_image(image, network, entry.step)
    return write_image(builder, planned, encoded, smallest=smallest), True


def _placed(now: ImageEntry, planned: ImageEntry) -> ImageEntry:
    from dataclasses import replace

    return replace(now, group=planned.group, row=planned.row)
