"""Atlases of catalogs: made from stored rows, and kept beside them as ``atlas.json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.atlas import catalog_atlas
from skyfold.catalogs.index import Column, catalog_path
from skyfold.catalogs.library import Catalog
from skyfold.catalogs.tables import plain_values

if TYPE_CHECKING:
    from skyfold.release import DataRelease
    from storage.builder import ReleaseBuilder

__all__ = ["draw_catalog"]

CHUNKS = 4  # that rows are taken from, spread over the catalog
MOST = 20_000  # rows looked at


def draw_catalog(builder: ReleaseBuilder, release: DataRelease, name: str, seed: int) -> bool:
    """Write the atlas of a catalog; whether it is stored here, with a model to draw one from."""
    catalog = release.catalogs[name]
    is_elsewhere = release.holder(catalog_path(name)) is not release
    if is_elsewhere or catalog.model is None or not len(catalog):
        return False
    units, rows, names = _sample(catalog, seed)
    atlas = catalog_atlas(catalog.model, units, rows, names, seed=seed)
    content = json.dumps(atlas, sort_keys=True, allow_nan=False).encode()
    builder.require_unsealed()
    builder.store.write(f"{catalog_path(name)}/atlas.json", content)
    return True


def _sample(
    catalog: Catalog, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Noise units of some rows, shape (m, n), their numbers, and names of the map's features."""
    model, info = catalog.model, catalog.description
    assert model is not None
    chunks = np.unique(np.linspace(0, info.chunks - 1, min(CHUNKS, info.chunks)).astype(int))
    elements = {element: _element(info.columns, int(element)) for element in model.targets.tolist()}
    columns = list(dict.fromkeys(column.name for column, _ in elements.values()))
    table = catalog.read_chunks(chunks.tolist(), columns)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(table), min(len(table), MOST), replace=False))
    values = np.stack([_values(table, *elements[int(one)])[chosen] for one in model.targets])
    names = [_label(*elements[int(model.targets[place])]) for place in model.features]
    return model.to_units(values), table.meta["rows"][chosen], names


def _element(columns: tuple[Column, ...], element: int) -> tuple[Column, int]:
    """Column of a real element, and its place in a row's value."""
    return next(
        (one, element - one.first)
        for one in columns
        if one.is_real and one.first <= element < one.first + one.elements
    )


def _label(column: Column, place: int) -> str:
    return column.name if column.elements == 1 else f"{column.name}[{place}]"


def _values(table: Any, column: Column, place: int) -> NDArray[np.float64]:
    """Values of one element, NaN where missing."""
    found = table[column.name]
    values = plain_values(found).reshape(len(table), -1)[:, place].astype(np.float64)
    mask = getattr(found, "mask", None)
    if mask is not None:
        values[np.asarray(mask).reshape(len(table), -1)[:, place]] = np.nan
    return np.where(np.isfinite(values), values, np.nan)
