"""What a catalog's rows look like from afar: a t-SNE map of latents, and why odd rows are odd.

Made from a sample of rows and the table's own model. A row is odd by its distance from the weights
of its cell on the self-organizing map, in scaled features; the distance is shared out among the
columns that the map is made of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.explain import map_distance, shapley_values
from models.tsne import LEAST, sample_rows, tsne_map
from skyfold.catalogs.model import TableModel

__all__ = ["catalog_atlas", "scaled_features"]

EXPLAINED = 6
_LIMIT = 10.0  # of a scaled feature, as the map was trained


def scaled_features(model: TableModel, units: NDArray[np.float64]) -> NDArray[np.float32]:
    """Features of the map, shape (n, f), of noise units, shape (m, n); 0 where missing."""
    centred = units[model.features] - model.feature_mean[:, None]
    rows = np.nan_to_num(centred / model.feature_scale[:, None]).T
    return np.clip(rows, -_LIMIT, _LIMIT).astype(np.float32)


def catalog_atlas(
    model: TableModel,
    units: NDArray[np.float64],
    rows: NDArray[np.int64],
    names: list[str],
    *,
    seed: int = 1,
) -> dict[str, Any]:
    """Map of latents and explanations, as plain lists and numbers.

    Parameters
    ----------
    model : TableModel
    units : ndarray, shape (m, n), float64
        A sample of rows in noise units, NaN where missing.
    rows : ndarray, shape (n,), int64
        Their numbers.
    names : list of str
        Of the features of the map.
    seed : int

    Returns
    -------
    dict
        ``tsne``: ``rows``, ``places`` and settings, where there are rows enough; ``explained``:
        ``rows``, ``distance``, ``features``, ``shap``, and ``of``, the number of rows looked at.
    """
    features = scaled_features(model, units)
    distance = map_distance(features, model.som)
    odd = np.argsort(-distance, kind="stable")[:EXPLAINED]
    shap = shapley_values(
        features[odd], features, lambda some: map_distance(some, model.som), seed=seed
    )
    explained = {
        "of": len(rows),
        "rows": rows[odd].tolist(),
        "distance": np.round(distance[odd], 4).tolist(),
        "features": names,
        "shap": np.round(shap.astype(float), 4).tolist(),
    }
    return {"tsne": _drawn(model, units, rows, seed), "explained": explained}


def _drawn(
    model: TableModel, units: NDArray[np.float64], rows: NDArray[np.int64], seed: int
) -> dict[str, Any]:
    if len(rows) < LEAST:
        return {}
    chosen = sample_rows(len(rows), seed=seed)
    cells = model.assign(units[:, chosen])
    latents = model.latents(model.encode(units[:, chosen], cells), cells).T
    # bright rows lie thousands of noise units apart, faint ones a few: both should be seen
    places, settings = tsne_map(np.arcsinh(latents), seed=seed)
    return settings | {"rows": rows[chosen].tolist(), "places": np.round(places, 2).tolist()}
