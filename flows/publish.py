"""Publish: provenance, card and report, then the manifest, which is the seal, then the catalog.

A release that stands on a base is compared with it first: one that loses more is quarantined, which
is to say not sealed, and one whose model has aged asks for training. Both are told as events.
"""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

import skyfold
from flows.events import DRIFTED, PUBLISHED, QUARANTINED, emit
from flows.job import Job
from flows.parameters import AtNight, Survey, night_of, run_name
from flows.pictures import show_table
from flows.report import render_report
from flows.runner import HOUR
from skyfold.access.trust import MAX_MANIFEST_BYTES
from skyfold.card import release_card
from skyfold.errors import QuarantineError, SealedReleaseError
from skyfold.layout import CARD_KEY, MANIFEST_KEY, PROVENANCE_KEY, QUARANTINE_KEY, REPORT_KEY
from skyfold.release import DataRelease, open_release
from storage.drift import GROWTH, growth, strange_numbers, worse_rows
from storage.night import look_at, strange_looks
from storage.register import register_release

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


@flow(name="publish", flow_run_name=run_name, timeout_seconds=12 * HOUR)
def publish(
    survey: Survey = "survey.toml", night: AtNight = None, accept: bool = False
) -> str | State[Any]:
    """Compare a release with its base, seal it, and enter it into the catalog of releases.

    Returns the URL of the release.

    Args:
        survey: Path of survey.toml as the worker sees it; relative to the clone.
        night: Takes the place of {night} in survey.toml, such as 2026-11-22. Empty: the night that
            had begun when the run was scheduled.
        accept: Publish although losses exceed those recorded for the base release.
    """
    job = Job(survey, night_of(survey, night))
    logger = get_run_logger()
    store = job.builder.store
    if job.is_published():
        logger.info("%s is sealed already", store.url)
        finish(job)
        return store.url
    job.require_plan()
    release = open_release(store.url, options=job.options, unsealed=True)
    refused = None if accept else compare(job, release)
    if refused is not None:
        return Failed(name="Quarantined", message=str(refused), data=refused)
    store.write(PROVENANCE_KEY, json.dumps(provenance(job), sort_keys=True, indent=1).encode())
    history = (job.training() or {}).get("history", [])
    store.write(CARD_KEY, release_card(release, sealed=True).encode())
    store.write(REPORT_KEY, render_report(release, history).encode())
    try:
        objects = job.builder.seal()
    except SealedReleaseError:
        if not job.is_published():
            raise
        logger.info("%s was sealed by another run", store.url)
    else:
        size = sum(entry["size"] for entry in objects.values())
        logger.info("sealed %s: %d objects, %.1f MB", store.url, len(objects), size / 1e6)
        emit(PUBLISHED, job, {"objects": len(objects), "bytes": size})
    finish(job)
    text = f"Report of {release.name}"
    about = f"{text}, {store.url}/{REPORT_KEY}"
    link = store.address(REPORT_KEY)
    create_link_artifact(key="report", link=link, link_text=text, description=about)
    return store.url


def finish(job: Job) -> None:
    """What follows the seal, and is made up for if a run was stopped between."""
    store = job.builder.store
    job.builder.clear_staging()
    manifest = store.read_json(MANIFEST_KEY, MAX_MANIFEST_BYTES)
    release = open_release(store.url, options=job.options)
    entry = {
        "base": job.config.release.base,
        "bytes": sum(one["size"] for one in manifest["objects"].values()),
        "digest": manifest["digest"],
        "flow_run": {"id": flow_run.id, "name": flow_run.name},
        "images": len(release.images),
        "night": job.night,
        "objects": len(manifest["objects"]),
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
        "skyfold": skyfold.__version__,
    }
    if register_release(store, entry):
        get_run_logger().info("%s is in the catalog of releases", release.name)


def compare(job: Job, release: DataRelease) -> QuarantineError | None:
    """Why a release may not be published: it loses more than its base, or is of another camera."""
    if job.base is None:
        return None
    logger = get_run_logger()
    base = job.base.images.entries.values()
    aged = growth(release.images.entries.values(), base)
    aged = {band: round(one, 3) for band, one in aged.items() if one > GROWTH}
    if aged:
        logger.warning("the model of %s has aged: sources grew by %s", job.base.name, aged)
        emit(DRIFTED, job, {"growth": aged, "base": job.base.name})
    night = [one for one in release.images.entries.values() if not one.release]
    strange = strange_numbers(night, base)
    strange += strange_looks(look_at(release, night), look_at(job.base, base))
    rows = worse_rows(release.fidelity.rows(), job.base.fidelity.rows())
    if not (rows or strange):
        return None
    description = f"What of {release.name} is not as {job.base.name} has it"
    show_table("quarantine", rows or strange, description)
    reason = (
        f"{_first(rows, strange)} in {job.base.name}; look at the night, then publish with "
        "`accept`, or train anew"
    )
    message = f"{release.url} is quarantined: {reason}"
    job.builder.store.write(QUARANTINE_KEY, json.dumps({"reason": reason}).encode())
    emit(QUARANTINED, job, {"losses": len(rows), "numbers": len(strange), "reason": message})
    return QuarantineError(message)


def _first(rows: list[dict[str, Any]], strange: list[dict[str, Any]]) -> str:
    """How many losses exceed those of a base, or numbers lie outside, and the first of them."""
    if rows:
        one = rows[0]
        return (
            f"{len(rows)} losses exceed what is allowed, the first {one['case']} {one['measure']} "
            f"{one['bin']} in {one['band']} at {one['level']}: {one['low']:.3g} to "
            f"{one['high']:.3g} {one['unit']}, against {one['allowed']:.3g}"
        )
    one = strange[0]
    return (
        f"{len(strange)} numbers of its images differ, the first {one['number']} in {one['band']}: "
        f"{one['value']:.3g}, against {one['low']:.3g} to {one['high']:.3g}"
    )


def provenance(job: Job) -> dict[str, Any]:
    """What the release was made of and by; no paths, no credentials, and no times.

    Only what its bytes follow from: who published it and when stands in the catalog of releases.
    """
    plan = job.require_plan()
    training = job.training() or {}
    return {
        "skyfold": skyfold.__version__,
        "config": {
            "digest": job.config.digest,
            "night": job.night,
            "base": job.config.release.base,
            "training": job.config.training.model_dump(mode="json"),
            "levels": job.config.levels.model_dump(mode="json"),
        },
        "model": training.get("model"),
        "inputs": {
            entry.id: {"file": entry.file, "hdu": entry.hdu, "sha256": entry.digest}
            for entry in plan.entries
        },
        "environment": {
            "python": platform.python_version(),
            "platform": platform.machine(),
            "libraries": {name: _version(name) for name in LIBRARIES},
        },
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
