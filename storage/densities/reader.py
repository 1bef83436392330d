"""Sets of probability densities from survey files: rows on one grid, one file after the other.

Knows which files a set consists of, and what they must have in common.
"""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyfold.codecs.amplitude import MAX_POINTS, MIN_POINTS
from skyfold.errors import ConfigError, InputError
from storage.config import is_url
from storage.densities.files import Part, open_part
from storage.images.fits_input import glob_url
from storage.survey import SetAside

if TYPE_CHECKING:
    from storage.config import DensitiesConfig, SurveyConfig


class DensitiesInput:
    """A set of densities: the rows of its files, one after the other.

    Attributes
    ----------
    name : str
    parts : list of Part
    set_aside : list of SetAside
        Files that cannot be used, with the reason.
    """

    def __init__(self, name: str, parts: list[Part], set_aside: list[SetAside]) -> None:
        self.name = name
        self.parts = parts
        self.set_aside = set_aside

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(part.rows for part in self.parts)

    @property
    def files(self) -> list[str]:
        """Files, as the survey's globs found them."""
        return [part.file for part in self.parts]

    @property
    def grid(self) -> NDArray[np.float64]:
        """Where densities are given, rising."""
        return self.parts[0].grid

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored values."""
        return self.parts[0].dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Stored rows, shape (stop - start, points), in native byte order."""
        pieces, first = [], 0
        for part in self.parts:
            low, high = max(start - first, 0), min(stop - first, part.rows)
            if low < high:
                pieces.append(np.ascontiguousarray(part.read(low, high)))
            first += part.rows
        return np.concatenate(pieces)


def open_densities(config: SurveyConfig, densities: DensitiesConfig) -> DensitiesInput:
    """Densities that the configuration names; files that cannot be used are set aside.

    Raises
    ------
    ConfigError
        If a pattern matches no file.
    InputError
        If no file can be used; the message names them and the reasons.
    StoreUnavailableError
        If an object store refuses or breaks off.
    """
    parts: list[Part] = []
    aside: list[SetAside] = []
    for file in find_density_files(config, densities):
        try:
            part = open_part(config, densities, file)
            _check(part, parts[0] if parts else part)
            parts.append(part)
        except InputError as error:
            aside.append(SetAside(file, str(error), densities.name))
    if not parts:
        reasons = "; ".join(one.reason for one in aside[:3])
        raise InputError(f"densities {densities.name!r}: none of its files can be used: {reasons}")
    return DensitiesInput(densities.name, parts, aside)


def find_density_files(config: SurveyConfig, densities: DensitiesConfig) -> list[str]:
    """Files of a set of densities, as the patterns found them.

    Raises
    ------
    ConfigError
        If a pattern matches no file.
    """
    found: dict[str, None] = {}
    for pattern in densities.files:
        matches = (
            glob_url(pattern, config.storage.options)
            if is_url(pattern)
            else sorted(glob.glob(pattern, root_dir=config.folder, recursive=True))
        )
        if not matches:
            raise ConfigError(
                f"densities {densities.name!r}: no file matches {pattern!r} under "
                f"{config.folder}; correct the pattern or take it out"
            )
        found.update(dict.fromkeys(matches))
    return list(found)


def _check(part: Part, first: Part) -> None:
    """Refuse a grid that no density can be on, and a file unlike the first."""
    grid = part.grid
    if not part.rows:
        raise InputError(f"{part.file}: it holds no rows; take it out of files")
    if not MIN_POINTS <= len(grid) <= MAX_POINTS or not np.isfinite(grid).all():
        raise InputError(
            f"{part.file}: its grid has {len(grid)} points; it must have {MIN_POINTS} to "
            f"{MAX_POINTS} finite ones: correct `grid` in the configuration"
        )
    if not (np.diff(grid) > 0).all():
        raise InputError(f"{part.file}: its grid does not rise; sort the grid and the columns")
    if part.dtype.kind not in "fiu" or part.dtype.itemsize > 8 or part.dtype == np.dtype("f2"):
        raise InputError(
            f"{part.file}: its densities are {part.dtype}; allowed are float32, float64 and "
            "integers: convert them"
        )
    if part.dtype != first.dtype or not np.array_equal(grid, first.grid):
        raise InputError(
            f"{part.file}: {len(grid)} points of {part.dtype}; {first.file} of the same set has "
            f"{len(first.grid)} of {first.dtype} on another grid or type: make it a set of its own"
        )
