"""Where tasks run, how many at once, and when they are tried again.

The same flow runs in threads of its own process, or on a Dask cluster where the environment
variable ``SKYFOLD_DASK`` gives a scheduler (``tcp://host:8786``) or a number of worker processes
to start here (``local:4``). What travels to a worker is a `flows.job.Job` (a configuration without
credentials) and a batch of names and URLs; what comes back is index rows. At most `AHEAD` batches a
worker are in flight, so neither the scheduler nor the Prefect server ever holds a whole survey.
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from skyfold.errors import ConfigError, SkyfoldError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DASK = "SKYFOLD_DASK"
WORKER_MEMORY = "2GB"  # of a Dask worker that is started here
AHEAD = 2  # batches in flight for each worker: one at work, one waiting
MAX_TASKS = 1000  # a stage: thousands of mapped tasks destabilise servers
SHARES = 3  # a batch is a third of what is left for one worker, so that all end together
MOST_ITEMS = 100  # of a batch, where MAX_TASKS allows: its rows travel in one message
HOUR = 3600.0


def task_runner(dask: str | None = None) -> TaskRunner[Any]:
    """Threads, or a Dask cluster.

    Parameters
    ----------
    dask : str, optional
        Address of a scheduler, ``local`` or ``local:<processes>``; by default what the environment
        variable ``SKYFOLD_DASK`` says, and threads where it says nothing.

    Raises
    ------
    ConfigError
        If the text is neither.
    """
    where = os.environ.get(DASK, "") if dask is None else dask
    if not where:
        return ThreadPoolTaskRunner(max_workers=os.cpu_count() or 2)
    from prefect_dask import DaskTaskRunner

    kind, _, count = where.partition(":")
    if kind in ("tcp", "tls", "ws", "wss"):
        return DaskTaskRunner(address=where)
    if kind != "local" or not (count or "1").isdigit():
        raise ConfigError(
            f"{DASK} is {where!r}; give a scheduler's address such as tcp://host:8786, or local:4 "
            "for four worker processes on this machine, or leave it empty for threads"
        )
    size = int(count) if count else os.cpu_count() or 2
    options = {"n_workers": size, "threads_per_worker": 1, "memory_limit": WORKER_MEMORY}
    return DaskTaskRunner(cluster_kwargs=options | {"dashboard_address": None})


RUNNER = task_runner()


def workers() -> int:
    """Tasks that the running flow's workers can do at once; at least one."""
    context = FlowRunContext.get()
    runner: Any = context.task_runner if context else None
    if hasattr(runner, "client"):
        threads = runner.client.nthreads().values()
        return max(sum(threads), 1)
    return int(getattr(runner, "_max_workers", None) or os.cpu_count() or 1)


def batches(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Items in runs, in order: long ones first, since each costs servers alike, then ever shorter.

    Parameters
    ----------
    size : int
        Workers.
    """
    runs: list[list[Any]] = []
    least, start = -(-len(items) // MAX_TASKS), 0
    while start < len(items):
        share = -(-(len(items) - start) // (SHARES * size))
        each = max(least, min(share, MOST_ITEMS))
        runs.append(list(items[start : start + each]))
        start += each
    return runs


def run_batches(one: Any, job: Any, runs: Sequence[Any], *fixed: Any) -> Iterator[Any]:
    """Result of a task for each batch, in order, with a bounded number in flight.

    Parameters
    ----------
    one : prefect.Task
        Called with job, batch and `fixed`.
    job : Job
    runs : sequence
        Batches.
    """
    waiting: deque[Any] = deque()
    most = AHEAD * workers()
    try:
        for run in runs:
            if len(waiting) >= most:
                yield waiting.popleft().result()
            waiting.append(one.submit(job, run, *fixed))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # a failure elsewhere: let what has begun end before the flow does
            future.wait()


def may_pass(task: Any, task_run: Any, state: Any) -> bool:
    """Whether trying again can help: not for errors that name a fault of the input."""
    error = state.result(raise_on_failure=False)
    return not isinstance(error, SkyfoldError) or isinstance(error, StoreUnavailableError)


# no timeout: one in a worker's thread cannot interrupt what blocks; those of the flows can
step: Callable[..., Any] = partial(
    task,
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
    retry_condition_fn=may_pass,
    cache_policy=NO_CACHE,  # what is done is known from the release itself
)
