"""The index of a set of images: one row an image, with everything that decoding it needs.

A row says where the image's layers lie (group and place on the first axis), how its pixels were
stored (dtype, scale, header), its noise model, the values that `flags` stands for, the model that
predicts it, and the bytes of each layer. Stored as Parquet.
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from skyfold.errors import CorruptDataError
from skyfold.ladder import LEVELS
from skyfold.layout import layers_read
from skyfold.noise import NoiseModel

FLAG_MASKED = 1  # a coded pixel that the survey's mask calls bad
FLAG_FILL = 2  # flags from here on: index into `fills`, plus 2
MAX_FILLS = 250

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("set", pa.string()),
        pa.field("band", pa.string()),
        pa.field("file", pa.string()),
        pa.field("hdu", pa.int32()),
        pa.field("group", pa.string()),
        pa.field("row", pa.int32()),
        pa.field("shape", pa.list_(pa.int64())),
        pa.field("dtype", pa.string()),
        pa.field("mode", pa.string()),
        pa.field("model", pa.string()),
        pa.field("step", pa.float64()),
        pa.field("bscale", pa.float64()),
        pa.field("bzero", pa.float64()),
        pa.field("blank", pa.int64()),
        pa.field("fills", pa.binary()),
        pa.field(
            "noise",
            pa.struct(
                [
                    ("grid_exponent", pa.int32()),
                    ("sigma", pa.float64()),
                    ("slope", pa.float64()),
                    ("stretch", pa.float64()),
                    ("background_step", pa.float64()),
                    ("round_step", pa.int64()),
                ]
            ),
        ),
        pa.field("quant_step", pa.float64()),
        pa.field("fwhm_pix", pa.float64()),
        pa.field("time", pa.string()),
        pa.field("ra", pa.float64()),
        pa.field("dec", pa.float64()),
        pa.field("radius_deg", pa.float64()),
        pa.field("healpix", pa.list_(pa.int64())),
        pa.field("digest", pa.string()),
        pa.field("bytes", pa.map_(pa.string(), pa.int64())),
        pa.field("header", pa.string()),
    ]
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
    mode : {"ladder", "ladder+direct", "direct"}
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
    bytes : dict
        Stored bytes of this image, by layer.
    header : str
        The FITS header, cards joined by newlines.
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
    header: str = ""

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
        return 0.0 if self.mode == "direct" else self.step / 2

    def fill_values(self) -> np.ndarray[Any, Any]:
        """Values of `flags` 2, 3, ... in the stored dtype."""
        dtype = np.dtype(self.dtype)
        return np.frombuffer(self.fills, dtype.newbyteorder("<")).astype(dtype)

    def bytes_at(self, level: str) -> int:
        """Stored bytes of all layers that decoding at a level reads."""
        return sum(self.bytes.get(layer, 0) for layer in layers_read(level, self.mode))

    def fits_header(self) -> fits.Header:
        """The FITS header of the stored array."""
        return fits.Header.fromstring(self.header, sep="\n")

    def to_row(self) -> dict[str, Any]:
        """Plain values, ready for Parquet or JSON (with `fills` as bytes)."""
        row = asdict(self)
        row["shape"], row["healpix"] = list(self.shape), list(self.healpix)
        return row

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> ImageEntry:
        """Inverse of `to_row`."""
        noise = NoiseModel(**row["noise"]) if row["noise"] else None
        return replace(
            cls(**row),
            noise=noise,
            shape=tuple(row["shape"]),
            healpix=tuple(row["healpix"]),
            bytes=dict(row["bytes"]),
        )


def index_key(image_set: str) -> str:
    """Key of a set's index."""
    return f"images/{image_set}/index.parquet"


def write_index(entries: list[ImageEntry]) -> bytes:
    """Parquet file of a set's images; the same entries always give the same bytes."""
    rows = [entry.to_row() | {"bytes": sorted(entry.bytes.items())} for entry in entries]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def read_index(data: bytes, key: str) -> list[ImageEntry]:
    """Images of a set.

    Raises
    ------
    CorruptDataError
        If the bytes are not an index.
    """
    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
        entries = [ImageEntry.from_row(row) for row in rows]
    except (pa.ArrowException, TypeError, KeyError, ValueError) as error:
        raise CorruptDataError(f"{key} is not an index of images: {error}") from error
    for entry in entries:
        _check(entry, key)
    return entries


def _check(entry: ImageEntry, key: str) -> None:
    """What decoding relies on: levels and modes known, a model of the noise where one is used."""
    known = entry.mode in ("ladder", "ladder+direct", "direct")
    if not known or (entry.noise is None) != (entry.mode == "direct") or min(entry.shape) < 1:
        raise CorruptDataError(
            f"{key} describes {entry.id!r} with mode {entry.mode!r} and shape {entry.shape}; fetch "
            f"the release again (levels are {', '.join(LEVELS)})"
        )
