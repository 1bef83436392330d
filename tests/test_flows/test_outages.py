"""What is killed while a build needs it, and the release that comes out in the end.

Each build loses three servers of the stack and its own process, each at another moment; over four
builds each of them is lost at every moment. Takes minutes, so it runs where ``SKYFOLD_STACK=1``
asks for it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import resume

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow, pytest.mark.s3]

FLOW = "flow"  # the build's own process
LOST = ("dask-worker-0", "prefect", "s3", FLOW)
MOMENTS = (  # what lies in the release once a step has begun or is done
    "_staging/plan.json",
    "_staging/images",
    "_staging/objects/found",
    "fidelity.ecsv",
)
PATIENCE = 900.0
RUNS = 6  # of a build; each goes on where the one before was stopped


class Build:
    """Builds of one survey on the stack, into a product of its own."""

    def __init__(self, stack, survey: Path, place: str, release: str = "dr2") -> None:
        from skyfold.access.store import Store

        self.survey = survey.with_name(f"{release}-{place}.toml")
        self.survey.write_text(survey.read_text().replace("PLACE", place))
        self.stack = stack
        given = stack.environment
        options = {
            "endpoint_url": given["AWS_ENDPOINT_URL"],
            "key": given["AWS_ACCESS_KEY_ID"],
            "secret": given["AWS_SECRET_ACCESS_KEY"],
        }
        self.store = Store(f"s3://skyfold/{place}/demo/{release}", options)

    def run(self, outages: list[tuple[str, str]]) -> int:
        """Build to the end, losing this at that moment, in order; the number of runs it took."""
        waiting = list(outages)
        for number in range(1, RUNS + 1):
            if self._run_once(waiting) == 0:
                assert not waiting, f"the build ended before {waiting}"
                return number
        raise AssertionError(f"no build of {RUNS} came to its end; see {self.log}")

    @property
    def log(self) -> Path:
        """What the builds printed."""
        return self.survey.with_suffix(".log")

    def _run_once(self, waiting: list[tuple[str, str]]) -> int:
        self._wait_for("prefect", f"{self.stack.environment['PREFECT_API_URL']}/health")
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows", "build", str(self.survey), "--accept"],
                env=os.environ | self.stack.environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if waiting and self._has_come_to(waiting[0][1]):
                self._lose(waiting.pop(0)[0], process)
            time.sleep(0.1)
        process.kill()  # one that waits for a server that has forgotten it
        return process.wait()

    def _has_come_to(self, moment: str) -> bool:
        return bool(self.store.sizes(moment)) or self.store.exists(moment)

    def _lose(self, server: str, process: subprocess.Popen) -> None:
        if server == FLOW:
            process.kill()
            return
        self.stack.restart(server)
        if server == "s3":  # which is asked for the next moment; builds do not wait for the others
            self._wait_for(server, self.stack.environment["AWS_ENDPOINT_URL"])

    def _wait_for(self, server: str, url: str) -> None:
        from flows.stack import answers, wait_for

        wait_for(lambda: answers(url), server, self.stack.folder / f"{server}.log")

    def content(self) -> dict[str, str]:
        """SHA-256 of every object of the release."""
        return {key: hashlib.sha256(self.store.read(key)).hexdigest() for key in self.store.sizes()}


@pytest.fixture(scope="module")
def survey(stack, tmp_path_factory) -> Path:
    """dr2.toml holds three images, the first of them by reference to dr1."""
    from flows import ceph

    if not ceph.is_installed():
        pytest.skip("moto forgets everything when it is killed; install radosgw")
    folder = tmp_path_factory.mktemp("outages") / "survey"
    text = resume.small_survey(folder, images=3, size=256, rows=10).read_text()
    text = text[: text.index("[[catalogs]]")] + text[text.index("[training]") :]
    text = text.replace("archive/demo/dr1", "s3://skyfold/PLACE/demo/dr1")
    first = folder / "dr1.toml"
    first.write_text(text.replace("night1/*.fits", "night1/*_0000_*.fits"))
    Build(stack, first, "base", "dr1").run([])  # trains, which takes longer than all the rest
    second = folder / "dr2.toml"
    second.write_text(text.replace('demo/dr1"', 'demo/dr2"\nbase = "dr1"'))
    return second


def build_of(stack, survey: Path) -> Build:
    """Build of dr2 beside a copy of dr1, always at one URL: a release names its configuration."""
    build = Build(stack, survey, "again")
    files = build.store.fs
    if files.exists("skyfold/again"):
        files.rm("skyfold/again", recursive=True)
    files.copy("skyfold/base/demo/", "skyfold/again/demo/", recursive=True)
    return build


@pytest.fixture(scope="module")
def expected(stack, survey) -> dict[str, str]:
    """The release of a build that nothing disturbs."""
    build = build_of(stack, survey)
    assert build.run([]) == 1
    return build.content()


@pytest.mark.parametrize("turn", range(len(MOMENTS)))
def test_whatever_is_killed_the_bytes_are_the_same(stack, survey, expected, turn):
    build = build_of(stack, survey)
    moments = [MOMENTS[(turn + place) % len(MOMENTS)] for place in range(len(LOST))]
    outages = sorted(zip(LOST, moments, strict=True), key=lambda one: MOMENTS.index(one[1]))
    runs = build.run(outages)
    print(f"{outages}: sealed by run {runs}")
    assert build.content() == expected
