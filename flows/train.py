"""Train: look at every input, hold out sky, train the models on the rest, store them."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from prefect import flow, get_run_logger

from flows.catalogs import train_catalogs
from flows.densities import train_densities
from flows.job import Job, Plan, job_to_do
from flows.parameters import AtNight, Survey, run_name
from flows.runner import HOUR, RUNNER, batches, run_batches, step, workers
from skyfold.errors import InputError, ReleaseError
from skyfold.images.network import Network
from skyfold.layout import MODEL_FILES, PROVENANCE_KEY
from storage.catalogs.archive import find_catalog_files
from storage.densities.reader import find_density_files
from storage.images.archive import inspect_image, plan_hold_out, require_few_bad, training_image
from storage.images.entries import entry_from_note, note_of
from storage.images.latent_search import searched_latents
from storage.images.prepared import NotLadderableError
from storage.survey import ImageRef, SetAside

TRAINING_IMAGES = 64
ENOUGH_IMAGES = 8  # that hold noise; of fewer, others are looked for
TRAINING_PIXELS = 2**26  # of all of them: 0.3 GB in memory
PATCHES = 3000
FEW = 4  # one patch in so many is enough for tables that only serve to find better latents
SECONDS_BETWEEN_LINES = 10.0


@flow(name="train", flow_run_name=run_name, task_runner=RUNNER, timeout_seconds=48 * HOUR)
def train(survey: Survey = "survey.toml", night: AtNight = None) -> str:
    """Look at every input, hold out sky, train the models on the rest.

    Returns the digest of the image model; nothing for a survey without images, or a sealed release.

    Args:
        survey: Path of survey.toml as the worker sees it; relative to the clone.
        night: Takes the place of {night} in survey.toml, such as 2026-11-22. Empty: the night that
            had begun when the run was scheduled.
    """
    job = job_to_do(survey, night)
    if job is None:
        return ""
    return prepare(job)


def prepare(job: Job) -> str:
    """Plan a survey, and train its models or take those of its base; what is done is skipped.

    Returns
    -------
    str
        Digest of the image model; empty for a survey without images.
    """
    logger = get_run_logger()
    require_inputs(job)
    aside = [*train_catalogs(job), *train_densities(job)]
    job.builder.note("tables", {"set_aside": aside})
    plan = job.plan()
    if plan is None or plan.refs.keys() != job.refs.keys():
        plan = make_plan(job)
    if not plan.entries:
        return ""
    done = job.training()
    if done is not None:
        logger.info("model %s is trained already", done["model"][:12])
        return str(done["model"])
    digest, history = _model_of_base(job) if job.base else train_model(job, plan)
    note = {"key": job.training_key(plan), "model": digest, "history": history}
    job.builder.note("training", note)
    logger.info("model %s is stored", digest[:12])
    return str(digest)


def require_inputs(job: Job) -> None:
    """Find the files of every pattern: a wrong one is told before hours of training, not after.

    Raises
    ------
    ConfigError
        If a pattern matches no file.
    """
    for catalog in job.config.catalogs:
        find_catalog_files(job.config, catalog)
    for densities in job.config.densities:
        find_density_files(job.config, densities)
    _ = job.found  # of the images; it is kept


def _model_of_base(job: Job) -> tuple[str, list[dict[str, float]]]:
    """Digest of the base's model, copied: it is small, and a release decodes by itself."""
    assert job.base is not None
    digest = json.loads(job.base.read(PROVENANCE_KEY)).get("model")
    if not digest:
        raise ReleaseError(
            f"{job.base.url} holds no image model, and [release] base names it; name a release "
            "with images, or take base out to train a model"
        )
    files = {name: job.base.read(f"models/{digest}/{name}") for name in MODEL_FILES}
    return job.builder.write_model(files), []


def make_plan(job: Job) -> Plan:
    """Look at every image, and decide what is archived and which sky is held out.

    Raises
    ------
    InputError
        If no image can be archived.
    TooManyBadInputsError
        If more are bad than the configuration allows.
    """
    logger = get_run_logger()
    refs, unlisted = job.found
    runs = batches(list(refs.values()), workers())
    notes = [note for run in run_batches(inspect, job, runs) for note in run]
    entries = [entry_from_note(note) for note in notes if "reason" not in note]
    bad = unlisted + [SetAside(**note) for note in notes if "reason" in note]
    for one in bad:
        logger.warning("set aside: %s", one.reason)
    total = len(entries) + len(bad)
    require_few_bad(bad, total, job.config.limits.bad_fraction)
    if not entries and job.config.images:
        raise InputError(f"none of {total} images of {job.survey} can be archived")
    base = None if job.base is None else job.base.about.get("hold_out", {})
    hold_out = plan_hold_out(entries, job.config.training.seed, base)
    plan = Plan(job.plan_key, refs, entries, [asdict(one) for one in bad], hold_out)
    job.builder.note("plan", plan.to_note())
    logger.info("%d images to archive, %d set aside", len(entries), len(bad))
    return plan


@step(name="inspect")
def inspect(job: Job, refs: list[ImageRef]) -> list[dict[str, Any]]:
    """Notes about a batch of images: entries, or what was set aside."""
    levels = job.config.levels
    found = [
        inspect_image(ref, options=job.options, step=levels.step, smallest=levels.smallest)
        for ref in refs
    ]
    return [asdict(one) if isinstance(one, SetAside) else note_of(one) for one in found]


@step(name="train model", tags=["training"])
def train_model(job: Job, plan: Plan) -> tuple[str, list[dict[str, float]]]:
    """Digest of the model trained on the plan's images, and the history of its loss.

    Runs in the flow's process: workers are too small for it, and the flow's machine may have a GPU.
    """
    from models.autoencoder import train as train_autoencoder
    from models.entropy import fit_tables
    from models.export import export_model
    from models.patches import sample_patches
    from models.pca import train as train_pca

    logger = get_run_logger()
    images, masks = training_images(job, plan)
    settings = job.config.training
    trainer = train_pca if settings.model == "pca" else train_autoencoder
    count = PATCHES
    if not images:
        trainer, count = train_pca, PATCHES // 10
        logger.warning("no image holds noise: all are stored as they are, at every level")
        noise = np.random.default_rng(settings.seed).normal(size=(512, 512))
        images, masks = [noise.astype(np.float32)], [np.zeros(noise.shape, bool)]
    patches, weights = sample_patches(images, masks, count=count, seed=settings.seed)
    logger.info("training on %d patches of %d images", len(patches), len(images))
    budget: dict[str, Any] = (
        {"steps": settings.steps} if settings.steps else {"minutes": settings.minutes}
    )
    channels = {"channels": settings.channels} if settings.channels else {}
    trained = trainer(
        patches, weights, seed=settings.seed, on_step=_Progress(logger), **budget, **channels
    )
    card = {
        "trained_on": {"images": len(images), "patches": len(patches)},
        "budget": budget,
        "seed": settings.seed,
        "config": trained.config,
    }
    with tempfile.TemporaryDirectory() as folder:
        rounded = fit_tables(trained.encode(patches[::FEW]))
        digest = export_model(trained, rounded, folder, card, examples=patches[:64])
        files = {name: (Path(folder) / digest / name).read_bytes() for name in MODEL_FILES}
    latents = searched_latents(Network(files, digest), patches, weights > 0)
    stored = job.builder.write_model(files | {"tables.bin": fit_tables(latents).to_bytes()})
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
    """Images in noise units and their masks, spread evenly over the survey; parts of large ones.

    Both are empty where no image holds noise.

    Raises
    ------
    InputError
        If all sky with noise is held out.
    """
    chosen = _spread([entry.id for entry in plan.entries], TRAINING_IMAGES)
    rest = sorted({entry.id for entry in plan.entries}.difference(chosen))
    pairs: list[tuple[Any, Any]] = []
    is_quiet = True
    for number, image_id in enumerate([*chosen, *rest]):
        if number >= len(chosen) and len(pairs) >= ENOUGH_IMAGES:
            break  # others are looked at where few of those chosen hold noise
        ref = plan.refs[image_id]
        try:
            pair = training_image(
                ref,
                plan.hold_out[ref.set],
                options=job.options,
                pixels=TRAINING_PIXELS // len(chosen),
                rng=np.random.default_rng([job.config.training.seed, *image_id.encode()]),
            )
        except NotLadderableError:
            continue
        is_quiet = False
        if pair is not None:
            pairs.append(pair)
    if not pairs and not is_quiet:
        raise InputError(
            f"none of {len(plan.entries)} images of {job.survey} can train a model: all sky with "
            "noise is held out; archive more of it together, or take another [training] seed"
        )
    return [image for image, _ in pairs], [bad for _, bad in pairs]


def _spread(items: list[str], count: int) -> list[str]:
    places = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))
    return [items[place] for place in places]
