"""The index of a set of images: one row an image, with everything that decoding it needs.

A row says where the image's layers lie (group and place on the first axis), how its pixels were
stored (dtype, scale, unit, WCS), its noise model, the values that `flags` stands for, the model
that predicts it, and the bytes of each layer. Stored as Parquet. The header and the places of its
chunks are kept beside it, see `skyfold.images.details`.
"""

from __future__ import annotations

import builtins
import math
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.access.parquet import read_rows
from skyfold.access.trust import check_key, reading
from skyfold.errors import CorruptDataError
from skyfold.images.details import encode_header
from skyfold.layout import MODES, layers_read
from skyfold.noise import NoiseModel
from skyfold.quantum import Quantum

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.wcs import WCS

FLAG_MASKED = 1  # a coded pixel that the survey's mask calls bad
FLAG_FILL = 2  # flags from here on: index into `fills`, plus 2
MAX_FILLS = 250
_MAX_WCS = 2**18  # characters; that of an image with SIP of order 9 has 20,000
_DTYPES = frozenset(
    ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
)


@dataclass(frozen=True)
class ImageEntry:
    """One image of a release.

    Attributes
    ----------
    id, set, band, file, hdu
        What it is and where it came from; `file` as the survey's glob found it.
    group, row : str, int
        Arrays that hold it, and its place on their first axis.
    shape : tuple of int
        Of the stored array in its file; layers hold it as two axes, ``(-1, shape[-1])``.
    dtype : str
        Of the stored array, native byte order.
    mode : {"ladder", "ladder+direct", "sources+direct", "direct"}
        See `skyfold.layout.layers_read`.
    model : str
        Digest of the model; empty for mode ``direct``.
    step : float
        Cell width in noise units: `bounded` lies within half of it.
    bscale, bzero, blank
        Physical value = stored * bscale + bzero; blank is the integer that stands for none.
    fills : bytes
        Values of `flags` 2, 3, ..., in the stored dtype, little endian.
    noise : NoiseModel or None
        None for mode ``direct``.
    quant_step : float or None
        Step of input that was already quantised [stored unit].
    quantum : Quantum or None
        How that was done, where its integers are known.
    odd_cells : bool
        Whether cells of an even number of integers hold one more.
    dithered : bool
        Whether cells are shifted from pixel to pixel, see `skyfold.ladder.dither`.
    coarse : int or None
        Width of a cell of `sources` in quarters of one of `bounded`; None where both are alike and
        `bounded` holds cells as they are, see `skyfold.ladder.joined_cells`.
    uneven : bool
        Whether some parts are deeper than others: the layer `noise` then says by how much.
    striped : bool
        Whether rows or columns have offsets of their own, in the layer `stripes`.
    glowing : bool
        Whether there is smooth light that only `sources` adds, in the layer `glow`.
    fwhm_pix : float or None
        Of point sources [pixel].
    time : str or None
        Of the observation, ISO 8601 or as the header gives it.
    ra, dec, radius_deg : float or None
        Circle that holds the image [deg, ICRS]; None without a WCS.
    healpix : tuple of int
        Nested cells of order 8 that the circle touches.
    digest : str
        SHA-256 of the input file.
    recipe : str
        Digest of all input that the layers depend on: file, HDU, planes, gain, width of the cells.
    release : str
        Name of the earlier release beside this one that holds the layers; empty for this one.
    bytes : dict
        Stored bytes of this image, by layer.
    unit : str
        BUNIT of the header; empty without.
    wcs : str
        Cards of the header that place pixels on the sky, joined by newlines; empty without.
    details : (int, int, int)
        Where `skyfold.images.details` of the image begin, and the bytes of its places and header.
    places : bytes
        Where its chunks lie, on the writing side only.
    header : str
        The FITS header, cards joined by newlines, on the writing side only; a reader has it from
        `skyfold.images.library.ImageLibrary.header`.
    """

    id: str
    set: str
    band: str
    file: str
    hdu: int
    group: str
    row: int
    shape: tuple[int, ...]
    dtype: str
    mode: str
    model: str
    step: float
    bscale: float
    bzero: float
    blank: int | None
    fills: bytes
    noise: NoiseModel | None
    quant_step: float | None
    fwhm_pix: float | None
    time: str | None
    ra: float | None
    dec: float | None
    radius_deg: float | None
    healpix: tuple[int, ...]
    digest: str
    bytes: dict[str, int] = field(default_factory=dict)
    unit: str = ""
    wcs: str = ""
    details: tuple[int, int, int] = (0, 0, 0)
    places: builtins.bytes = b""
    header: str = ""
    recipe: str = ""
    release: str = ""
    quantum: Quantum | None = None
    odd_cells: bool = False
    dithered: bool = False
    coarse: int | None = None
    uneven: bool = False
    striped: bool = False
    glowing: bool = False

    @property
    def plane(self) -> tuple[int, int]:
        """Shape (ny, nx) in which layers hold it."""
        nx = self.shape[-1]
        return int(np.prod(self.shape)) // nx, nx

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return int(np.prod(self.shape))

    @property
    def bound(self) -> float:
        """Largest error at `bounded` [noise units]; 0 where that level is exact."""
        return 0.0 if self.mode in ("direct", "sources+direct") else self.step / 2

    def fill_values(self) -> np.ndarray[Any, Any]:
        """Values of `flags` 2, 3, ... in the stored dtype."""
        dtype = np.dtype(self.dtype)
        return np.frombuffer(self.fills, dtype.newbyteorder("<")).astype(dtype)

    def layers_at(self, level: str) -> tuple[str, ...]:
        """Layers that decoding at a level reads."""
        extra = {"uneven": self.uneven, "striped": self.striped, "glowing": self.glowing}
        return layers_read(level, self.mode, quantised=self.quantum is not None, **extra)

    def bytes_at(self, level: str) -> int:
        """Stored bytes of all layers that decoding at a level reads."""
        return sum(self.bytes.get(layer, 0) for layer in self.layers_at(level))

    def fits_header(self) -> fits.Header:
        """The header as far as it is known here: whole while writing, else the cards of the WCS."""
        from astropy.io import fits

        return fits.Header.fromstring(self.header or self.wcs, sep="\n")

    def celestial_wcs(self) -> WCS | None:
        """Celestial WCS of the image; None if its header has none that can be used."""
        from skyfold import sky

        return sky.cards_wcs(self.wcs) if self.wcs else None

    def to_row(self) -> dict[str, Any]:
        """Plain values, ready for Parquet or JSON (with `fills` as bytes)."""
        row = asdict(self)
        row["shape"], row["healpix"] = list(self.shape), list(self.healpix)
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> ImageEntry:
        """Inverse of `to_row`."""
        unknown = row.keys() - {one.name for one in fields(cls)}
        if unknown:
            raise ValueError(f"columns {sorted(unknown)} are of a newer version: upgrade skyfold")
        noise = NoiseModel(**row["noise"]) if row["noise"] else None
        quantum = Quantum(**row["quantum"]) if row.get("quantum") else None
        converted = {
            "noise": noise,
            "quantum": quantum,
            "shape": tuple(row["shape"]),
            "healpix": tuple(row["healpix"]),
            "bytes": dict(row["bytes"]),
            "details": tuple(row.get("details", (0, 0, 0))),
        }
        return cls(**row | converted)


def index_key(image_set: str) -> str:
    """Key of a set's index."""
    return f"images/{image_set}/index.parquet"


def shard_key(entry: ImageEntry, layer: str) -> str:
    """Key of the one object that holds a layer of an image, in the release that holds it."""
    axes = 4 if layer in ("latent", "checksum") else 3
    place = "/".join(["c", str(entry.row), *["0"] * (axes - 1)])
    return f"images/{entry.set}/{entry.group}/{layer}/{place}"


def write_index(entries: list[ImageEntry]) -> tuple[bytes, bytes]:
    """Index and details of a set's images; the same entries always give the same bytes.

    Returns
    -------
    index : bytes
        Parquet.
    details : bytes
        Places of chunks and header, image after image; see `skyfold.images.details`.
    """
    parts, rows, at = [], [], 0
    for entry in entries:
        header = encode_header(entry.header)
        placed = replace(entry, details=(at, len(entry.places), len(header)))
        rows.append(placed.to_row() | {"bytes": sorted(entry.bytes.items())})
        parts += [entry.places, header]
        at += len(entry.places) + len(header)
    return _to_parquet(rows), b"".join(parts)


def _to_parquet(rows: list[dict[str, Any]]) -> bytes:
    import io

    import pyarrow as pa  # the writing side has it; readers need it not
    import pyarrow.parquet as pq

    whole, real, text = pa.int64(), pa.float64(), pa.string()
    noise = [
        ("grid_exponent", whole),
        ("sigma", real),
        ("slope", real),
        ("stretch", real),
        ("background_step", real),
        ("round_step", whole),
        ("of_sky", pa.bool_()),
        ("origin", whole),
    ]
    quantum = [("rows", whole), ("columns", whole), ("is_dithered", pa.bool_()), ("seed", whole)]
    types = {
        **dict.fromkeys(("id", "set", "band", "file", "group", "dtype", "mode", "model"), text),
        **dict.fromkeys(("time", "digest", "unit", "wcs", "recipe", "release"), text),
        **dict.fromkeys(("hdu", "row", "blank", "coarse"), whole),
        **dict.fromkeys(("step", "bscale", "bzero", "quant_step", "fwhm_pix"), real),
        **dict.fromkeys(("ra", "dec", "radius_deg"), real),
        **dict.fromkeys(("shape", "healpix", "details"), pa.list_(whole)),
        **dict.fromkeys(("odd_cells", "dithered", "uneven", "striped", "glowing"), pa.bool_()),
        "fills": pa.binary(),
        "noise": pa.struct(noise),
        "quantum": pa.struct(quantum),
        "bytes": pa.map_(text, whole),
    }
    schema = [(one.name, types[one.name]) for one in fields(ImageEntry) if one.name in types]
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=pa.schema(schema))
    # a reader bounds a batch by the longest value that a dictionary could repeat: without one, few
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def read_index(data: bytes, key: str) -> list[ImageEntry]:
    """Images of a set.

    Raises
    ------
    CorruptDataError
        If the bytes are not an index.
    """
    with reading(key, "an index of images"):
        entries = [ImageEntry.from_row(row) for row in read_rows(data)]
        for entry in entries:
            _check(entry, key)
        homes = {name for entry in entries for name in (entry.set, entry.group)}
        others = {name for entry in entries for name in (entry.model, entry.release)} - {""}
        for name in homes | others:
            check_key(name)
    return entries


def _check(entry: ImageEntry, key: str) -> None:
    """What decoding relies on: levels and modes known, a model of the noise where one is used."""
    known = entry.mode in MODES
    if not known or (entry.noise is None) != (entry.mode == "direct") or min(entry.shape) < 1:
        raise CorruptDataError(
            f"{key} describes {entry.id!r} with mode {entry.mode!r} and shape {entry.shape}; known "
            f"are {', '.join(MODES)}; upgrade skyfold, or fetch the release again"
        )
    sides = [*entry.shape, entry.row + 1, *(side + 1 for side in entry.details)]
    numbers = all(type(side) is int and 0 < side < 2**40 for side in sides)
    if not _is_known(entry.dtype) or not numbers or math.prod(entry.shape) >= 2**50:
        raise ValueError(f"{entry.id!r} has dtype {entry.dtype!r}, shape {entry.shape}")
    if entry.coarse is not None and not 0 < entry.coarse < 2**8:
        raise ValueError(
            f"{entry.id!r} has cells of {entry.coarse} quarters; 1 to 255 are possible"
        )
    if len(entry.wcs) > _MAX_WCS or any(size < 0 for size in entry.bytes.values()):
        raise ValueError(f"{entry.id!r} has {len(entry.wcs)} characters of WCS")


@lru_cache(64)  # of thousands of images, a few types
def _is_known(dtype: str) -> bool:
    """Whether pixels may have a type; raises what numpy does of a name that is none."""
    return np.dtype(dtype).name in _DTYPES
