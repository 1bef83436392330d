"""t-SNE maps of latents: a picture of what is near what, for a sample.

van der Maaten & Hinton (2008, JMLR 9, 2579), as scikit-learn has it. Neighbours on the map are
neighbours in latent space; sizes of clumps and distances between them mean nothing.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST", "sample_rows", "tsne_map"]

LEAST = 30  # rows; fewer have no neighbourhoods to show
MOST = 1000  # the work grows faster than their number
PERPLEXITY = 30.0  # neighbours that count, at most


def sample_rows(rows: int, *, seed: int = 1) -> NDArray[np.int64]:
    """Rising numbers of the rows that the map shows."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(rows, min(rows, MOST), replace=False)).astype(np.int64)


def tsne_map(rows: NDArray[Any], *, seed: int = 1) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Places of rows on a plane, and the settings that drew them.

    Parameters
    ----------
    rows : ndarray, shape (n, d)
        Vectors, whose Euclidean distance says how alike they are; n >= `LEAST`.
    seed : int

    Returns
    -------
    places : ndarray, shape (n, 2), float32
    settings : dict
        ``objects``, ``perplexity`` and ``divergence`` (Kullback-Leibler, nats: less is better).
    """
    from sklearn.manifold import TSNE

    values = np.asarray(rows, np.float32)
    if values.shape[1] == 1:  # the principal start takes two axes
        values = np.pad(values, [(0, 0), (0, 1)])
    # equal rows, of which faint objects give many, would leave the principal start without scale
    values = values + np.random.default_rng(seed).normal(0, 0.1, values.shape).astype(np.float32)
    perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
    method = TSNE(
        2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=seed, n_jobs=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own about threads and numbers of iterations
        places = method.fit_transform(values)
    settings = {"objects": len(values), "perplexity": round(float(perplexity), 2)}
    return places.astype(np.float32), settings | {"divergence": float(method.kl_divergence_)}
