"""The linear model: principal components of 8 x 8 pixels, and nothing else.

Knows the best linear answer, which every network must beat: it is the baseline of the model card,
a model in its own right, and where the networks start from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.errors import InvalidRequestError

__all__ = ["TrainedModel", "patch_basis", "train"]

STRIDE = 8  # pixels a side of one latent


@dataclass(frozen=True)
class TrainedModel:
    """A model as training leaves it, ready to be exported.

    Attributes
    ----------
    encoder : keras.Model
        Noise-unit tiles (n, ny, nx, 1) to latents (n, ny/8, nx/8, C), in quantisation steps.
    decoder : keras.Model
        Latents to noise-unit tiles.
    config : dict
        What was trained and how; JSON.
    history : list of dict
        Parts of the loss by name, as training went on.
    """

    encoder: Any
    decoder: Any
    config: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)

    def encode(self, patches: NDArray[np.float32], batch: int = 16) -> NDArray[np.int16]:
        """Quantised latents, shape (n, ny/8, nx/8, C), of patches, shape (n, ny, nx)."""
        parts = [
            np.asarray(self.encoder(patches[i : i + batch, ..., np.newaxis], training=False))
            for i in range(0, len(patches), batch)
        ]
        return np.clip(np.rint(np.concatenate(parts)), -32768, 32767).astype(np.int16)

    def decode(self, latents: NDArray[np.int16], batch: int = 16) -> NDArray[np.float32]:
        """Noise-unit patches, shape (n, 8 h, 8 w), of quantised latents, shape (n, h, w, C)."""
        parts = [
            np.asarray(self.decoder(latents[i : i + batch].astype(np.float32), training=False))
            for i in range(0, len(latents), batch)
        ]
        return np.concatenate(parts)[..., 0]


def patch_basis(
    patches: NDArray[np.float32], weights: NDArray[np.float32], channels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Principal components of blocks of 8 x 8 pixels, and their variances.

    Parameters
    ----------
    patches, weights : ndarray, shape (n, ny, nx), float32
        Noise units, and how much each pixel counts.
    channels : int
        Number of components.

    Returns
    -------
    basis : ndarray, shape (64, channels), float32
        Orthonormal columns, pixels in C order.
    variances : ndarray, shape (channels,), float32
        Falling; the second moment along each column [noise units squared].

    Raises
    ------
    InvalidRequestError
        If there are no good pixels, or `channels` is not in 1..64.

    Notes
    -----
    A block's weight falls with its brightness, as that of its pixels, or a few stars would choose
    the basis.
    """
    if not 1 <= channels <= STRIDE**2 or not weights.any():
        raise InvalidRequestError(
            f"no components can be found: met {channels} channels, good pixels: "
            f"{bool(weights.any())}; allowed are 1 to 64, and some; change the configuration"
        )
    blocks = _blocks(patches * np.sqrt(weights))
    moments = blocks.T @ blocks / weights.mean() / len(blocks)
    variances, vectors = np.linalg.eigh(moments)
    basis = vectors[:, ::-1][:, :channels]
    basis = basis * np.where(basis.sum(0) < 0, -1.0, 1.0)
    return basis.astype(np.float32), variances[::-1][:channels].astype(np.float32)


def _blocks(patches: NDArray[np.float32]) -> NDArray[np.float64]:
    n, ny, nx = patches.shape
    cut = patches.reshape(n, ny // STRIDE, STRIDE, nx // STRIDE, STRIDE).transpose(0, 1, 3, 2, 4)
    return cut.reshape(-1, STRIDE**2).astype(np.float64)
