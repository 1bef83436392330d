"""Bytes a row of probability densities against the divergence from them, beside the known ways.

    python -m tests.benchmarks --only densities [--rows N]
    python tests/benchmarks/densities.py [P.npy GRID.npy|last-row]... [--rows N] [--fit]

Every way is given as few numbers as bring its median Kullback-Leibler divergence to 1e-3 nats, and
at 20 and 100 numbers besides; ``plain`` bytes are those of its numbers as their authors store them
(quantiles and histograms float32; sparse bases 16-bit index and 16-bit coefficient), ``coded`` are
those of the same numbers, rounded as far as the divergence bears, through pcodec column by column.
``--fit`` prints the tables that `skyfold.codecs.density_tables` has built in.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

from skyfold.codecs.amplitude import divergence, masses
from skyfold.codecs.density import DensityCodec
from skyfold.codecs.density_tables import CONTEXTS, fit_map, histogram_of
from skyfold.codecs.nonzero import NonzeroCodec
from skyfold.densities.index import CHUNK_ROWS, FLOORS, NARROW, Bounds
from storage.densities.encoder import encode_together

Float = NDArray[np.float64]
Way = tuple[Float, int, int]  # decoded masses, plain bytes, coded bytes
TARGET = 1e-3
FLOOR = 1e-5  # given to the peers too: without it a zero anywhere makes the divergence infinite


def pcodec_bytes(columns: NDArray[np.integer]) -> int:
    """Bytes of whole numbers, shape (n, columns), each column by itself."""
    parts = (np.ascontiguousarray(column, np.int32) for column in columns.T)
    return sum(len(standalone.simple_compress(part, ChunkConfig())) for part in parts)


def floored(mass: Float) -> Float:
    """Masses with a floor, of sum 1."""
    mass = np.maximum(mass, 0)
    mass = mass / mass.sum(axis=1, keepdims=True) + FLOOR / mass.shape[1]
    return mass / mass.sum(axis=1, keepdims=True)


def quantiles(mass: Float, count: int, fine: int = 64) -> Way:
    """Places of equally spaced quantiles [1 / fine bin], the cumulated density linear between."""
    points = mass.shape[1]
    levels = (np.arange(count) + 0.5) / count
    levels = np.concatenate([[1e-4], levels, [1 - 1e-4]])[: count + 2]
    edges = np.arange(points + 1.0)
    places, out = np.empty((len(mass), count + 2), np.int64), np.empty_like(mass)
    for row, one in enumerate(mass):
        cumulated = np.concatenate([[0], np.cumsum(one)])
        places[row] = np.rint(np.interp(levels, cumulated / cumulated[-1], edges) * fine)
        out[row] = np.diff(np.interp(edges, places[row] / fine, levels, left=0, right=1))
    steps = np.diff(places, axis=1, prepend=0)
    return floored(out), 4 * count, pcodec_bytes(steps)


def histogram(mass: Float, count: int, levels: int = 1024) -> Way:
    """Means of `count` bins, between whose middles the square root is linear."""
    points = mass.shape[1]
    edges = np.rint(np.linspace(0, points, count + 1)).astype(int)
    means = np.add.reduceat(mass, edges[:-1], axis=1) / np.diff(edges)
    heights = np.sqrt(means / means.max(axis=1, keepdims=True))
    whole = np.rint(heights * levels).astype(np.int64)
    middle = (edges[1:] + edges[:-1] - 1) / 2
    out = np.array([np.interp(np.arange(points), middle, row) for row in whole / levels]) ** 2
    return floored(out), 4 * count, pcodec_bytes(whole)


class SparseBasis:
    """Orthogonal matching pursuit on Gaussians of many places and widths (Carrasco Kind and Brunner
    2014, MNRAS 441, 3550), on the density as they do.
    """

    def __init__(self, points: int) -> None:
        widths = np.geomspace(0.5, points / 6, 30)
        x = np.arange(points)
        gauss = [np.exp(-(((x - place) / width) ** 2) / 2) for width in widths for place in x]
        self.atoms = np.array(gauss) / np.linalg.norm(gauss, axis=1, keepdims=True)

    def __call__(self, mass: Float, count: int) -> Way:
        """The `count` best atoms of each row, coefficients in 1 / 2**15 of the largest."""
        out = np.empty_like(mass)
        index = np.zeros((len(mass), count), np.int64)
        whole = np.zeros((len(mass), count), np.int64)
        for row, one in enumerate(mass):
            chosen: list[int] = []
            rest = one
            for _ in range(count):
                chosen.append(int(np.argmax(np.abs(self.atoms @ rest))))
                basis = self.atoms[chosen].T
                found = np.linalg.lstsq(basis, one, rcond=None)[0]
                rest = one - basis @ found
            scale = np.abs(found).max() / 2**15
            whole[row], index[row] = np.rint(found / scale), chosen
            out[row] = self.atoms[chosen].T @ (whole[row] * scale)
        return floored(out), 4 * count, pcodec_bytes(index) + pcodec_bytes(whole >> 5)


def ladder(mass: Float) -> Iterator[tuple[str, Float, int]]:
    """Levels of skyfold: name, decoded masses, all stored bytes up to it."""
    runs = [slice(at, at + CHUNK_ROWS) for at in range(0, len(mass), CHUNK_ROWS)]
    parts = [encode_together(mass[run], Bounds()) for run in runs]
    total = 0
    for level in ("latent", "bounded"):
        codec = DensityCodec(NARROW[level])
        # a chunk has 16 bytes of its shard's index and 12 of checksums
        total += sum(len(codec.encode_chunk(getattr(one, level))) + 28 for one in parts)
        amplitude = np.concatenate([one.amplitudes[level] for one in parts])
        yield level, masses(amplitude, FLOORS[level]), total


Record = dict[str, Any]


def report(name: str, stored: NDArray, rows: int) -> list[Record]:
    """Print one table; its lines come back."""
    records: list[Record] = []
    stored = stored[:: max(len(stored) // rows, 1)]
    mass = np.maximum(stored.astype(np.float64), 0)
    mass = mass[mass.sum(axis=1) > 0]
    mass /= mass.sum(axis=1, keepdims=True)
    count = len(mass)
    print(f"\n{name}: {count} rows of {mass.shape[1]} {stored.dtype}")
    print(
        f"{'way':28s} {'numbers':>7s} {'plain B':>8s} {'coded B':>8s} {'KLD p50':>9s} {'p99':>9s}"
    )

    def line(way: str, numbers: object, plain: object, coded: float, other: Float) -> None:
        kld = divergence(mass, other)
        middle, high = np.median(kld), np.quantile(kld, 0.99)
        records.append(
            {
                "set": name,
                "way": way.removesuffix(" *"),
                "numbers": numbers or None,
                "plain_bytes_per_row": plain or None,
                "bytes_per_row": coded,
                "divergence_p50": float(middle),
                "divergence_p99": float(high),
                "rows": count,
            }
        )
        print(
            f"{way:28s} {numbers!s:>7s} {plain!s:>8s} {coded:8.2f} {middle:9.2e} {high:9.2e}",
            flush=True,
        )

    started = time.perf_counter()
    for level, other, size in ladder(mass):
        line(f"skyfold {level}", "", "", size / count, other)
    print(f"  (both in {1e6 * (time.perf_counter() - started) / count:.0f} us a row)")
    exact = sum(
        len(NonzeroCodec().encode_chunk(stored[at : at + CHUNK_ROWS]))
        for at in range(0, len(stored), CHUNK_ROWS)
    )
    print(
        f"{'skyfold exact':28s} {'':7s} {stored.itemsize * stored.shape[1]:8d} {exact / count:8.2f}"
    )
    peers: list[tuple[str, Callable[[Float, int], Way], tuple[int, ...]]] = [
        ("quantiles", quantiles, (20, 30, 40, 60, 80, 100, 150, 200)),
        ("histogram", histogram, (20, 30, 40, 50, 60, 80, 100, 130, 160, 200)),
        ("sparse basis", SparseBasis(mass.shape[1]), (3, 4, 5, 6, 8, 10, 12, 15, 20, 30)),
    ]
    for way, encode, numbers in peers:
        reached = False
        for number in numbers:
            other, plain, coded = encode(mass, number)
            good = float(np.median(divergence(mass, other))) <= TARGET
            if number in (20, 100) or (good and not reached):
                mark = " *" if good and not reached else ""
                line(way + mark, number, plain, coded / count, other)
            reached |= good
            if reached and number >= (100 if way != "sparse basis" else 20):
                break
    return records


def run(data: Path, out: Path, rows: int) -> None:
    """Compare the sets that are there; records and a picture below `out`."""
    sets = {f"simulated, {n} points": simulated(n, rows, 5 + n) for n in (100, 200)}
    path = data / "pz" / "CFHTLens_sample.P.npy"
    if path.is_file():
        sets = {"CFHTLenS": np.load(path)[:-1]} | sets
    records = [one for name, stored in sets.items() for one in report(name, stored, rows)]
    (out / "densities.json").write_text(json.dumps(records, indent=1) + "\n")
    _draw(records, list(sets), out / "densities.png")


def _draw(records: list[Record], names: list[str], path: Path) -> None:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 4), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        found = [one for one in records if one["set"] == name]
        for way in dict.fromkeys(one["way"] for one in found):
            points = [
                (one["bytes_per_row"], one["divergence_p50"]) for one in found if one["way"] == way
            ]
            axis.plot(*zip(*sorted(points), strict=True), "o-", label=way)
        axis.axhline(TARGET, color="0.6", linestyle=":")
        axis.set(xscale="log", yscale="log", title=name, xlabel="bytes a row")
        axis.set_ylabel("median divergence [nats]")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def simulated(points: int, rows: int, seed: int) -> Float:
    """Masses of mixtures of up to four peaks, with and without wide wings, for fitting tables."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, points)
    out = np.zeros((rows, points))
    for number in range(4):
        sd = np.exp(rng.uniform(np.log(0.8 / points), np.log(0.15), (rows, 1)))
        away = (x - rng.uniform(0, 1, (rows, 1))) / sd
        weight = rng.random((rows, 1)) * (rng.random((rows, 1)) < 0.5 if number else 1)
        winged = rng.random((rows, 1)) < 0.3
        out += weight / sd * np.where(winged, (1 + away**2 / 3) ** -3, np.exp(-(away**2) / 2))
    return out / out.sum(axis=1, keepdims=True)


def print_tables(every: list[Float]) -> None:
    """Maps of contexts to tables that suit these densities, as the source has them."""
    for level, narrow in NARROW.items():
        counts = sum(
            histogram_of(getattr(encode_together(mass, Bounds()), level), narrow) for mass in every
        )
        chosen = fit_map(counts, np.full(CONTEXTS, 40, np.uint8))
        print(level, base64.b85encode(zlib.compress(_filled(chosen, counts), 9)).decode())


def _filled(chosen: NDArray[np.uint8], counts: NDArray[np.int64]) -> bytes:
    """Contexts that hardly occur take the table of the nearest that does."""
    common = np.flatnonzero(counts.sum(axis=1) >= 20)
    place = np.array(np.unravel_index(np.arange(CONTEXTS), (8, 8, 7))).T * [1, 1, 2]
    nearest = np.abs(place[:, None] - place[common]).sum(axis=2).argmin(axis=1)
    return chosen[common[nearest]].astype(np.uint8).tobytes()


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="densities and grid (or last-row) in turn")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    if args.fit:
        print_tables([simulated(points, 1500, points) for points in (100, 200, 301)])
    for name, grid in zip(args.files[::2], args.files[1::2], strict=True):
        stored = np.load(name)
        report(name, stored[:-1] if grid == "last-row" else stored, args.rows)
    if not args.files and not args.fit:
        report("simulated mixtures", simulated(200, args.rows, 5), args.rows)


if __name__ == "__main__":
    main()
