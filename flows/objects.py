"""Objects: found image by image, described together, drawn and explained; then they are indexed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import flow, get_run_logger

from flows.atlas import draw_catalog
from flows.events import SEARCHED, emit_step
from flows.job import Job, job_to_do
from flows.parameters import AtNight, Survey, run_name
from flows.runner import RUNNER, batches, run_batches, step, workers
from models.explain import occlusion, shapley_values
from models.object_model import train_objects
from models.som import u_matrix
from models.table_model import train_table
from models.tsne import LEAST, sample_rows, tsne_map
from skyfold.errors import CorruptDataError
from skyfold.layout import STRIDE
from skyfold.objects.index import KEY, OCCLUSION_SIDE, ObjectsInfo
from skyfold.objects.model import ObjectModel
from skyfold.release import DataRelease, open_release
from storage.builder import ReleaseBuilder
from storage.catalogs.archive import encode_shard, finish_catalog, plan_catalog
from storage.catalogs.encoder import real_values
from storage.catalogs.forms import choose_forms
from storage.catalogs.writer import CatalogWriter, write_table_model
from storage.objects.tiles import features_of, tile_about
from storage.objects.writer import ObjectWriter, search_image

EXPLAINED = 6  # of the most novel objects
TABLE_SIDE = 6  # cells a side of the map by which the table's columns are coded
VERSION = 1  # of how objects are found and described: another one does it all again


@flow(name="objects", flow_run_name=run_name, task_runner=RUNNER)
def objects(survey: Survey = "survey.toml", night: AtNight = None) -> int:
    """Find and describe the objects of every image with noise, skipping what is done.

    Returns the number of objects; none if the release is sealed.

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
    writer = ObjectWriter(job.builder, release)
    todo = [one.id for one in writer.entries if not writer.is_kept(one.id, digest_of(one))]
    searched = 0
    for count in run_batches(search_images, job, batches(todo, workers())):
        searched += count
        logger.info("searched %d of %d images", searched, len(todo))
    seed = job.config.training.seed
    found = describe_objects(job.builder, release, seed)
    for name in release.catalogs:
        draw_catalog(job.builder, release, name, seed)
    logger.info("%d objects of %d images", found, len(writer.entries))
    emit_step(SEARCHED, job)
    return found


@step(name="search images")
def search_images(job: Job, ids: list[str]) -> int:
    """How many images of a batch were searched; those that cannot be have no objects."""
    release = _open(job)
    writer = ObjectWriter(job.builder, release)
    for image_id in ids:
        try:
            keep_objects(writer, release, image_id)
        except CorruptDataError:
            raise
        except Exception as error:  # sep raises Exception itself; one odd image stops no night
            get_run_logger().warning("%s cannot be searched: %s", image_id, error)
    return len(ids)


def keep_objects(writer: ObjectWriter, release: DataRelease, image_id: str) -> None:
    """Search one image, and keep what was found."""
    digest = digest_of(release.images.entry(image_id))
    writer.keep(image_id, digest, search_image(release, image_id))


def digest_of(entry: Any) -> str:
    """Digest of all that the objects of an image depend on."""
    about = (
        VERSION,
        entry.digest,
        entry.model,
        entry.step,
        entry.band,
        sorted(entry.bytes.items()),
    )
    return hashlib.sha256(repr(about).encode()).hexdigest()


def describe_objects(builder: ReleaseBuilder, release: DataRelease, seed: int) -> int:
    """Model, vectors, map, table, picture and explanations of all objects that were kept.

    Returns the number of objects; nothing is written of none.
    """
    writer = ObjectWriter(builder, release)
    counts = writer.counts()
    digests = [digest_of(one) for one in writer.entries if one.id in counts]
    state = hashlib.sha256(repr((seed, VERSION, counts, digests)).encode()).hexdigest()
    if not sum(counts.values()):
        builder.store.delete_prefix("objects")
    elif builder.read_note("objects/done") != state or not builder.store.exists(KEY):
        sample = writer.sample(seed)
        columns = sample.columns
        model = train_objects(sample.features, columns["snr"], columns["residual"], seed=seed)
        info = writer.plan(model, write_table_model(builder, model))
        urls = writer.describe(info, model)
        writer.write(info, "som/u_matrix", u_matrix(model.som))
        _write_table(builder, writer, urls, seed)
        writer.finish(info)
        info = _draw(writer, release, info, seed)
        writer.finish(_explain(writer, release, info, model, seed))
        builder.note("objects/done", state)
    return sum(counts.values())


def _write_table(builder: ReleaseBuilder, writer: ObjectWriter, urls: list[str], seed: int) -> None:
    """Columns of all objects, archived as any catalog is."""
    surveyed = writer.survey_table(urls, seed)
    sample = real_values(surveyed.info, surveyed.sample)
    table = train_table(surveyed.info, sample, seed=seed, side=TABLE_SIDE)
    info = surveyed.info
    if table is not None:
        info = replace(info, channels=table.channels, model=write_table_model(builder, table))
    info = choose_forms(info, table, surveyed.sample)
    inputs = [hashlib.sha256(builder.store.read(_key(url))).hexdigest() for url in urls]
    plan = plan_catalog(builder, surveyed, info, input_key=None, inputs=inputs)
    CatalogWriter(builder, plan.info, plan.key).start()
    for shard in range(plan.info.shards):
        encode_shard(builder, plan, shard, options=builder.store.options)
    finish_catalog(builder, plan)


def _key(url: str) -> str:
    return "_staging/" + url.partition("/_staging/")[2]


def _draw(writer: ObjectWriter, release: DataRelease, info: ObjectsInfo, seed: int) -> ObjectsInfo:
    """The t-SNE map of a sample, where there are objects enough."""
    if info.rows < LEAST:
        return info
    rows = sample_rows(info.rows, seed=seed)
    places, settings = tsne_map(release.objects.vectors(rows), seed=seed)
    info = replace(info, tsne=settings)
    writer.write(info, "tsne/rows", rows)
    writer.write(info, "tsne/places", places)
    return info


def _explain(
    writer: ObjectWriter, release: DataRelease, info: ObjectsInfo, model: ObjectModel, seed: int
) -> ObjectsInfo:
    """Why the most novel objects are isolated."""
    novel = release.objects.novel(min(EXPLAINED, info.rows))
    rows = np.asarray(novel["object"], np.int64)
    typical = release.objects.vectors(sample_rows(info.rows, seed=seed))
    vectors = release.objects.vectors(rows)
    shap = shapley_values(vectors, typical, model.isolation, seed=seed)
    hidden = np.stack([_occlusion(release, model, one) for one in novel])
    info = replace(info, explained={"objects": len(rows), "block": STRIDE})
    for name, values in (("rows", rows), ("occlusion", hidden), ("shap", shap)):
        writer.write(info, f"explained/{name}", values)
    return info


def _occlusion(release: DataRelease, model: ObjectModel, one: Any) -> NDArray[np.float32]:
    """By how much an object's isolation falls where each block of pixels is hidden."""
    name = str(one["image"])
    network = release.network(release.images.entry(name).model)
    tile, place = tile_about(release, name, *(_number(one[axis]) for axis in ("x", "y")))
    radius = _number(one["half_light_radius"])
    corner = tuple(int(at - OCCLUSION_SIDE * STRIDE / 2 + 0.5) for at in place)

    def score(tiles: NDArray[np.float32]) -> NDArray[np.float64]:
        features = features_of(tiles, network, place, radius)
        return model.isolation(model.project(features))

    return occlusion(tile, (corner[0], corner[1]), OCCLUSION_SIDE, STRIDE, score)


def _number(value: Any) -> float:
    """Number of a table's cell, with a unit, masked, or neither."""
    plain = getattr(value, "unmasked", value)
    return float(getattr(plain, "value", plain))


def _open(job: Job) -> DataRelease:
    return open_release(job.url, options=job.options, unsealed=True)
