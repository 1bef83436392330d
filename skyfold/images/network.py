"""Running a stored network: onnxruntime, one thread, and only graphs that passed a check.

What a graph may hold is checked before it runs, in `skyfold.access.graph_check`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.access.graph_check import BATCH, check_graph
from skyfold.access.model_files import files_digest
from skyfold.access.trust import load_json, reading
from skyfold.codecs.latent_tables import LatentTables, register_tables
from skyfold.errors import CorruptDataError
from skyfold.ladder import TILE
from skyfold.layout import MODEL_FILES, STRIDE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


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

    Raises
    ------
    CorruptDataError
        If the files are not those of the digest, or not of one model.
    UntrustedModelError
        If a graph uses what it may not.
    """

    def __init__(self, files: Mapping[str, bytes], digest: str) -> None:
        met = model_digest(files)
        if met != digest:
            raise CorruptDataError(
                f"model {digest} has files of digest {met}; fetch the release again, or ask its "
                "publisher"
            )
        self.digest = digest
        tables = LatentTables.from_bytes(files["tables.bin"])
        self.tables = register_tables(tables)
        self.channels = tables.channels
        self.card, self.tolerance = _read_card(files["card.json"], digest)
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
        with reading(f"{kind} of model {self.digest}", "a network of such tiles"):
            parts = [
                session.run(None, {name: batch[start : start + BATCH]})[0]
                for start in range(0, len(batch), BATCH)
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
                side, depth = (TILE, 1) if kind == "encoder" else (TILE // STRIDE, self.channels)
                shape = side, side, depth
                self._sessions[kind] = open_session(self._graphs[kind], kind, shape)
            return self._sessions[kind]


def _read_card(data: bytes, digest: str) -> tuple[dict[str, Any], float]:
    """The card, and the tolerance that it states."""
    name = f"models/{digest}/card.json"
    card = load_json(data, name)
    with reading(name, "a model card"):
        tolerance = float(card["tolerance"]["relative"])
        if not 0 <= tolerance < 1:
            raise ValueError(f"a tolerance of {tolerance}")
    return card, tolerance


def model_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256, hex, of a model's files by name; CorruptDataError if one is missing."""
    missing = [name for name in MODEL_FILES if name not in files]
    if missing:
        raise CorruptDataError(f"model lacks {', '.join(missing)}; fetch the release again")
    return files_digest({name: files[name] for name in MODEL_FILES})


def open_session(graph: bytes, name: str, shape: tuple[int, int, int]) -> Any:
    """Session of onnxruntime, one thread, for a graph that passed `check_graph`.

    Parameters
    ----------
    shape : tuple of int
        Height, width and channels of one tile of its input.

    Raises
    ------
    UntrustedModelError, CorruptDataError
    """
    import onnxruntime as ort

    check_graph(graph, name, shape)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with reading(name, "a network that onnxruntime runs"):
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
