"""Encode: every image and row to its layers on the store, skipping what is there."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger, task

from flows.catalogs import encode_catalogs
from flows.densities import encode_densities
from flows.job import THREADS, Job, Plan, batches
from skyfold.errors import InputError
from skyfold.ladder import LEVELS
from storage.archive import archive_image, require_few_bad
from storage.builder import entry_from_note, note_of, plan_groups
from storage.survey import SetAside

if TYPE_CHECKING:
    from skyfold.index import ImageEntry


@flow(name="encode", task_runner=THREADS)
def encode(survey: str) -> int:
    """Encode every image, catalog and density of a survey.

    Parameters
    ----------
    survey : str
        Path of survey.toml.

    Returns
    -------
    int
        Images that were written; none if the release is sealed.
    """
    job = Job(survey)
    logger = get_run_logger()
    if job.is_published():
        logger.info("%s is sealed already", job.builder.store.url)
        return 0
    plan = job.require_plan()
    written, bad = _encode_images(job, plan)
    encode_catalogs(job)
    bad += encode_densities(job)
    job.builder.describe(_about(job, plan, bad))
    logger.info("%s holds all that can be archived", job.builder.store.url)
    return len(written)


def _encode_images(job: Job, plan: Plan) -> tuple[list[ImageEntry], list[dict[str, Any]]]:
    """Encode the images, and start the release; what was written, and what could not be."""
    logger = get_run_logger()
    if not plan.entries:
        job.builder.start(_about(job, plan, []), {})
        return [], []
    survey = job.survey
    network = job.network()
    placed, groups = plan_groups(plan.entries, network.channels, network.tables)
    job.builder.start(_about(job, plan, []), groups)
    runs = batches([entry.id for entry in placed])
    by_id = {entry.id: note_of(entry) for entry in placed}
    futures = [encode_images.submit(survey, [by_id[one] for one in ids]) for ids in runs]
    written, bad = [], []
    for future in futures:
        for note in future.result():
            if "reason" in note:
                bad.append(SetAside(**note))
                logger.warning("set aside: %s", note["reason"])
            else:
                written.append(entry_from_note(note))
        logger.info("encoded %d of %d images", len(written), len(placed))
    require_few_bad(bad, len(placed), job.config.limits.bad_fraction)
    job.builder.write_indexes(written)
    pixels = max(sum(entry.pixels for entry in written), 1)
    sizes = {level: 8 * sum(e.bytes_at(level) for e in written) / pixels for level in LEVELS}
    shown = ", ".join(f"{level} {size:.3f}" for level, size in sizes.items())
    logger.info("bits per pixel read at each level: %s", shown)
    return written, [asdict(one) for one in bad]


def _about(job: Job, plan: Plan, bad: list[dict[str, Any]]) -> dict[str, Any]:
    """Attributes of the release's root."""
    tables = (job.builder.read_note("tables") or {}).get("set_aside", [])
    return {
        "name": job.config.release.title,
        "levels": list(LEVELS),
        "images": sorted({entry.set for entry in plan.entries}),
        "hold_out": {name: rule.to_dict() for name, rule in plan.hold_out.items()},
        "catalogs": [one.name for one in job.config.catalogs],
        "densities": [one.name for one in job.config.densities],
        "set_aside": [*plan.set_aside, *tables, *bad],
        "quarantined": [],
    }


@task(name="encode images", retries=2, retry_delay_seconds=2, retry_jitter_factor=0.5)
def encode_images(survey: str, notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Notes of a batch of images as written, or why one could not be."""
    job = Job(survey)
    network = _network(survey)
    logger = get_run_logger()
    out = []
    for note in notes:
        entry = entry_from_note(note)
        ref = job.refs[entry.id]
        try:
            written, is_new = archive_image(job.builder, network, ref, entry, options=job.options)
        except InputError as error:
            out.append(asdict(SetAside(file=ref.file, reason=str(error), set=ref.set)))
            continue
        logger.debug("%s: %s", "encoded" if is_new else "was there", entry.id)
        out.append(note_of(written))
    return out


_networks: dict[tuple[str, str], Any] = {}


def _network(survey: str) -> Any:
    """The job's model, opened once a process."""
    job = Job(survey)
    note = job.training()
    key = (job.builder.store.url, note["model"] if note else "")
    if key not in _networks:
        _networks[key] = job.network()
    return _networks[key]
