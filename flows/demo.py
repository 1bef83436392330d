"""The demo: a simulated survey, its release, and what a consumer sees of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from rich.console import Console
from rich.table import Table

from flows.build import build
from flows.simulate import GAIN, READ_NOISE_E, SKY_E, noise_entropy_bits, simulate_survey
from skyfold import open_release
from skyfold.layout import REPORT_KEY
from skyfold.science import get_case

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skyfold.release import DataRelease

CUTOUT = 30 * u.arcsec
SHEAR_GALAXIES = 200  # a band: enough to show what the record says of them


def run_demo(folder: Path, *, steps: int, images: int, seed: int) -> None:
    """Simulate, build, and print what came out."""
    console = Console(width=None if Console().is_terminal else 110)
    start = time.monotonic()
    console.print("this takes 3 to 6 minutes on 2 cores, most of it to train the network")
    survey = folder / "survey.toml"
    if not survey.exists():
        console.print(f"simulating {images} images of two bands, a catalog and p(z) in {folder}")
        survey = simulate_survey(
            folder,
            seed=seed,
            images=images,
            steps=steps,
            shear_galaxies=SHEAR_GALAXIES,
            progress=_Counter(console),
        )
    url = str(build(str(survey.resolve())))
    release = open_release(url)
    _show_fidelity(console, release)
    _show_cutouts(console, release)
    _show_rates(console, release, folder)
    _show_bars(console, release)
    minutes = (time.monotonic() - start) / 60
    console.print(f"done in {minutes:.1f} minutes; report: {url}/{REPORT_KEY}", soft_wrap=True)


class _Counter:
    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, done: int, total: int) -> None:
        if done == total or done % max(total // 4, 1) == 0:
            self.console.print(f"  {done} of {total}")


def _show_fidelity(console: Console, release: DataRelease) -> None:
    """The default measure of every case, in the bin that holds the most objects."""
    rows = [
        row
        for row in release.fidelity.rows()
        if row["n"] and row["measure"] == get_case(row["case"]).default_measure
    ]
    most: dict[tuple[str, ...], int] = {}
    for row in rows:
        most[_about(row)] = max(row["n"], most.get(_about(row), 0))
    table = Table(title="Fidelity on sky that training never saw: p90 of the loss, or rate")
    for name in ("of", "band", "case", "bin", "n", *release.levels, "unit"):
        table.add_column(name, no_wrap=True)
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        if row["n"] == most[_about(row)]:
            value = row["bias"] if row["statistic"] == "mean" else row["p90"]
            key = (*_about(row), row["bin"], str(row["n"]), row["unit"])
            shown = row["note"] if value is None else f"{value:.2g}"
            cells.setdefault(key, {})[row["level"]] = shown
    for (*about, unit), found in cells.items():
        table.add_row(*about, *(found.get(level, "") for level in release.levels), unit)
    console.print(table)
    console.print(f"every measure and bin: skyfold fidelity {release.url}", soft_wrap=True)


def _about(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (row["set"], row["band"], row["case"])


def _show_cutouts(console: Console, release: DataRelease) -> None:
    entry = next(iter(release.images.entries.values()))
    position = SkyCoord(entry.ra, entry.dec, unit="deg")
    exact = release.images.cutout(position, CUTOUT, band=entry.band, level="exact")
    table = Table(title=f"A cutout of {CUTOUT} of {entry.id}, decoded at every level")
    for name in ("level", "shape", "rms error [noise units]", "largest error [noise units]"):
        table.add_column(name)
    for level in release.levels:
        cutout = release.images.cutout(position, CUTOUT, band=entry.band, level=level)
        error = (cutout.data - exact.data) / exact.uncertainty.array
        shape = f"{cutout.shape[1]} x {cutout.shape[0]}"
        table.add_row(level, shape, f"{np.std(error):.3f}", f"{np.abs(error).max():.3f}")
    console.print(table)


def _show_rates(console: Console, release: DataRelease, folder: Path) -> None:
    info = release.info()
    raw = sum(path.stat().st_size for path in folder.glob("raw/**/*.fits"))
    table = Table(title=f"Compression of {raw / 1e6:.1f} MB of raw images, and of tables")
    for name in ("kind", "name", "level", "rate", "MB", "raw / stored"):
        table.add_column(name)
    for name, about in info["images"].items():
        for level, one in about["levels"].items():
            size, rate = one["bytes"], f"{one['bpp']:.3f} bits a pixel"
            table.add_row("images", name, level, rate, f"{size / 1e6:.3f}", f"{raw / size:.1f}")
    for kind in ("catalogs", "densities"):
        for name, about in info[kind].items():
            for level, one in about["levels"].items():
                rate = f"{one['bytes_per_row']:.2f} bytes a row"
                table.add_row(kind, name, level, rate, f"{one['bytes'] / 1e6:.3f}", "")
    console.print(table)


def _show_bars(console: Console, release: DataRelease) -> None:
    """The whole ladder against the entropy of the noise, and the error that `sources` leaves."""
    entropy = noise_entropy_bits(SKY_E, READ_NOISE_E, GAIN)
    for name, one in release.info()["images"].items():
        levels = one["levels"]
        worst = max(
            (
                row["p90"]
                for row in release.fidelity.filter(
                    set=name, level="sources", case="photometry", measure="flux_1fwhm", bin=">=5"
                ).rows()
                if row["p90"] is not None
            ),
            default=float("nan"),
        )
        console.print(
            f"{name}: sources {levels['sources']['bpp']:.3f} bits a pixel, S/N >= 5 flux error p90 "
            f"{worst:.3f} sigma; whole ladder {levels['exact']['bpp']:.3f} bits a pixel, "
            f"{levels['exact']['bpp'] / entropy:.3f} x the noise entropy of {entropy:.3f}"
        )
