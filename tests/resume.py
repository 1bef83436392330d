"""Kills builds at chosen moments, runs them again, compares with an undisturbed release.

``python -m tests.resume --points 40`` kills the flow's process before 40 of its changes of the
release, spread evenly from the first to the last. With ``--storage`` it is not the flows that are
killed but the same steps without Prefect, which takes a tenth of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

CHANGES = ("os.rename", "os.link", "os.remove")
PRELOADED = {
    "build_flows": ["flows.build", "models.pca", "models.export", "skyfold.images.library"],
    "build_storage": [
        "skyfold.images.library",
        "skyfold.fidelity.images",
        "storage.images.archive",
    ],
}
RELEASE = "archive/demo/dr1"
KILLED = -signal.SIGKILL
TIMEOUT = 600.0


def small_survey(folder: Path, *, images: int = 3, size: int = 256, rows: int = 200) -> Path:
    """A simulated survey whose model takes no time; path of its survey.toml."""
    from flows.simulate import simulate_survey

    path = simulate_survey(folder, seed=8, images=images, size=size, catalog_rows=rows)
    text = path.read_text()
    path.write_text(text[: text.index("[training]")] + '[training]\nmodel = "pca"\nsteps = 1\n')
    return path


def run_build(
    target: Callable[[str], None], survey: str, kill_at: int | None, counted: str
) -> None:
    """In a process of its own: build, and die before the change of that number."""
    release = os.path.join(os.path.dirname(survey), "archive")
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in CHANGES and str(arguments[0]).startswith(release):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    target(survey)
    Path(counted).write_text(str(count))


def build_flows(survey: str) -> None:
    """All flows."""
    from flows.build import build

    build(survey)


def build_storage(survey: str) -> None:
    """The same steps on images, without Prefect and training, as `flows.publish` ends them."""
    sys.path.insert(0, str(Path(__file__).parent))
    from small_release import build_release

    from skyfold.access.store import Store
    from skyfold.errors import SealedReleaseError
    from storage.builder import ReleaseBuilder

    url = os.path.join(os.path.dirname(survey), RELEASE)
    with contextlib.suppress(SealedReleaseError):
        build_release(Path(survey), url)
    ReleaseBuilder(Store(url)).clear_staging()


class Builder:
    """Runs builds in processes that start with everything imported."""

    def __init__(self, folder: Path, target: Callable[[str], None] = build_flows) -> None:
        self.folder = folder
        self.target = target
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED[target.__name__])

    def build(self, survey: Path, kill_at: int | None = None) -> tuple[int, int]:
        """Exit code of a build, and how many changes it made if it came to its end."""
        counted = self.folder / "count"
        counted.unlink(missing_ok=True)
        process = self.context.Process(
            target=run_build, args=(self.target, str(survey), kill_at, str(counted))
        )
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"a build killed at {kill_at} did not end in {TIMEOUT:.0f} s")
        return process.exitcode or 0, int(counted.read_text()) if counted.exists() else 0


def content(survey: Path) -> dict[str, str]:
    """SHA-256 of every file of the release, hidden and stray ones too."""
    root = survey.parent / RELEASE
    files = [path for path in root.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def copy_of(survey: Path, folder: Path) -> Path:
    """The same survey elsewhere, without its release; paths differ, names do not."""
    shutil.copytree(survey.parent, folder, ignore=shutil.ignore_patterns("archive"))
    return folder / survey.name


def kill_points(changes: int, points: int) -> list[int]:
    """Numbers of changes, from 1, spread evenly."""
    return sorted(set(np.linspace(1, changes, min(points, changes)).astype(int).tolist()))


def check_point(
    builder: Builder, survey: Path, expected: dict[str, str], point: int
) -> dict[str, str]:
    """Kill a build before one change, run it again; what differs from the expected release."""
    again = copy_of(survey, builder.folder / f"killed-{point}" / survey.parent.name)
    code, _ = builder.build(again, point)
    if code != KILLED:
        return {"": f"the build killed at {point} ended with {code}"}
    code, _ = builder.build(again)
    if code:
        return {"": f"the build after a kill at {point} ended with {code}"}
    found = content(again)
    shutil.rmtree(again.parent.parent)
    return {
        key: f"{expected.get(key)} is {found.get(key)}"
        for key in expected.keys() | found.keys()
        if expected.get(key) != found.get(key)
    }


def main() -> int:
    """Number of points that went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=30)
    parser.add_argument("--storage", action="store_true")
    arguments = parser.parse_args()
    if arguments.storage:
        with tempfile.TemporaryDirectory() as name:
            return kill_all(Path(name), build_storage, arguments.points)
    from prefect.testing.utilities import prefect_test_harness

    with tempfile.TemporaryDirectory() as name, prefect_test_harness(server_startup_timeout=180):
        from prefect.settings import PREFECT_API_URL

        os.environ["PREFECT_API_URL"] = str(PREFECT_API_URL.value())
        return kill_all(Path(name), build_flows, arguments.points)


def kill_all(folder: Path, target: Callable[[str], None], points: int) -> int:
    """Kill builds before so many of their changes; how many went wrong, each told."""
    builder = Builder(folder, target)
    survey = small_survey(folder / "whole" / "survey")
    started = time.monotonic()
    code, changes = builder.build(survey)
    print(f"undisturbed: exit {code}, {changes} changes, {time.monotonic() - started:.1f} s")
    if code:
        return 1
    expected = content(survey)
    wrong = 0
    chosen = kill_points(changes, points)
    for point in chosen:
        problems = check_point(builder, survey, expected, point)
        wrong += bool(problems)
        print(f"killed before change {point}: {problems or 'the same bytes'}", flush=True)
    print(f"{wrong} of {len(chosen)} points went wrong")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
