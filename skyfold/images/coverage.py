"""Which images of a release hold positions of the sky: by circles first, then by their WCS."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold import sky
from skyfold.errors import UnknownNameError
from skyfold.images.cutouts import Box

if TYPE_CHECKING:
    from collections.abc import Iterator

    from astropy.coordinates import SkyCoord
    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry

Match = tuple[float, str, "ImageEntry", float, float]  # minus distance to the edge, id, image, x, y
_MARGIN = 1e-6  # rad, of what float64 cosines of small angles do not resolve
_POSITIONS = 1024  # compared with every image at once


class Coverage:
    """Images on the sky.

    Parameters
    ----------
    entries : list of ImageEntry
    url : str
        Of the release, for messages.
    """

    def __init__(self, entries: list[ImageEntry], url: str) -> None:
        self._entries = entries
        self._url = url

    def matches(
        self, positions: SkyCoord, band: str | None, image_set: str | None, size: Any = None
    ) -> list[list[Match]]:
        """For each position: minus the distance to the edge, id, image, x and y, best first.

        With a size, images that hold any of the box around the position; otherwise, those that
        hold the position.
        """
        chosen, positions = self._chosen(band, image_set), positions.icrs
        found: list[list[Match]] = [[] for _ in positions]
        for entry, numbers in self._near(positions, chosen, size):
            wcs = entry.celestial_wcs()
            if wcs is None:
                continue
            ny, nx = entry.plane
            here = positions if len(numbers) == len(positions) else positions[numbers]
            at_x, at_y = sky.pixel_positions(wcs, here)
            for number, x, y in zip(numbers.tolist(), at_x.tolist(), at_y.tolist(), strict=True):
                inside = min(x + 0.5, y + 0.5, nx - 0.5 - x, ny - 0.5 - y)
                if inside >= 0 or (size is not None and Box.around(entry, x, y, size).is_inside):
                    found[number].append((-inside, entry.id, entry, x, y))
        return [sorted(one, key=lambda match: match[:2]) for one in found]

    def _chosen(self, band: str | None, image_set: str | None) -> list[int]:
        """Numbers of the entries of a band and set."""
        chosen = [
            number
            for number, entry in enumerate(self._entries)
            if (band is None or entry.band == band)
            and (image_set is None or entry.set == image_set)
        ]
        if not chosen:
            bands = sorted({entry.band for entry in self._entries})
            sets = sorted({entry.set for entry in self._entries})
            if not bands:
                raise UnknownNameError(
                    f"no images in {self._url}; `skyfold info` lists what it has"
                )
            asked = {"band": band, "set": image_set}
            named = ", ".join(
                f"{kind} {name!r}" for kind, name in asked.items() if name is not None
            )
            raise UnknownNameError(
                f"no image of {named} in {self._url}; bands are {', '.join(filter(None, bands))}, "
                f"sets {', '.join(sets)}"
            )
        return chosen

    def _near(
        self, positions: SkyCoord, chosen: list[int], size: Any
    ) -> Iterator[tuple[ImageEntry, NDArray[np.intp]]]:
        """Images whose circle holds positions, and the numbers of these."""
        centres, radii = self._circles
        placed = np.array([number for number in chosen if np.isfinite(radii[number])], int)
        wide = radii[placed] + _MARGIN
        if size is not None:
            wide = wide + [_reach(self._entries[number], size) for number in placed]
        here = positions.cartesian.xyz.value.T
        here = here / np.linalg.norm(here, axis=1, keepdims=True)
        least = np.cos(np.minimum(wide, np.pi))
        hits: dict[int, list[int]] = {}
        for start in range(0, len(here), _POSITIONS):
            near = here[start : start + _POSITIONS] @ centres[placed].T >= least
            for which, number in zip(*(part.tolist() for part in np.nonzero(near)), strict=True):
                hits.setdefault(number, []).append(start + which)
        for number, members in sorted(hits.items()):
            yield self._entries[placed[number]], np.array(members)

    @cached_property
    def _circles(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Unit vectors, shape (images, 3), and radii [rad] of the circles that hold images."""
        rows = [(entry.ra, entry.dec, entry.radius_deg) for entry in self._entries]
        ra, dec, radius = np.radians(np.array(rows, float).reshape(-1, 3)).T
        parts = (np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec))
        return np.stack(parts, axis=1), radius


def _reach(entry: ImageEntry, size: Any) -> float:
    """How far [rad] the corner of a box may lie from its centre, seen from an image; generous."""
    scale = 2 * (entry.radius_deg or 0.0) / np.hypot(*entry.plane)
    return float(np.radians(np.hypot(*sky.box_of(size, scale)) * scale))
