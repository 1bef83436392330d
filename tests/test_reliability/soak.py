"""Nights that are encoded, measured, published and read, one after another for a long time.

``python -m tests.test_reliability.soak [--minutes 60] [--consumers 4]``.

A night is two images with skies of their own, a release of them with its record, and its entry
into the catalog of releases; the nights before the last five are removed. Meanwhile consumers open
nights of the list, read at every level and verify: what a night gives is the same to each of them.
After each night the resident memory, open descriptors, threads and temporary files of the process
are taken. Prints them as a table, and exits with 1 if the last quarter is above the second one.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median

from skyfold import DataRelease, list_releases, open_release
from skyfold.access.store import Store
from skyfold.errors import ReleaseNotFoundError
from storage.register import register_release
from tests import synthetic

KEPT = 5  # nights of which consumers choose
LEAST = 12  # nights
VERIFIED = 0.1  # share of the visits
ROWS = 20  # of the table
GROWTH = {"resident_mb": 0.05, "descriptors": 0.0, "threads": 0.0, "temporary_files": 0.0}
SHAPE = (120, 140)


@dataclass(frozen=True)
class Sample:
    """What a process holds after a night."""

    night: int
    minutes: float
    reads: int
    resident_mb: float
    descriptors: int
    threads: int
    temporary_files: int


class Consumers:
    """Threads that read published nights until they are told to stop."""

    def __init__(self, product: Path, count: int) -> None:
        self.product = product
        self.reads = 0
        self.problems: list[str] = []
        self._digests: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(count)
        ]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Read as long as this lasts."""
        for one in self._threads:
            one.start()
        try:
            yield
        finally:
            self._stop.set()
            for one in self._threads:
                one.join()

    def _run(self, number: int) -> None:
        source = random.Random(number)
        while not self._stop.is_set():
            try:
                self._read(source)
            except Exception as error:
                self.problems.append(f"{type(error).__name__}: {error}")
                return

    def _read(self, source: random.Random) -> None:
        try:
            names = [one["name"] for one in list_releases(self.product)][-(KEPT - 2) :]
        except ReleaseNotFoundError:
            time.sleep(0.1)
            return
        name = source.choice(names)
        release = open_release(self.product / name)
        level = source.choice(release.levels)
        digest = hashlib.sha256(b"".join(_pixels(release, level))).hexdigest()
        with self._lock:
            self.reads += 1
            first = self._digests.setdefault(f"{name} {level}", digest)
        is_whole = source.random() > VERIFIED or not release.verify()
        if first != digest or not is_whole:
            raise AssertionError(f"{name} at {level} differs from what another consumer read")


def _pixels(release: DataRelease, level: str) -> Iterator[bytes]:
    for one in release.images:
        yield release.images.read(one, level).values.tobytes()


def publish_night(folder: Path, product: Path, number: int) -> None:
    """Write the raw files of a night, build its release and publish it."""
    from tests.small_release import build_release

    raw = folder / f"night{number}"
    for place, dtype in enumerate(("i2", "f4")):
        pixels = synthetic.sky(
            SHAPE, sources=60, sigma=9.0, background=300, seed=2 * number + place
        )
        wcs = synthetic.simple_wcs(SHAPE)
        synthetic.write_fits(raw / f"raw/{dtype}.fits", pixels.round().astype(dtype), wcs)
    images = '[[images]]\nset = "night"\nfiles = ["raw/*.fits"]\nband = "r"\n'
    store = Store(product / f"night{number}")
    build_release(synthetic.survey_toml(raw, images), store.url)
    register_release(store, {"published": f"{number:09d}"})
    shutil.rmtree(raw)
    if number >= KEPT:
        shutil.rmtree(product / f"night{number - KEPT}")


def take(night: int, started: float, reads: int, temporary: Path) -> Sample:
    """What this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        night,
        round((time.monotonic() - started) / 60, 2),
        reads,
        round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        sum(1 for one in temporary.rglob("*") if one.is_file()),
    )


def soak(folder: Path, seconds: float, consumers: int) -> list[Sample]:
    """Samples after each night.

    Raises
    ------
    AssertionError
        If a consumer met anything but a night as all others read it.
    """
    temporary = folder / "temporary"
    temporary.mkdir()
    tempfile.tempdir = str(temporary)
    product, samples = folder / "product", []
    readers = Consumers(product, consumers)
    started = time.monotonic()
    with readers.at_work():
        while time.monotonic() - started < seconds and not readers.problems:
            publish_night(folder, product, len(samples))
            samples.append(take(len(samples), started, readers.reads, temporary))
    assert not readers.problems, readers.problems
    return samples


def growth(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """Medians of the second and of the last quarter, of what has grown.

    Raises
    ------
    ValueError
        If there are too few nights to tell.
    """
    if len(samples) < LEAST:
        raise ValueError(f"{len(samples)} nights; at least {LEAST} tell: give more --minutes")
    quarter = len(samples) // 4
    grown = {}
    for name, allowed in GROWTH.items():
        values = [getattr(one, name) for one in samples]
        before, after = median(values[quarter : 2 * quarter]), median(values[-quarter:])
        if after > before * (1 + allowed):
            grown[name] = (before, after)
    return grown


def main() -> None:
    """Print the table; 1 if anything grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--consumers", type=int, default=4)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    folder = Path(tempfile.mkdtemp())
    try:
        samples = soak(folder, 60 * given.minutes, given.consumers)
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)
    print(" ".join(f"{one.name:>15}" for one in fields(Sample)))
    for one in samples[:: -(-len(samples) // ROWS)]:
        print(" ".join(f"{value:15}" for value in astuple(one)))
    last = samples[-1]
    print(f"{len(samples)} nights, {last.reads} reads, {last.minutes} min")
    if found := growth(samples):
        sys.exit(f"grew from the second quarter to the last: {found}")


if __name__ == "__main__":
    main()
