"""A plain learned codec of the same training budget: what skyfold's own model must be worth.

The factorised-prior autoencoder of Ballé et al. (2018, arXiv:1802.01436, section 2) in its simplest
form: three strided convolutions on either side, one logistic distribution a channel, squared error
of pixels alone. It sees skyfold's noise units above the same background mesh, and differs from it
in just what skyfold adds: the linear path, errors of block means, weights of sources, contexts.
"""

from __future__ import annotations

import math
import time
from typing import Any

import constriction
import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from models.patches import turn_patches
from tests.benchmarks.images import Subject
from tests.benchmarks.peers import Peer
from tests.benchmarks.transforms import Plane, after_mesh, mesh_bytes, noise_plane, stored_units

CHANNELS, WIDTH, SIDE = 24, 64, 5
STRIDE = 8
BRIGHTEST = 256.0  # noise units: a star's squared error would be all that is learnt
SCALE = 0.25  # brings noise near the scale that layers start from
BATCH, RATE = 8, 1e-3
LIMIT = 127  # of a latent


class Factorised(keras.Model):  # type: ignore[misc]  # Keras is not typed
    """Analysis and synthesis with a logistic prior; the loss is ``bpp + lmbda mse``."""

    def __init__(self, lmbda: float, seed: int) -> None:
        super().__init__()
        self.lmbda, self.noise = lmbda, keras.random.SeedGenerator(seed)
        self.analysis = keras.Sequential([*_down(WIDTH), *_down(WIDTH), *_down(CHANNELS, None)])
        self.synthesis = keras.Sequential([*_up(WIDTH), *_up(WIDTH), *_up(1, None)])
        self.middle = self.add_weight(shape=(CHANNELS,), initializer="zeros", name="middle")
        self.spread = self.add_weight(shape=(CHANNELS,), initializer="zeros", name="spread")

    def call(self, y: Any, training: bool = False) -> Any:
        latent = self.analysis(y * SCALE)
        latent += keras.random.uniform(ops.shape(latent), -0.5, 0.5, seed=self.noise)
        scale = ops.softplus(self.spread) + 0.02
        apart = ops.abs(latent - self.middle)
        odds = ops.sigmoid((0.5 - apart) / scale) - ops.sigmoid((-0.5 - apart) / scale)
        bits = -ops.log(odds + 1e-6) / math.log(2)
        return self.synthesis(latent) / SCALE, ops.mean(ops.sum(bits, axis=-1)) / STRIDE**2

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        decoded, bpp = y_pred
        error = (decoded - y[..., :1]) ** 2 * y[..., 1:]
        return bpp + self.lmbda * ops.mean(error)


def _down(width: int, activation: str | None = "relu") -> list[Any]:
    return [layers.Conv2D(width, SIDE, strides=2, padding="same", activation=activation)]


def _up(width: int, activation: str | None = "relu") -> list[Any]:
    return [layers.Conv2DTranspose(width, SIDE, strides=2, padding="same", activation=activation)]


def fit_learned(
    patches: Plane, weights: Plane, minutes: float, *, lmbda: float = 0.1, seed: int = 1
) -> Peer:
    """The codec, trained on noise-unit patches, shape (n, ny, nx), for so many minutes."""
    keras.utils.set_random_seed(seed)
    model = Factorised(lmbda, seed)
    model.compile(keras.optimizers.Adam(RATE, global_clipnorm=1.0), jit_compile=False)
    _train(model, np.minimum(patches, BRIGHTEST), weights, minutes, seed)
    models = _tables(_latents(model, patches[::10, ..., np.newaxis]))

    def encode(subject: Subject, _: Any) -> bytes:
        plane = noise_plane(subject.prepared)
        latents = _latents(model, plane[np.newaxis, ..., np.newaxis])[0]
        coder = constriction.stream.queue.RangeEncoder()
        for channel, table in enumerate(models):
            coder.encode(latents[..., channel].ravel() + LIMIT, table)
        return mesh_bytes(subject.prepared) + coder.get_compressed().astype("<u4").tobytes()

    def decode(data: bytes, subject: Subject, _: Any) -> NDArray[Any]:
        ny, nx = (256 // STRIDE * tiles for tiles in subject.prepared.tiles)
        words = np.frombuffer(after_mesh(data), "<u4").astype(np.uint32)
        coder = constriction.stream.queue.RangeDecoder(words)
        channels = [coder.decode(table, ny * nx) - LIMIT for table in models]
        latents = np.stack(channels, axis=-1).reshape(1, ny, nx, CHANNELS).astype(np.float32)
        plane = np.asarray(model.synthesis(latents))[0, ..., 0] / SCALE
        return stored_units(plane.astype(np.float32), subject.prepared)

    return Peer("factorised", (lmbda,), encode, decode)


def _train(model: Factorised, patches: Plane, weights: Plane, minutes: float, seed: int) -> None:
    """Adam, its rate falling as a cosine over the budget of wall-clock time."""
    rng, start, share = np.random.default_rng(seed), time.monotonic(), 0.0
    while share < 1:
        rows = rng.choice(len(patches), min(BATCH, len(patches)), replace=False)
        y, weight = turn_patches((patches[rows], weights[rows]), rng)
        model.optimizer.learning_rate = RATE * 0.5 * (1 + math.cos(math.pi * share))
        model.train_on_batch(y[..., np.newaxis], np.stack([y, weight], axis=-1))
        share = (time.monotonic() - start) / (60 * minutes)


def _latents(model: Factorised, y: NDArray[np.float32]) -> NDArray[np.int32]:
    parts = [np.asarray(model.analysis(np.minimum(one, BRIGHTEST)[None] * SCALE)) for one in y]
    return np.clip(np.rint(np.concatenate(parts)), -LIMIT, LIMIT).astype(np.int32)


def _tables(latents: NDArray[np.int32]) -> list[Any]:
    """One frozen distribution a channel, from its own counts."""
    counts = [
        np.bincount(latents[..., channel].ravel() + LIMIT, minlength=2 * LIMIT + 1) + 0.01
        for channel in range(CHANNELS)
    ]
    categorical = constriction.stream.model.Categorical
    return [categorical(count / count.sum(), perfect=False) for count in counts]
