"""What the objects of a release consist of, and where it lies.

::

    objects/objects.json             number, model, images, what was drawn and explained
    objects/table/...                columns, stored as a catalog is (`skyfold.catalogs.index`)
    objects/vectors                  int8 (n, d): pooled latents; Euclidean distance is likeness
    objects/cells                    int32 (n,): cell of the map, y * nx + x
    objects/novelty                  float32 (n,)
    objects/som/<array>              weights (y, x, d), u_matrix and hits (y, x), mean (y, x, m)
    objects/tsne/<array>             places (k, 2) of some objects on a map, and their rows (k,)
    objects/explained/<array>        rows (e,), occlusion (e, s, s), shap (e, d)
    models/<digest>/objects.npz      the model of the objects (`skyfold.objects.model`)

Objects are numbered from 0: those of one image adjoin, in the order of the images' index, and
inside an image they follow its rows. This number is the first axis of every array here, and the
row number of the table, whose chunks follow the sky as those of every catalog do.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from skyfold.errors import CorruptDataError

__all__ = ["KEY", "OCCLUSION_SIDE", "TABLE", "ObjectsInfo", "array_path"]

FORMAT = 1
KEY = "objects/objects.json"
TABLE = "objects/table"
VECTOR_CHUNK = 2**16
NUMBER_CHUNK = 2**18
OCCLUSION_SIDE = 8  # blocks a side of what is hidden about an object, one by one
MAX_ROWS = 2**40
MAX_SMALL = 2**16  # cells, objects on the map of t-SNE, objects explained


@dataclass(frozen=True)
class ObjectsInfo:
    """The objects of a release.

    Attributes
    ----------
    rows : int
    size : int
        Numbers in a vector.
    model : str
        Digest of their model.
    images : tuple of (str, int)
        Id and number of objects of each image that was searched, in order.
    som : dict
        ``shape``, ``quantization_error`` and ``topographic_error`` of the map; ``mean``, the
        columns that the array of this name averages.
    tsne : dict
        ``objects``, their number, and settings; empty if there is no such map.
    explained : dict
        ``objects``, their number, and settings; empty if nothing is explained.
    format : int
    """

    rows: int
    size: int
    model: str
    images: tuple[tuple[str, int], ...]
    som: dict[str, Any] = field(default_factory=dict)
    tsne: dict[str, Any] = field(default_factory=dict)
    explained: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def arrays(self) -> dict[str, dict[str, Any]]:
        """What `zarr.create_array` is given for each array, by name."""
        ny, nx = self.som["shape"]
        specs = {
            "vectors": _spec((self.rows, self.size), "int8", VECTOR_CHUNK),
            "cells": _spec((self.rows,), "int32", NUMBER_CHUNK),
            "novelty": _spec((self.rows,), "float32", NUMBER_CHUNK),
            "som/weights": _spec((ny, nx, self.size), "float32"),
            "som/u_matrix": _spec((ny, nx), "float32"),
            "som/hits": _spec((ny, nx), "int64"),
            "som/mean": _spec((ny, nx, len(self.som["mean"])), "float64"),
        }
        if count := self.tsne.get("objects", 0):
            specs["tsne/rows"] = _spec((count,), "int64")
            specs["tsne/places"] = _spec((count, 2), "float32")
        if count := self.explained.get("objects", 0):
            side = OCCLUSION_SIDE
            specs["explained/rows"] = _spec((count,), "int64")
            specs["explained/occlusion"] = _spec((count, side, side), "float32")
            specs["explained/shap"] = _spec((count, self.size), "float32")
        return specs

    def to_json(self) -> bytes:
        """The description; the same objects always give the same bytes."""
        return json.dumps(asdict(self), sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, key: str) -> ObjectsInfo:
        """Inverse of `to_json`.

        Raises
        ------
        CorruptDataError
            If it does not describe the objects of a release.
        """
        try:
            plain = json.loads(data)
            images = tuple((str(name), int(count)) for name, count in plain.pop("images"))
            info = cls(images=images, **plain)
            _check(info)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CorruptDataError(
                f"{key} does not describe objects: {error}; fetch the release again, or upgrade "
                "skyfold"
            ) from error
        return info


def _check(info: ObjectsInfo) -> None:
    """What reading relies on: a format that is known, and sizes that agree and are bounded."""
    counts = [count for _, count in info.images]
    small = [*info.som["shape"], *(one.get("objects", 0) for one in (info.tsne, info.explained))]
    whole = [info.rows, info.size, *counts, *small]
    fits = all(type(one) is int and one >= 0 for one in whole) and sum(counts) == info.rows
    fits &= len(info.som["shape"]) == 2 and max(small) <= MAX_SMALL
    if not fits or info.format != FORMAT or not (0 < info.size <= 2**10 and info.rows <= MAX_ROWS):
        raise ValueError(f"format {info.format}, {info.rows} rows of {info.size}, {small}")


def _spec(shape: tuple[int, ...], dtype: str, chunk: int | None = None) -> dict[str, Any]:
    """Array whose chunks are runs of its first axis, or all of it."""
    import zarr.codecs

    chunks = tuple(max(side, 1) for side in shape) if chunk is None else (chunk, *shape[1:])
    compressors = zarr.codecs.ZstdCodec(level=9, checksum=True)
    return {"shape": shape, "chunks": chunks, "dtype": dtype, "compressors": compressors}


def array_path(name: str) -> str:
    """Path of an array of the objects, such as ``vectors`` or ``som/weights``."""
    return f"objects/{name}"
