"""Publish: provenance and report, then the manifest that seals the release."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact
from prefect.runtime import flow_run

import skyfold
from flows.job import Job
from flows.report import render_report
from skyfold.layout import PROVENANCE_KEY, REPORT_KEY
from skyfold.release import open_release

LIBRARIES = (
    "numpy",
    "astropy",
    "zarr",
    "onnxruntime",
    "pcodec",
    "constriction",
    "keras",
    "prefect",
)


@flow(name="publish")
def publish(survey: str) -> str:
    """Seal the release of a survey.

    Parameters
    ----------
    survey : str
        Path of survey.toml.

    Returns
    -------
    str
        URL of the release.
    """
    job = Job(survey)
    logger = get_run_logger()
    store = job.builder.store
    if job.is_published():
        logger.info("%s is sealed already", store.url)
        return store.url
    job.require_plan()
    release = open_release(store.url, options=job.options, unsealed=True)
    store.write(PROVENANCE_KEY, json.dumps(provenance(job), sort_keys=True, indent=1).encode())
    history = (job.training() or {}).get("history", [])
    store.write(REPORT_KEY, render_report(release, history).encode())
    objects = job.builder.seal()
    size = sum(entry["size"] for entry in objects.values())
    logger.info("sealed %s: %d objects, %.1f MB", store.url, len(objects), size / 1e6)
    create_link_artifact(key="report", link=f"{store.url}/{REPORT_KEY}", link_text="Report")
    return store.url


def provenance(job: Job) -> dict[str, Any]:
    """What the release was made of and by; no paths, no credentials."""
    plan = job.require_plan()
    training = job.training() or {}
    return {
        "skyfold": skyfold.__version__,
        "config": {
            "digest": job.config.digest,
            "training": job.config.training.model_dump(mode="json"),
            "levels": job.config.levels.model_dump(mode="json"),
        },
        "model": training.get("model"),
        "inputs": {
            entry.id: {"file": entry.file, "hdu": entry.hdu, "sha256": entry.digest}
            for entry in plan.entries
        },
        "flow_run": {"id": flow_run.id, "name": flow_run.name},
        "environment": {
            "python": platform.python_version(),
            "platform": platform.machine(),
            "libraries": {name: _version(name) for name in LIBRARIES},
        },
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
