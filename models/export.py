"""A trained model as four files of data, named by their digest.

Knows how to make the files a function of the weights alone (names are counted anew, everything
that tells of the machine is left out), and how far two machines may differ that run them.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models.pca import TrainedModel
from skyfold.access.graph_check import check_graph
from skyfold.codecs.latent_tables import LatentTables
from skyfold.errors import CorruptDataError, InvalidRequestError
from skyfold.images.network import model_digest
from skyfold.layout import STRIDE

__all__ = ["export_model", "measure_tolerance", "to_onnx"]

OPSET = 18
SAFETY = 8.0  # other machines may differ by more than this one's ways to compute
MIN_TOLERANCE = 2e-6  # relative; 17 roundings of single precision
MAX_DIFFERENCE = 1e-3  # more is not rounding: the export went wrong


def export_model(
    trained: TrainedModel,
    tables: LatentTables,
    folder: str | Path,
    card: dict[str, Any],
    *,
    examples: NDArray[np.float32],
) -> str:
    """Write a model's files into ``folder/<digest>/``, and return the digest.

    Parameters
    ----------
    trained : TrainedModel
        Encoder and decoder.
    tables : LatentTables
        Coding tables of its latents.
    folder : str or Path
        Where the folder of the model is made.
    card : dict
        What to say of the model; JSON. ``tolerance`` and ``parameters`` are added to it.
    examples : ndarray, shape (n, ny, nx), float32
        Noise-unit patches on which the tolerance is measured.

    Returns
    -------
    str
        SHA-256 over the files; the same weights, tables and card always give the same.

    Raises
    ------
    InvalidRequestError
        If tables and model have different channels.
    CorruptDataError
        If onnxruntime does not give what Keras gives, or the graph may not be run by a reader.
    """
    channels = trained.encoder.output_shape[-1]
    if channels != tables.channels:
        raise InvalidRequestError(
            f"model cannot be exported: met {channels} channels and tables of {tables.channels}; "
            "allowed is one number; fit the tables to this model's latents"
        )
    encoder = to_onnx(trained.encoder, "encoder", ("y", "latent"))
    decoder = to_onnx(trained.decoder, "decoder", ("latent", "y"))
    tolerance = measure_tolerance(trained, encoder, decoder, examples)
    parameters = {k: int(getattr(trained, k).count_params()) for k in ("encoder", "decoder")}
    full = {**card, "parameters": parameters, "tolerance": {"relative": tolerance}}
    files = {
        "encoder.onnx": encoder,
        "decoder.onnx": decoder,
        "tables.bin": tables.to_bytes(),
        "card.json": (json.dumps(full, indent=1, sort_keys=True) + "\n").encode(),
    }
    digest = model_digest(files)
    target = Path(folder) / digest
    target.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (target / name).write_bytes(data)
    return digest


def measure_tolerance(
    trained: TrainedModel, encoder: bytes, decoder: bytes, examples: NDArray[np.float32]
) -> float:
    """Tolerance t such that decoders agree within ``t * (1 + max |y|)``.

    The maximum is over the pixel's block of 8 x 8, because a bright pixel's rounding reaches all
    that its latent decodes to. Eight times the largest difference between Keras and onnxruntime
    with and without graph optimisation, on one and two threads, in whole and split batches; at
    least 2e-6.

    Raises
    ------
    CorruptDataError
        If they differ by more than rounding explains.
    """
    y = np.concatenate([examples[:8, ..., np.newaxis], _bright_tiles(examples.shape[1:])])
    latents = np.asarray(trained.encoder(y, training=False))
    whole = np.rint(latents)
    pixels = np.asarray(trained.decoder(whole, training=False))[..., 0]
    floor = 1 + _block_maximum(np.abs(pixels))
    worst, met = 0.0, [_run(encoder, y) - latents]
    for optimised in (True, False):
        for threads, batch in ((1, len(y)), (2, len(y)), (1, 1)):
            apart = np.abs(_run(decoder, whole, optimised, threads, batch)[..., 0] - pixels) / floor
            worst = max(worst, float(apart.max()))
    encoder_apart = float(np.abs(met[0]).max() / (1 + np.abs(latents).max()))
    if not max(worst, encoder_apart) <= MAX_DIFFERENCE:
        raise CorruptDataError(
            f"exported networks differ from the trained ones by {encoder_apart:.2g} (encoder) and "
            f"{worst:.2g} (decoder); allowed is {MAX_DIFFERENCE:.0e}; train again, or export with "
            "another version of Keras"
        )
    # two digits: a last bit of the measurement must not rename the model
    return float(f"{max(SAFETY * worst, MIN_TOLERANCE):.1e}")


def _bright_tiles(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Noise with point sources, shape (2, ny, nx, 1): rounding shows in the bright."""
    rng = np.random.default_rng(20)
    tiles = rng.normal(size=(2, *shape))
    y, x = np.indices(shape)
    for number, level in enumerate(np.geomspace(3, 3000, 20)):
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        tiles[number % 2] += level * np.exp(-((x - column) ** 2 + (y - row) ** 2) / 6)
    return tiles.astype(np.float32)[..., np.newaxis]


def _block_maximum(values: NDArray[np.float32]) -> NDArray[np.float32]:
    n, ny, nx = values.shape
    blocks = values.reshape(n, ny // STRIDE, STRIDE, nx // STRIDE, STRIDE)
    highest = blocks.max(axis=(2, 4), keepdims=True)
    return np.broadcast_to(highest, blocks.shape).reshape(values.shape)


def _run(
    graph: bytes,
    batch: NDArray[np.float32],
    optimised: bool = True,
    threads: int = 1,
    size: int = 4,
) -> NDArray[np.float32]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [batch[i : i + size] for i in range(0, len(batch), size)]
    return np.concatenate([session.run(None, {name: part})[0] for part in parts])


def to_onnx(network: Any, name: str, ends: tuple[str, str]) -> bytes:
    """Graph of a Keras network, with nothing in it but the network.

    Parameters
    ----------
    network : keras.Model
        One input and one output of shape (n, h, w, c).
    name : str
        What messages call it.
    ends : tuple of str
        Names of the input and the output.

    Raises
    ------
    skyfold.errors.UntrustedModelError
        If the graph holds what the reader would refuse to run.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        if keras.backend.backend() == "tensorflow":
            _export(network, path)
        else:
            _export_by_tensorflow(network, path)
        graph = onnx.load(path).graph
    nodes = _in_order(graph)
    _rename(graph, nodes, ends)
    tensors = sorted(graph.initializer, key=lambda tensor: (len(tensor.name), tensor.name))
    plain = onnx.helper.make_graph(nodes, "network", graph.input, graph.output, tensors)
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(plain, opset_imports=[opset], ir_version=9)
    data: bytes = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(data)
    check_graph(data, name)
    return data


def _export(network: Any, path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about names that numpy will drop
        network.export(path, format="onnx", opset_version=OPSET, verbose=False)


def _export_by_tensorflow(network: Any, path: Path) -> None:
    """As `_export`, in a process of its own: one has one backend, whose exporter may be missing.

    Raises
    ------
    CorruptDataError
        If that process fails.
    """
    saved = path.with_suffix(".keras")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras, about numpy
        network.save(saved)
    command = [sys.executable, "-m", "models.export", str(saved), str(path)]
    environment = os.environ | {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CorruptDataError(
            f"a network of Keras on {keras.backend.backend()} cannot be exported by TensorFlow: "
            f"{done.stderr[-500:]}; unset KERAS_BACKEND, to train by TensorFlow"
        )


def _in_order(graph: Any) -> list[Any]:
    """Nodes as the output asks for them: the exporter's order changes from run to run."""
    makers = {name: node for node in graph.node for name in node.output}
    ordered: dict[str, Any] = {}

    def visit(name: str) -> None:
        node = makers.get(name)
        if node is not None and node.output[0] not in ordered:
            for needed in node.input:
                visit(needed)
            ordered[node.output[0]] = node

    visit(graph.output[0].name)
    return list(ordered.values())


def _rename(graph: Any, nodes: list[Any], ends: tuple[str, str]) -> None:
    """Names by place, not by counters of the exporter; free sizes; no notes."""
    names = {graph.input[0].name: ends[0], graph.output[0].name: ends[1], "": ""}
    for number, node in enumerate(nodes):
        for name in (*node.input, *node.output):
            names.setdefault(name, f"t{len(names)}")
        node.name, node.doc_string = f"n{number}", ""
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = names.setdefault(tensor.name, f"t{len(names)}"), ""
    for value, suffix in ((graph.input[0], ""), (graph.output[0], "_out")):
        value.name = names[value.name]
        for size, free in zip(value.type.tensor_type.shape.dim, "nhw", strict=False):
            size.dim_param = free + suffix


def _export_saved(saved: Path, path: Path) -> None:
    network = keras.saving.load_model(saved)
    network(np.zeros((1, STRIDE, STRIDE, network.input_shape[-1]), np.float32))  # as it must be
    _export(network, path)


if __name__ == "__main__":
    _export_saved(*map(Path, sys.argv[1:]))
