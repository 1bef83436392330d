"""What lies where in a release: keys, arrays, and the layers that each level reads.

::

    zarr.json                        root group: format, name, kinds; consolidated metadata
    images/<set>/index.parquet       one row an image
    images/<set>/<group>/<layer>     Zarr arrays; a group holds images of one tile grid and dtype
    models/<digest>/                 decoder.onnx encoder.onnx tables.bin card.json
    fidelity.ecsv  report.html  provenance.json
    manifest.json                    every key with size and SHA-256; its presence is the seal

In a group of images with ``ty x tx`` tiles of 256 pixels, the first axis is the image, a chunk is
one tile and a shard is one image. An image occupies the corner ``[:ny, :nx]``; beyond it all
layers of pixels are zero; `background`, `stripes`, `noise`, `glow` and `latent` say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from skyfold.codecs.blocks import BlocksCodec
from skyfold.codecs.kept import KeptCodec
from skyfold.codecs.latents import SparseLatentsCodec
from skyfold.codecs.skewed import SkewedCodec
from skyfold.codecs.sparse import SparseCodec
from skyfold.codecs.tagged import TaggedCodec
from skyfold.ladder import LEVELS, TILE
from skyfold.noise import GLOW_CELL, MESH, NOISE_CELL

FORMAT = 1
ZARR_KEY = "zarr.json"
MANIFEST_KEY = "manifest.json"
FIDELITY_KEY = "fidelity.ecsv"
REPORT_KEY = "report.html"
PROVENANCE_KEY = "provenance.json"
CARD_KEY = "card.md"
STAGING = "_staging"  # notes of a build; gone once it is sealed
QUARANTINE_KEY = f"{STAGING}/quarantined.json"  # why a release is not sealed
MODEL_FILES = ("decoder.onnx", "encoder.onnx", "tables.bin", "card.json")
STRIDE = 8  # image pixels a side of one latent position

_BASE = ("checksum", "flags")
_REFINED = {
    "latent": ("background", "latent", "guard"),
    "sources": ("background", "latent", "guard", "sources"),
    "bounded": ("background", "latent", "guard", "sources", "bounded"),
    "exact": ("background", "latent", "guard", "sources", "bounded", "exact"),
}
# levels at which the raw array is read in place of layers
_BY_ITSELF: dict[str, tuple[str, ...]] = {
    "ladder": (),
    "ladder+direct": ("exact",),
    "sources+direct": ("bounded", "exact"),
}
MODES = (*_BY_ITSELF, "direct")
LAYERS = (
    "background",
    "latent",
    "guard",
    "sources",
    "bounded",
    "exact",
    "direct",
    *_BASE,
    "quantum",
    "noise",
    "stripes",
    "glow",
)
WHOLE = ("background", "quantum", "noise", "stripes", "glow")  # one chunk an image, not one a tile
_MESHES = {"background": MESH, "noise": NOISE_CELL, "glow": GLOW_CELL}  # pixels a side of a cell


def layers_read(
    level: str,
    mode: str,
    *,
    quantised: bool = False,
    uneven: bool = False,
    striped: bool = False,
    glowing: bool = False,
) -> tuple[str, ...]:
    """Layers that decoding an image at a level reads.

    Parameters
    ----------
    level : str
        One of `skyfold.ladder.LEVELS`.
    mode : {"ladder", "ladder+direct", "sources+direct", "direct"}
        How the image is stored: as a ladder; as a ladder whose top, or all of which above
        `sources`, is the raw array coded by itself, because that is smaller; or, for images
        without noise, as the raw array alone.
    quantised : bool
        Whether the pixels were integers before, see `skyfold.quantum`.
    uneven : bool
        Whether the noise is not the same all over the sky, see `skyfold.noise.noise_at`.
    striped : bool
        Whether rows or columns have offsets, see `skyfold.noise.stripes_at`.
    glowing : bool
        Whether there is smooth light that only `sources` adds, see `skyfold.noise.NoiseModel.glow`.
    """
    if mode == "direct":
        return ("direct", *_BASE)
    base = (*["noise"] * uneven, *["stripes"] * striped, *_BASE)
    if level in _BY_ITSELF.get(mode, ()):
        return ("direct", "background", *base)  # the background tells the noise of pixels
    more = [*["quantum"] * (quantised and level == "exact")]
    more += ["glow"] * (glowing and level == "sources")
    return (*_REFINED[level], *more, *base)


@dataclass(frozen=True)
class ImageGroup:
    """Images that share arrays: one tile grid, one stored dtype, one model.

    Attributes
    ----------
    count : int
        Images, which is the length of the first axis.
    tiles : (int, int)
        Tiles along y and x.
    dtype : str
        Stored pixels, such as ``int16``.
    channels : int
        Latent channels of the model.
    tables : str
        Digest of the model's entropy tables.
    """

    count: int
    tiles: tuple[int, int]
    dtype: str
    channels: int
    tables: str

    @property
    def name(self) -> str:
        """Such as ``int16_4x4``."""
        return f"{self.dtype}_{self.tiles[0]}x{self.tiles[1]}"

    def create(self, store: Any, path: str) -> None:
        """Create the arrays of every layer at `path`, without data."""
        import zarr

        for layer in LAYERS:
            zarr.create_array(
                store, name=f"{path}/{layer}", overwrite=True, fill_value=0, **self._spec(layer)
            )

    def _spec(self, layer: str) -> dict[str, Any]:
        ty, tx = self.tiles
        if layer in _MESHES:
            nodes = (ty * TILE // _MESHES[layer], tx * TILE // _MESHES[layer])
            codec = KeptCodec() if layer == "glow" else None
            return _whole((self.count, *nodes), "int32", codec)
        if layer == "stripes":
            return _whole((self.count, 2, max(ty, tx) * TILE), "int32")
        if layer == "quantum":
            return _whole((self.count, 2, ty * TILE), "float64")
        if layer == "checksum":
            plain = _whole((self.count, ty, tx, len(LEVELS)), "uint32")
            return plain | {"compressors": None}
        if layer == "latent":
            side = TILE // STRIDE
            shape = (ty * side, tx * side, self.channels)
            chunk = (side, side, self.channels)
            return self._sharded(shape, chunk, "int16", SparseLatentsCodec(tables=self.tables))
        dtype, serializer = self._pixel_layer(layer)
        return self._sharded((ty * TILE, tx * TILE), (TILE, TILE), dtype, serializer)

    def _pixel_layer(self, layer: str) -> tuple[str, Any]:
        if layer == "guard":
            return "uint8", SparseCodec()
        if layer == "flags":
            return "uint8", None
        if layer == "direct":
            return self.dtype, direct_codec(self.dtype)
        if layer != "exact":
            return "int32", TaggedCodec() if layer == "bounded" else KeptCodec()
        wide = np.dtype(self.dtype).itemsize == 8
        return ("int64" if wide else "int32"), BlocksCodec()

    def _sharded(
        self, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str, serializer: Any
    ) -> dict[str, Any]:
        spec = {
            "shape": (self.count, *shape),
            "chunks": (1, *chunk),
            "shards": (1, *shape),
            "dtype": dtype,
        }
        return spec | _coded_by(serializer)


def direct_codec(dtype: str) -> BlocksCodec | SkewedCodec:
    """Codec of the layer `direct` of stored pixels of a dtype."""
    return BlocksCodec() if np.dtype(dtype).kind == "f" else SkewedCodec()


def _whole(shape: tuple[int, ...], dtype: str, codec: Any = None) -> dict[str, Any]:
    """Array whose chunk is everything of one image."""
    return {"shape": shape, "chunks": (1, *shape[1:]), "dtype": dtype, **_coded_by(codec)}


def _coded_by(codec: Any) -> dict[str, Any]:
    """What an array is coded by; by zstd, where it is no codec of ours."""
    if codec is None:
        from zarr.codecs import ZstdCodec

        return {"compressors": ZstdCodec(level=19, checksum=True)}
    from skyfold.codecs.zarr_codec import ZarrCodec

    return {"serializer": ZarrCodec(codec), "compressors": None}
