"""Bytes written once are read for ever: a golden file that no longer decodes is a broken promise.

``tests/golden/<codec>/NAME.bin`` holds encoded bytes and ``NAME.json`` what they must decode to.
Changing one of them is a new codec id, not a fix. `python tests/test_golden.py` writes those that
are missing, and never changes one that is there.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from skyfold.codecs.blocks import BlocksCodec
from skyfold.codecs.interlaced import InterlacedCodec
from skyfold.codecs.kept import KeptCodec
from skyfold.codecs.latent_tables import LatentTables, register_tables
from skyfold.codecs.latents import LatentsCodec, SparseLatentsCodec
from skyfold.codecs.skewed import SkewedCodec
from skyfold.codecs.sparse import SparseCodec
from skyfold.codecs.tagged import TaggedCodec
from skyfold.compiled import readers

GOLDEN = Path(__file__).parent / "golden"
CODECS = {
    "skyfold.blocks": BlocksCodec,
    "skyfold.interlaced": InterlacedCodec,
    "skyfold.kept": KeptCodec,
    "skyfold.skewed": SkewedCodec,
    "skyfold.sparse": SparseCodec,
    "skyfold.tagged": TaggedCodec,
}
OF_LATENTS = {"skyfold.latents": LatentsCodec, "skyfold.sparse_latents": SparseLatentsCodec}
TABLES = GOLDEN / "skyfold.latents" / "tables.bin"


def chunks() -> dict[tuple[str, str], np.ndarray]:
    """What the golden files hold, by codec and name."""
    rng = np.random.default_rng(2026)
    noise = rng.normal(0, 2, (1, 64, 64))
    some = np.kron(rng.random((8, 8)) < 0.2, np.ones((8, 8), bool))[None]
    guard = np.zeros((1, 256, 256), np.uint8)
    guard[0, [0, 3, 200], [5, 255, 9]] = (1, 2, 254)
    found: dict[tuple[str, str], np.ndarray] = {
        ("skyfold.blocks", f"all_{dtype}"): (40 * noise).astype(dtype)
        for dtype in ("i2", "i4", "i8", "f4", "f8")
    }
    found["skyfold.blocks", "some_i4"] = np.where(some, noise.round(), 0).astype("i4")
    found["skyfold.blocks", "none_u1"] = np.zeros((1, 16, 16), "u1")
    found["skyfold.sparse", "guard"] = guard
    latents = rng.laplace(0, 0.5, (1, 32, 32, 6)).round().astype("i2")
    latents[0, 3, 4, 5] = 30000
    found["skyfold.latents", "tile"] = latents
    y, x = np.mgrid[:64, :64]
    hill = 400 * np.exp(-((y - 30) ** 2 + (x - 41) ** 2) / 50)
    plane = (hill + noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 2)).round()
    found["skyfold.interlaced", "all_i4"] = plane.astype("i4")
    found["skyfold.interlaced", "all_i2"] = (9 * plane + noise).round().astype("i2")
    found["skyfold.interlaced", "some_i4"] = np.where(some[:, ::-1] | (hill > 1), plane, 0).astype(
        "i4"
    )
    white = np.where(some, 4 * rng.normal(size=plane.shape), 0).round()
    found["skyfold.interlaced", "plain_i4"] = white.astype("i4")
    cells = np.where(some, 2 * noise.round() + 1, 2 * white.round()).astype("i4")
    found["skyfold.tagged", "two_kinds_i4"] = cells
    found["skyfold.tagged", "predicted_i4"] = np.where(some, cells, 2 * plane).astype("i4")
    spots = np.kron(hill[::2, ::2] > 2, np.ones((2, 2), bool))[None] | (some & some[:, ::-1])
    found["skyfold.kept", "few_i4"] = np.where(spots, (noise / 2).round(), 0).astype("i4")
    found["skyfold.kept", "most_i4"] = np.where(spots, 0, (3 * noise).round()).astype("i4")
    found["skyfold.kept", "predicted_i4"] = np.where(spots, 9 * plane, 0).astype("i4")
    stars = np.where(rng.random((128, 128)) < 0.05, rng.exponential(400, (128, 128)), 0)
    crowded = gaussian_filter(stars, 0.7)[np.newaxis] + rng.normal(90, 2, (1, 128, 128))
    found["skyfold.skewed", "all_i2"] = crowded.round().astype("i2")
    crowded[:, 100:] = 0
    found["skyfold.skewed", "some_i4"] = (30 * crowded).round().astype("i4")
    found["skyfold.skewed", "alike_i2"] = plane.astype("i2")
    sparse = rng.laplace(0, 0.3, (1, 32, 32, 6)).round().astype("i2")
    sparse[:, 9:21, 6:] = 0
    sparse[:, :, 27:] = 0
    found["skyfold.sparse_latents", "tile"] = sparse
    found["skyfold.sparse_latents", "uneven"] = sparse[:, 5:14, :15].copy()
    return found


def codec_of(name: str) -> Any:
    if name in CODECS:
        return CODECS[name]()
    tables = LatentTables.from_bytes(TABLES.read_bytes())
    return OF_LATENTS[name](tables=register_tables(tables))


FILES = sorted(GOLDEN.glob("*/*.json"))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_golden_bytes_decode(path, compiled):
    expected = json.loads(path.read_text())
    codec = codec_of(path.parent.name)
    data = path.with_suffix(".bin").read_bytes()
    with readers(compiled=compiled):
        chunk = codec.decode_chunk(data, tuple(expected["shape"]), np.dtype(expected["dtype"]))
    assert chunk.dtype == np.dtype(expected["dtype"])
    assert hashlib.sha256(chunk.tobytes()).hexdigest() == expected["sha256"]


def test_every_codec_has_golden_bytes():
    assert {path.parent.name for path in FILES} >= {*CODECS, *OF_LATENTS}


def write_missing() -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    import synthetic

    if not TABLES.exists():
        TABLES.write_bytes(synthetic.cosine_files()["tables.bin"])
    for (codec, name), chunk in chunks().items():
        path = GOLDEN / codec / f"{name}.json"
        if path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".bin").write_bytes(codec_of(codec).encode_chunk(chunk))
        about = {
            "shape": list(chunk.shape),
            "dtype": chunk.dtype.str,
            "sha256": hashlib.sha256(chunk.tobytes()).hexdigest(),
        }
        path.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    write_missing()
