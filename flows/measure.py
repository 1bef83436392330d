"""Measure: the fidelity record, from stored bytes decoded through the public client."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from prefect import flow, get_run_logger

from flows.catalogs import measure_catalogs
from flows.densities import measure_densities
from flows.events import MEASURED, emit_step
from flows.job import Job, job_to_do
from flows.parameters import AtNight, Survey, run_name
from flows.pictures import show_rate, show_table
from flows.runner import HOUR, RUNNER, batches, run_batches, step, workers
from skyfold.errors import CorruptDataError
from skyfold.fidelity.images import images_to_measure, measure_image, record_of
from skyfold.layout import FIDELITY_KEY
from skyfold.release import DataRelease, open_release
from storage.images.trial import trial_encoder
from storage.survey import ImageRef

SHOWN = ("set", "band", "level", "case", "measure", "bin", "n", "p50", "p90", "high", "unit", "bpp")


@flow(name="measure", flow_run_name=run_name, task_runner=RUNNER, timeout_seconds=12 * HOUR)
def measure(survey: Survey = "survey.toml", night: AtNight = None) -> int:
    """Measure the loss of every science case at every level.

    Returns the number of rows of the fidelity record; none if the release is sealed.

    Args:
        survey: Path of survey.toml as the worker sees it; relative to the clone.
        night: Takes the place of {night} in survey.toml, such as 2026-11-22. Empty: the night that
            had begun when the run was scheduled.
    """
    job = job_to_do(survey, night)
    if job is None:
        return 0
    logger = get_run_logger()
    release = _open(job)
    key = _state(job, release)
    if (job.builder.read_note("measured") or {}).get("key") == key:
        logger.info("%s is measured already", release.url)
        emit_step(MEASURED, job)
        return len(release.fidelity.rows())
    refs = job.require_plan().refs
    chosen = [(image_id, refs.get(image_id)) for image_id in images_to_measure(release)]
    measured: list[tuple[str, Any]] = []
    for found in run_batches(measure_images, job, batches(chosen, workers())):
        measured += found
        logger.info("measured %d of %d images", len(measured), len(chosen))
    tables = [*measure_catalogs(release), *measure_densities(release)]
    record = record_of(release, measured, tables)
    job.builder.store.write(FIDELITY_KEY, record.to_ecsv().encode())
    job.builder.note("measured", {"key": key})
    rows = record.rows()
    show_table(
        "fidelity",
        ({name: row[name] for name in SHOWN} for row in rows),
        f"Fidelity record of {release.url}: loss of each science case at each level",
    )
    show_rate(release)
    emit_step(MEASURED, job)
    return len(rows)


@step(name="measure images")
def measure_images(job: Job, work: list[tuple[str, ImageRef | None]]) -> list[tuple[str, Any]]:
    """Samples of a batch of images, by image id; the whole plan would be too much for a task."""
    release = _open(job)
    logger = get_run_logger()
    galaxies = job.config.fidelity.shear_galaxies
    measured = []
    for image_id, ref in work:
        try:
            trial = _trial(job, release, image_id, ref)
            found = measure_image(release, image_id, trial, galaxies=galaxies)
            measured.append((image_id, found))
        except CorruptDataError:
            raise
        except Exception as error:  # sep raises Exception itself; one odd image stops no night
            logger.warning("%s cannot be measured: %s", image_id, error)
    return measured


def _trial(job: Job, release: DataRelease, image_id: str, ref: ImageRef | None) -> Any:
    """Encoder of pixels in the place of an image's; None for images of an earlier release."""
    entry = release.images.entry(image_id)
    if ref is None or not entry.model:
        return None
    return trial_encoder(ref, entry, release.network(entry.model), job.options)


def _state(job: Job, release: DataRelease) -> str:
    """Digest of everything that is measured: the indexes name the bytes of every layer."""
    settings = job.config.fidelity.model_dump(mode="json")
    about = json.dumps([release.about, settings], sort_keys=True).encode()
    indexes = [key for key in release.store.sizes() if key.endswith((".parquet", "index.json"))]
    digests = [hashlib.sha256(release.read(key)).digest() for key in indexes]
    return hashlib.sha256(about + b"".join(digests)).hexdigest()


def _open(job: Job) -> DataRelease:
    return open_release(job.url, options=job.options, unsealed=True)
