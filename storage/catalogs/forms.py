"""Which form of each column is the smallest, counted on a sample of rows by really encoding them.

A float column is stored once as cells and once as bits, or its bits are a refinement of the cells;
or the cells are left out; and its bits may be told from other columns. What this module knows is
how these choices depend on one another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.columns import ERROR_BITS, bits_of
from skyfold.catalogs.index import PACKED_VALUES, CatalogInfo, Column
from skyfold.catalogs.model import TableModel
from skyfold.catalogs.relations import Relation
from skyfold.catalogs.rows import missing_values
from skyfold.codecs.columns import encode_numbers
from storage.catalogs.encoder import RowEncoder
from storage.catalogs.kinds import place_directly
from storage.catalogs.reader import Batch
from storage.catalogs.relations import (
    Told,
    choose_relations,
    choose_together,
    find_centres,
    find_relations,
)

_HEAD = 24  # bytes that a stream alone takes beyond one that shares a chunk
_ROWS = 16384  # of the sample that are encoded


@dataclass(frozen=True)
class _Sizes:
    """Bytes of a column's cells, of what refines them, of its bits, and of these as told."""

    cells: int
    rest: int
    direct: int
    told: int

    @property
    def gain(self) -> int:
        """What refining saves where the latents are read anyway."""
        return self.told - self.cells - self.rest

    @property
    def gain_alone(self) -> int:
        """The same of bits that are not told from other columns."""
        return self.direct - self.cells - self.rest


def choose_forms(info: CatalogInfo, model: TableModel | None, batch: Batch) -> CatalogInfo:
    """The catalog with, for each column, the smaller forms of `bounded` and `exact`.

    Refining costs what `bounded` and the remainder take, and the latents once for all; where the
    bits by themselves take less, they are stored, and `exact` reads nothing else. Where they take
    less than the cells alone (in a short table: than all cells and latents), `bounded` is exact
    too. Columns whose bits are told from others (`skyfold.catalogs.relations`) take only what is
    left.
    """
    trial = _encode(info, model, batch)
    if centres := _find_centres(trial):
        columns = (replace(c, centre=centres.get(c.name)) for c in info.columns)
        info = replace(info, columns=tuple(columns))
        trial = _encode(info, model, batch)
    found = find_relations(info.real_columns, trial.values)
    told = choose_relations(found, info.real_columns)
    able = [c for c in info.real_columns if c.kind != "plain"]
    sizes = {c.name: _column_sizes(trial, c, told) for c in able}
    shared = sum(_size(trial.layers[name]) for name in ("map", "latent") if name in trial.layers)
    plain = {name for name, one in sizes.items() if one.direct <= one.cells}
    able = [c for c in able if c.name not in plain]
    # The bits of several columns share a chunk, and so the overhead, of each trial stream.
    if sum(sizes[c.name].direct - sizes[c.name].cells - _HEAD for c in able) <= shared:
        plain, able = set(sizes), []
    gains = {c.name: sizes[c.name].gain for c in able}
    alone = {c.name: sizes[c.name].gain_alone for c in able}
    refined: list[set[str]] = [set(), _useful(able, gains), _useful(able, alone)]
    formed = [_formed(info, plain, names, found) for names in refined]
    return min(formed, key=lambda one: _exact_size(one, sizes, found, shared))


def _find_centres(trial: RowEncoder) -> dict[str, Relation]:
    """Centres of cells that are told from other columns rather than from the table's model."""
    # Of columns whose bits `bounded` reads many lie in one chunk: none is told from those.
    columns = [c for c in trial.info.real_columns if c.kind != "plain"]
    values = {c.name: _seen(trial, c) for c in columns}
    widths = {c.name: _cell_widths(trial, c) for c in columns if not c.is_position}

    def size_of(column: Column, centre: Relation | None) -> int:
        layers = trial.bounded_layers(replace(column, centre=centre))
        return sum(map(_size, layers.values()))

    found = find_centres(columns, values, widths, size_of)
    return {name: one.relation for name, one in choose_together(found).items()}


def _seen(trial: RowEncoder, column: Column) -> NDArray[Any]:
    """Values of a column as `bounded` has them, NaN where missing."""
    missing = missing_values(column, trial.values[column.name], trial.nulls[column.name])
    return np.where(missing, np.nan, trial.decoder.bounded(column))


def _cell_widths(trial: RowEncoder, column: Column) -> NDArray[np.float64]:
    """How wide the cells of a column are, those of errors as near as it matters."""
    values = trial.decoder.bounded(column)
    if column.kind == "error":
        return np.abs(values.astype(np.float64)) / 2**ERROR_BITS
    return trial.decoder.widths(column, values.shape)


def _exact_size(
    info: CatalogInfo, sizes: Mapping[str, _Sizes], found: list[Told], shared: int
) -> float:
    """About the bytes of `exact`, less those of columns that are the same in every form."""
    told = {(one.column, one.relation): 1 - one.share for one in found}
    total = float(shared) if any(c.is_refined for c in info.columns) else 0.0
    for column in info.real_columns:
        if column.name in sizes:
            one = sizes[column.name]
            share = 1 - told.get((column.name, column.relation), 0.0)  # type: ignore[arg-type]
            total += one.cells + one.rest if column.is_refined else one.direct * share
    return total


def _encode(info: CatalogInfo, model: TableModel | None, batch: Batch) -> RowEncoder:
    """A sample with every column both refined and direct."""
    rows = min(_ROWS, len(next(iter(batch.values()))[0]))
    cut = {k: (v[:rows], None if m is None else m[:rows]) for k, (v, m) in batch.items()}
    columns = (
        replace(c, is_refined=c.is_real and c.kind != "plain")
        for c in info.columns
        if c.kind != "list"  # has one form, and may be long
    )
    trial = RowEncoder(replace(info, columns=tuple(columns)), model, cut, np.arange(rows))
    trial.run()
    return trial


def _formed(
    info: CatalogInfo, plain: set[str], refined: set[str], found: list[Told]
) -> CatalogInfo:
    chosen = [
        replace(c, kind="plain", centre=None)
        if c.name in plain
        else replace(c, is_refined=c.name in refined, centre=_centre_beside(c, plain))
        for c in info.columns
    ]
    told = choose_relations(found, [c for c in chosen if c.is_real and not c.is_refined])
    related = {name: one.relation for name, one in told.items()}
    chosen = [replace(c, relation=related.get(c.name)) for c in chosen]
    return replace(info, columns=tuple(place_directly(chosen, info.pack)))


def _centre_beside(column: Column, plain: set[str]) -> Relation | None:
    """Centre of its cells, unless that is told from a column without cells."""
    centre = column.centre
    return None if centre is None or plain & set(centre.columns) else centre


def _useful(able: list[Column], gains: Mapping[str, int]) -> set[str]:
    """Columns to refine: errors by themselves, values together with their error."""
    useful = {c.name for c in able if c.partner not in gains and gains[c.name] > 0}
    for column in able:
        if column.partner is not None and column.partner in gains:
            partner = 0 if column.partner in useful else gains[column.partner]
            if gains[column.name] + partner > 0:
                useful |= {column.name, column.partner} & gains.keys()
    return useful


def _column_sizes(trial: RowEncoder, column: Column, told: Mapping[str, Told]) -> _Sizes:
    places = column.places("bounded")
    stored = sum(_size(trial.layers[layer][places]) for layer in ("flags", "bounded", "raw"))
    bits = _size(bits_of(trial.values[column.name]).astype(f"u{column.native.itemsize}"))
    share = told[column.name].share if column.name in told else 1.0
    return _Sizes(stored, _size(trial.layers["exact"][places]), bits, round(bits * share))


def _size(rows: NDArray[Any]) -> int:
    together = rows.size <= PACKED_VALUES
    return len(encode_numbers(rows)) if together else sum(map(len, map(encode_numbers, rows)))
