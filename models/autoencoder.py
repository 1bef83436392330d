"""The convolutional model: a linear path through principal components, corrected on both sides.

Knows the networks, the loss that weighs bits against science, and the training loop. All of it is
`keras.ops`, so any Keras backend trains the same model.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from models.patches import source_weights, turn_patches
from models.pca import STRIDE, TrainedModel, patch_basis
from skyfold.errors import InvalidRequestError

__all__ = ["AutoencoderConfig", "RateDistortion", "build_decoder", "build_encoder", "train"]


@dataclass(frozen=True)
class AutoencoderConfig:
    channels: int = 12
    lmbda: float = 0.02
    width: int = 64
    depth: int = 2
    emphasis: float = 4.0
    bright: float = 30.0
    block_weight: float = 1.0
    mse_weight: float = 1.0
    batch: int = 16
    learning_rate: float = 2e-3
    gate: bool = True
    context: bool = True
    step: float = 2.5


class BlockLinear(layers.Layer):
    pass


def _conv(x, width, size, name, **kwargs):
    return layers.Conv2D(width, size, padding="same", name=name, **kwargs)(x)


def build_encoder(config, basis):
    y = keras.Input((None, None, 1), name="y")
    c = config.channels
    linear = layers.Conv2D(c, STRIDE, strides=STRIDE, use_bias=False, name="components")
    u = linear(y)
    # bright pixels must not drive the correction
    x = layers.Lambda(lambda t: ops.clip(t, -8.0, 64.0) / 4.0)(y)
    x = _conv(layers.Lambda(lambda t: ops.space_to_depth(t, 4))(x), 32, 3, "e_fine", activation="relu")
    x = _conv(x, config.width, 3, "e_down", strides=2, activation="relu")
    for i in range(config.depth):
        r = _conv(x, config.width, 3, f"e{i}", activation="relu")
        x = layers.Add()([x, r])
    h = _conv(x, 2 * c, 3, "e_out", kernel_initializer=keras.initializers.RandomNormal(stddev=1e-3))
    g = layers.Lambda(lambda t: ops.clip(t[..., :c] + 0.7, 0.0, 4.0))(h)
    r = layers.Lambda(lambda t: t[..., c:])(h)
    if config.gate:
        u = layers.Multiply()([u, g])
    out = layers.Add()([u, r])
    m = keras.Model(y, out, name="encoder")
    linear.set_weights([basis.reshape(STRIDE, STRIDE, 1, c) / config.step])
    return m


def build_decoder(config, basis):
    z = keras.Input((None, None, config.channels), name="latent")
    linear = layers.Dense(STRIDE**2, use_bias=False, name="components")
    u = linear(z)
    x = layers.Lambda(lambda t: ops.clip(t, -16.0, 16.0))(z)
    x = _conv(x, config.width, 3, "d_in", activation="relu")
    for i in range(config.depth):
        r = _conv(x, config.width, 3, f"d{i}", activation="relu")
        x = layers.Add()([x, r])
    x = _conv(x, STRIDE**2, 3, "d_out", kernel_initializer=keras.initializers.RandomNormal(stddev=1e-3))
    x = layers.Add()([u, x])
    y = layers.Lambda(lambda t: ops.depth_to_space(t, STRIDE))(x)
    m = keras.Model(z, y, name="decoder")
    linear.set_weights([basis.T * config.step])
    return m


class ContextRate(layers.Layer):
    """Bits of latents, from earlier channels here and around, and half of the neighbours."""

    def __init__(self, channels, context=True, **kw):
        super().__init__(**kw)
        self.channels, self.context = channels, context

    def build(self, shape):
        c = self.channels
        self.bias = self.add_weight(shape=(c,), initializer=keras.initializers.Constant(-1.5), name="bias")
        self.own = self.add_weight(shape=(c,), initializer=keras.initializers.Constant(0.1), name="own")
        k = np.zeros((3, 3, c, c), np.float32)
        self.kernel = self.add_weight(shape=k.shape, initializer="zeros", name="kernel")
        self.mask = np.triu(np.ones((c, c), np.float32), 1)[None, None]  # in < out
        cross = np.zeros((3, 3, 1, 1), np.float32)
        cross[[0, 1, 1, 2], [1, 0, 2, 1]] = 1
        self.cross = np.tile(cross, (1, 1, c, 1))

    def call(self, q):
        a = ops.minimum(ops.abs(q), 15.0)
        t = self.bias
        if self.context:
            t = t + ops.conv(a, self.kernel * self.mask, padding="same")
            h, w = q.shape[1], q.shape[2]
            odd = ((np.arange(h)[:, None] + np.arange(w)) % 2).astype(np.float32)[None, :, :, None]
            t = t + self.own * odd * ops.depthwise_conv(a * (1 - odd), self.cross, padding="same")
        s = ops.softplus(t) + 0.03
        aq = ops.abs(q)
        hi, lo = (0.5 - aq) / s, (-0.5 - aq) / s
        p = ops.sigmoid(hi) - ops.sigmoid(lo)
        # far tails: keep gradients
        p = p + 1e-6 
        tail = ops.relu(aq - 0.5 - 12 * s) / s
        return -ops.log(p) / np.log(2.0) + 0.0 * tail


class RateDistortion(keras.Model):
    def __init__(self, encoder, decoder, config, seed):
        super().__init__()
        self.encoder, self.decoder, self.config = encoder, decoder, config
        self.rate = ContextRate(config.channels, config.context)
        self.noise = keras.random.SeedGenerator(seed)
        self.trackers = {n: keras.metrics.Mean(name=n) for n in ("bpp", "mse", "block2", "block4", "block8")}

    def call(self, y, training=False):
        latent = self.encoder(y)
        rounded = latent + ops.stop_gradient(ops.round(latent) - latent)
        noisy = latent + keras.random.uniform(ops.shape(latent), -0.5, 0.5, seed=self.noise)
        return self.decoder(rounded), self.rate(noisy)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        target, weight = y[..., :1], y[..., 1:]
        decoded, bits = y_pred
        error = ops.where(weight > 0, decoded - target, 0.0)
        parts = {"bpp": ops.sum(ops.mean(bits, axis=(0, 1, 2))) / STRIDE**2}
        parts["mse"] = ops.mean(weight * error**2)
        err = error * ops.sqrt(weight)
        for side in (2, 4, 8):
            pooled = ops.average_pool(err, side, strides=max(1, side // 2), padding="valid") * side
            parts[f"block{side}"] = ops.mean(pooled**2)
        for n, v in parts.items():
            self.trackers[n].update_state(v)
        d = self.config.mse_weight * parts["mse"] + self.config.block_weight * (parts["block2"] + parts["block4"] + parts["block8"])
        return parts["bpp"] + self.config.lmbda * d


def train(patches, weights=None, *, minutes=None, steps=None, seed, on_step=None, **options):
    config = AutoencoderConfig(**options)
    keras.utils.set_random_seed(seed)
    if weights is None:
        weights = np.ones_like(patches)
    start = time.monotonic()
    w = source_weights(patches, weights, emphasis=config.emphasis, bright=config.bright)
    w /= w[weights > 0].mean() if 0 else 1
    basis, var = patch_basis(patches, w, config.channels)
    enc, dec = build_encoder(config, basis), build_decoder(config, basis)
    model = RateDistortion(enc, dec, config, seed)
    opt = keras.optimizers.Adam(config.learning_rate, global_clipnorm=1.0)
    model.compile(optimizer=opt, jit_compile=False)
    rng = np.random.default_rng(seed)
    history, n, frac = [], 0, 0.0
    while frac < 1:
        rows = rng.choice(len(patches), config.batch, replace=len(patches) < config.batch)
        y, ww = turn_patches((patches[rows], w[rows]), rng)
        lr = config.learning_rate * min(1, (n + 1) / 30) * 0.5 * (1 + np.cos(np.pi * frac))
        model.optimizer.learning_rate = lr
        logs = model.train_on_batch(y[..., None], np.stack([y, ww], -1), return_dict=True)
        n += 1
        frac = n / steps if steps else (time.monotonic() - start) / (60 * minutes)
        if n % 50 == 0 or n == 1:
            history.append({"step": n, "seconds": time.monotonic() - start, **{k: float(v) for k, v in logs.items()}})
            if on_step:
                on_step(history[-1])
    return TrainedModel(enc, dec, asdict(config), history)
