"""Densities of a survey: plan, encode shard by shard, measure; called by the flows of those names.

A task writes whole shards; what is there from the same input is skipped.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from prefect import get_run_logger, task

from flows.job import Job, batches
from skyfold.density_index import LEVELS, DensityIndex, Shard, about, index_of
from skyfold.errors import ReleaseError, TooManyBadInputsError
from skyfold.science import cases
from skyfold.science.densities import DENSITIES, DensityContext
from skyfold.science.summary import summarise
from storage.densities_input import DensitiesInput, open_densities
from storage.densities_writer import (
    archive_shard,
    describe_bad,
    finish_densities,
    plan_densities,
    start_densities,
)

if TYPE_CHECKING:
    from skyfold.densities import DensitySet
    from skyfold.release import DataRelease

MEASURED_ROWS = 20000
_RUNS = 20  # runs of neighbouring rows that the measured ones are taken from


def open_input(job: Job, name: str) -> DensitiesInput:
    """Densities of a name, as the configuration gives them."""
    found = next(one for one in job.config.densities if one.name == name)
    return open_densities(job.config, found)


def train_densities(job: Job) -> list[dict[str, Any]]:
    """Plan every set of densities of a survey; nothing has to be learnt (see `skyfold.amplitude`).

    Parameters
    ----------
    job : Job

    Returns
    -------
    list of dict
        Files that are set aside: ``file reason set``.

    Raises
    ------
    InputError
        If a set has no file that can be used.
    ConfigError
        If a pattern matches no file.
    """
    logger = get_run_logger()
    aside: list[dict[str, Any]] = []
    for densities in job.config.densities:
        source = open_input(job, densities.name)
        index = plan_densities(source)
        job.builder.note(f"densities/{densities.name}/plan", about(index))
        aside += [asdict(one) for one in source.set_aside]
        logger.info(
            "densities %s: %d rows on %d points, normalised by %s",
            index.name, index.rows, index.points, index.normalisation,
        )  # fmt: skip
    for one in aside:
        logger.warning("set aside: %s", one["reason"])
    return aside


def encode_densities(job: Job) -> list[dict[str, Any]]:
    """Write every set of densities of a survey; the root group must be there.

    Parameters
    ----------
    job : Job

    Returns
    -------
    list of dict
        Rows that are no densities, in words: ``file reason set``. `exact` returns them all.

    Raises
    ------
    TooManyBadInputsError
        If more rows are bad than the configuration allows.
    ReleaseError
        If the sets were not planned.
    """
    aside: list[dict[str, Any]] = []
    for densities in job.config.densities:
        index = require_plan(job, densities.name)
        start_densities(job.builder, index)
        numbers = [str(number) for number in range(len(index.spans))]
        futures = [encode_shards.submit(job.survey, index.name, run) for run in batches(numbers)]
        shards = [Shard.from_row(row) for future in futures for row in future.result()]
        require_few_bad_rows(index, shards, job.config.limits.bad_fraction)
        done = finish_densities(job.builder, index, shards)
        aside += _bad_rows(done)
        sizes = {level: done.bytes_at(level) / max(done.rows, 1) for level in LEVELS}
        shown = ", ".join(f"{level} {size:.2f}" for level, size in sizes.items())
        get_run_logger().info("densities %s: bytes a row read: %s", index.name, shown)
    return aside


def require_plan(job: Job, name: str) -> DensityIndex:
    """The plan of a set; ReleaseError if training has not been run."""
    note = job.builder.read_note(f"densities/{name}/plan")
    if note is None:
        raise ReleaseError(
            f"{job.builder.store.url} has no plan for densities {name!r}; run `python -m flows "
            f"train {job.survey}` first"
        )
    return index_of(note)


@task(name="encode densities", retries=2, retry_delay_seconds=2, retry_jitter_factor=0.5)
def encode_shards(survey: str, name: str, numbers: list[str]) -> list[dict[str, Any]]:
    """Shards of a set as written, as rows of its index."""
    job = Job(survey)
    index, source = require_plan(job, name), open_input(job, name)
    out = []
    for number in numbers:
        shard, is_new = archive_shard(job.builder, index, source, int(number))
        state = "encoded" if is_new else "was there"
        get_run_logger().debug("densities %s, shard %s: %s", name, number, state)
        out.append(shard.to_row())
    return out


def require_few_bad_rows(index: DensityIndex, shards: list[Shard], allowed: float) -> None:
    """Raise `TooManyBadInputsError` if more than the allowed share of rows are no densities."""
    bad = sum(len(one.bad_rows) for one in shards)
    if bad > allowed * index.rows:
        found = describe_bad(shards)
        reasons = "; ".join(f"{count} {reason}" for reason, (count, _) in found.items())
        raise TooManyBadInputsError(
            f"{bad} of {index.rows} rows of densities {index.name!r} are none, and [limits] "
            f"bad_fraction allows {allowed:.0%}: {reasons}; correct the files or raise the limit"
        )


def _bad_rows(index: DensityIndex) -> list[dict[str, Any]]:
    return [
        {
            "file": ", ".join(index.files),
            "reason": f"{count} rows, the first of them {first}: {reason}",
            "set": index.name,
        }
        for reason, (count, first) in describe_bad(list(index.shards)).items()
    ]


def measure_densities(release: DataRelease) -> list[dict[str, Any]]:
    """Rows of the fidelity record about every set of densities of a release.

    Parameters
    ----------
    release : DataRelease
        Whose ``densities`` is a `skyfold.densities.DensityLibrary`.

    Returns
    -------
    list of dict
        For `skyfold.fidelity.FidelityRecord.from_rows`; ``bpp`` is bits a stored value.
    """
    sets: list[DensitySet] = [release.densities[name] for name in release.densities]
    return [row for one in sets for row in _measure_set(one)]


def _measure_set(densities: DensitySet) -> list[dict[str, Any]]:
    index = densities.index
    rows = rows_to_measure(densities)
    context = DensityContext(densities.grid, index.weights())
    raw = densities.read(rows, "exact")
    every = {DENSITIES.name: DENSITIES} | {case.name: case for case in cases("densities")}
    states = {name: case.prepare(raw, context) for name, case in every.items()}  # type: ignore[arg-type]
    out = []
    for level in LEVELS:
        decoded = raw if level == "exact" else densities.read(rows, level)
        samples = {
            name: case.compare(states[name], raw, decoded, context)  # type: ignore[arg-type]
            for name, case in every.items()
        }
        found = summarise(
            [samples],
            seed=zlib.crc32(f"densities/{index.name}/{level}".encode()),
            lossless=level == "exact",
        )
        stored = index.bytes_at(level)
        head = {
            "kind": "densities",
            "set": index.name,
            "band": "",
            "level": level,
            "bytes": stored,
            "bpp": 8 * stored / (index.rows * index.points),
            "held_out": True,  # no row was learnt from
        }
        out += [head | row for row in found]
    return out


def rows_to_measure(densities: DensitySet) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Good rows that the record is measured on: runs spread evenly over the set."""
    count = len(densities)
    good = np.ones(count, bool)
    good[list(densities.bad_rows())] = False
    if count > MEASURED_ROWS:
        starts = np.linspace(0, count - MEASURED_ROWS // _RUNS, _RUNS).astype(int)
        chosen = np.zeros(count, bool)
        for start in starts.tolist():
            chosen[start : start + MEASURED_ROWS // _RUNS] = True
        good &= chosen
    return np.flatnonzero(good)
