"""Which kind each column of a catalog is, and which of its values stand for none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.checks import MAX_LIST_CHUNK_BYTES
from skyfold.catalogs.columns import MAX_FILLS, bits_of
from skyfold.catalogs.index import CatalogInfo, Column
from skyfold.catalogs.positions import angle_unit_deg
from skyfold.errors import InputError
from storage.catalogs.reader import Batch, InputColumn
from storage.catalogs.scan import Scan
from storage.config import CatalogConfig

POSITION_MAS = 1.0
MIN_LIST_ROWS = 64  # of a chunk
_SENTINELS = (99.0, -99.0, 999.0, -999.0, 9999.0, -9999.0, 99.99, -99.99)
_FREQUENT = 0.02
_REPEATED = 2  # rows, at least, that share a value in place of a measurement
_FAR = 1000.0  # times the reach of all other values


def describe_catalog(
    config: CatalogConfig,
    columns: Sequence[InputColumn],
    scan: Scan,
    sample: Batch,
    *,
    fraction: float,
    seed: int,
) -> CatalogInfo:
    """The catalog's columns, each with its kind and place; rows and chunks are not known yet."""
    counts = {"real": 0, "whole": 0, "text": 0, "list": 0}
    errors = {error for error, _, _ in scan.pairs.values()}
    described = []
    for column in columns:
        one = _column(column, config, scan, errors, sample[column.name])
        sort = "real" if one.is_real else one.kind
        one = replace(one, first=counts[sort])
        counts[sort] += one.elements
        described.append(one)
    described = place_directly(described)
    return CatalogInfo(
        name=config.name,
        rows=1,
        chunk_rows=1,
        shard_rows=1,
        columns=tuple(described),
        fraction=fraction,
        ra=scan.positions[0] if scan.positions else None,
        dec=scan.positions[1] if scan.positions else None,
        id=config.id,
        redshift=config.redshift,
        seed=seed,
    )


def place_directly(columns: Sequence[Column], pack: int = 1) -> list[Column]:
    """Columns with their places in the arrays of bits: first those that `bounded` reads there.

    The others begin with a chunk of their own, since a chunk is read as a whole.
    """
    counts = {"direct2": 0, "direct4": 0, "direct8": 0}
    placed = {}
    for is_plain in (True, False):
        counts = {layer: -(-count // pack) * pack for layer, count in counts.items()}
        for column in columns:
            if column.is_real and (column.kind == "plain") == is_plain:
                placed[column.name] = counts[column.direct_layer]
                counts[column.direct_layer] += column.elements
    return [replace(one, direct=placed.get(one.name, 0)) for one in columns]


def _column(
    column: InputColumn,
    config: CatalogConfig,
    scan: Scan,
    errors: set[str],
    sampled: tuple[NDArray[Any], NDArray[np.bool_] | None],
) -> Column:
    base = Column(column.name, column.dtype, column.shape, column.unit, column.description)
    if column.is_list:
        return _list_column(replace(base, kind="list", width=scan.widths[column.name]))
    kind = np.dtype("S1" if column.dtype == "str" else column.dtype).kind
    if kind == "S":
        width = max(scan.widths.get(column.name, 1), 1)
        dtype = f"S{width}" if column.dtype == "S" else column.dtype  # bytes of any length
        return replace(base, kind="text", dtype=dtype, width=width)
    if kind != "f":
        return replace(base, kind="whole", missing=config.missing if kind in "iu" else ())
    missing = _missing(sampled[0], config.missing)
    is_position = scan.positions is not None and column.name in scan.positions
    if scan.positions and is_position:  # what is a place on the sky was measured
        most = (360.0, 90.0)[scan.positions.index(column.name)] / angle_unit_deg(column.unit)
        missing = tuple(one for one in missing if one in config.missing or abs(one) > most)
    base = replace(base, missing=missing, fills=_fills(sampled[0], missing))
    if is_position:
        precision = _position_precision(column, config)
        return replace(base, kind="fixed", is_position=True, precision=precision)
    if column.name in config.precision:
        return replace(base, kind="fixed", precision=config.precision[column.name])
    if column.name in errors:
        return replace(base, kind="error")
    if column.name in scan.pairs:
        partner, factor, is_inverse = scan.pairs[column.name]
        return replace(base, kind="scaled", partner=partner, factor=factor, is_inverse=is_inverse)
    if column.name in scan.angles:
        return replace(base, kind="fixed", precision=_position_precision(column, config))
    return replace(base, kind="plain")


def _list_column(column: Column) -> Column:
    most = MAX_LIST_CHUNK_BYTES // column.list_dtype.itemsize // MIN_LIST_ROWS - 1
    if column.width > most:
        raise InputError(
            f"column {column.name!r} holds lists of up to {column.width} values; up to {most} are "
            "archived: divide them among rows, or take the column out of the file"
        )
    return column


def _position_precision(column: InputColumn, config: CatalogConfig) -> float:
    default = POSITION_MAS / 3.6e6 / angle_unit_deg(column.unit)
    return config.precision.get(column.name, default)


def _missing(values: NDArray[Any], declared: tuple[float, ...]) -> tuple[float, ...]:
    """Declared missing values, and usual ones that occur far from every other value."""
    found = list(declared)
    for sentinel in _SENTINELS:
        same = values == values.dtype.type(sentinel)
        if sentinel not in found and same.any():
            near = np.abs(values - sentinel) <= 0.1 * abs(sentinel)
            if not (near & ~same).any():
                found.append(sentinel)
    return (*found, *_far_repeated(values, found))


def _far_repeated(values: NDArray[Any], known: Sequence[float]) -> list[float]:
    """Lowest or highest value, where several rows share it and it lies far beyond all others."""
    good = values[np.isfinite(values) & ~np.isin(values, np.array(known, values.dtype))]
    if good.size < 4:
        return []
    out = []
    for extreme in (good.min(), good.max()):
        rest = good[good != extreme].astype(np.float64)
        if rest.size and (good == extreme).sum() >= _REPEATED:
            reach = rest.max() - rest.min() + np.abs(rest).max()
            if (
                min(abs(float(extreme) - rest.min()), abs(float(extreme) - rest.max()))
                > _FAR * reach
            ):
                out.append(float(extreme))
    return out


def _fills(values: NDArray[Any], missing: tuple[float, ...]) -> tuple[str, ...]:
    """Bits, in hex, of values that many rows share: missing ones, kinds of NaN, frequent ones."""
    dtype = values.dtype
    given = np.array([*missing, np.nan], dtype)
    flat = np.ascontiguousarray(values).ravel()
    distinct, counts = np.unique(bits_of(flat), return_counts=True)
    floats = distinct.astype(f"u{dtype.itemsize}").view(dtype)
    often = counts >= max(_FREQUENT * len(flat), 4)
    chosen = distinct[often | np.isnan(floats)][:MAX_FILLS]
    bits = dict.fromkeys([*bits_of(given).tolist(), *chosen.tolist()])
    size = dtype.itemsize
    return tuple(int(one).to_bytes(size, "little").hex() for one in list(bits)[:MAX_FILLS])
