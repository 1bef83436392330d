"""Measure: the fidelity record, from stored bytes decoded through the public client."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact

from flows.catalogs import measure_catalogs
from flows.densities import measure_densities
from flows.job import THREADS, Job, batches
from skyfold.errors import CorruptDataError
from skyfold.layout import FIDELITY_KEY
from skyfold.measure import images_to_measure, measure_image, record_of
from skyfold.release import DataRelease, open_release

SHOWN = ("set", "band", "level", "case", "measure", "bin", "n", "p50", "p90", "high", "unit", "bpp")


@flow(name="measure", task_runner=THREADS)
def measure(survey: str) -> int:
    """Measure the loss of every science case at every level.

    Parameters
    ----------
    survey : str
        Path of survey.toml.

    Returns
    -------
    int
        Rows of the fidelity record.
    """
    job = Job(survey)
    logger = get_run_logger()
    if job.is_published():
        logger.info("%s is sealed already", job.builder.store.url)
        return 0
    release = _open(job)
    key = _state(release)
    if (job.builder.read_note("measured") or {}).get("key") == key:
        logger.info("%s is measured already", release.url)
        return len(release.fidelity.rows())
    chosen = images_to_measure(release)
    futures = [measure_images.submit(survey, ids) for ids in batches(chosen)]
    measured = []
    for future in futures:
        measured += future.result()
        logger.info("measured %d of %d images", len(measured), len(chosen))
    tables = [*measure_catalogs(release), *measure_densities(release)]
    record = record_of(release, measured, tables)
    job.builder.store.write(FIDELITY_KEY, record.to_ecsv().encode())
    job.builder.note("measured", {"key": key})
    rows = record.rows()
    create_table_artifact(
        key="fidelity",
        table=[{name: _rounded(row[name]) for name in SHOWN} for row in rows],
        description=f"Fidelity record of {release.url}: loss of each science case at each level",
    )
    return len(rows)


@task(name="measure images", retries=1, retry_delay_seconds=2)
def measure_images(survey: str, ids: list[str]) -> list[tuple[str, Any]]:
    """Samples of a batch of images, by image id."""
    release = _open(Job(survey))
    logger = get_run_logger()
    measured = []
    for image_id in ids:
        try:
            measured.append((image_id, measure_image(release, image_id)))
        except CorruptDataError:
            raise
        except Exception as error:  # sep raises Exception itself; one odd image stops no night
            logger.warning("%s cannot be measured: %s", image_id, error)
    return measured


def _state(release: DataRelease) -> str:
    """Digest of everything that is measured: the indexes name the bytes of every layer."""
    about = json.dumps(release.about, sort_keys=True).encode()
    indexes = [key for key in release.store.sizes() if key.endswith((".parquet", "index.json"))]
    digests = [hashlib.sha256(release.read(key)).digest() for key in indexes]
    return hashlib.sha256(about + b"".join(digests)).hexdigest()


def _open(job: Job) -> DataRelease:
    return open_release(
        job.config.resolve(job.config.release.url), options=job.options, unsealed=True
    )


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
