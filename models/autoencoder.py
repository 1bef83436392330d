"""The convolutional model: a linear path through principal components, corrected on both sides.

Knows the networks, the loss that weighs bits against science, and the training loop. All of it is
`keras.ops`, so any Keras backend trains the same model. Everything is convolution with zeros
beyond the edge, so a tile decodes from its own latents alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from models.patches import source_weights, turn_patches
from models.pca import TrainedModel, analysis, patch_basis, synthesis
from skyfold.errors import InvalidRequestError
from skyfold.layout import STRIDE

__all__ = ["AutoencoderConfig", "RateDistortion", "TrainedModel", "networks", "train"]

Image = NDArray[np.float32]
BLOCK_SIDES = (2, 4, 8)  # pixels; the largest is about the aperture in which flux is measured
FAINT, BRIGHT = -3.0, 64.0  # noise units: the correction sees no more, so nothing extreme drives it
LATENT_LIMIT = 16.0  # likewise on the decoder's side
INPUT_SCALE = 0.25  # brings noise and sources near the scale that layers start from
WARM_UP = 30  # steps over which the learning rate rises
HISTORY_EVERY = 25  # steps


@dataclass(frozen=True)
class AutoencoderConfig:
    """What is trained and how.

    Attributes
    ----------
    channels : int
        Channels of the latents.
    lmbda : float
        Bits a pixel that one unit of distortion is worth.
    emphasis, bright : float
        Weights of sources, as of `models.patches.source_weights`.
    pixel_weight : float
        Weight of the squared error of pixels beside that of the means over blocks.
    width, depth : int
        Channels of the inner layers, and residual layers on each side.
    step : float
        Quantisation step from which the linear path starts [noise units].
    batch : int
        Patches a step.
    learning_rate : float
        Highest learning rate; it falls to 0 as a cosine over the budget.
    """

    channels: int = 12
    lmbda: float = 0.002
    emphasis: float = 100.0
    bright: float = 300.0
    pixel_weight: float = 0.2
    width: int = 32
    depth: int = 2
    step: float = 1.5
    batch: int = 8
    learning_rate: float = 4e-3


def networks(config: AutoencoderConfig, basis: Image) -> tuple[Any, Any]:
    """Untrained encoder and decoder, which begin as the linear model.

    Parameters
    ----------
    config : AutoencoderConfig
        Sizes.
    basis : ndarray, shape (64, channels), float32
        Principal components of 8 x 8 pixels.

    Returns
    -------
    encoder, decoder : keras.Model

    Notes
    -----
    ::

        y ──> fold 8 x 8 ──> components ───────────> + ──> latent
                         └──> clip, convolutions ───┘
        latent ──> pixels of components ────────────> + ──> unfold ──> y
               └──> clip, convolutions ─────────────┘
    """
    return _encoder(config, basis), _decoder(config, basis)


def _encoder(config: AutoencoderConfig, basis: Image) -> Any:
    y = keras.Input((None, None, 1), name="y")
    linear = analysis(config.channels)
    pixels = ops.space_to_depth(y, STRIDE)
    x = _relu(config.width, "first")(ops.clip(pixels, FAINT, BRIGHT) * INPUT_SCALE)
    latent = linear(pixels) + _last(config.channels)(_residual(x, config))
    encoder = keras.Model(y, latent, name="encoder")
    linear.set_weights([basis[np.newaxis, np.newaxis] / config.step])
    return encoder


def _decoder(config: AutoencoderConfig, basis: Image) -> Any:
    latent = keras.Input((None, None, config.channels), name="latent")
    linear = synthesis()
    x = _relu(config.width, "first")(ops.clip(latent, -LATENT_LIMIT, LATENT_LIMIT))
    pixels = linear(latent) + _last(STRIDE**2)(_residual(x, config))
    decoder = keras.Model(latent, ops.depth_to_space(pixels, STRIDE), name="decoder")
    linear.set_weights([basis.T[np.newaxis, np.newaxis] * config.step])
    return decoder


def _relu(width: int, name: str) -> Any:
    return layers.Conv2D(width, 3, padding="same", activation="relu", name=name)


def _residual(x: Any, config: AutoencoderConfig) -> Any:
    for number in range(config.depth):
        x = x + _relu(config.width, f"inner{number}")(x)
    return x


def _last(width: int) -> Any:
    """A correction that starts near nothing."""
    start = keras.initializers.RandomNormal(stddev=1e-3)
    return layers.Conv2D(width, 3, padding="same", kernel_initializer=start, name="last")


class ContextRate(layers.Layer):
    """Bits of latents, as a coder finds them that knows the earlier channels here and around.

    A logistic distribution whose scale follows the magnitudes of earlier channels in the 3 x 3
    neighbourhood and, on every other position, of the four neighbours in the channel itself: what
    `skyfold.latents` knows, made smooth.

    Parameters
    ----------
    channels : int
        Channels of the latents.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def get_config(self) -> dict[str, Any]:
        """Arguments of the layer."""
        return {**super().get_config(), "channels": self.channels}

    def build(self, input_shape: Any) -> None:
        """Make the weights, and the masks that keep to what is already decoded."""
        c = self.channels
        self.bias = self.add_weight(shape=(c,), initializer=_constant(-1.5), name="bias")
        self.around = self.add_weight(shape=(c,), initializer=_constant(0.1), name="around")
        self.earlier = self.add_weight(shape=(3, 3, c, c), initializer="zeros", name="earlier")
        self.is_earlier = np.triu(np.ones((c, c), np.float32), 1)
        cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32)
        self.cross = np.tile(cross[:, :, np.newaxis, np.newaxis], (1, 1, c, 1))

    def call(self, latent: Any) -> Any:
        """Bits of each latent, of the same shape (n, h, w, C)."""
        size = ops.abs(latent)
        known = ops.minimum(size, LATENT_LIMIT)
        height, width = latent.shape[1:3]
        odd = np.indices((height, width)).sum(0)[..., np.newaxis].astype(np.float32) % 2
        near = ops.depthwise_conv(known * (1 - odd), self.cross, padding="same") * odd
        before = ops.conv(known, self.earlier * self.is_earlier, padding="same")
        scale = ops.softplus(self.bias + before + self.around * near) + 0.03
        inside = ops.sigmoid((0.5 - size) / scale) - ops.sigmoid((-0.5 - size) / scale)
        return -ops.log(inside + 1e-6) / math.log(2)


def _constant(value: float) -> Any:
    return keras.initializers.Constant(value)


class RateDistortion(keras.Model):
    """Encoder, rounding, decoder and their loss, to be trained.

    ``loss = bpp + lmbda (pixel_weight mse + block2 + block4 + block8)``, where blockn is the mean
    square of n times the mean error of n x n pixels: all are 1 for white noise of the sky. Bits
    are of latents with uniform noise; pixels are of rounded ones, whose gradient is passed
    straight through (Minnen & Singh 2020, arXiv:2007.08739, section 3.3).

    Parameters
    ----------
    encoder, decoder : keras.Model
        The networks.
    config : AutoencoderConfig
        Weights of the loss.
    seed : int
        Seed of the noise.
    """

    def __init__(self, encoder: Any, decoder: Any, config: AutoencoderConfig, seed: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.config = encoder, decoder, config
        self.rate = ContextRate(config.channels)
        self.noise = keras.random.SeedGenerator(seed)
        names = ["bpp", "mse", *(f"block{side}" for side in BLOCK_SIDES)]
        self.parts = {name: keras.metrics.Mean(name=name) for name in names}

    def call(self, y: Any, training: bool = False) -> tuple[Any, Any]:
        """Decoded pixels, and bits of the latents."""
        latent = self.encoder(y)
        rounded = latent + ops.stop_gradient(ops.round(latent) - latent)
        noise = keras.random.uniform(ops.shape(latent), -0.5, 0.5, seed=self.noise)
        return self.decoder(rounded), self.rate(latent + noise)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Loss; `y` holds the pixels and their weights as two channels."""
        decoded, bits = y_pred
        error = (decoded - y[..., :1]) * ops.sqrt(y[..., 1:])
        parts = {
            "bpp": ops.mean(ops.sum(bits, axis=-1)) / STRIDE**2,
            "mse": ops.mean(error**2),
        }
        for side in BLOCK_SIDES:
            means = ops.average_pool(error, side, strides=side // 2, padding="valid")
            parts[f"block{side}"] = ops.mean((side * means) ** 2)
        for name, part in parts.items():
            self.parts[name].update_state(part)
        blocks = sum(parts[f"block{side}"] for side in BLOCK_SIDES)
        distortion = self.config.pixel_weight * parts["mse"] + blocks
        return parts["bpp"] + self.config.lmbda * distortion


def train(
    patches: Image,
    weights: Image | None = None,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    **options: Any,
) -> TrainedModel:
    """Train a model on patches.

    Parameters
    ----------
    patches : ndarray, shape (n, side, side), float32
        Noise units; the side a multiple of 16.
    weights : ndarray, shape (n, side, side), float32, optional
        0 where bad.
    minutes : float, optional
        Budget of wall-clock time, from the call on.
    steps : int, optional
        Budget of steps instead; the same patches, seed and steps give the same model.
    seed : int
        Seed of weights, noise and batches.
    on_step : callable, optional
        Called with the step and the parts of the loss by name, now and then.
    **options
        Fields of `AutoencoderConfig`.

    Returns
    -------
    TrainedModel

    Raises
    ------
    InvalidRequestError
        If there is not exactly one budget, or the patches or an option do not fit.
    """
    _check(patches, minutes, steps, options)
    start = time.monotonic()
    config = AutoencoderConfig(**options)
    keras.utils.set_random_seed(seed)
    if steps is not None and keras.backend.backend() == "tensorflow":
        _repeat_sums()
    weighed = source_weights(patches, weights, emphasis=config.emphasis, bright=config.bright)
    basis, _ = patch_basis(patches, weighed, config.channels)
    model = RateDistortion(*networks(config, basis), config, seed)
    is_traced = keras.backend.backend() == "jax"  # which takes single operations one by one else
    model.compile(keras.optimizers.Adam(0.0, global_clipnorm=1.0), jit_compile=is_traced)

    def spent(step: int) -> float:
        return step / steps if steps else (time.monotonic() - start) / (60 * (minutes or 1))

    history = _descend(model, patches, weighed, spent, np.random.default_rng(seed), on_step)
    facts = {"model": "autoencoder", **asdict(config), "steps": int(history[-1]["step"])}
    return TrainedModel(model.encoder, model.decoder, facts, history)


def _repeat_sums() -> None:
    """Have TensorFlow add in one order however its threads are timed, as long as the process runs.

    Of a budget of time nothing is repeated, and a GPU is slower for it.
    """
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


def _descend(
    model: RateDistortion,
    patches: Image,
    weighed: Image,
    spent: Callable[[int], float],
    rng: np.random.Generator,
    on_step: Callable[[int, dict[str, float]], None] | None,
) -> list[dict[str, float]]:
    """Train until the budget is spent; at least one step."""
    config, history, step, share = model.config, [], 0, 0.0
    while share < 1:
        rows = rng.choice(len(patches), config.batch, replace=len(patches) < config.batch)
        y, weight = turn_patches((patches[rows], weighed[rows]), rng)
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        rate = config.learning_rate * cosine * min(1.0, (step + 1) / WARM_UP)
        model.optimizer.learning_rate = rate
        target = np.stack([y, weight], axis=-1)
        logs = model.train_on_batch(y[..., np.newaxis], target, return_dict=True)
        step, share = step + 1, spent(step + 1)
        if step % HISTORY_EVERY == 0 or share >= 1:
            parts = {name: float(value) for name, value in logs.items()}
            history.append({"step": float(step), **parts})
            if on_step:
                on_step(step, parts)
    return history


def _check(
    patches: Image, minutes: float | None, steps: int | None, options: dict[str, Any]
) -> None:
    known = AutoencoderConfig.__dataclass_fields__
    wrong = [name for name in options if name not in known]
    if wrong:
        raise InvalidRequestError(
            f"no model can be trained: met options {wrong}; allowed are {sorted(known)}; "
            "correct the name"
        )
    if (minutes is None) == (steps is None) or (minutes or steps or 0) <= 0:
        raise InvalidRequestError(
            f"no model can be trained: met minutes {minutes}, steps {steps}; allowed is one of "
            "them, above 0; give a budget"
        )
    if patches.ndim != 3 or not len(patches) or patches.shape[1] % 16 or patches.shape[2] % 16:
        raise InvalidRequestError(
            f"no model can be trained: met patches of shape {patches.shape}; allowed is (n, ny, "
            "nx), sides multiples of 16; use models.patches.sample_patches"
        )
