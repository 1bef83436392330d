"""Does the gate stop nights that drifted, and no others? Simulated nights, encoded and compared.

    python -m tests.benchmarks.drift [--nights 20] [--images 10] [--size 512] [--folder FOLDER]

A base of twice as many images, ordinary nights of other sky seeds, and nights in which one thing
went wrong, all encoded by one model; what `storage.drift` says of each is printed, then false
alarms and misses. Releases that are in the folder already are compared as they are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import synthetic
from small_release import build_release

from flows.simulate import Camera, Sky, simulate_image
from skyfold import DataRelease, open_release
from skyfold.layout import FIDELITY_KEY
from storage.drift import strange_numbers, worse_rows
from storage.trails import crossed_images, more_crossed

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
    """Print one line a night, then the count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=20)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks/drift"))
    given = parser.parse_args()
    size, images = given.size, given.images
    base = night(given.folder / "base", 1000, 2 * images, size)
    told: dict[str, list[str]] = {}
    for place, (name, (camera, change, trails)) in enumerate(PLANTED.items()):
        release = night(
            given.folder / f"planted_{place}", 3000 + place, images, size,
            camera=camera, change=change, trails=trails,
        )  # fmt: skip
        told[name] = _told(name, release, base)
    for number in range(1, given.nights + 1):
        release = night(given.folder / f"ordinary_{number}", 1999 + number, images, size)
        told[f"ordinary {number}"] = _told(f"ordinary {number}", release, base)
    false = sum(bool(told[name]) for name in told if name not in PLANTED)
    missed = sum(not told[name] for name in PLANTED)
    print(
        f"{false} false alarms in {given.nights} ordinary nights, {missed} of {len(PLANTED)} missed"
    )


def night(
    folder: Path,
    seed: int,
    images: int,
    size: int,
    *,
    camera: dict[str, Any] | None = None,
    change: Callable[[Pixels, int], Pixels] = ordinary,
    trails: bool = False,
) -> DataRelease:
    """A release of one night; trails lie on a tenth of its images, or on none."""
    url = folder / "release" / "dr1"
    if not (url / FIDELITY_KEY).exists():
        _expose(
            folder / "raw", Sky(seed), Camera(size=size, **(camera or {})), images, change, trails
        )
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
        chosen[: images // 10] = range(1, 1 + 5 * (images // 10), 5)
    for number in chosen:
        pixels, header, _ = simulate_image(sky, camera, number, ("r",))
        path = raw / f"exposure_{number:04d}.fits"
        fits.PrimaryHDU(change(pixels, number), header).writeto(path, overwrite=True)


@cache
def crossed(release: DataRelease) -> dict[str, list[bool]]:
    """Which images of a release trails lie on."""
    return crossed_images(release, release.images.entries.values())


def verdict(release: DataRelease, base: DataRelease) -> list[str]:
    """Why a night would be quarantined; empty if it is published."""
    entries, others = release.images.entries.values(), base.images.entries.values()
    rows = worse_rows(release.fidelity.rows(), base.fidelity.rows())
    numbers = strange_numbers(entries, others)
    numbers += more_crossed(crossed(release), crossed(base))
    strange = [f"{one['number']} {one['value']:.3g}, allowed {one['low']:.3g} to {one['high']:.3g}"
               for one in numbers]  # fmt: skip
    lost = [f"{one['case']} {one['measure']} {one['level']} {one['low']:.3g}, allowed "
            f"{one['allowed']:.3g}" for one in rows]  # fmt: skip
    return [*strange[:3], *lost[:3]]


def _told(name: str, release: DataRelease, base: DataRelease) -> list[str]:
    found = verdict(release, base)
    print(f"{name}: {'; '.join(found) or 'published'}", flush=True)
    return found


if __name__ == "__main__":
    main()
