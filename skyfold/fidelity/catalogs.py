"""Measuring the catalogs of a release: every science case, on rows that training never saw.

The producer's flow and a consumer who doubts the record run this same function; raw values come
from `exact`, decoded ones from each level, through the public client.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.columns import LEVELS, held_out
from skyfold.catalogs.index import CatalogInfo, Column
from skyfold.catalogs.library import Catalog
from skyfold.catalogs.positions import HEALPIX_ORDER, in_degrees, sky_cells
from skyfold.catalogs.tables import plain_values
from skyfold.science import ScienceCase, cases
from skyfold.science.colors import COLORS
from skyfold.science.photoz import PHOTOZ
from skyfold.science.positions import POSITIONS
from skyfold.science.selection import SELECTION
from skyfold.science.summary import summarise
from skyfold.science.tables import TableContext

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skyfold.science.summary import Row

MAX_ROWS = 65536
_FLUX_WORDS = ("flux", "count")
_BUILT_IN: tuple[ScienceCase, ...] = (COLORS, PHOTOZ, POSITIONS, SELECTION)


def catalog_rows(catalog: Catalog) -> list[dict[str, Any]]:
    """Rows of the fidelity record of one catalog, for `FidelityRecord.from_rows`.

    Parameters
    ----------
    catalog : Catalog

    Returns
    -------
    list of dict
        ``kind="catalogs"``, ``set`` its name, ``bpp`` in bits per value of the stored bytes.
    """
    tables, context = read_levels(catalog)
    chosen = {case.name: case for case in (*_BUILT_IN, *cases("catalogs"))}
    states = {name: case.prepare(tables["exact"], context) for name, case in chosen.items()}  # type: ignore[arg-type]
    return [
        row for level in LEVELS for row in _rows(catalog, level, tables, context, chosen, states)
    ]


def _rows(
    catalog: Catalog,
    level: str,
    tables: Mapping[str, Any],
    context: TableContext,
    chosen: Mapping[str, ScienceCase],
    states: Mapping[str, Any],
) -> list[Row]:
    raw, decoded = tables["exact"], tables[level]
    samples = {
        name: case.compare(states[name], raw, decoded, context)  # type: ignore[arg-type]
        for name, case in chosen.items()
    }
    info = catalog.description
    values = info.rows * sum(column.elements for column in info.columns)
    about = {
        "kind": "catalogs",
        "set": info.name,
        "band": "",
        "level": level,
        "bytes": info.levels[level],
        "bpp": 8 * info.levels[level] / values,
        "held_out": info.hold_out_order >= -1,
    }
    seed = zlib.crc32(f"{info.name}/{level}".encode())
    return [about | row for row in summarise([samples], seed=seed, lossless=level == "exact")]


def read_levels(catalog: Catalog) -> tuple[dict[str, dict[str, NDArray[np.float64]]], TableContext]:
    """Columns of one float a row at every level, NaN where missing, and the rows' context."""
    info = catalog.description
    columns = [column for column in info.columns if column.is_real and not column.shape]
    count = max(1, min(info.chunks, MAX_ROWS // info.chunk_rows))
    chunks = np.unique(np.linspace(0, info.chunks - 1, count).astype(int))
    tables = {level: _read(catalog, columns, level, chunks) for level in LEVELS}
    rows = tables["exact"].pop("")
    for level in LEVELS[:-1]:
        tables[level].pop("")
    return tables, _context(info, columns, tables["exact"], rows)


def _read(catalog: Catalog, columns: list[Column], level: str, chunks: Any) -> dict[str, Any]:
    """Columns of some chunks as float64, and the row numbers under ""."""
    table = catalog.read_chunks(chunks, [column.name for column in columns], level)
    out: dict[str, Any] = {"": table.meta["rows"]}
    for column in columns:
        values = plain_values(table[column.name]).astype(np.float64)
        if column.is_position:
            values = in_degrees(values, column.unit)
        missing = np.isnan(values)
        for value in column.missing:
            missing |= values == float(column.native.type(value))
        out[column.name] = np.where(missing, np.nan, values)
    return out


def _context(
    info: CatalogInfo, columns: list[Column], raw: Mapping[str, Any], rows: NDArray[np.int64]
) -> TableContext:
    sigma = {}
    for column in columns:
        if column.partner is not None and column.partner in raw:
            with np.errstate(invalid="ignore", divide="ignore"):
                errors = raw[column.partner]
                found = (1 / np.sqrt(errors) if column.is_inverse else errors) * column.factor
                sigma[column.name] = np.where(found > 0, found, np.nan)
    return TableContext(
        counted=held_out_rows(info, raw, rows),
        sigma=sigma,
        flux=frozenset(name for name in sigma if _is_flux(info.column(name))),
        redshift=info.redshift,
        ra=info.ra,
        dec=info.dec,
        seed=info.seed,
    )


def _is_flux(column: Column) -> bool:
    """Whether a column's name or unit says that it is linear in light."""
    unit = (column.unit or "").lower()
    words = any(word in column.name.lower() or word in unit for word in _FLUX_WORDS)
    return words or "jy" in unit or "maggy" in unit or unit in ("adu", "ct", "electron")


def held_out_rows(
    info: CatalogInfo, raw: Mapping[str, Any], rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Rows that training never saw; every one where nothing could be held out.

    Parameters
    ----------
    raw : mapping
        Exact positions [deg] among its columns.
    rows : ndarray, shape (n,), int64
        Row numbers of the input.
    """
    if info.hold_out_order < -1:
        return np.ones(len(rows), bool)
    if info.hold_out_order < 0 or info.ra is None or info.dec is None:
        return held_out(rows, info.seed)
    return held_out(
        sky_cells(raw[info.ra], raw[info.dec]) >> 2 * (HEALPIX_ORDER - info.hold_out_order),
        info.seed,
    )
