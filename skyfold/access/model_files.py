"""The files of a model of a table or of objects: arrays, and a card that says what they are.

They are named by their digest, and nothing in them is run.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from skyfold.access.trust import load_json
from skyfold.errors import CorruptDataError

CARD = "card.json"


def files_digest(files: dict[str, bytes]) -> str:
    """SHA-256, hex, over the names and digests of a model's files."""
    lines = [
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def pack_model(model: Any, file: str, names: Iterable[str]) -> dict[str, bytes]:
    """Files of a model by name; the same model always gives the same bytes.

    Parameters
    ----------
    model : object
        With the arrays as attributes, and ``card``.
    file : str
        Name of the file of the arrays.
    names : iterable of str
        Of the arrays.
    """
    sink = io.BytesIO()
    np.savez_compressed(sink, **{name: getattr(model, name) for name in names})
    card = json.dumps(model.card, sort_keys=True, indent=1).encode()
    return {CARD: card, file: sink.getvalue()}


def unpack_model(
    files: dict[str, bytes], digest: str, file: str, names: Iterable[str], limit: int
) -> dict[str, Any]:
    """Arrays of a model by name, and its ``card``; inverse of `pack_model`.

    Parameters
    ----------
    files : dict of str to bytes
    digest : str
        Which they must have.
    file, names
        As of `pack_model`.
    limit : int
        Bytes that the arrays may take.

    Raises
    ------
    CorruptDataError
        If the files are not those of the digest.
    ValueError
        If the arrays take more memory.
    """
    met = files_digest(files)
    if met != digest:
        raise CorruptDataError(
            f"model {digest} has files of digest {met}; fetch the release again, or ask its "
            "publisher"
        )
    with zipfile.ZipFile(io.BytesIO(files[file])) as archive:
        size = sum(item.file_size for item in archive.infolist())
    if size > limit:
        raise ValueError(f"arrays of {size} bytes; {limit} are allowed")
    with np.load(io.BytesIO(files[file]), allow_pickle=False) as stored:
        return {name: stored[name] for name in names} | {"card": load_json(files[CARD], CARD)}
