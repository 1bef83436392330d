"""Encode: every image and row to its layers on the store, skipping what is there."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.catalogs import encode_catalogs
from flows.densities import encode_densities
from flows.events import ENCODED, emit_step
from flows.job import Job, Plan, job_to_do
from flows.parameters import AtNight, Survey, run_name
from flows.runner import HOUR, RUNNER, batches, run_batches, step, workers
from flows.tables import about_tables
from flows.train import prepare
from skyfold.errors import InputError
from skyfold.ladder import LEVELS
from storage.images.archive import archive_image, require_few_bad
from storage.images.entries import entry_from_note, note_of, plan_groups
from storage.images.writer import refer, write_indexes
from storage.survey import SetAside

if TYPE_CHECKING:
    from skyfold.images.index import ImageEntry

NAMED = 5  # images of a line in the log


@flow(name="encode", flow_run_name=run_name, task_runner=RUNNER, timeout_seconds=24 * HOUR)
def encode(survey: Survey = "survey.toml", night: AtNight = None) -> int:
    """Encode every image, catalog and density of a survey, skipping what is there.

    Returns the number of images of the release; none if it is sealed.

    Args:
        survey: Path of survey.toml as the worker sees it; relative to the clone.
        night: Takes the place of {night} in survey.toml, such as 2026-11-22. Empty: the night that
            had begun when the run was scheduled.
    """
    job = job_to_do(survey, night)
    if job is None:
        return 0
    logger = get_run_logger()
    if job.base is not None:
        prepare(job)  # nothing is trained, so a night needs no run of its own for it
    plan = job.require_plan()
    written, bad = _encode_images(job, plan)
    encode_catalogs(job)
    bad += encode_densities(job)
    job.builder.describe(_about(job, plan, bad))
    logger.info("%s holds all that can be archived", job.builder.store.url)
    emit_step(ENCODED, job)
    return len(written)


def _encode_images(job: Job, plan: Plan) -> tuple[list[ImageEntry], list[dict[str, Any]]]:
    """Encode the images, and start the release; what was written, and what could not be."""
    if not plan.entries:
        job.builder.start(_about(job, plan, []), {})
        return [], []
    logger = get_run_logger()
    network = job.network()
    referred, new = refer(plan.entries, job.base, network.digest)
    if referred:
        base = job.config.release.base
        logger.info("%d of %d images are in %s", len(referred), len(plan.entries), base)
    placed, groups = plan_groups(new, network.channels, network.tables)
    job.builder.start(_about(job, plan, []), groups)
    work = [(plan.refs[entry.id], note_of(entry)) for entry in placed]
    written, bad = list(referred), []
    progress = _Progress(f"Images of {job.config.release.title}", len(placed))
    for notes in run_batches(encode_images, job, batches(work, workers()), network.digest):
        for note in notes:
            if "reason" in note:
                bad.append(SetAside(**note))
                logger.warning("set aside: %s", note["reason"])
            else:
                written.append(entry_from_note(note))
        progress.add(len(notes))
    require_few_bad(bad, len(plan.entries), job.config.limits.bad_fraction)
    places = {entry.id: place for place, entry in enumerate(plan.entries)}
    written.sort(key=lambda entry: places[entry.id])
    write_indexes(job.builder, written)
    pixels = max(sum(entry.pixels for entry in written), 1)
    sizes = {level: 8 * sum(e.bytes_at(level) for e in written) / pixels for level in LEVELS}
    shown = ", ".join(f"{level} {size:.3f}" for level, size in sizes.items())
    logger.info("bits per pixel read at each level: %s", shown)
    alone = [entry.id for entry in written if entry.mode == "direct"]
    if alone:
        names = ", ".join(alone[:NAMED]) + (", ..." if len(alone) > NAMED else "")
        logger.info("%d images have no levels but the raw array: %s", len(alone), names)
    return written, [asdict(one) for one in bad]


class _Progress:
    """A bar in the user interface, and a line in the log for each tenth."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.artifact: Any = create_progress_artifact(0.0, description=title)

    def add(self, count: int) -> None:
        """Count images that are done."""
        before, self.done = self.done, self.done + count
        if self.done * 10 // self.total > before * 10 // self.total:
            update_progress_artifact(self.artifact, 100 * self.done / self.total)
            get_run_logger().info("%s: %d of %d", self.title, self.done, self.total)


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
        **about_tables(job),
    }


@step(name="encode images")
def encode_images(job: Job, work: list[tuple[Any, dict[str, Any]]], model: str) -> list[Any]:
    """Notes of a batch of images as written, or why one could not be."""
    network = _network(job, model)
    logger = get_run_logger()
    out = []
    for ref, note in work:
        entry = entry_from_note(note)
        try:
            written, is_new = archive_image(
                job.builder,
                network,
                ref,
                entry,
                options=job.options,
                smallest=job.config.levels.smallest,
            )
        except InputError as error:
            out.append(asdict(SetAside(file=ref.file, reason=str(error), set=ref.set)))
            continue
        logger.debug("%s: %s", "encoded" if is_new else "was there", entry.id)
        out.append(note_of(written))
    return out


_networks: dict[tuple[str, str], Any] = {}


def _network(job: Job, digest: str) -> Any:
    """A model, opened once a process."""
    key = (job.builder.store.url, digest)
    if key not in _networks:
        _networks[key] = job.open_network(digest)
    return _networks[key]
