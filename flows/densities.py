"""Densities of a survey: plan, encode shard by shard, measure; called by the flows of those names.

A task writes whole shards; what is there from the same input is skipped.
"""

from __future__ import annotations

import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from prefect import get_run_logger

from flows.job import Job
from flows.runner import batches, run_batches, step, workers
from flows.tables import held, keep_recipe, set_aside_by_base
from models.density_map import train_density_map
from skyfold.densities.index import FLOORS, LEVELS, DensityIndex, Shard, about, index_of
from skyfold.errors import ReleaseError, TooManyBadInputsError
from skyfold.fidelity.densities import density_rows
from skyfold.layout import STAGING
from storage.catalogs.archive import file_digest
from storage.densities.reader import DensitiesInput, open_densities
from storage.densities.writer import (
    WRITER_VERSION,
    archive_shard,
    describe_bad,
    finish_densities,
    plan_densities,
    sample_masses,
    start_densities,
    with_map,
)

if TYPE_CHECKING:
    from skyfold.release import DataRelease


def open_input(job: Job, name: str) -> DensitiesInput:
    """Densities of a name, as the configuration gives them."""
    found = next(one for one in job.config.densities if one.name == name)
    return open_densities(job.config, found)


def train_densities(job: Job) -> list[dict[str, Any]]:
    """Plan every set of densities of a survey; its map alone is learnt.

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
        planned = plan_densities(source)
        if keep_recipe(job, planned.path, _settings(job, source, planned)):
            names = [*source.files, *(one.file for one in source.set_aside)]
            aside += set_aside_by_base(job, source.name, names)
            continue
        index = train_map(job, source, planned)
        job.builder.note(f"densities/{densities.name}/plan", about(index))
        aside += [asdict(one) for one in source.set_aside]
        logger.info(
            "densities %s: %d rows on %d points, normalised by %s",
            index.name, index.rows, index.points, index.normalisation,
        )  # fmt: skip
    for one in aside:
        logger.warning("set aside: %s", one["reason"])
    return aside


def _settings(job: Job, source: DensitiesInput, planned: DensityIndex) -> dict[str, Any]:
    """All that the stored bytes of a set depend on."""
    config = next(one for one in job.config.densities if one.name == source.name)
    return {
        "writer": [WRITER_VERSION, FLOORS],
        "config": config.model_dump(mode="json"),
        "plan": about(planned),
        "seed": job.config.training.seed,
        "files": [file_digest(job.config.resolve(one), job.options) for one in source.files],
    }


def train_map(job: Job, source: DensitiesInput, index: DensityIndex) -> DensityIndex:
    """The plan with a map of the densities, whose prototypes are kept for the steps that follow."""
    sample = sample_masses(source, index)
    if not len(sample):
        return index
    prototypes = train_density_map(sample, seed=job.config.training.seed)
    sink = io.BytesIO()
    np.save(sink, prototypes, allow_pickle=False)
    job.builder.store.write(_prototypes_key(index), sink.getvalue())
    return with_map(index, prototypes)


def read_prototypes(job: Job, index: DensityIndex) -> NDArray[np.int32] | None:
    """Prototypes of a planned set's map; None if it has none."""
    if not index.cells:
        return None
    data = job.builder.store.read(_prototypes_key(index))
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False), np.int32)


def _prototypes_key(index: DensityIndex) -> str:
    return f"{STAGING}/{index.path}/prototypes.npy"


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
    elsewhere = held(job)
    for densities in job.config.densities:
        if home := elsewhere.get(f"densities/{densities.name}"):
            get_run_logger().info("densities %s are in %s", densities.name, home)
            continue
        index = require_plan(job, densities.name)
        start_densities(job.builder, index, read_prototypes(job, index))
        runs = batches(range(len(index.spans)), workers())
        found = run_batches(encode_shards, job, runs, index.name)
        shards = [Shard.from_row(row) for rows in found for row in rows]
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


@step(name="encode densities")
def encode_shards(job: Job, numbers: list[int], name: str) -> list[dict[str, Any]]:
    """Shards of a set as written, as rows of its index."""
    index, source = require_plan(job, name), open_input(job, name)
    prototypes = read_prototypes(job, index)
    out = []
    for number in numbers:
        shard, is_new = archive_shard(job.builder, index, source, number, prototypes)
        state = "encoded" if is_new else "was there"
        get_run_logger().debug("densities %s, shard %d: %s", name, number, state)
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
        Whose ``densities`` is a `skyfold.densities.library.DensityLibrary`.

    Returns
    -------
    list of dict
        For `skyfold.fidelity.record.FidelityRecord.from_rows`; ``bpp`` is bits a stored value.
    """
    return [row for name in release.densities for row in density_rows(release.densities[name])]
