"""Train: look at every input, hold out sky, train the models on the rest, store them."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow, get_run_logger, task

from flows.catalogs import train_catalogs
from flows.densities import train_densities
from flows.job import THREADS, Job, Plan, batches
from skyfold.errors import InputError
from skyfold.layout import MODEL_FILES
from storage.archive import inspect_image, plan_hold_out, require_few_bad, training_image
from storage.builder import entry_from_note, note_of
from storage.survey import SetAside

TRAINING_IMAGES = 64
PATCHES = 3000
SECONDS_BETWEEN_LINES = 10.0


@flow(name="train", task_runner=THREADS)
def train(survey: str) -> str:
    """Plan a survey and train its models.

    Parameters
    ----------
    survey : str
        Path of survey.toml.

    Returns
    -------
    str
        Digest of the image model; empty for a survey without images, or a sealed release.
    """
    job = Job(survey)
    logger = get_run_logger()
    if job.is_published():
        logger.info("%s is sealed already", job.builder.store.url)
        return ""
    aside = [*train_catalogs(job), *train_densities(job)]
    job.builder.note("tables", {"set_aside": aside})
    plan = job.plan() or make_plan(job)
    if not plan.entries:
        return ""
    done = job.training()
    if done is not None:
        logger.info("model %s is trained already", done["model"][:12])
        return str(done["model"])
    digest, history = train_model(survey, plan)
    job.builder.note("training", {"key": job.training_key, "model": digest, "history": history})
    logger.info("model %s is stored", digest[:12])
    return digest


def make_plan(job: Job) -> Plan:
    """Look at every image, and decide what is archived and which sky is held out."""
    logger = get_run_logger()
    refs, unlisted = job.found
    ids = batches(list(refs))
    notes = [note for run in inspect.map(job.survey, ids).result() for note in run]
    entries = [entry_from_note(note) for note in notes if "reason" not in note]
    bad = unlisted + [SetAside(**note) for note in notes if "reason" in note]
    for one in bad:
        logger.warning("set aside: %s", one.reason)
    total = len(entries) + len(bad)
    require_few_bad(bad, total, job.config.limits.bad_fraction)
    if not entries and job.config.images:
        raise InputError(f"none of {total} images of {job.survey} can be archived")
    hold_out = plan_hold_out(entries, job.config.training.seed)
    plan = Plan(job.plan_key, entries, [asdict(one) for one in bad], hold_out)
    job.builder.note("plan", plan.to_note())
    logger.info("%d images to archive, %d set aside", len(entries), len(bad))
    return plan


@task(name="inspect", retries=2, retry_delay_seconds=2, retry_jitter_factor=0.5)
def inspect(survey: str, ids: list[str]) -> list[dict[str, Any]]:
    """Notes about a batch of images: entries, or what was set aside."""
    job = Job(survey)
    step = job.config.levels.step
    found = [inspect_image(job.refs[one], options=job.options, step=step) for one in ids]
    return [asdict(one) if isinstance(one, SetAside) else note_of(one) for one in found]


@task(name="train model")
def train_model(survey: str, plan: Plan) -> tuple[str, list[dict[str, float]]]:
    """Digest of the model trained on the plan's images, and the history of its loss."""
    from models.autoencoder import train as train_autoencoder
    from models.entropy import fit_tables
    from models.export import export_model
    from models.patches import sample_patches
    from models.pca import train as train_pca

    job = Job(survey)
    logger = get_run_logger()
    images, masks = training_images(job, plan)
    settings = job.config.training
    patches, weights = sample_patches(images, masks, count=PATCHES, seed=settings.seed)
    logger.info("training on %d patches of %d images", len(patches), len(images))
    budget: dict[str, Any] = (
        {"steps": settings.steps} if settings.steps else {"minutes": settings.minutes}
    )
    channels = {"channels": settings.channels} if settings.channels else {}
    trainer = train_pca if settings.model == "pca" else train_autoencoder
    started = time.monotonic()
    trained = trainer(
        patches, weights, seed=settings.seed, on_step=_Progress(logger), **budget, **channels
    )
    seconds = time.monotonic() - started
    tables = fit_tables(trained.encode(patches))
    card = {
        "trained_on": {"images": len(images), "patches": len(patches)},
        "seconds": round(seconds, 1),
        "budget": budget,
        "seed": settings.seed,
        "config": trained.config,
    }
    with tempfile.TemporaryDirectory() as folder:
        digest = export_model(trained, tables, folder, card, examples=patches[:64])
        files = {name: (Path(folder) / digest / name).read_bytes() for name in MODEL_FILES}
    stored = job.builder.write_model(files)
    return stored, trained.history


class _Progress:
    """Logs the parts of the loss now and then."""

    def __init__(self, logger: Any) -> None:
        self.logger = logger
        self.last = time.monotonic()

    def __call__(self, step: int, parts: dict[str, float]) -> None:
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            shown = ", ".join(f"{name} {float(value):.4g}" for name, value in parts.items())
            self.logger.info("step %d: %s", step, shown)


def training_images(job: Job, plan: Plan) -> tuple[list[Any], list[Any]]:
    """Images in noise units and their masks, spread evenly over the survey."""
    chosen = _spread([entry.id for entry in plan.entries], TRAINING_IMAGES)
    pairs = []
    for image_id in chosen:
        ref = job.refs[image_id]
        pair = training_image(ref, plan.hold_out[ref.set], options=job.options)
        if pair is not None:
            pairs.append(pair)
    if not pairs:
        raise InputError(
            f"none of {len(chosen)} images of {job.survey} can train a model: they hold no noise; "
            "masks and counts are archived beside images"
        )
    return [image for image, _ in pairs], [bad for _, bad in pairs]


def _spread(items: list[str], count: int) -> list[str]:
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))
    return [items[place] for place in places]
