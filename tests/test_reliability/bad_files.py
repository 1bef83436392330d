# ruff: noqa: E501 - a table of cases reads better unbroken
"""Bad files and rows of surveys, each with what must happen to it.

A case writes its file into a folder; `said` is what the reason, the notice or the error says of it.
Nothing here may pass in silence: a case whose file is archived like a good one is a fault.
"""

from __future__ import annotations

import gzip
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.table import Table

NOISE = np.random.default_rng(3).normal(100, 5, (40, 50)).astype(np.float32)


@dataclass(frozen=True)
class Bad:
    """One bad file.

    Attributes
    ----------
    name : str
    file : str
        Its name; the survey's pattern is ``raw/*``.
    write : callable
        Gives its bytes.
    said : str
        Regular expression of what a producer is told.
    lines : str
        Of its table in survey.toml.
    """

    name: str
    file: str
    write: Callable[[], bytes]
    said: str
    lines: str = ""


def fits_bytes(*hdus: object) -> bytes:
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList(list(hdus)).writeto(sink, output_verify="ignore")
    return sink.getvalue()


def image(data: np.ndarray | None = NOISE, **cards: object) -> bytes:
    header = fits.Header()
    header.update(cards)
    return fits_bytes(fits.PrimaryHDU(data, header))


def edited(old: bytes, new: bytes) -> Callable[[], bytes]:
    """A good image with one card of its header changed."""

    def write() -> bytes:
        good = image()
        assert good.count(old) == 1, old
        return good.replace(old, new.ljust(len(old))[: len(old)])

    return write


def _tiles_damaged() -> bytes:
    good = fits_bytes(fits.PrimaryHDU(), fits.CompImageHDU(NOISE.astype(np.int16)))
    return good[:-2880] + bytes(255 - one for one in good[-2880:])


def _no_scale() -> bytes:
    return image(NOISE.astype(np.int16), XSCALE=0.0).replace(b"XSCALE  ", b"BSCALE  ")


def _cut_gzip() -> bytes:
    packed = gzip.compress(image())
    return packed[: len(packed) // 2]


def _bad_plane(plane: np.ndarray, name: str) -> Callable[[], bytes]:
    return lambda: fits_bytes(fits.PrimaryHDU(NOISE), fits.ImageHDU(plane, name=name))


_WEIGHT = "weight = { hdu = 'W' }\nhdu = 0"
_VARIANCE = "variance = { hdu = 'V' }\nhdu = 0"
_CARD = "NAXIS1  =                   50"

IMAGES = [
    Bad("empty file", "a.fits", lambda: b"", "empty|no FITS|not.*FITS|0 bytes"),
    Bad("a web page", "a.fits", lambda: b"<html>404 Not Found</html>" * 200, "FITS"),
    Bad("text", "a.fits", lambda: b"SIMPLE CSV,1,2,3\n" * 500, "FITS|header|damaged"),
    Bad("random bytes", "a.fits", lambda: np.random.default_rng(1).bytes(9000), "FITS"),
    Bad("PNG", "a.fits", lambda: b"\x89PNG\r\n\x1a\n" + bytes(5000), "FITS"),
    Bad("HDF5", "a.fits", lambda: b"\x89HDF\r\n\x1a\n" + bytes(5000), "FITS"),
    Bad("cut in the header", "a.fits", lambda: image()[:1000], "cut|trunc|end|FITS|header"),
    Bad("cut after the header", "a.fits", lambda: image()[:2880], "cut|trunc|end|bytes"),
    Bad("cut in the pixels", "a.fits", lambda: image()[:6000], "cut|trunc|end|bytes"),
    Bad("cut gzip", "a.fits.gz", _cut_gzip, "cut|trunc|end|gzip|damaged"),
    Bad("gzip of text", "a.fits.gz", lambda: gzip.compress(b"hello" * 999), "FITS"),
    Bad("damaged tiles", "a.fits.fz", _tiles_damaged, "damaged|decompress|cannot|tile"),
    Bad("END lost", "a.fits", lambda: image().replace(b"END     ", b"FIN     "), "END|header|FITS"),
    Bad("unknown BITPIX", "a.fits", edited(b"BITPIX  =                  -32", b"BITPIX  =                  -33"), "BITPIX|FITS|header"),
    Bad("BITPIX no number", "a.fits", edited(b"BITPIX  =                  -32", b"BITPIX  = 'many'"), "BITPIX|header|FITS"),
    Bad("negative axis", "a.fits", edited(_CARD.encode(), b"NAXIS1  =                  -50"), "NAXIS|axis|header|FITS|shape"),
    Bad("axis larger than the file", "a.fits", edited(_CARD.encode(), b"NAXIS1  =           9000000000"), "cut|trunc|bytes|end"),
    Bad("no pixels", "a.fits", lambda: image(None), "no image|image"),
    Bad("a table alone", "a.fits", lambda: fits_bytes(fits.PrimaryHDU(), fits.BinTableHDU(Table({"x": [1, 2]}))), "no.*image|image"),
    Bad("HDU that is not there", "a.fits", image, "HDU", "hdu = 7"),
    Bad("HDU name that is not there", "a.fits", image, "HDU|SCI", "hdu = 'SCI'"),
    Bad("HDU that is a table", "a.fits", lambda: fits_bytes(fits.PrimaryHDU(NOISE), fits.BinTableHDU(Table({"x": [1, 2]}))), "HDU|table|image", "hdu = 1"),
    Bad("all NaN", "a.fits", lambda: image(NOISE * np.nan), "NaN|no.*value|finite"),
    Bad("all infinite", "a.fits", lambda: image(NOISE * np.inf), "finite|no.*value|NaN"),
    Bad("constant", "a.fits", lambda: image(NOISE * 0 + 7), "constant"),
    Bad("all zero", "a.fits", lambda: image(NOISE * 0), "constant|zero"),
    Bad("all blank", "a.fits", lambda: image(np.full((40, 50), -9, np.int16), BLANK=-9), "blank|constant|no.*value"),
    Bad("BSCALE zero", "a.fits", _no_scale, "BSCALE"),
    Bad("NAXIS no number", "a.fits", edited(b"NAXIS   =                    2", b"NAXIS   =                    x"), "NAXIS|header|FITS"),
    Bad("no band in the header", "a.fits", image, "FILTER", "band = 'header:FILTER'"),
    Bad("mask file missing", "a.fits", image, "a_mask|mask", "mask = 'raw/{stem}_mask.fits'"),
    Bad("weight of another shape", "a.fits", _bad_plane(np.ones((3, 3)), "W"), "shape|3", _WEIGHT),
    Bad("negative variance", "a.fits", _bad_plane(-np.ones((40, 50)), "V"), "negative|positive|variance", _VARIANCE),
    Bad("variance all NaN", "a.fits", _bad_plane(np.full((40, 50), np.nan), "V"), "NaN|finite|variance|no.*pixel", _VARIANCE),
    Bad("weight all zero", "a.fits", _bad_plane(np.zeros((40, 50)), "W"), "zero|weight|no.*pixel|masked", _WEIGHT),
    Bad("mask HDU missing", "a.fits", image, "HDU|M", "mask = { hdu = 'M' }\nhdu = 0"),
    Bad("gain that is not there", "a.fits", image, "GAIN", "gain = 'header:GAIN'"),
]  # fmt: skip


def parquet(table: pa.Table | None = None, **columns: object) -> Callable[[], bytes]:
    def write() -> bytes:
        sink = io.BytesIO()
        pq.write_table(table if table is not None else pa.table(columns), sink)
        return sink.getvalue()

    return write


_X = np.linspace(1, 2, 60)
_ID = np.arange(60)


def _twice(values: np.ndarray) -> np.ndarray:
    out = values.copy()
    out[1] = out[0]
    return out


def _cut(write: Callable[[], bytes], share: float = 0.5) -> Callable[[], bytes]:
    return lambda: write()[: int(share * len(write()))]


def _table_fits() -> bytes:
    return fits_bytes(fits.PrimaryHDU(), fits.BinTableHDU(Table({"x": _X, "id": _ID})))


_ERRORS = 'errors = { x = "e" }'

CATALOGS = [
    Bad("empty file", "t.parquet", lambda: b"", "t.parquet"),
    Bad("text named Parquet", "t.parquet", lambda: b"x,y\n1,2\n" * 40, "t.parquet"),
    Bad("cut Parquet", "t.parquet", _cut(parquet(x=_X)), "t.parquet"),
    Bad("Parquet without rows", "t.parquet", parquet(x=_X[:0]), "row|empty"),
    Bad("Parquet without columns", "t.parquet", parquet(pa.table({})), "column|row"),
    Bad("cut FITS table", "t.fits", lambda: _table_fits()[:6000], "t.fits"),
    Bad("FITS without a table", "t.fits", image, "table"),
    Bad("unknown ending", "t.xyz", lambda: b"1 2 3\n", "xyz|format"),
    Bad("CSV of rows of unequal length", "t.csv", lambda: b"a,b\n1,2\n1,2,3\n", "t.csv"),
    Bad("CSV of a header alone", "t.csv", lambda: b"a,b\n", "row|empty"),
    Bad("text of 19 values under 18 names", "t.dat", lambda: b"#a b\n" + b"1 2 3\n" * 40, "t.dat"),
    Bad("broken ECSV", "t.ecsv", lambda: b"# %ECSV 1.0\n# ---\n# {{{\na\n1\n", "t.ecsv"),
    Bad("broken VOTable", "t.vot", lambda: b"<VOTABLE><RESOURCE>", "t.vot"),
    Bad("HDF5 that is none", "t.hdf5", lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "t.hdf5"),
    Bad("duplicate ids", "t.parquet", parquet(x=_X, id=_twice(_ID)), "id|twice|duplicate", 'id = "id"'),
    Bad("id column missing", "t.parquet", parquet(x=_X), "'?name'?", 'id = "name"'),
    Bad("error column missing", "t.parquet", parquet(x=_X), "'?e'?", _ERRORS),
    Bad("errors all zero", "t.parquet", parquet(x=_X, e=_X * 0), "error|zero|exact", _ERRORS),
    Bad("errors negative", "t.parquet", parquet(x=_X, e=-_X), "error|negative|exact", _ERRORS),
    Bad("errors all NaN", "t.parquet", parquet(x=_X, e=_X * np.nan), "error|NaN|exact", _ERRORS),
    Bad("errors that are text", "t.parquet", parquet(x=_X, e=["a"] * 60), "e|text|number", _ERRORS),
    Bad("precision of text", "t.parquet", parquet(x=["a"] * 60), "precision", "precision = { x = 0.1 }"),
    Bad("all values missing", "t.parquet", parquet(x=_X * np.nan, y=_X), "x|missing|NaN"),
    Bad("ra beyond the circle", "t.parquet", parquet(ra=_X * 900, dec=_X), "ra|position|sky", 'ra = "ra"\ndec = "dec"'),
    Bad("dec beyond the pole", "t.parquet", parquet(ra=_X, dec=_X * 90), "dec|position|sky", 'ra = "ra"\ndec = "dec"'),
]  # fmt: skip


_GRID = np.linspace(0, 1, 30)
_PDF = np.exp(-(((_GRID - np.linspace(0.3, 0.6, 20)[:, None]) / 0.1) ** 2))


def npy(values: np.ndarray, *, pickled: bool = False) -> Callable[[], bytes]:
    def write() -> bytes:
        sink = io.BytesIO()
        np.save(sink, values, allow_pickle=pickled)
        return sink.getvalue()

    return write


def _row(change: Callable[[np.ndarray], None]) -> Callable[[], bytes]:
    values = _PDF.copy()
    change(values)
    return npy(values)


def _set(row: int, column: int | slice, value: float) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[row, column] = value

    return change


_STEPS = "grid = [0.0, 1.0, 30]"
_LAST = 'grid = "last-row"'

DENSITIES = [
    Bad("empty file", "p.npy", lambda: b"", "p.npy", _STEPS),
    Bad("cut", "p.npy", _cut(npy(_PDF)), "p.npy", _STEPS),
    Bad("text", "p.npy", lambda: b"hello" * 50, "p.npy", _STEPS),
    Bad("one axis", "p.npy", npy(_PDF[0]), "p.npy", _STEPS),
    Bad("three axes", "p.npy", npy(_PDF[None]), "p.npy", _STEPS),
    Bad("no rows", "p.npy", npy(_PDF[:0]), "p.npy", _STEPS),
    Bad("pickled objects", "p.npy", npy(np.array([[{}]], object), pickled=True), "p.npy", _STEPS),
    Bad("complex numbers", "p.npy", npy(_PDF.astype(complex)), "p.npy|complex", _STEPS),
    Bad("half floats", "p.npy", npy(_PDF.astype("f2")), "float16|f2", _STEPS),
    Bad("grid of another length", "p.npy", npy(_PDF), "p.npy|grid", "grid = [0.0, 1.0, 17]"),
    Bad("grid that falls", "p.npy", npy(np.vstack([_PDF, _GRID[::-1]])), "rise|sort", _LAST),
    Bad("grid with NaN", "p.npy", npy(np.vstack([_PDF, _GRID * np.nan])), "finite|grid", _LAST),
    Bad("grid of two points", "p.npy", npy(_PDF[:, :2]), "points|grid", "grid = [0.0, 1.0, 2]"),
    Bad("grid file missing", "p.npy", npy(_PDF), "grid.npy|missing", 'grid = "raw/grid.npy"'),
    Bad("row of NaN", "p.npy", _row(_set(2, 5, np.nan)), "holds NaN", _STEPS),
    Bad("row with infinity", "p.npy", _row(_set(2, 5, np.inf)), "infinity", _STEPS),
    Bad("negative row", "p.npy", _row(_set(2, 5, -1.0)), "negative", _STEPS),
    Bad("row of zeros", "p.npy", _row(_set(2, slice(None), 0.0)), "zero", _STEPS),
    Bad("unknown ending", "p.xyz", lambda: b"12", "p.xyz|format", _STEPS),
    Bad("Parquet without a density", "p.parquet", parquet(x=_X), "p.parquet", _STEPS),
]  # fmt: skip


def write(folder: Path, bad: Bad, head: str) -> Path:
    """The survey of one bad file; the path of its configuration."""
    (folder / "raw").mkdir()
    (folder / "raw" / bad.file).write_bytes(bad.write())
    path = folder / "survey.toml"
    lines = bad.lines if "band" in bad.lines or "images" not in head else f"band = 'r'\n{bad.lines}"
    path.write_text(f'[release]\nurl = "out/p/r"\n{head}\nfiles = ["raw/{bad.file}"]\n{lines}\n')
    return path
