"""One lattice by several libraries: pixels that each rounds otherwise, with the guard and without.

    python -m tests.benchmarks.backends [--pixels 1e8]

Trains a small network, exports it, and draws tiles of simulated noise and sources with it by
onnxruntime, as readers do, whose guard it is; by Keras on TensorFlow; by OpenVINO where it is
installed (``pip install openvino``); and by the numpy of onnx, of the first tiles alone, since that
takes long.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from models.autoencoder import train
from models.entropy import fit_tables
from models.export import export_model
from models.patches import sample_patches
from models.pca import TrainedModel
from skyfold import ladder
from skyfold.images.network import Network
from skyfold.ladder import TILE
from skyfold.layout import MODEL_FILES
from skyfold.noise import NoiseModel
from tests import synthetic

TOGETHER = 8  # tiles
NOISES = (
    NoiseModel.from_stored_units(11.0, 0.67, integer=True),
    NoiseModel.from_stored_units(3e-12, 0.0, integer=False),
    NoiseModel.from_stored_units(4.2, 0.0, integer=True),
    NoiseModel.from_stored_units(1.7, 1.0, integer=False),
)
Decode = Callable[[NDArray[np.int16]], NDArray[np.float32]]


def main() -> None:
    """Print a row for each library."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.backends")
    parser.add_argument("--pixels", type=float, default=1e8)
    wanted = parser.parse_args().pixels
    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        network, trained, graph = _exported(Path(folder))
        others = {"Keras, TensorFlow": lambda latents: trained.decode(latents, batch=TOGETHER)}
        others |= _openvino(graph)
        counts = {name: [0, 0, 0] for name in (*others, "onnx, numpy")}
        while counts["Keras, TensorFlow"][0] < wanted:
            latents = network.encode(_tiles(rng))
            drawn = {name: decode(latents) for name, decode in others.items()}
            if not counts["onnx, numpy"][0]:
                drawn["onnx, numpy"] = _reference(graph)(latents)
            for number, y in enumerate(network.decode(latents)):
                noise = NOISES[number % len(NOISES)]
                steps = noise.background_step * rng.integers(0, 2**20)
                for name, planes in drawn.items():
                    found = _otherwise(y, planes[number].reshape(y.shape), noise, steps, network)
                    counts[name] = [a + b for a, b in zip(counts[name], found, strict=True)]
    table = Table("library", "pixels", "rounded otherwise", "without the guard")
    for name, (pixels, guarded, plain) in counts.items():
        table.add_row(name, f"{pixels:.3g}", str(guarded), str(plain))
    Console(width=100).print(table)


def _exported(folder: Path) -> tuple[Network, TrainedModel, bytes]:
    sky = synthetic.sky((1024, 1024), sources=1200, seed=5).astype("f4")
    patches, weights = sample_patches([sky], count=256, seed=1)
    trained = train(patches, weights, steps=300, seed=1)
    tables = fit_tables(trained.encode(patches))
    digest = export_model(trained, tables, folder, {}, examples=patches[:8])
    files = {name: (folder / digest / name).read_bytes() for name in MODEL_FILES}
    return Network(files, digest), trained, files["decoder.onnx"]


def _tiles(rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise, and a dozen sources of up to 1600 times it [noise units]."""
    tiles = rng.normal(0, 1, (TOGETHER, TILE, TILE))
    y, x = np.mgrid[:TILE, :TILE]
    for tile in tiles:
        for cy, cx, width, height in rng.uniform((0, 0, 1, 0.5), (TILE, TILE, 4, 3.2), (12, 4)):
            tile += 10**height * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2))
    return tiles.astype(np.float32)


def _openvino(graph: bytes) -> dict[str, Decode]:
    try:
        import openvino
    except ImportError:
        return {}
    core = openvino.Core()
    how = {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(graph), "CPU", how)
    return {"OpenVINO": lambda latents: _one_by_one(lambda tile: model(tile)[0], latents)}


def _reference(graph: bytes) -> Decode:
    from onnx.reference import ReferenceEvaluator

    session: Any = ReferenceEvaluator(graph)
    name = session.input_names[0]
    return lambda latents: _one_by_one(lambda tile: session.run(None, {name: tile})[0], latents)


def _one_by_one(run: Callable[[Any], Any], latents: NDArray[np.int16]) -> NDArray[np.float32]:
    return np.concatenate([np.asarray(run(one[np.newaxis])) for one in latents.astype(np.float32)])


def _otherwise(
    y: NDArray[np.float32],
    other: NDArray[np.float32],
    noise: NoiseModel,
    steps: float,
    network: Network,
) -> tuple[int, int, int]:
    """Pixels, and those that are rounded otherwise, with the guard and without."""
    background = np.full(y.shape, float(steps))
    guard = ladder.find_guard(y, background + noise.to_signal(y), noise, network.tolerance)
    found = []
    for codes in (guard, np.zeros_like(guard)):
        one, two = (ladder.predict(plane, background, noise, codes) for plane in (y, other))
        found.append(int(np.count_nonzero(one != two)))
    return y.size, found[0], found[1]


if __name__ == "__main__":
    main()
