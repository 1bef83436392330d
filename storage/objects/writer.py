"""Writing the objects of a release: found image by image, described by a model, then a table.

What was found in each image waits in the release's staging area, so that images can be searched by
tasks anywhere, in any order, and again. The rest streams over it once: vectors, cells and novelty
go to their arrays, columns to Parquet files that the catalog's own writer then archives.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from skyfold.errors import CorruptDataError, ReleaseError
from skyfold.fidelity.holdout import counted_pixels
from skyfold.images.index import ImageEntry
from skyfold.layout import STAGING
from skyfold.objects.index import KEY, TABLE, ObjectsInfo, array_path
from skyfold.objects.model import ObjectModel
from skyfold.release import DataRelease
from storage.builder import ReleaseBuilder
from storage.catalogs.plan import SurveyedCatalog, survey_catalog
from storage.config import CatalogConfig
from storage.images.entries import note_name
from storage.objects.finder import FoundObjects, Pixels, find_objects
from storage.objects.tiles import stored_layer

__all__ = ["ObjectWriter", "search_image"]

SAMPLE = 32768  # objects that the model is trained on, at most
PART_ROWS = 2**18  # of a staged file of the table
_FOLDER = f"{STAGING}/objects"
ABOUT: dict[str, tuple[str, str]] = {
    "object": ("", "number of the object in this release"),
    "image": ("", "id of the image that it was found in"),
    "set": ("", "set of that image"),
    "band": ("", "band of that image"),
    "ra": ("deg", "right ascension, ICRS, of the windowed centroid"),
    "dec": ("deg", "declination, ICRS"),
    "x": ("pix", "windowed centroid; 0-based, integer = pixel centre"),
    "y": ("pix", "windowed centroid"),
    "snr": ("", "flux_1fwhm over its error"),
    "flux_1fwhm": ("flux", "in a circle of radius 1 FWHM of the image's point sources"),
    "flux_1fwhm_error": ("flux", "of independent pixels, source noise included"),
    "flux_2fwhm": ("flux", "in a circle of radius 2 FWHM"),
    "flux_2fwhm_error": ("flux", "of independent pixels"),
    "flux_auto": ("flux", "in an ellipse of 2.5 Kron radii"),
    "flux_auto_error": ("flux", "of independent pixels"),
    "half_light_radius": ("pix", "circle that holds half of the flux"),
    "semi_major": ("pix", "root of the larger second moment, weight taken out"),
    "semi_minor": ("pix", "root of the smaller second moment"),
    "theta": ("deg", "angle of the major axis from +x towards +y"),
    "flags": ("", "1: a bad pixel or the edge within 1 FWHM; 2: blended"),
    "held_out": ("", "lies on sky that training never saw"),
    "residual": ("", "of what the network left at the object: normal deviate of its chi-squared"),
    "isolation": ("", "distance from the eighth nearest of a sample of objects, in steps"),
    "novelty": ("", "robust standard deviations above objects of its S/N"),
    "cell": ("", "of the self-organizing map of objects, y * nx + x"),
}
_PRECISION = {
    **dict.fromkeys(("x", "y", "semi_major", "semi_minor", "half_light_radius"), 0.01),
    **dict.fromkeys(("snr", "residual", "isolation", "novelty"), 0.01),
    "theta": 0.1,
}
MAPPED = ("snr", "half_light_radius", "residual", "novelty")  # averaged over each cell of the map


def search_image(release: DataRelease, image_id: str) -> FoundObjects:
    """Objects of one image of a release, from its stored layers.

    Raises
    ------
    CorruptDataError
        If stored bytes are damaged.
    """
    entry = release.images.entry(image_id)
    latents = stored_layer(release, entry, "latent")
    counted = counted_pixels(release, entry)

    def read(rows: slice, columns: slice) -> Pixels:
        exact, latent = (
            release.images.read(image_id, level, rows, columns) for level in ("exact", "latent")
        )
        if latent.sigma is None:
            raise CorruptDataError(f"image {image_id} has no noise at level latent; fetch it again")
        raw = exact.values.astype(np.float64)
        bad = (latent.flags != 0) | ~np.isfinite(raw) | ~np.isfinite(latent.values)
        smooth = np.where(bad, 0, latent.values.astype(np.float64))
        return Pixels(np.where(bad, 0, raw), smooth, latent.sigma, bad, counted[rows, columns])

    return find_objects(entry, latents, read)


class ObjectWriter:
    """The objects of one release being written.

    Parameters
    ----------
    builder : ReleaseBuilder
    release : DataRelease
        The same, opened unsealed.
    """

    def __init__(self, builder: ReleaseBuilder, release: DataRelease) -> None:
        self.builder = builder
        self.store = builder.store
        self.entries: list[ImageEntry] = [
            entry for entry in release.images.entries.values() if entry.mode != "direct"
        ]

    # What was found.

    def keep(self, image_id: str, digest: str, found: FoundObjects) -> None:
        """Keep what was found in an image for the steps that follow."""
        sink = io.BytesIO()
        arrays: dict[str, Any] = {"features": found.features, **found.columns}
        np.savez(sink, **arrays)
        self.store.write(self._key(image_id), sink.getvalue())
        self.builder.note(self._note(image_id), {"digest": digest, "count": len(found)})

    def is_kept(self, image_id: str, digest: str) -> bool:
        """Whether an image of this digest was searched already."""
        note = self.builder.read_note(self._note(image_id))
        return note is not None and note["digest"] == digest

    def _key(self, image_id: str) -> str:
        return f"{_FOLDER}/found/{note_name(image_id)}.npz"

    def _note(self, image_id: str) -> str:
        return f"objects/found/{note_name(image_id)}"

    def counts(self) -> dict[str, int]:
        """Objects of every image that was searched, in order; ReleaseError if none was."""
        notes = {one.id: self.builder.read_note(self._note(one.id)) for one in self.entries}
        found = {name: int(note["count"]) for name, note in notes.items() if note is not None}
        if self.entries and not found:
            raise ReleaseError(
                f"{self.store.url}: no image was searched for objects; run `python -m flows "
                "objects` first"
            )
        return found

    def found(self, image_id: str) -> FoundObjects:
        """What was kept of an image."""
        data = self.store.read(self._key(image_id))
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            columns = {name: stored[name] for name in stored.files}
        return FoundObjects(columns, columns.pop("features"))

    def sample(self, seed: int) -> FoundObjects:
        """Some objects of all images, the same ones for the same seed."""
        counts = self.counts()
        total = sum(counts.values())
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(total, min(SAMPLE, total), replace=False))
        parts, first = [], 0
        for name, count in counts.items():
            rows = chosen[(chosen >= first) & (chosen < first + count)] - first
            first += count
            if len(rows):
                parts.append(_take(self.found(name), rows))
        return _join(parts)

    # Arrays.

    def describe(self, info: ObjectsInfo, model: ObjectModel) -> list[str]:
        """Write vectors, cells, novelty and the map of all objects, and stage their columns.

        Returns
        -------
        list of str
            URLs of the staged files of the table.
        """
        self.builder.require_unsealed()
        for stale in ("objects", f"{_FOLDER}/table", f"{STAGING}/catalogs/{TABLE}"):
            self.store.delete_prefix(stale)
        arrays = [self._create(info, name) for name in ("vectors", "cells", "novelty")]
        sums = np.zeros((len(MAPPED) + 1, model.cells, 2))
        urls, first = [], 0
        for number, batch in enumerate(self._batches(model)):
            rows = slice(first, first + len(batch["object"]))
            for array, name in zip(arrays, ("vector", "cell", "novelty"), strict=True):
                array[rows] = batch[name]
            _add(sums, batch)
            urls.append(self._stage(number, batch))
            first = rows.stop
        self._write_som(info, model, sums)
        return urls

    def _create(self, info: ObjectsInfo, name: str) -> Any:
        return zarr.create_array(
            self.store.zarr(read_only=False),
            name=array_path(name),
            fill_value=0,
            overwrite=True,
            **info.arrays()[name],
        )

    def write(self, info: ObjectsInfo, name: str, values: NDArray[Any]) -> None:
        """Write one small array of the objects, such as ``som/u_matrix``."""
        self.builder.require_unsealed()
        self._create(info, name)[...] = values

    def _batches(self, model: ObjectModel) -> Iterator[dict[str, NDArray[Any]]]:
        """All columns, vectors and cells of whole runs of `PART_ROWS` objects."""
        held: list[dict[str, NDArray[Any]]] = []
        first = 0
        by_id = {entry.id: entry for entry in self.entries}
        for name, count in self.counts().items():
            held.append(_described(self.found(name), model, by_id[name], first))
            first += count
            while sum(len(one["object"]) for one in held) >= PART_ROWS:
                joined = _joined(held)
                yield {k: v[:PART_ROWS] for k, v in joined.items()}
                held = [{k: v[PART_ROWS:] for k, v in joined.items()}]
        if held and (rest := _joined(held))["object"].size:
            yield rest

    def _stage(self, number: int, batch: dict[str, NDArray[Any]]) -> str:
        unit = self._flux_unit()
        fields, arrays = [], []
        for name, (of, text) in ABOUT.items():
            if name in ("ra", "dec") and not self._is_on_sky():
                continue
            about = {"description": text, "unit": unit if of == "flux" else of}
            array = pa.array(batch[name])
            fields.append(
                pa.field(name, array.type, metadata={k: v for k, v in about.items() if v})
            )
            arrays.append(array)
        sink = io.BytesIO()
        pq.write_table(pa.table(arrays, schema=pa.schema(fields)), sink, row_group_size=2**16)
        key = f"{_FOLDER}/table/{number:05d}.parquet"
        self.store.write(key, sink.getvalue())
        return f"{self.store.url}/{key}"

    def _is_on_sky(self) -> bool:
        return any(entry.ra is not None for entry in self.entries)

    def _flux_unit(self) -> str:
        """The unit of all images; none if they differ or do not say."""
        units = {entry.unit.strip() for entry in self.entries}
        return units.pop() if len(units) == 1 else ""

    def _write_som(self, info: ObjectsInfo, model: ObjectModel, sums: NDArray[np.float64]) -> None:
        shape = model.som.shape[:2]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(sums[:-1, :, 1] > 0, sums[:-1, :, 0] / sums[:-1, :, 1], np.nan)
        self.write(info, "som/weights", model.som)
        self.write(info, "som/hits", sums[-1, :, 1].reshape(shape))
        self.write(info, "som/mean", mean.T.reshape(*shape, len(MAPPED)))

    # Table and end.

    def survey_table(self, urls: Sequence[str], seed: int) -> SurveyedCatalog:
        """Look at the staged columns as at any catalog."""
        names = [name for name in ABOUT if name.endswith("_error")]
        config = CatalogConfig(
            name="objects",
            files=tuple(urls),
            ra="ra" if self._is_on_sky() else None,
            dec="dec" if self._is_on_sky() else None,
            errors={name.removesuffix("_error"): name for name in names},
            precision=_PRECISION,
        )
        files = [(url.rpartition("/")[2], url) for url in urls]
        surveyed = survey_catalog(config, files, seed=seed, options=self.store.options)
        return replace(surveyed, info=replace(surveyed.info, name=TABLE))

    def plan(self, model: ObjectModel, digest: str) -> ObjectsInfo:
        """Description of all objects, before anything is drawn or explained."""
        counts = self.counts()
        return ObjectsInfo(
            rows=sum(counts.values()),
            size=model.size,
            model=digest,
            images=tuple(counts.items()),
            som={**model.card["som"], "mean": list(MAPPED)},
        )

    def finish(self, info: ObjectsInfo) -> None:
        """Write the description of the objects, which says that they are there."""
        self.builder.require_unsealed()
        self.store.write(KEY, info.to_json())


def _described(
    found: FoundObjects, model: ObjectModel, entry: ImageEntry, first: int
) -> dict[str, NDArray[Any]]:
    """Columns of the objects of an image, with vector, cell and novelty."""
    vectors = model.vectors(found.features)
    cells, columns = model.assign(vectors), found.columns
    isolation = model.isolation(vectors)
    novelty = model.novelty(columns["snr"], columns["residual"], isolation)
    number = len(vectors)
    floats = {k: v.astype(np.float32) for k, v in columns.items() if _is_single(k, v)}
    return {
        "object": np.arange(first, first + number, dtype=np.int64),
        **{k: np.full(number, getattr(entry, a)) for k, a in _OF_IMAGE.items()},
        **columns,
        **floats,
        "isolation": isolation.astype(np.float32),
        "novelty": novelty.astype(np.float32),
        "cell": cells,
        "vector": vectors,
    }


_OF_IMAGE = {"image": "id", "set": "set", "band": "band"}
_DOUBLE = ("ra", "dec", "x", "y")


def _is_single(name: str, values: NDArray[Any]) -> bool:
    return values.dtype.kind == "f" and name not in _DOUBLE


def _add(sums: NDArray[np.float64], batch: dict[str, NDArray[Any]]) -> None:
    """Add sums and numbers of the mapped columns over each cell; last, the number of objects."""
    cells, count = batch["cell"], sums.shape[1]
    for place, name in enumerate(MAPPED):
        good = np.isfinite(batch[name])
        sums[place, :, 0] += np.bincount(cells[good], batch[name][good], count)
        sums[place, :, 1] += np.bincount(cells[good], minlength=count)
    sums[-1, :, 1] += np.bincount(cells, minlength=count)


def _take(found: FoundObjects, rows: NDArray[np.intp]) -> FoundObjects:
    return FoundObjects({k: v[rows] for k, v in found.columns.items()}, found.features[rows])


def _join(parts: Sequence[FoundObjects]) -> FoundObjects:
    columns = _joined([one.columns for one in parts])
    return FoundObjects(columns, np.concatenate([one.features for one in parts]))


def _joined(parts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
