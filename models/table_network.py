"""The autoencoder of table rows: the linear model, corrected on both sides by a hidden layer.

Knows the network, the loss that weighs bits against noise units, and the training loop, all in
`keras.ops`. What comes out are plain arrays: the decoder's are rounded to whole numbers by
`models.table_model`, so that a reader needs no network library and finds the same bits everywhere.

::

    y -> E y + relu(y / 64) -> latents, rounded -> W z + relu(z / 64) -> y'
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.model import HIDDEN_REACH, HIDDEN_SCALE

__all__ = ["RowNetwork", "train_rows"]

Floats = NDArray[np.float64]
HIDDEN = 48
BATCH = 512
LEARNING_RATE = 2e-3
WARM_UP = 50  # steps
BITS_PER_ERROR = 15.0  # bits that a unit of squared error is worth: the slope at steps of 0.75
FAR = 4.0  # noise units: errors beyond count by their size, not its square


@dataclass(frozen=True)
class RowNetwork:
    """Arrays of a trained network; inputs and outputs are rows of noise units less the offset.

    Attributes
    ----------
    encoder, decoder : ndarray, shape (c, m) and (m, c), float64
        Linear parts.
    encoder_in, encoder_offset, encoder_out : ndarray, shape (h, m), (h,) and (c, h)
        Hidden layer before the latents; it sees noise units / 64.
    decoder_in, decoder_offset, decoder_out : ndarray, shape (h, c), (h,) and (m, h)
        Hidden layer behind them; it sees latents / 64.
    """

    encoder: Floats
    encoder_in: Floats
    encoder_offset: Floats
    encoder_out: Floats
    decoder: Floats
    decoder_in: Floats
    decoder_offset: Floats
    decoder_out: Floats


def train_rows(rows: Floats, basis: Floats, *, step: float, seed: int, steps: int) -> RowNetwork:
    """Train a network on rows, from their principal components on.

    Parameters
    ----------
    rows : ndarray, shape (n, m), float64
        Noise units less the offset; NaN where missing.
    basis : ndarray, shape (m, c), float64
        Orthonormal columns: where the linear parts start.
    step : float
        Noise units in one step of a latent, there.
    seed : int
    steps : int
        Batches of 512 rows. The same rows, seed and steps give the same network on one machine.

    Returns
    -------
    RowNetwork
    """
    import keras

    keras.utils.set_random_seed(seed)
    network = _network_class()(basis, step)
    network(np.zeros((1, 2 * len(basis)), np.float32))
    network.start()
    network.compile(keras.optimizers.Adam(0.0, global_clipnorm=1.0), jit_compile=False)
    rng = np.random.default_rng(seed)
    known = np.isfinite(rows)
    filled = np.concatenate([np.where(known, rows, 0.0), known], axis=1).astype(np.float32)
    for number in range(steps):
        batch = filled[rng.integers(len(filled), size=BATCH)]
        fall = 0.5 * (1 + math.cos(math.pi * number / steps))
        network.optimizer.learning_rate = LEARNING_RATE * fall * min(1, (number + 1) / WARM_UP)
        network.train_on_batch(batch, batch)
    return network.arrays()


def _network_class() -> Any:
    """The Keras model; Keras is loaded when a network is trained, and not before."""
    import keras
    from keras import layers, ops

    def clipped(values: Any) -> Any:
        return ops.clip(values, -HIDDEN_REACH, HIDDEN_REACH) / HIDDEN_SCALE

    class RowAutoencoder(keras.Model):
        """Encoder, rounding, decoder and their loss."""

        def __init__(self, basis: Floats, step: float) -> None:
            super().__init__()
            elements, channels = basis.shape
            self.basis, self.step, self.elements = basis, step, elements
            self.encoder = layers.Dense(channels, use_bias=False)
            self.encoder_in = layers.Dense(HIDDEN, activation="relu")
            self.encoder_out = layers.Dense(channels, use_bias=False, kernel_initializer="zeros")
            self.decoder = layers.Dense(elements, use_bias=False)
            self.decoder_in = layers.Dense(HIDDEN, activation="relu")
            self.decoder_out = layers.Dense(elements, use_bias=False, kernel_initializer="zeros")

        def start(self) -> None:
            """Linear parts of the principal components."""
            self.encoder.set_weights([self.basis.astype(np.float32) / self.step])
            self.decoder.set_weights([self.basis.T.astype(np.float32) * self.step])

        def call(self, inputs: Any, training: bool = False) -> tuple[Any, Any]:
            """Decoded rows and latents."""
            rows = inputs[:, : self.elements]
            latent = self.encoder(rows) + self.encoder_out(self.encoder_in(clipped(rows)))
            # The gradient is passed straight through the rounding.
            whole = latent + ops.stop_gradient(ops.round(latent) - latent)
            decoded = self.decoder(whole) + self.decoder_out(self.decoder_in(clipped(whole)))
            return decoded, latent

        def compute_loss(
            self,
            x: Any = None,
            y: Any = None,
            y_pred: Any = None,
            sample_weight: Any = None,
            training: bool = True,
        ) -> Any:
            """Bits of a row, as of normal latents, and its error [bits]."""
            decoded, latent = y_pred
            error = (decoded - y[:, : self.elements]) * y[:, self.elements :]
            square = ops.minimum(error**2, 2 * FAR * ops.abs(error) - FAR**2)
            square = ops.where(ops.abs(error) < FAR, error**2, square)
            variance = ops.var(latent, axis=0) + 1 / 12
            bits = 0.5 * ops.sum(ops.log(variance * 2 * math.pi * math.e)) / math.log(2)
            return bits + BITS_PER_ERROR * ops.mean(ops.sum(square, axis=-1))

        def arrays(self) -> RowNetwork:
            """Weights, turned so that columns are rows of the table."""

            def turned(layer: Any) -> Floats:
                return np.asarray(layer.get_weights()[0], np.float64).T

            def offset(layer: Any) -> Floats:
                return np.asarray(layer.get_weights()[1], np.float64)

            return RowNetwork(
                turned(self.encoder),
                turned(self.encoder_in),
                offset(self.encoder_in),
                turned(self.encoder_out),
                turned(self.decoder),
                turned(self.decoder_in),
                offset(self.decoder_in),
                turned(self.decoder_out),
            )

    return RowAutoencoder
