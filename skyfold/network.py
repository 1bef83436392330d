"""Running a stored network: what it may contain, and onnxruntime around it.

A release is opened from a URL that somebody mailed, so its graph is checked before it runs: only
arithmetic, no control flow, no external files, no custom operators, bounded weights.
"""

from __future__ import annotations

import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.codecs.latents import register_tables, tables_from_bytes
from skyfold.errors import CorruptDataError, UntrustedModelError
from skyfold.ladder import TILE
from skyfold.layout import MODEL_FILES, STRIDE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_OPERATORS = """
    Add Cast Clip Concat Constant Conv ConvTranspose DepthToSpace Div Expand Gather Gemm Identity
    MatMul Max Min Mul Pad Relu Reshape Resize Shape Sigmoid Slice SpaceToDepth Split Sqrt Squeeze
    Sub Tanh Tile Transpose Unsqueeze
"""
ALLOWED_OPERATORS = frozenset(_OPERATORS.split())
MAX_MODEL_BYTES = 64 * 2**20
_BATCH = 4  # tiles a run: bounds the memory of activations


class Network:
    """One stored model: encoder and decoder networks, entropy tables, card.

    Attributes
    ----------
    digest : str
        SHA-256 that names the model.
    card : dict
        What the model is and how it was trained.
    tables : str
        Digest of the entropy tables, as the latent codec's configuration names them.
    tolerance : float
        Largest difference of two machines' predictions, relative to ``1 + |y|``.
    """

    def __init__(self, files: Mapping[str, bytes], digest: str) -> None:
        met = model_digest(files)
        if met != digest:
            raise CorruptDataError(
                f"model {digest} has files of digest {met}; fetch the release again, or ask its "
                "publisher"
            )
        self.digest = digest
        self.card: dict[str, Any] = json.loads(files["card.json"])
        tables = tables_from_bytes(files["tables.bin"])
        self.tables = register_tables(tables)
        self.channels = tables.channels
        self.tolerance = float(self.card["tolerance"]["relative"])
        self._graphs = {kind: files[f"{kind}.onnx"] for kind in ("encoder", "decoder")}
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()

    def encode(self, tiles: NDArray[np.float32]) -> NDArray[np.int16]:
        """Quantised latents of noise-unit tiles.

        Parameters
        ----------
        tiles : ndarray, shape (n, 256, 256), float32

        Returns
        -------
        ndarray, shape (n, 32, 32, channels), int16
        """
        latents = self._run("encoder", tiles[..., np.newaxis])
        limits = np.iinfo(np.int16)
        whole = np.rint(np.nan_to_num(latents, nan=0.0))
        return np.clip(whole, limits.min, limits.max).astype(np.int16)

    def decode(self, latents: NDArray[np.int16]) -> NDArray[np.float32]:
        """Noise-unit tiles of quantised latents; shapes as of `encode`."""
        return self._run("decoder", latents.astype(np.float32))[..., 0]

    def _run(self, kind: str, batch: NDArray[Any]) -> NDArray[np.float32]:
        session = self._session(kind)
        name = session.get_inputs()[0].name
        parts = [
            session.run(None, {name: batch[start : start + _BATCH]})[0]
            for start in range(0, len(batch), _BATCH)
        ]
        out: NDArray[np.float32] = np.concatenate(parts)
        side = TILE // STRIDE if kind == "encoder" else TILE
        if out.shape[:3] != (len(batch), side, side):
            raise CorruptDataError(
                f"{kind} of model {self.digest} gives {out.shape} for {batch.shape}"
            )
        return out

    def _session(self, kind: str) -> Any:
        with self._lock:
            if kind not in self._sessions:
                self._sessions[kind] = open_session(self._graphs[kind], kind)
            return self._sessions[kind]


def model_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256, hex, over the names and digests of a model's files."""
    missing = [name for name in MODEL_FILES if name not in files]
    if missing:
        raise CorruptDataError(f"model lacks {', '.join(missing)}; fetch the release again")
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(MODEL_FILES)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_session(graph: bytes, name: str) -> Any:
    """Session of onnxruntime, one thread, for a graph that passed `check_graph`."""
    import onnxruntime as ort

    check_graph(graph, name)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def check_graph(graph: bytes, name: str) -> None:
    """Refuse a graph that holds more than arithmetic.

    Raises
    ------
    UntrustedModelError
        If the graph is not ONNX, too large, holds operators outside `ALLOWED_OPERATORS`, nested
        graphs, functions, external data, or weights that are not finite.
    """
    import onnx

    if len(graph) > MAX_MODEL_BYTES:
        raise UntrustedModelError(f"{name} has {len(graph)} bytes; {MAX_MODEL_BYTES} are allowed")
    try:
        model = onnx.load_model_from_string(graph)
    except Exception as error:
        raise UntrustedModelError(f"{name} is not an ONNX graph: {error}") from error
    if model.functions:
        raise UntrustedModelError(f"{name} defines functions of its own; none are allowed")
    for node in model.graph.node:
        _check_node(node, name)
    for tensor in model.graph.initializer:
        _check_tensor(tensor, name)


def _check_node(node: Any, name: str) -> None:
    nested = any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    if node.domain not in ("", "ai.onnx") or node.op_type not in ALLOWED_OPERATORS or nested:
        raise UntrustedModelError(
            f"{name} holds the operator {node.domain or 'ai.onnx'}.{node.op_type}, which a stored "
            "network may not; do not run it, and ask the release's publisher"
        )


def _check_tensor(tensor: Any, name: str) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise UntrustedModelError(f"{name} reads the tensor {tensor.name!r} from another file")
    values = numpy_helper.to_array(tensor)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UntrustedModelError(f"{name} has weights that are not finite in {tensor.name!r}")
