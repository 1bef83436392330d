"""A release of all kinds of data, built with the real parts, without Prefect or training."""

from __future__ import annotations

import json
from pathlib import Path

import zarr
from small_release import build_release

from flows.catalogs import build_catalog
from flows.job import Job
from skyfold import open_release
from skyfold.fidelity.catalogs import catalog_rows
from skyfold.fidelity.record import FidelityRecord
from skyfold.layout import FIDELITY_KEY, PROVENANCE_KEY
from storage.densities.reader import open_densities
from storage.densities.writer import (
    archive_shard,
    finish_densities,
    plan_densities,
    start_densities,
)


def build_survey(survey: Path) -> str:
    """URL of the sealed release of a survey.toml: images, catalogs and densities."""
    job = Job(str(survey))
    url = job.config.resolve(job.config.release.url)
    if job.config.images:
        build_release(survey, url, seal=False)
        root = zarr.open_group(job.builder.store.zarr(), mode="r", use_consolidated=False)
        about = dict(root.attrs["skyfold"])
    else:
        about = {"name": job.config.release.title, "images": []}
    about["catalogs"] = [one.name for one in job.config.catalogs]
    about["densities"] = [one.name for one in job.config.densities]
    job.builder.describe(about)
    for name in about["catalogs"]:
        build_catalog(job, name)
    for one in job.config.densities:
        _build_densities(job, one)
    release = open_release(url, unsealed=True)
    rows = release.fidelity.rows() if job.config.images else []
    rows += [row for one in release.catalogs.values() for row in catalog_rows(one)]
    job.builder.store.write(FIDELITY_KEY, FidelityRecord.from_rows(rows).to_ecsv().encode())
    job.builder.store.write(PROVENANCE_KEY, json.dumps({"test": True}).encode())
    job.builder.seal()
    return url


def _build_densities(job: Job, config) -> None:
    source = open_densities(job.config, config)
    index = plan_densities(source)
    start_densities(job.builder, index)
    shards = [archive_shard(job.builder, index, source, at)[0] for at in range(len(index.spans))]
    finish_densities(job.builder, index, shards)
