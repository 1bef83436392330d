"""The client beside other ways to read a piece of sky from object storage.

    python -m tests.benchmarks.client [--release FOLDER] [--raw FOLDER] [--positions N]

Takes a release and the FITS files it was made of (those of ``make demo`` unless given), serves both
by S3 on loopback, with and without 20 ms added to every request, and prints: rounds, requests and
bytes of one cutout at each level; the time of many cutouts beside astropy's ``.section`` over
fsspec, on plain and tile-compressed FITS, and beside raw Zarr; what opening a release of 10,000
images reads; the time from the start of a process to a cutout, beside that of astropy's imports;
the processor time of a cutout of a warm release; and pixels decoded per second.
``--only decoding`` runs one part. Leaves ``build/benchmarks/client.json``.

Seconds are of the clock where they are not said to be of the processor, which other programs on the
machine change less.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from rich.console import Console
from rich.table import Table

import skyfold
from skyfold import DataRelease
from skyfold.access.seal import seal_root
from skyfold.compiled import ENVIRONMENT as THREADS
from skyfold.compiled import readers
from skyfold.images.details import details_key
from skyfold.images.index import index_key, write_index
from skyfold.ladder import LEVELS, TILE
from skyfold.layout import ZARR_KEY
from tests.benchmarks.s3_server import Server

ROOT = Path(__file__).resolve().parents[2]
SIDE = 64  # pixels of a cutout
LATENCY = 0.02
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"
PARALLEL = 16  # threads of those who read FITS in parallel
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every part, print and keep what it finds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, default=ROOT / "build/demo/archive/demo/dr1")
    parser.add_argument("--raw", type=Path, default=ROOT / "build/demo/raw")
    parser.add_argument("--positions", type=int, default=1000)
    parser.add_argument("--only", choices=LOCAL)
    parser.add_argument("--out", type=Path, default=ROOT / "build/benchmarks/client.json")
    asked = parser.parse_args(arguments)
    if not asked.release.is_dir():
        raise SystemExit(f"{asked.release} is not there; run `make demo`, or give --release")
    parts = [asked.only] if asked.only else LOCAL
    found: dict[str, list[Row]] = {part: LOCAL[part](asked.release) for part in parts}
    if not asked.only:
        found |= served(asked)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(found, indent=1))
    for title, rows in found.items():
        _print(title, rows)


def served(asked: argparse.Namespace) -> dict[str, list[Row]]:
    """What reading from object storage costs."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        bucket = stage(Path(folder) / "bucket", asked.release, asked.raw)
        for latency in (LATENCY, 0.0):
            with Server(bucket.parent, latency) as server:
                found[f"one cutout, {1000 * latency:g} ms"] = one_cutout(server)
                found[f"{asked.positions} cutouts, {1000 * latency:g} ms"] = many_cutouts(
                    server, asked.positions
                )
    return found


def _print(title: str, rows: list[Row]) -> None:
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=140).print(table)


def stage(bucket: Path, release: Path, raw: Path) -> Path:
    """Folder of everything that is served: the release, its files plain and compressed, Zarr."""
    shutil.copytree(release, bucket / "dr1")
    opened = skyfold.open_release(bucket / "dr1")
    array = zarr.create_group(str(bucket / "raw.zarr"))
    for entry in opened.images.entries.values():
        name = entry.id.replace("/", "_")
        hdu = opened.images.hdu(entry.id)  # `exact`: what the file held
        hdu.writeto(bucket / f"{name}.fits")
        packed = fits.CompImageHDU(hdu.data, hdu.header, compression_type="RICE_1")
        packed.writeto(bucket / f"{name}.fits.fz")
        values = array.create_array(
            name, shape=hdu.data.shape, chunks=(TILE, TILE), dtype=hdu.data.dtype
        )
        values[:] = hdu.data
    with warnings.catch_warnings():  # consolidated metadata is no part of Zarr 3 yet
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(bucket / "raw.zarr"))
    return bucket


def one_cutout(server: Server) -> list[Row]:
    """Cost of a cutout of a warm release whose image was not read before."""
    release = skyfold.open_release("s3://bucket/dr1", options=server.options)
    entries = list(release.images.entries.values())
    centres = _centres(release, entries)
    release.images.cutout(centres[0], SIDE, level="exact")  # warms connections and model
    rows = []
    for number, level in enumerate(LEVELS, 1):
        entry = entries[number % len(entries)]
        release = _fresh(release)
        release.network(entry.model)
        release.images.entries  # noqa: B018
        before = release.traffic.snapshot()
        server.count()
        start = time.perf_counter()
        release.images.section(entry.id, slice(96, 96 + SIDE), slice(96, 96 + SIDE), level=level)
        seconds = time.perf_counter() - start
        cost = release.traffic - before
        served = json.loads(server.count())
        needed = _needed(release, entry.id, level)
        rows.append(
            {
                "level": level,
                "rounds": cost.rounds,
                "requests": cost.requests,
                "requests served": served["requests"],
                "bytes": cost.bytes,
                "stored bytes needed": needed,
                "ratio": cost.bytes / needed,
                "seconds": seconds,
                "rounds of 20 ms": seconds / LATENCY,
            }
        )
    return rows


def _fresh(release: DataRelease) -> DataRelease:
    """The release opened again, so that nothing of its images is held in memory."""
    return skyfold.open_release(release.url, options=release.store.options)


def _needed(release: DataRelease, image_id: str, level: str) -> int:
    """Stored bytes of the chunks that the cutout's tile needs, layer by layer."""
    entry = release.images.entry(image_id)
    places = release.images.places(entry)
    total = 0
    for layer in entry.layers_at(level):
        whole = entry.bytes.get(layer, 0)
        held = places.get(layer)
        total += whole if layer in ("background", "checksum") else (held or {}).get(0, (0, 0))[1]
    return total


def _centres(release: DataRelease, entries: list[Any]) -> SkyCoord:
    return SkyCoord([e.ra for e in entries], [e.dec for e in entries], unit="deg")


def many_cutouts(server: Server, count: int) -> list[Row]:
    """Time of many cutouts, all ways one after another and in parallel."""
    release = skyfold.open_release("s3://bucket/dr1", options=server.options)
    entries = list(release.images.entries.values())
    rng = np.random.default_rng(1)
    picks = [entries[n] for n in rng.integers(len(entries), size=count)]
    corners = [tuple(rng.integers(0, side - SIDE) for side in e.plane) for e in picks]
    ra, dec = zip(
        *(
            e.celestial_wcs().pixel_to_world_values(x + SIDE / 2, y + SIDE / 2)
            for e, (y, x) in zip(picks, corners, strict=True)
        ),
        strict=True,
    )
    positions = SkyCoord(np.array(ra), np.array(dec), unit="deg")
    places = list(zip((e.id.replace("/", "_") for e in picks), corners, strict=True))
    few = max(min(count // 20, 20), 1)  # of what takes long, timed and scaled
    start = time.perf_counter()
    found = release.images.cutouts(positions, SIDE, level="sources", on_error="raise")
    together = time.perf_counter() - start
    assert len(found) == count
    again = _fresh(release)
    alone = _seconds(lambda n: again.images.cutout(positions[n], SIDE, level="sources"), few, count)
    ways: list[Row] = [
        {"way": "skyfold, cutouts(list)", "seconds": together},
        {"way": "skyfold, one after another", "seconds": alone},
    ]
    for name, suffix, number in (("plain", ".fits", 0), ("RICE", ".fits.fz", 1)):
        read = _section_reader(server, suffix, number)
        ways.append(
            {
                "way": f"astropy .section, {name}, one after another",
                "seconds": _seconds(lambda n, read=read: read(*places[n]), few, count),
            }
        )
        with ThreadPoolExecutor(PARALLEL) as pool:
            part = min(4 * few, count)
            start = time.perf_counter()
            list(pool.map(lambda n, read=read: read(*places[n]), range(part)))
            parallel = (time.perf_counter() - start) * count / part
        ways.append({"way": f"astropy .section, {name}, {PARALLEL} threads", "seconds": parallel})
    group = zarr.open_group("s3://bucket/raw.zarr", mode="r", storage_options=server.options)
    ways.append(
        {
            "way": "Zarr, zstd, one after another",
            "seconds": _seconds(lambda n: _zarr_cut(group, *places[n]), few, count),
        }
    )
    return [row | {"times skyfold": row["seconds"] / together} for row in ways]


def _seconds(call: Callable[[int], Any], few: int, count: int) -> float:
    """Time of `count` calls, from that of a few."""
    start = time.perf_counter()
    for number in range(few):
        call(number)
    return (time.perf_counter() - start) * count / few


def _section_reader(server: Server, suffix: str, hdu: int) -> Callable[[str, Any], Any]:
    options = server.options | {"default_cache_type": "none"}  # each file is opened once a cutout

    def read(name: str, corner: tuple[int, int]) -> Any:
        y, x = corner
        url = f"s3://bucket/{name}{suffix}"
        with fits.open(url, use_fsspec=True, fsspec_kwargs=options, lazy_load_hdus=True) as hdus:
            return np.array(hdus[hdu].section[y : y + SIDE, x : x + SIDE])

    return read


def _zarr_cut(group: Any, name: str, corner: tuple[int, int]) -> Any:
    y, x = corner
    return group[name][y : y + SIDE, x : x + SIDE]


def opening(folder: Path, count: int = 10_000) -> list[Row]:
    """Opening a release of many images: its index repeated, with other numbers in every row."""
    release = skyfold.open_release(folder)
    pattern = [release.images.complete(entry) for entry in release.images.entries.values()]
    rng = np.random.default_rng(0)
    entries = []
    for number in range(count):
        one = pattern[number % len(pattern)]
        shift = {k: replace_numbers(one, k, rng) for k in ("ra", "dec", "fwhm_pix")}
        sizes = {layer: int(size * rng.uniform(0.8, 1.2)) for layer, size in one.bytes.items()}
        noise = one.noise and replace(one.noise, sigma=one.noise.sigma * rng.uniform(0.9, 1.1))
        digest = rng.bytes(32).hex()
        wcs = _other_numbers(one.wcs, rng)
        new = {"id": f"{one.set}/image{number:06d}", "row": number, "digest": digest, "wcs": wcs}
        entries.append(replace(one, bytes=sizes, noise=noise, **new, **shift))
    with tempfile.TemporaryDirectory() as copy:
        many = Path(copy) / "dr1"
        shutil.copytree(folder, many)
        index, details = write_index(entries)
        (many / index_key(entries[0].set)).write_bytes(index)
        (many / details_key(entries[0].set)).write_bytes(details)
        root = many / ZARR_KEY
        digests = skyfold.open_release(folder).about["digests"]
        digests |= {index_key(entries[0].set): hashlib.sha256(index).hexdigest()}
        root.write_bytes(seal_root(root.read_bytes(), digests))
        start = time.perf_counter()
        opened = skyfold.open_release(many)
        held = len(opened.images.entries)
        seconds = time.perf_counter() - start
        pickled = len(pickle.dumps(opened))
    return [
        {
            "images": held,
            "seconds": seconds,
            "MB read": opened.traffic.bytes / 1e6,
            "requests": opened.traffic.requests,
            "bytes pickled": pickled,
        }
    ]


def replace_numbers(entry: Any, name: str, rng: np.random.Generator) -> float | None:
    """A number of an entry, a little other."""
    value = getattr(entry, name)
    return None if value is None else float(value + rng.normal(0, 0.1))


def _other_numbers(cards: str, rng: np.random.Generator) -> str:
    """Cards whose numbers differ in every digit from those of other images."""
    header = fits.Header.fromstring(cards, sep="\n")
    for card, value in list(header.items()):
        if isinstance(value, float):
            header[card] = value * (1 + 1e-3 * rng.standard_normal())
    return str(header.tostring(sep="\n", padding=False))


ASTROPY = """
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData
from astropy.wcs import WCS
"""
CUTOUT = """
from astropy.coordinates import SkyCoord
import skyfold
release = skyfold.open_release({url!r})
release.images.cutout(SkyCoord({ra}, {dec}, unit="deg"), 64, level={level!r})
"""


def starting(folder: Path, times: int = 5) -> list[Row]:
    """Seconds from the start of a process to its end, the least of a few, modules compiled."""
    release = skyfold.open_release(folder)
    entry = next(iter(release.images.entries.values()))
    place = {"url": release.url, "ra": entry.ra, "dec": entry.dec}
    script = ["-c", CUTOUT.format(**place, level="bounded")]
    rows = []
    with tempfile.TemporaryDirectory() as compiled:
        where = [f"--ra={entry.ra}", f"--dec={entry.dec}", "--size=30", f"--output={compiled}/out"]
        runs = {
            "astropy's imports alone": ["-c", ASTROPY],
            "cutout in Python": script,
            "skyfold cutout": ["-m", "skyfold", "cutout", release.url, *where],
        }
        kept = {key: value for key, value in os.environ.items() if key != NO_BYTECODE}
        for name, arguments in runs.items():
            costs = [
                _run_python(arguments, kept | {"PYTHONPYCACHEPREFIX": compiled})
                for _ in range(times + 1)  # the first one compiles
            ]
            clock, processor = (min(part) for part in zip(*costs[1:], strict=True))
            rows.append({"what": name, "seconds": clock, "processor seconds": processor})
    clock, processor = _run_python(script, kept | {NO_BYTECODE: "1"})
    return [*rows, {"what": "nothing compiled", "seconds": clock, "processor seconds": processor}]


def _run_python(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of a new interpreter, by the clock and of the processor."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, used


def small_cutouts(folder: Path, count: int = 100) -> list[Row]:
    """Processor time of one cutout of a warm release, at places that were not asked for before."""
    release = skyfold.open_release(folder)
    entry = next(iter(release.images.entries.values()))
    x, y = np.random.default_rng(2).uniform(SIDE, min(entry.plane) - SIDE, (2, count))
    ra, dec = entry.celestial_wcs().pixel_to_world_values(x, y)
    places = [SkyCoord(*place, unit="deg") for place in zip(ra, dec, strict=True)]
    rows = []
    for level in LEVELS:
        release.images.cutout(places[0], SIDE, level=level)
        costs = []
        for place in places:
            start = time.process_time()
            release.images.cutout(place, SIDE, level=level)
            costs.append(1000 * (time.process_time() - start))
        row = {"level": level, "processor ms, median": float(np.median(costs))}
        rows.append(row | {"one in ten below": float(np.quantile(costs, 0.1))})
    return rows


def decoding(folder: Path, times: int = 3) -> list[Row]:
    """Pixels decoded per second from a local folder: by numpy, compiled, and on all cores."""
    release = skyfold.open_release(folder)
    entries = list(release.images.entries.values())
    cores = len(os.sched_getaffinity(0))
    ways = (("numpy", 1, False, 1), (f"numpy, {cores} processes", cores, False, 1))
    ways += (("compiled", 1, True, 1), (f"compiled, {cores} threads", 1, True, cores))
    rows = []
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        for level in LEVELS:
            row: Row = {"level": level}
            for name, processes, compiled, threads in ways:
                mapped = map if processes == 1 else pool.map
                how = (release.url, level, compiled, threads)
                reads = [partial(_read, entry.id, *how) for entry in entries]
                list(mapped(_call, reads[: 2 * cores]))  # opens, compiles, and loads the network
                costs = []
                for _ in range(times):
                    start = time.perf_counter()
                    used = sum(mapped(_call, reads))
                    costs.append((time.perf_counter() - start, used))
                seconds, used = (min(part) for part in zip(*costs, strict=True))
                pixels = sum(entry.pixels for entry in entries) / 1e6
                row[f"{name}: Mpixel/s"] = pixels / seconds
                row[f"{name}: processor ms/Mpixel"] = 1000 * used / pixels
            rows.append(row)
    return rows


def _call(read: Callable[[], float]) -> float:
    return read()


def _read(image_id: str, url: str, level: str, compiled: bool, threads: int) -> float:
    """Processor seconds that decoding an image takes."""
    os.environ[THREADS] = str(threads)
    with readers(compiled=compiled):
        start = time.process_time()
        _opened(url).images.read(image_id, level)
        return time.process_time() - start


@cache
def _opened(url: str) -> DataRelease:
    return skyfold.open_release(url)


LOCAL: dict[str, Callable[[Path], list[Row]]] = {
    "opening": opening,
    "starting": starting,
    "small": small_cutouts,
    "decoding": decoding,
}

if __name__ == "__main__":
    main()
