"""Does the gate stop nights that drifted, and no others? Simulated nights, encoded and compared.

    python -m tests.benchmarks.drift [--nights 20] [--images 10] [--size 512] [--folder FOLDER]
        [--seed 0] [--sky 600] [--density 45]

A base of twice as many images, ordinary nights of other sky seeds, and nights in which one thing
went wrong, all encoded by one model; what `storage.drift` and `storage.night` say of each is
printed, then false alarms and misses. After that every ordinary night is the base of all others:
a harder test, of half as many images. Releases in the folder already are compared as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import synthetic
from small_release import build_release

from flows.simulate import SKY_E, Camera, Sky, simulate_image
from skyfold import DataRelease, open_release
from skyfold.layout import FIDELITY_KEY
from storage.drift import strange_numbers, worse_rows
from storage.night import Look, look_at, strange_looks

Pixels = NDArray[np.uint16]
PEDESTAL = 1000.0


def ordinary(pixels: Pixels, _number: int) -> Pixels:
    """Nothing."""
    return pixels


def other_gain(pixels: Pixels, _number: int) -> Pixels:
    """Half the counts of an electron, and a header that does not know."""
    halved = (pixels - PEDESTAL) / 2 + PEDESTAL
    return np.clip(np.rint(halved), 0, 65535).astype(np.uint16)


def dead_amplifier(pixels: Pixels, _number: int) -> Pixels:
    """A quarter of the columns holds nothing but the pedestal and read noise."""
    out = pixels.copy()
    dead = slice(0, pixels.shape[1] // 4)
    noise = np.random.default_rng(pixels.shape[0]).normal(PEDESTAL, 3, out[:, dead].shape)
    out[:, dead] = np.rint(noise).astype(np.uint16)
    return out


PLANTED: dict[str, tuple[dict[str, Any], Callable[[Pixels, int], Pixels], bool]] = {
    "PSF x 1.5": ({"seeing_arcsec": 1.2}, ordinary, False),
    "gain halved": ({}, other_gain, False),
    "dead amplifier": ({}, dead_amplifier, False),
    "trails on 10 %": ({}, ordinary, True),
}


def main() -> None:
    """Print one line a night, then the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=20)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0, help="of other skies")
    parser.add_argument("--sky", type=float, default=SKY_E, help="electrons a pixel: depth")
    parser.add_argument("--density", type=float, default=45.0, help="galaxies a square arcminute")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks/drift"))
    given = parser.parse_args()
    survey = Survey(given.folder, given.images, given.size, given.sky, given.density)
    first = 10_000 * given.seed
    base = survey.night("base", first + 1000, twice=True)
    planted = {
        name: survey.night(f"planted_{place}", first + 3000 + place, *drift)
        for place, (name, drift) in enumerate(PLANTED.items())
    }
    ordinary = {
        f"ordinary {number}": survey.night(f"ordinary_{number}", first + 1999 + number)
        for number in range(1, given.nights + 1)
    }
    for name, release in (planted | ordinary).items():
        print(f"{name}: {'; '.join(verdict(release, base)) or 'published'}", flush=True)
    _count("the base", [base], ordinary, planted)
    _count("each ordinary night as the base", list(ordinary.values()), ordinary, planted)


def _count(
    what: str,
    bases: list[DataRelease],
    ordinary: dict[str, DataRelease],
    planted: dict[str, DataRelease],
) -> None:
    """Print false alarms and misses."""
    usual = [bool(verdict(one, base)) for base in bases for one in ordinary.values() if one != base]
    print(f"{what}: {sum(usual)} false alarms of {len(usual)}", end="")
    for name, release in planted.items():
        missed = sum(not verdict(release, base) for base in bases)
        print(f", {name} missed {missed} of {len(bases)}", end="")
    print(flush=True)


@dataclass(frozen=True)
class Survey:
    """What all nights of a simulated survey have in common, and the folder that holds them."""

    folder: Path
    images: int
    size: int
    sky_e: float
    density: float

    def night(
        self,
        name: str,
        seed: int,
        camera: dict[str, Any] | None = None,
        change: Callable[[Pixels, int], Pixels] = ordinary,
        trails: bool = False,
        *,
        twice: bool = False,
    ) -> DataRelease:
        """A release of one night; trails lie on a tenth of its images, or on none."""
        folder = self.folder / name
        url = folder / "release" / "dr1"
        if not (url / FIDELITY_KEY).exists():
            seen = Camera(size=self.size, sky_e=self.sky_e, **(camera or {}))
            images = self.images * (2 if twice else 1)
            _expose(folder / "raw", Sky(seed, self.density), seen, images, change, trails)
            table = '[[images]]\nset = "night"\nfiles = ["raw/*.fits"]\nband = "header:FILTER"\n'
            build_release(synthetic.survey_toml(folder, table), str(url), seal=False)
        return open_release(url, unsealed=True)


def _expose(
    raw: Path,
    sky: Sky,
    camera: Camera,
    images: int,
    change: Callable[[Pixels, int], Pixels],
    trails: bool,
) -> None:
    """Write the night's files."""
    raw.mkdir(parents=True, exist_ok=True)
    chosen = [number for number in range(2 * images) if number % 5 != 1][:images]
    if trails:  # the simulation draws one in each fifth exposure
        tenth = -(-images // 10)
        chosen[:tenth] = range(1, 1 + 5 * tenth, 5)
    for number in chosen:
        pixels, header, _ = simulate_image(sky, camera, number, ("r",))
        path = raw / f"exposure_{number:04d}.fits"
        fits.PrimaryHDU(change(pixels, number), header).writeto(path, overwrite=True)


@cache
def looks(release: DataRelease) -> dict[str, Look]:
    """What is seen on a release's images."""
    return look_at(release, release.images.entries.values())


@cache
def rows_of(release: DataRelease) -> list[dict[str, Any]]:
    """Its record."""
    return release.fidelity.rows()


@cache
def verdict(release: DataRelease, base: DataRelease) -> list[str]:
    """Why a night would be quarantined; empty if it is published."""
    entries, others = release.images.entries.values(), base.images.entries.values()
    rows = worse_rows(rows_of(release), rows_of(base))
    numbers = strange_numbers(entries, others)
    numbers += strange_looks(looks(release), looks(base))
    strange = [f"{one['number']} {one['value']:.3g}, allowed {one['low']:.3g} to {one['high']:.3g}"
               for one in numbers]  # fmt: skip
    lost = [f"{one['case']} {one['measure']} {one['level']} {one['low']:.3g}, allowed "
            f"{one['allowed']:.3g}" for one in rows]  # fmt: skip
    return [*strange[:3], *lost[:3]]


if __name__ == "__main__":
    main()
