"""Writing a release in formats that other programs read: FITS for images, HATS for catalogs.

Images become tile-compressed FITS (DS9, CFITSIO, astropy): integers by RICE, which loses nothing,
floats by GZIP of shuffled bytes, which loses nothing either, so that a bound of the release stays
one. Catalogs with positions become HATS partitions (LSDB, or any reader of Parquet folders): files
named by nested HEALPix pixel, rows in order of their pixel of order 29.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.access.folder import whole_file
from skyfold.access.parquet import OutColumn, write_columns
from skyfold.access.trust import check_key
from skyfold.errors import InvalidRequestError

if TYPE_CHECKING:
    from astropy.io import fits
    from numpy.typing import NDArray

    from skyfold.catalogs.library import Catalog
    from skyfold.densities.library import DensitySet
    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

PARTITION_ROWS = 1_000_000
INDEX_COLUMN = "_healpix_29"
_ORDER = 29
_RICE = ("uint8", "int16", "uint16", "int32")  # types that RICE codes without loss


def export_image(release: DataRelease, image_id: str, path: Path, level: str = "exact") -> None:
    """Write one image as tile-compressed FITS.

    Parameters
    ----------
    release : DataRelease
    image_id : str
    path : Path
        Replaced if it is there.
    level : str
        `exact` and `bounded` keep the stored type and the header's scale; others are floats.

    Notes
    -----
    The first extension holds the image, the second, MASK, is 1 where there is no good measurement
    (left out where all are good).
    """
    from astropy.io import fits

    entry = release.images.entry(image_id)
    hdus = fits.HDUList([fits.PrimaryHDU(), compressed(release.images.hdu(image_id, level), entry)])
    flags = release.images.read(image_id, level).flags
    if flags.any():
        bad = (flags != 0).astype(np.uint8).reshape(entry.shape)
        hdus.append(fits.CompImageHDU(bad, name="MASK", compression_type="RICE_1"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as out:
        hdus.writeto(out, output_verify="silentfix")


def compressed(hdu: fits.PrimaryHDU, entry: ImageEntry) -> fits.CompImageHDU:
    """An image HDU, its values and scale kept, as a tile-compressed one."""
    from astropy.io import fits

    values, header = hdu.data, hdu.header.copy()
    kind = "RICE_1" if values.dtype.name in _RICE else "GZIP_2"
    scale = {card: header.get(card) for card in ("BSCALE", "BZERO", "BLANK") if card in header}
    for card in ("SIMPLE", "EXTEND", *scale):
        header.remove(card, ignore_missing=True)
    out = fits.CompImageHDU(values, header, compression_type=kind, quantize_level=0.0)
    for card, value in scale.items():
        out.header[card] = value
    return out


def export_catalog(
    catalog: Catalog, folder: Path, level: str = "exact", *, rows: int = PARTITION_ROWS
) -> list[Path]:
    """Write a catalog as HATS partitions, or as one Parquet file if it has no positions.

    Parameters
    ----------
    catalog : Catalog
    folder : Path
        Made if it is not there.
    level : str
    rows : int
        Most rows of one file.

    Returns
    -------
    list of Path
        The files of rows.

    Raises
    ------
    InvalidRequestError
        If `rows` is not positive.
    """
    from skyfold.catalogs.tables import parquet_columns

    if rows < 1:
        raise InvalidRequestError(f"partitions of {rows} rows: give 1 or more")
    columns = parquet_columns(catalog.read(level=level))
    info = catalog.description
    folder.mkdir(parents=True, exist_ok=True)
    if info.ra is None or info.dec is None:
        write_columns(columns, folder / "catalog.parquet")
        return [folder / "catalog.parquet"]
    place = {one.name: one.values for one in columns if one.name in (info.ra, info.dec)}
    cells = healpix_of(*(np.asarray(place[name], float) for name in (info.ra, info.dec)))
    order = np.argsort(cells, kind="stable")
    columns = [_rows(one, order) for one in (OutColumn(INDEX_COLUMN, cells), *columns)]
    parts = list(partitions(columns[0].values, rows))
    paths = [_write_partition(folder, columns, *part) for part in parts]
    nothing = [_rows(one, slice(0, 0)) for one in columns]
    write_columns(nothing, folder / "dataset/_common_metadata")
    _write_hats_facts(folder, catalog, parts, rows)
    return paths


def healpix_of(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.int64]:
    """Nested HEALPix pixel of order 29 of positions [deg, ICRS]; 0 where one is not finite."""
    from astropy import units as u
    from astropy_healpix import HEALPix

    grid = HEALPix(nside=2**_ORDER, order="nested")
    known = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90)
    cells = np.zeros(len(ra), np.int64)
    cells[known] = grid.lonlat_to_healpix(ra[known] * u.deg, dec[known] * u.deg)
    return cells


def partitions(cells: NDArray[np.int64], rows: int) -> Iterator[tuple[int, int, slice]]:
    """Order, pixel and rows of each partition: the largest pixels with no more than `rows` rows.

    Parameters
    ----------
    cells : ndarray, shape (n,), int64
        Ascending pixels of order 29.
    """
    waiting = [(0, pixel) for pixel in range(11, -1, -1)]
    while waiting:
        order, pixel = waiting.pop()
        shift = 2 * (_ORDER - order)
        first, last = np.searchsorted(cells, [pixel << shift, (pixel + 1) << shift])
        if last - first > rows and order < _ORDER:
            waiting += [(order + 1, 4 * pixel + quarter) for quarter in (3, 2, 1, 0)]
        elif last > first:
            yield order, pixel, slice(int(first), int(last))


def _write_partition(
    folder: Path, columns: list[OutColumn], order: int, pixel: int, rows: slice
) -> Path:
    place = f"dataset/Norder={order}/Dir={pixel // 10000 * 10000}/Npix={pixel}.parquet"
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as out:
        write_columns([_rows(one, rows) for one in columns], out)
    return path


def _rows(column: OutColumn, rows: Any) -> OutColumn:
    nulls = None if column.nulls is None else column.nulls[rows]
    return OutColumn(column.name, column.values[rows], nulls, column.metadata)


def _write_hats_facts(
    folder: Path, catalog: Catalog, parts: list[tuple[int, int, slice]], rows: int
) -> None:
    """What HATS 1.0 keeps beside the rows: properties, and the list of partitions."""
    info = catalog.description
    facts = {
        "obs_collection": catalog.name,
        "dataproduct_type": "object",
        "hats_nrows": sum(part.stop - part.start for _, _, part in parts),
        "hats_col_ra": info.ra,
        "hats_col_dec": info.dec,
        "hats_col_healpix": INDEX_COLUMN,
        "hats_col_healpix_order": _ORDER,
        "hats_max_rows": rows,
        "hats_order": max((order for order, _, _ in parts), default=0),
        "moc_sky_fraction": math.fsum(4.0**-order / 12 for order, _, _ in parts),
        "hats_builder": "skyfold export",
        "hats_version": "v1.0",
    }
    text = "".join(f"{name}={value}\n" for name, value in facts.items())
    for name in ("hats.properties", "properties"):  # the second is how versions before 1.1 call it
        (folder / name).write_text(text)
    lines = [f"{order},{pixel}\n" for order, pixel, _ in parts]
    (folder / "partition_info.csv").write_text("Norder,Npix\n" + "".join(lines))


def export_densities(densities: DensitySet, path: Path, level: str = "exact") -> None:
    """Write densities as Parquet: a list of values a row, the grid in the file's metadata."""
    grid = ",".join(repr(float(one)) for one in densities.grid)
    path.parent.mkdir(parents=True, exist_ok=True)
    column = OutColumn("pdf", np.asarray(densities.read(level=level)))
    with whole_file(path) as out:
        write_columns([column], out, metadata={"grid": grid})


def export_release(
    release: DataRelease,
    folder: str | os.PathLike[str],
    level: str = "exact",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write all images, catalogs and densities of a release.

    Parameters
    ----------
    release : DataRelease
    folder : str or Path
        Gets ``images/<id>.fits.fz``, ``catalogs/<name>/`` and ``densities/<name>.parquet``.
    level : str
        Of each kind that has it; catalogs and densities without it are written at `bounded`.
    progress : callable, optional
        Called with things written and in all.

    Returns
    -------
    list of Path
        What was written.
    """
    root = Path(folder)
    tasks: list[Callable[[], list[Path]]] = []

    def image(image_id: str) -> list[Path]:
        path = root / "images" / f"{check_key(image_id)}.fits.fz"
        export_image(release, image_id, path, level)
        return [path]

    def table(name: str) -> list[Path]:
        one = release.catalogs[name]
        return export_catalog(one, root / "catalogs" / check_key(name), _level_of(one, level))

    def pdf(name: str) -> list[Path]:
        one = release.densities[name]
        path = root / "densities" / f"{check_key(name)}.parquet"
        export_densities(one, path, _level_of(one, level))
        return [path]

    tasks += [partial(image, one) for one in release.images]
    tasks += [partial(table, one) for one in release.catalogs]
    tasks += [partial(pdf, one) for one in release.densities]
    written = []
    for done, task in enumerate(tasks, 1):
        written += task()
        if progress:
            progress(done, len(tasks))
    return written


def _level_of(kind: Catalog | DensitySet, level: str) -> str:
    return level if level in kind.levels else "bounded"
