"""Image codecs side by side: the same images, the same measures, in one run.

    python -m tests.benchmarks [--quick] [--learned] [--minutes M] [--only IMAGE,...]
    python -m tests.benchmarks --only catalogs|densities [--rows N]
    python -m tests.benchmarks --only client

Simulated skies and real survey images, every codec at a range of settings, skyfold trained for a
stated number of minutes on other sky of the same kind. Leaves ``build/benchmarks/images.json``
(one record per image, codec and setting) and a picture of every image's rate and distortion, and
prints the records and the project's bars.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from skyfold.ladder import LEVELS
from storage.images.prepared import NotLadderableError
from tests.benchmarks import bars, catalogs, client, densities, pictures, skies
from tests.benchmarks.images import Cost, Subject, timed
from tests.benchmarks.ladder import Ladder, Model, train_model, training_patches
from tests.benchmarks.learned import fit_learned
from tests.benchmarks.peers import Peer, peers
from tests.benchmarks.skies import Case
from tests.benchmarks.transforms import fit_pca, fit_wavelet

ROOT = Path(__file__).resolve().parents[2]
SURVEY_PIXELS = 1e9  # a small survey, over which a model's bytes are spread
Record = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much a run does."""

    minutes: float = 3.0
    side: int = 1024
    most: int = 1 << 19
    simulated: int = len(skies.SIMULATIONS)
    real: int = len(skies.SOURCES)


QUICK = Scale(minutes=1.0, side=640, most=320_000, simulated=2, real=3)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    asked = _parse(arguments)
    scale = QUICK if asked.quick else Scale()
    minutes = asked.minutes or scale.minutes
    chosen = set(asked.only.split(",")) if asked.only else None
    console = Console(width=max(Console().width, 200))
    asked.out.mkdir(parents=True, exist_ok=True)
    if chosen == {"catalogs"}:
        catalogs.run(asked.data, asked.out, asked.rows or 100_000, console)
        return
    if chosen == {"client"}:
        client.main([])
        return
    if chosen == {"densities"}:
        densities.run(asked.data, asked.out, asked.rows or 2000)
        return
    records: list[Record] = []
    models = {}
    for kind, cases in _cases(asked.data, asked.out / "raw", chosen, scale, console).items():
        model, found = _run(kind, cases, minutes, asked, console)
        models[kind] = model
        records += found
        _write(asked.out / "images.json", models, records)
    if not records:
        console.print(f"no image is called {asked.only}; nothing was compared")
        return
    _report(console, asked.out, models, records)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 + 3 small images, 1 minute each")
    parser.add_argument("--minutes", type=float, help="of training, for each kind of sky")
    parser.add_argument("--learned", action="store_true", help="a plain learned codec as well")
    parser.add_argument(
        "--only", help="names of images, separated by commas; or catalogs; or densities; or client"
    )
    parser.add_argument("--rows", type=int, help="of simulated catalogs, or of densities")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    return parser.parse_args(arguments)


def _cases(
    data: Path, folder: Path, chosen: set[str] | None, scale: Scale, console: Console
) -> dict[str, list[Case]]:
    """Images of each kind; kinds without any are left out."""
    found: dict[str, list[Case]] = defaultdict(list)
    count = len(skies.SIMULATIONS) if chosen else scale.simulated
    for case in skies.simulated(folder, chosen, scale.side, count):
        found[case.kind].append(case)
    real = len(skies.SOURCES) if chosen else scale.real
    for one in skies.real(data, folder, chosen, scale.most, real):
        if isinstance(one, str):
            console.print(one, highlight=False)
        else:
            found[one.kind].append(one)
    return found


def _run(
    kind: str, cases: list[Case], minutes: float, asked: argparse.Namespace, console: Console
) -> tuple[Record, list[Record]]:
    """Train on the sky beside all images of one kind, then compare the codecs on each."""
    start = time.monotonic()
    patches = training_patches(cases)
    model = train_model(patches, minutes, asked.out / "models")
    fitted = [fit_pca(*patches), fit_wavelet(patches[0][::16])]
    if asked.learned:
        fitted.append(fit_learned(*patches, minutes))
    folder = asked.out / "releases" / kind
    shutil.rmtree(folder, ignore_errors=True)
    ladder = Ladder(folder, cases, model)
    console.print(f"{kind}: trained and encoded in {time.monotonic() - start:.0f} s")
    records: list[Record] = []
    for case in cases:
        found = list(_compare(case, ladder, fitted + peers(), console))
        pictures.show_records(console, case.name, found)
        records += found
    return _about(model, minutes, cases), records


def _about(model: Model, minutes: float, cases: list[Case]) -> Record:
    """What is said of a model beside the records."""
    pixels = sum(case.test.stored.size for case in cases)
    size = model.reader_bytes
    return {
        "digest": model.network.digest,
        "minutes": minutes,
        "bytes": size,
        "bpp over these images": 8 * size / pixels,
        f"bpp over {SURVEY_PIXELS:.0e} pixels": 8 * size / SURVEY_PIXELS,
    }


def _compare(case: Case, ladder: Ladder, codecs: list[Peer], console: Console) -> Iterator[Record]:
    """Records of every codec on one image; of skyfold first."""
    try:
        subject = Subject.of(case.test, ladder.noise(case.name))
    except NotLadderableError:
        return
    about = {
        "image": case.name,
        "kind": case.kind,
        "pixels": case.test.stored.size,
        "dtype": case.test.stored.dtype.name,
        "integer": case.test.stored.dtype.kind in "iu",
        "noise_bits": case.noise_bits,
    }
    yield from (about | one for one in _ladder_records(case, ladder, subject))
    for codec in codecs:
        if codec.suits(subject.stored.dtype):
            yield from (about | one for one in _peer_records(codec, subject, console))


def _ladder_records(case: Case, ladder: Ladder, subject: Subject) -> Iterator[Record]:
    entry, encoding = ladder.entries[case.name], ladder.costs[case.name]
    ladder.decode(case.name, "latent")  # opens the network and the index
    for level in LEVELS:
        pixels, decoding = ladder.decode(case.name, level)
        yield {
            "codec": pictures.OURS,
            "setting": level,
            "mode": entry.mode,
            **_rate(entry.bytes_at(level), subject, encoding, decoding),
            **subject.measure(pixels),
        }


def _peer_records(codec: Peer, subject: Subject, console: Console) -> Iterator[Record]:
    for setting in codec.settings:
        try:
            data, encoding = timed(partial(codec.encode, subject, setting))
            pixels, decoding = timed(partial(codec.decode, data, subject, setting), times=2)
        except (ValueError, RuntimeError) as error:  # what another project's codec refuses
            console.print(f"{codec.name} {setting}: left out: {error}", markup=False)
            continue
        yield {
            "codec": codec.name,
            "setting": setting,
            **_rate(codec.size(data), subject, encoding, decoding),
            **subject.measure(pixels),
        }


def _rate(size: int, subject: Subject, encoding: Cost, decoding: Cost) -> Record:
    pixels = subject.stored.size
    return {
        "bytes": size,
        "bpp": 8 * size / pixels,
        "encode_mpix_s": pixels / 1e6 / encoding.seconds,
        "decode_mpix_s": pixels / 1e6 / decoding.seconds,
        "encode_peak_mb": encoding.peak_mb,
        "decode_peak_mb": decoding.peak_mb,
    }


def _write(path: Path, models: Record, records: list[Record]) -> None:
    path.write_text(json.dumps({"models": models, "records": records}, indent=1) + "\n")


def _report(console: Console, out: Path, models: Record, records: list[Record]) -> None:
    by_image: dict[str, list[Record]] = defaultdict(list)
    for one in records:
        by_image[one["image"]].append(one)
    judged: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for name, found in by_image.items():
        pictures.draw(name, found, out)
        judged[found[0]["kind"]][name] = bars.judge(found)
    pictures.show_bars(console, judged)
    for kind, model in models.items():
        console.print(f"model of {kind} images: {model}", highlight=False)
    console.print(f"records and pictures are in {out}", highlight=False)


if __name__ == "__main__":
    main()
