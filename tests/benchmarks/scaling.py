"""What encoding costs, and what running it as flows adds: printed for docs/scaling.md.

``python -m tests.benchmarks.scaling --images 24 --size 1024`` encodes a simulated survey on one and
on two Dask workers, each with an empty release, and reads the times of the task runs from the
Prefect server: pixels a second of each worker, the ratio of two to one, the largest resident memory
of any process, and the share of the time in which no task ran.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TASK = "encode images"


def survey_of(folder: Path, images: int, size: int) -> Path:
    """A simulated survey of images alone, with a model that takes no time to train."""
    from flows.simulate import simulate_survey

    path = simulate_survey(folder, seed=2, images=images, size=size, catalog_rows=10)
    text = path.read_text()
    path.write_text(text[: text.index("[[catalogs]]")] + '[training]\nmodel = "pca"\nsteps = 1\n')
    return path


WATCHED = """
import resource, subprocess, sys
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
subprocess.run([sys.executable, "-m", "flows", *sys.argv[1:]], check=True, **quiet)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def flows(command: str, survey: Path, dask: str) -> float:
    """Run one command of the producer; memory of the largest process that it had [GB]."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, command, str(survey)],
        env=os.environ | {"SKYFOLD_DASK": dask},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout) / 1e6


async def last_run(flow: str) -> dict[str, Any]:
    """Seconds of the last run of a flow, and start and end of its encoding tasks."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    async with get_client() as client:
        runs = await client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": [flow]}}),
            sort=FlowRunSort.START_TIME_DESC,
            limit=1,
        )
        tasks: list[Any] = []
        while True:
            page = await client.read_task_runs(
                flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [runs[0].id]}}),
                task_run_filter=TaskRunFilter(),
                offset=len(tasks),
                limit=200,
            )
            tasks += page
            if len(page) < 200:
                break
    spans = [
        (one.start_time.timestamp(), one.end_time.timestamp())
        for one in tasks
        if one.name.startswith(TASK)
    ]
    return {"seconds": runs[0].total_run_time.total_seconds(), "spans": spans, "tasks": len(tasks)}


def busy(spans: list[tuple[float, float]]) -> float:
    """Seconds in which at least one task ran."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return total


def measure(folder: Path, images: int, size: int, workers: list[int]) -> None:
    """Print the figures."""
    survey = survey_of(folder / "survey", images, size)
    flows("train", survey, "")
    pixels = images * size**2 / 1e6
    first = None
    for count in workers:
        copy = folder / f"on-{count}"
        shutil.copytree(survey.parent, copy)
        flows("train", copy / survey.name, "")
        memory = flows("encode", copy / survey.name, f"local:{count}" if count else "")
        run = asyncio.run(last_run("encode"))
        span = max(stop for _, stop in run["spans"]) - min(start for start, _ in run["spans"])
        rate = pixels / span
        first = first or rate
        idle = 1 - busy(run["spans"]) / span
        where = f"{count} Dask workers" if count else "threads"
        print(
            f"{where}: {images} images of {size}^2 in {span:.1f} s, {rate:.2f} Mpixel/s, "
            f"{rate / first:.2f} x the first; {len(run['spans'])} tasks of {run['tasks']}; "
            f"no task ran in {idle:.1%}; flow {run['seconds']:.1f} s; "
            f"largest process {memory:.2f} GB",
            flush=True,
        )
        shutil.rmtree(copy)


def main() -> None:
    """Measure in a temporary folder, on the Prefect server in use or on one started for it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="0: threads")
    arguments = parser.parse_args()
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        sys.exit("set PREFECT_API_URL: `make stack`, then `source build/stack/environment`")
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), arguments.images, arguments.size, arguments.workers)


if __name__ == "__main__":
    main()
