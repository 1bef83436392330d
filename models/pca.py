"""The linear model: principal components of 8 x 8 pixels, and nothing else.

Knows the best linear answer, which every network must beat: it is the baseline of the model card,
a model in its own right, and where the networks start from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from models.entropy import fit_tables, measure_bits
from models.patches import source_weights
from skyfold.errors import InvalidRequestError
from skyfold.layout import STRIDE

__all__ = ["TrainedModel", "analysis", "patch_basis", "synthesis", "train"]

Image = NDArray[np.float32]


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
    patches: Image, weights: Image, channels: int
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
    moments = np.zeros((STRIDE**2, STRIDE**2))
    for patch, weight in zip(patches, weights, strict=True):
        blocks = _blocks(patch * np.sqrt(weight))
        moments += blocks.T @ blocks
    moments /= weights.sum(dtype=np.float64) / STRIDE**2
    variances, vectors = np.linalg.eigh(moments)
    basis = vectors[:, ::-1][:, :channels]
    basis = basis * np.where(basis.sum(0) < 0, -1.0, 1.0)
    return basis.astype(np.float32), variances[::-1][:channels].astype(np.float32)


def _blocks(patch: Image) -> NDArray[np.float64]:
    ny, nx = patch.shape
    cut = patch.reshape(ny // STRIDE, STRIDE, nx // STRIDE, STRIDE).transpose(0, 2, 1, 3)
    return cut.reshape(-1, STRIDE**2).astype(np.float64)


def analysis(channels: int) -> Any:
    """Layer that gives components of blocks whose 64 pixels are folded into channels."""
    return _linear(channels, "analysis")


def synthesis() -> Any:
    """Layer that gives the 64 folded pixels of blocks from their components."""
    return _linear(STRIDE**2, "synthesis")


def _linear(width: int, name: str) -> Any:
    # a convolution, because the exporter flattens the input of a dense layer
    return layers.Conv2D(width, 1, use_bias=False, kernel_initializer="zeros", name=name)


def train(
    patches: Image,
    weights: Image | None = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int,
    channels: int = 12,
    lmbda: float = 0.5,
    step: float | None = None,
    emphasis: float = 30.0,
    bright: float = 300.0,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainedModel:
    """Linear model of patches; takes the arguments of the networks' training.

    Parameters
    ----------
    patches, weights : ndarray, shape (n, ny, nx), float32
        Noise units, and 0 where bad.
    minutes, steps, seed
        Not used: the answer is exact.
    channels : int
        Number of components.
    lmbda : float
        Bits that a component may cost to lower its squared error by one noise unit squared.
    step : float, optional
        Quantisation step [noise units]; without it, the one that `lmbda` implies.
    emphasis, bright : float
        As of `models.patches.source_weights`.
    on_step : callable, optional
        Called once with 1 and the parts of the loss by name.

    Returns
    -------
    TrainedModel

    Notes
    -----
    A uniform step s adds s**2 / 12 of squared error and saves log2(s) bits, so lmbda fixes
    s = sqrt(6 / (lmbda ln 2)).
    """
    weights = np.ones_like(patches) if weights is None else weights
    weighed = source_weights(patches, weights, emphasis=emphasis, bright=bright)
    basis, variances = patch_basis(patches, weighed, channels)
    width = float(np.sqrt(6 / (lmbda * np.log(2)))) if step is None else step
    config = {
        "model": "pca",
        "channels": channels,
        "lmbda": lmbda,
        "step": width,
        "variances": variances.tolist(),
    }
    encoder, decoder = _networks(basis, width)
    model = TrainedModel(encoder, decoder, config)
    history = {"step": 1.0, **_losses(model, patches, weights, lmbda)}
    if on_step:
        on_step(1, history)
    return TrainedModel(encoder, decoder, config, [history])


def _networks(basis: Image, width: float) -> tuple[Any, Any]:
    channels = basis.shape[1]
    y = keras.Input((None, None, 1), name="y")
    latent = keras.Input((None, None, channels), name="latent")
    forward, back = analysis(channels), synthesis()
    encoder = keras.Model(y, forward(ops.space_to_depth(y, STRIDE)), name="encoder")
    decoder = keras.Model(latent, ops.depth_to_space(back(latent), STRIDE), name="decoder")
    forward.set_weights([basis[np.newaxis, np.newaxis] / width])
    back.set_weights([basis.T[np.newaxis, np.newaxis] * width])
    return encoder, decoder


def _losses(model: TrainedModel, patches: Image, weights: Image, lmbda: float) -> dict[str, float]:
    """Loss and its parts, on at most 256 patches."""
    patches, weights = patches[:256], weights[:256]
    latents = model.encode(patches)
    bpp = float(measure_bits(latents, fit_tables(latents)).sum() / patches.size)
    mse = float(np.mean(weights * (model.decode(latents) - patches) ** 2))
    return {"loss": bpp + lmbda * mse, "bpp": bpp, "mse": mse}
