"""Catalogs in the flows: look and train, encode shard by shard, measure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prefect import get_run_logger

from flows.job import Job
from flows.runner import batches, run_batches, step, workers
from flows.tables import held, keep_recipe, set_aside_by_base
from models.table_model import train_table
from skyfold.catalogs.index import CatalogInfo, catalog_path
from skyfold.catalogs.library import CatalogLibrary
from skyfold.errors import InputError
from skyfold.fidelity.catalogs import catalog_rows
from skyfold.release import DataRelease
from storage.catalogs.archive import (
    encode_shard,
    file_digest,
    find_catalog_files,
    finish_catalog,
    plan_catalog,
    read_plan,
)
from storage.catalogs.encoder import real_values
from storage.catalogs.forms import choose_forms
from storage.catalogs.plan import survey_catalog
from storage.catalogs.writer import CatalogWriter, write_table_model
from storage.config import CatalogConfig, TrainingConfig

FRACTION = 0.1  # of each value's own error, at `bounded`
WRITER = 2  # changes when the same catalog would be written as other bytes


def train_catalogs(job: Job) -> list[dict[str, str]]:
    """Look at every catalog of a survey, train its model, and keep its plan.

    Returns
    -------
    list of dict
        What was set aside: ``file``, ``reason`` and ``set`` (the catalog's name).
    """
    aside = [row for one in job.config.catalogs for row in train_catalog(job, one.name)]
    for one in aside:
        reason = one["reason"].removeprefix(f"{one['file']}: ")
        get_run_logger().warning("catalog %s: %s: %s", one["set"], one["file"], reason)
    return aside


def encode_catalogs(job: Job) -> list[str]:
    """Encode every shard of every catalog, skipping what is there.

    Returns
    -------
    list of str
        Names of the catalogs.
    """
    logger = get_run_logger()
    names, elsewhere = [], held(job)
    for config in job.config.catalogs:
        names.append(config.name)
        if home := elsewhere.get(catalog_path(config.name)):
            logger.info("catalog %s is in %s", config.name, home)
            continue
        plan = read_plan(job.builder, config.name)
        CatalogWriter(job.builder, plan.info, plan.key).start()
        runs = batches(range(plan.info.shards), workers())
        for _ in run_batches(encode_catalog_shards, job, runs, config.name):
            pass
        info = finish_catalog(job.builder, plan)
        shown = ", ".join(f"{level} {size / info.rows:.1f}" for level, size in info.levels.items())
        logger.info(
            "catalog %s: %d rows, bytes a row at each level: %s", info.name, info.rows, shown
        )
    return names


def measure_catalogs(release: DataRelease) -> list[dict[str, Any]]:
    """Rows of the fidelity record of every catalog of a release, one task each."""
    names = list(release.about.get("catalogs", []))
    library = CatalogLibrary(release, names)
    return [row for name in names for row in catalog_rows(library[name])]


@step(name="train catalog", tags=["training"])
def train_catalog(job: Job, name: str) -> list[dict[str, str]]:
    """What was set aside of one catalog."""
    return prepare_catalog(job, name)


@step(name="encode catalog")
def encode_catalog_shards(job: Job, shards: list[int], name: str) -> int:
    """How many of a batch of shards were encoded now."""
    plan = read_plan(job.builder, name)
    return sum(encode_shard(job.builder, plan, shard, options=job.options) for shard in shards)


def prepare_catalog(job: Job, name: str) -> list[dict[str, str]]:
    """Plan one catalog and train its model, unless that is done; what was set aside."""
    config = next(one for one in job.config.catalogs if one.name == name)
    files = find_catalog_files(job.config, config)
    inputs = [file_digest(url, job.options) for _, url in files]
    settings = {
        "catalog": config.model_dump(mode="json"),
        "seed": job.config.training.seed,
        "training": table_options(job.config.training),
        "files": inputs,
    }
    parts = {"writer": WRITER, "fraction": FRACTION, **settings}
    if keep_recipe(job, catalog_path(name), parts):
        return set_aside_by_base(job, name, [file for file, _ in files])
    note = job.builder.read_note(f"catalogs/{name}/settings")
    if note is None or note["settings"] != settings:
        note = {"settings": settings, "set_aside": _prepare(job, config, files, inputs)}
        job.builder.note(f"catalogs/{name}/settings", note)
    found: list[dict[str, str]] = note["set_aside"]
    return found


def _prepare(
    job: Job, config: CatalogConfig, files: list[tuple[str, str]], inputs: list[str]
) -> list[dict[str, str]]:
    seed = job.config.training.seed
    try:
        surveyed = survey_catalog(config, files, seed=seed, fraction=FRACTION, options=job.options)
    except InputError as error:
        raise InputError(f"catalog {config.name!r}: {error}") from error
    sample = real_values(surveyed.info, surveyed.sample)
    model = train_table(
        surveyed.info, sample[:, surveyed.training], seed=seed, **table_options(job.config.training)
    )
    info = surveyed.info
    if model is not None:
        info = replace(info, channels=model.channels, model=write_table_model(job.builder, model))
    info = choose_forms(info, model, surveyed.sample)
    plan = plan_catalog(job.builder, surveyed, info, input_key=config.key, inputs=inputs)
    aside = [
        {"file": file, "reason": reason, "set": config.name} for file, reason in plan.set_aside
    ]
    return aside + [
        {"file": files[0][0], "reason": text, "set": config.name} for text in info.notices
    ]


def table_options(training: TrainingConfig) -> dict[str, Any]:
    """What ``[training]`` says of the models of tables, as options of `train_table`."""
    steps = {} if training.steps is None else {"steps": training.steps}
    return {"kind": training.model, "channels": training.channels, **steps}


def build_catalog(job: Job, name: str) -> CatalogInfo:
    """Plan, train, encode and finish one catalog in this process, without a flow."""
    prepare_catalog(job, name)
    plan = read_plan(job.builder, name)
    CatalogWriter(job.builder, plan.info, plan.key).start()
    for shard in range(plan.info.shards):
        encode_shard(job.builder, plan, shard, options=job.options)
    return finish_catalog(job.builder, plan)


__all__ = [
    "build_catalog",
    "encode_catalogs",
    "measure_catalogs",
    "prepare_catalog",
    "train_catalogs",
]
