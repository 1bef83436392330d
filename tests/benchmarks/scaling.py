"""What a second Dask worker brings, and what Prefect costs: printed for docs/scaling.md.

``python -m tests.benchmarks.scaling --images 200 --size 512`` encodes a simulated survey by the
deployment ``encode/encode-night`` of the stack that `make stack` started, once with one of its Dask
workers and once with two. Only encoding counts: from the start of its first task to the end of its
last, as the Prefect server noted them. Other programs may use the same cores, so beside the time on
the clock stand processor seconds of each worker and of all other processes of the stack.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

if TYPE_CHECKING:
    from flows.stack import Stack

TASK = "encode images"
WORKER = "dask-worker-"
CORES = 2
PERIOD = 0.5  # s between looks at the processes
PATIENCE = 3600.0


def survey_of(folder: Path, images: int, size: int) -> str:
    """Text of a simulated survey of images alone, with a model that takes no time to train."""
    from flows.simulate import simulate_survey

    text = simulate_survey(folder, seed=2, images=images, size=size, catalog_rows=10).read_text()
    return text[: text.index("[[catalogs]]")] + '[training]\nmodel = "pca"\nsteps = 1\n'


@dataclass(frozen=True)
class Look:
    """Processor seconds so far and resident bytes of each process of the stack and its children."""

    time: float
    seconds: dict[str, float]
    memory: dict[str, int]


class Watch(threading.Thread):
    """Looks at the stack's processes until it is stopped."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(daemon=True)
        self.stack, self.looks, self.ended = stack, list[Look](), threading.Event()
        self._known: dict[tuple[str, int], float] = {}

    def run(self) -> None:
        """Until `stop`."""
        while not self.ended.wait(PERIOD):
            self.looks.append(self._look())

    def stop(self) -> None:
        """End, and wait for it."""
        self.ended.set()
        self.join()

    def _look(self) -> Look:
        memory: dict[str, int] = {}
        for name, pid in self.stack.pids.items():
            for process in _family(pid):
                try:
                    spent, size = process.cpu_times(), process.memory_info().rss
                except psutil.Error:
                    continue  # it has ended
                self._known[name, process.pid] = spent.user + spent.system
                memory[name] = max(memory.get(name, 0), size)
        seconds: dict[str, float] = {}
        for (name, _), spent_by in self._known.items():
            seconds[name] = seconds.get(name, 0.0) + spent_by
        return Look(time.time(), seconds, memory)

    def spent(self, start: float, stop: float) -> dict[str, float]:
        """Processor seconds of each process between two times."""
        times = [look.time for look in self.looks]
        return {
            name: float(np.diff(np.interp([start, stop], times, self._series(name)))[0])
            for name in self.looks[-1].seconds
        }

    def _series(self, name: str) -> list[float]:
        return [look.seconds.get(name, 0.0) for look in self.looks]

    def memory(self, start: float, stop: float) -> tuple[float, float]:
        """Largest worker in the first and in the second half of a time [GB]."""
        middle = (start + stop) / 2
        halves = [(start, middle), (middle, stop)]
        first, second = (
            max(
                size
                for look in self.looks
                if low <= look.time <= high
                for name, size in look.memory.items()
                if name.startswith(WORKER)
            )
            for low, high in halves
        )
        return first / 1e9, second / 1e9


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def run(deployment: str, survey: Path) -> str:
    """Run a deployment to its end; id of the flow run."""
    from prefect.deployments import run_deployment

    given: Any = run_deployment(
        deployment, parameters={"survey": str(survey)}, timeout=PATIENCE, as_subflow=False
    )
    if not given.state.is_completed():
        sys.exit(f"{deployment} ended as {given.state}; its log is in the Prefect server")
    return str(given.id)


async def let_follow(follow: bool) -> None:
    """Whether what deployments start by themselves does so; it would use the same workers."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        for one in await client.read_automations():
            change = client.resume_automation if follow else client.pause_automation
            await change(one.id)


async def tasks_of(flow_run: str) -> list[Any]:
    """All task runs of a flow run."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter

    chosen = FlowRunFilter.model_validate({"id": {"any_": [flow_run]}})
    found: list[Any] = []
    async with get_client() as client:
        while page := await client.read_task_runs(
            flow_run_filter=chosen, offset=len(found), limit=200
        ):
            found += page
    return found


def encode(stack: Stack, survey: Path, workers: int, images: int, size: int) -> tuple[float, float]:
    """Encode with so many workers, print what it took; images a second, and those of free cores."""
    watch = Watch(stack)
    watch.start()
    tasks = asyncio.run(tasks_of(run("encode/encode-night", survey)))
    watch.stop()
    spans = [
        (one.start_time.timestamp(), one.end_time.timestamp())
        for one in tasks
        if one.name.startswith(TASK)
    ]
    start, stop = min(one[0] for one in spans), max(one[1] for one in spans)
    taken, spent = stop - start, watch.spent(start, stop)
    own = [seconds for name, seconds in spent.items() if name.startswith(WORKER)][:workers]
    other = sum(spent.values()) - sum(own)
    least = max(*own, sum(own) / workers, (sum(own) + other) / CORES)
    idle = 1 - sum(end - begin for begin, end in spans) / (workers * taken)
    first, second = watch.memory(start, stop)
    each = ", ".join(f"{seconds / images:.3f}" for seconds in own)
    print(
        f"{workers} workers: {images} images of {size}^2 in {taken:.1f} s, "
        f"{images * size**2 / 1e6 / taken:.2f} Mpixel/s; {len(spans)} of {len(tasks)} task runs "
        f"encode, workers had none in {idle:.1%}\n"
        f"  processor seconds an image: {sum(own) / images:.3f} of workers ({each} each), "
        f"{other / images:.3f} of all else; on {CORES} free cores that is {least:.1f} s\n"
        f"  largest worker: {first:.2f} GB in the first half, {second:.2f} GB in the second",
        flush=True,
    )
    for name, seconds in sorted(spent.items(), key=lambda one: -one[1]):
        print(f"    {name}: {seconds:.1f} s")
    return images / taken, images / least


def get_ready() -> None:
    """On a worker: import what its tasks need, which takes a new one seconds."""
    import flows.encode  # noqa: F401


def hire(stack: Stack, count: int) -> None:
    """Have so many Dask workers, and wait until they can begin."""
    from distributed import Client

    for name in [one for one in stack.commands if one.startswith(WORKER)]:
        is_wanted = int(name.removeprefix(WORKER)) < count
        if is_wanted and not stack.is_alive(name):
            stack.restart(name)
        elif not is_wanted:
            stack.kill(name)
    with Client(stack.environment["SKYFOLD_DASK"]) as client:
        client.wait_for_workers(count)
        client.run(get_ready)


def measure(stack: Stack, folder: Path, images: int, size: int, workers: list[int]) -> None:
    """Print the figures."""
    from flows.stack import BUCKET
    from skyfold.access.store import Store

    text, product = survey_of(folder, images, size), f"{BUCKET}/{folder.name}"
    surveys = {count: folder / f"workers-{count}.toml" for count in workers}
    for count, path in surveys.items():
        path.write_text(text.replace("archive/demo", f"s3://{product}/{count}"))
    run("train/train-weekly", surveys[workers[0]])
    rates = []
    files = Store(f"s3://{product}").fs
    for count, path in surveys.items():
        if count != workers[0]:  # the same plan and model
            files.copy(f"{product}/trained/", f"{product}/{count}/", recursive=True)
        elif len(workers) > 1:
            files.copy(f"{product}/{count}/", f"{product}/trained/", recursive=True)
        hire(stack, count)
        rates.append(encode(stack, path, count, images, size))
    for count, (clock, free) in zip(list(surveys)[1:], rates[1:], strict=True):
        print(
            f"{count} workers over {workers[0]}: {clock / rates[0][0]:.2f} by the clock, "
            f"{free / rates[0][1]:.2f} by processor seconds on {CORES} free cores"
        )


def main() -> None:
    """Measure on the stack that runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--stack", type=Path, default=Path("build/stack"))
    arguments = parser.parse_args()
    import flows  # noqa: F401 - its settings come before Prefect is imported
    from flows.stack import Stack

    stack = Stack.load(arguments.stack)
    missing = {k: v for k, v in stack.environment.items() if os.environ.get(k) != v}
    if missing:  # settings are read when libraries are imported
        os.execve(sys.executable, sys.orig_argv, os.environ | stack.environment)
    asyncio.run(let_follow(False))
    try:
        with tempfile.TemporaryDirectory(prefix="scaling-") as name:
            measure(stack, Path(name), arguments.images, arguments.size, arguments.workers)
    finally:
        asyncio.run(let_follow(True))


if __name__ == "__main__":
    main()
