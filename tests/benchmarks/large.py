"""Memory that one large image takes: read, encoded, written, and decoded to a file again.

    python -m tests.benchmarks.large --release build/demo/archive/demo/dr1 --side 16384 --dtype f4

The sky is that of the release's survey: exposures of its raw files side by side, each turned at
random, with noise of their own. Every step is a process, whose largest resident memory is printed;
every bit of the decoded file is compared.
"""

from __future__ import annotations

import argparse
import resource
import time
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from astropy.io import fits

from skyfold import open_release
from skyfold.access.store import Store
from skyfold.images.network import Network, model_digest
from storage.builder import ReleaseBuilder
from storage.images.archive import archive_image, inspect_image
from storage.images.entries import plan_groups
from storage.images.writer import write_indexes
from storage.survey import ImageRef, SetAside

BITPIX = {"i2": 16, "i4": 32, "f4": -32, "f8": -64}
STEP = 0.5
ROWS = 1024  # compared together


def main() -> None:
    """Print what each step took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, required=True, help="whose model encodes")
    parser.add_argument("--raw", default="build/demo/raw/night1/*.fits", help="its exposures")
    parser.add_argument("--side", type=int, default=16384)
    parser.add_argument("--dtype", choices=BITPIX, default="f4")
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        raw, back = Path(folder) / "raw.fits", Path(folder) / "back.fits"
        archive = str(Path(folder) / "archive/large/dr1")
        write_mosaic(raw, given.raw, given.side, given.dtype)
        megabytes = raw.stat().st_size / 1e6
        print(f"{given.side} x {given.side} {given.dtype}, {megabytes:.0f} MB")
        report("encode", in_process(encode, raw, archive, given.release))
        report("decode", in_process(decode, archive, back))
        require_same(raw, back)
        print("every bit is back")


def report(name: str, took: tuple[float, float, str]) -> None:
    """One line about a step."""
    memory, seconds, said = took
    print(f"{name}: at most {memory:.2f} GB, {seconds:.0f} s{said}", flush=True)


def in_process(step: Any, *args: Any) -> tuple[float, float, str]:
    """Largest memory [GB] and processor time [s] of a step in a process of its own; its words."""
    with get_context("spawn").Pool(1) as pool:
        found: tuple[float, float, str] = pool.apply(_measured, (step, args))
        return found


def _measured(step: Any, args: tuple[Any, ...]) -> tuple[float, float, str]:
    start = time.process_time()
    said = step(*args)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return largest, time.process_time() - start, said


def write_mosaic(path: Path, pattern: str, side: int, dtype: str) -> None:
    """Write exposures side by side, one row of them after the other."""
    tiles = [np.asarray(fits.getdata(one), np.float32) for one in sorted(Path().glob(pattern))]
    rng, length = np.random.default_rng(1), tiles[0].shape[0]
    header = fits.Header([("SIMPLE", True), ("BITPIX", BITPIX[dtype]), ("NAXIS", 2)])
    header["NAXIS1"] = header["NAXIS2"] = side
    with fits.StreamingHDU(path, header) as out:
        for top in range(0, side, length):
            row = [_turned(tiles, rng) for _ in range(-(-side // length))]
            part = np.concatenate(row, axis=1)[: side - top, :side]
            part = part + rng.normal(0, 1, part.shape).astype(np.float32)
            whole = np.dtype(dtype).kind == "i"
            out.write((np.rint(part) if whole else part / 100).astype(dtype))


def _turned(tiles: list[Any], rng: np.random.Generator) -> Any:
    turned = np.rot90(tiles[rng.integers(len(tiles))], rng.integers(4))
    return turned[::-1] if rng.integers(2) else turned


def encode(raw: Path, archive: str, release: Path) -> str:
    """Archive the image as a flow does; what it took."""
    folder = next((release / "models").glob("*/encoder.onnx")).parent
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    network = Network(files, model_digest(files))
    ref = ImageRef("mosaic/large", "mosaic", "r", raw.name, str(raw), 0)
    entry = inspect_image(ref, options={}, step=STEP)
    assert not isinstance(entry, SetAside)
    placed, groups = plan_groups([entry], network.channels, network.tables)
    builder = ReleaseBuilder(Store(archive))
    builder.write_model(files)
    builder.start({"name": "large", "images": ["mosaic"], "hold_out": {}}, groups)
    written, _ = archive_image(builder, network, ref, placed[0], options={})
    write_indexes(builder, [written])
    levels = ("latent", "sources", "bounded", "exact")
    bits = ", ".join(f"{one} {8 * written.bytes_at(one) / written.pixels:.3f}" for one in levels)
    return f"; bits a pixel: {bits}"


def decode(archive: str, back: Path) -> str:
    """Write it as FITS at `exact`."""
    open_release(archive, unsealed=True).images.write_fits("mosaic/large", back)
    return ""


def require_same(raw: Path, back: Path) -> None:
    """Compare the bits of two files' images."""
    with fits.open(raw, memmap=True) as one, fits.open(back, memmap=True) as other:
        for top in range(0, one[0].data.shape[0], ROWS):
            parts = (hdus[0].data[top : top + ROWS] for hdus in (one, other))
            bits = [part.view(f"V{part.dtype.itemsize}") for part in parts]
            assert (bits[0] == bits[1]).all(), f"rows from {top} on differ"


if __name__ == "__main__":
    main()
