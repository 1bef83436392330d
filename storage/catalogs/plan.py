"""Looking at a catalog once: its columns and kinds, the order of its rows, a sample to train on.

One pass over all files in batches. What it keeps grows by 16 bytes a row (sky cell and id), so a
catalog larger than memory passes too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.columns import MAX_FILLS, bits_of, held_out
from skyfold.catalogs.index import (
    CHUNK_ROWS,
    HEALPIX_ORDER,
    MAX_LIST_CHUNK_BYTES,
    CatalogInfo,
    Column,
)
from skyfold.catalogs.library import angle_unit_deg
from skyfold.errors import InputError
from skyfold.fidelity.catalogs import NO_CELL, sky_cells
from storage.catalogs.pairs import find_errors, find_positions
from storage.catalogs.reader import Batch, CatalogSource, InputColumn, join, longest, open_catalog
from storage.config import CatalogConfig

SAMPLE_ROWS = 65536
SHARD_BYTES = 2**25  # of raw rows: what one task holds, several times over
MAX_SHARD_CHUNKS = 64
POSITION_MAS = 1.0
MIN_TRAINING_ROWS = 32
_HELD_CELLS = 64  # of sky, at least, so that a quarter of them is a fair part
_SENTINELS = (99.0, -99.0, 999.0, -999.0, 9999.0, -9999.0, 99.99, -99.99)
_FREQUENT = 0.02
_REPEATED = 2  # rows, at least, that share a value in place of a measurement
MIN_LIST_ROWS = 64  # of a chunk
_FAR = 1000.0  # times the reach of all other values


@dataclass(frozen=True)
class CatalogFile:
    """One file of a catalog; its rows follow those of the files before."""

    file: str
    url: str
    first: int
    rows: int


@dataclass
class SurveyedCatalog:
    """What one pass over a catalog found.

    Attributes
    ----------
    info : CatalogInfo
        Without model.
    files : list of CatalogFile
    order : ndarray, shape (rows,), int64
        Row of the input at each stored place.
    low, high : ndarray, shape (chunks,), int64
        Range of sky cells of each chunk; -1 without positions.
    sample, sample_rows : Batch and ndarray of shape (sampled rows,), int64
        Some rows and their numbers.
    training : ndarray, shape (sampled rows,), bool
        Sampled rows that may train.
    set_aside : list of (file, reason)
        Files and rows that are not archived.
    """

    info: CatalogInfo
    files: list[CatalogFile]
    order: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    sample: Batch
    sample_rows: NDArray[np.int64]
    training: NDArray[np.bool_]
    set_aside: list[tuple[str, str]] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """SHA-256 of all that its stored form depends on, but for the content of the rows."""
        found = hashlib.sha256(self.info.to_json())
        found.update(np.ascontiguousarray(self.order).tobytes())
        return found.hexdigest()


def open_files(
    files: Sequence[tuple[str, str]], key: str | None, options: Mapping[str, Any]
) -> tuple[list[CatalogSource], list[CatalogFile], list[tuple[str, str]]]:
    """Sources of all files that can be read and agree, and those that are set aside.

    Raises
    ------
    InputError
        If none can be read.
    """
    sources: list[CatalogSource] = []
    placed: list[CatalogFile] = []
    aside: list[tuple[str, str]] = []
    first = 0
    for file, url in files:
        try:
            source = open_catalog(file, url, key, options)
            if sources:
                _require_same(sources[0], source)
        except InputError as error:
            aside.append((file, str(error)))
            continue
        sources.append(source)
        placed.append(CatalogFile(file, url, first, source.rows))
        first += source.rows
    if not sources:
        raise InputError("; ".join(reason for _, reason in aside[:3]) or "the catalog has no file")
    return sources, placed, aside


def _require_same(first: CatalogSource, other: CatalogSource) -> None:
    ours = [(one.name, one.dtype, one.shape) for one in first.columns]
    theirs = [(one.name, one.dtype, one.shape) for one in other.columns]
    if ours != theirs:
        differing = sorted({str(one) for one in set(ours) ^ set(theirs)})
        raise InputError(
            f"{other.file}: its columns are not those of {first.file}: "
            f"{', '.join(differing[:4])}; files "
            "of one catalog must agree: make it another [[catalogs]] table"
        )


def survey_catalog(
    config: CatalogConfig,
    files: Sequence[tuple[str, str]],
    *,
    seed: int = 1,
    fraction: float = 0.1,
    options: Mapping[str, Any] | None = None,
) -> SurveyedCatalog:
    """Look at every row of a catalog.

    Parameters
    ----------
    config : CatalogConfig
    files : sequence of (file, url)
        As named in messages, and where it is.
    seed : int
        Of the choice of rows that training never sees.
    fraction : float
        Of each value's own error that `bounded` may cost.

    Raises
    ------
    InputError
        If no file can be read, or a declared column is not there or cannot be used.
    """
    sources, placed, aside = open_files(files, config.key, options or {})
    columns = sources[0].columns
    _require_named(config, columns)
    _require_numbers(config, columns)
    positions = find_positions(columns, config.ra, config.dec)
    look = _Look(config, columns, positions, sum(source.rows for source in sources))
    for source, place in zip(sources, placed, strict=True):
        for start, batch in source.batches():
            look.take(place.first + start, batch)
    sample = join(look.sample)
    kept, doubles = look.kept_rows()
    aside += [(placed[0].file, reason) for reason in doubles]
    info = _describe(config, columns, positions, sample, look, fraction, seed)
    notices = [notice for source in sources for notice in source.notices]
    return _ordered(
        replace(info, notices=(*notices, *look.notices(info))), placed, look, kept, sample, aside
    )


def _require_named(config: CatalogConfig, columns: Sequence[InputColumn]) -> None:
    names = [column.name for column in columns]
    roles = {"id": config.id, "redshift": config.redshift}
    roles |= {f"precision.{name}": name for name in config.precision}
    for role, name in roles.items():
        if name is not None and name not in names:
            raise InputError(
                f"catalog {config.name!r}: {role} names the column {name!r}, which is not "
                "there; there "
                f"are such as {', '.join(names[:8])}; correct it"
            )


def _require_numbers(config: CatalogConfig, columns: Sequence[InputColumn]) -> None:
    for column in columns:
        is_text = column.dtype == "str" or np.dtype(column.dtype).kind in "SU"
        sort = "lists" if column.is_list else "text" if is_text else ""
        if sort and column.name in config.precision:
            raise InputError(
                f"catalog {config.name!r}: precision.{column.name} is given for a column of "
                f"{sort}, which is kept as it is; take it out"
            )
        if column.is_list and column.name in (config.id, config.redshift):
            raise InputError(
                f"catalog {config.name!r}: {column.name!r} holds a list in each row, and cannot be "
                "id or redshift; name a column of one value a row"
            )


class _Look:
    """What is gathered of each batch."""

    def __init__(
        self,
        config: CatalogConfig,
        columns: Sequence[InputColumn],
        positions: tuple[str, str] | None,
        rows: int,
    ) -> None:
        self.config = config
        self.positions = positions
        self.units = {column.name: column.unit for column in columns}
        self.rows = rows
        self.keys = np.full(rows, -1, np.int64)
        self.ids: NDArray[Any] | None = None
        self.widths: dict[str, int] = {}
        self.present = dict.fromkeys((column.name for column in columns), 0)
        self.bad_errors: dict[str, int] = {}
        self.off_sky = 0
        self.pairs = find_errors(columns, config.errors)
        rng = np.random.default_rng(0)
        size = min(rows, SAMPLE_ROWS)
        self.chosen = (
            np.sort(rng.choice(rows, size, replace=False)) if size < rows else np.arange(rows)
        )
        self.sample: list[Batch] = []

    def take(self, first: int, batch: Batch) -> None:
        """Gather what matters of one batch of rows."""
        rows = len(next(iter(batch.values()))[0])
        if self.positions is not None:
            self.keys[first : first + rows] = self._sky_cells(batch)
        if self.config.id is not None:
            self._take_ids(first, batch[self.config.id][0])
        for name, (values, nulls) in batch.items():
            if values.dtype.kind in "SO":
                self.widths[name] = max(self.widths.get(name, 0), longest(values))
            self.present[name] += _count_present(values, nulls, self.config.missing)
        for value, (error, _, _) in self.pairs.items():
            self._count_bad(value, batch[value][0], batch[error][0])
        inside = self.chosen[(self.chosen >= first) & (self.chosen < first + rows)] - first
        if inside.size:
            self.sample.append(
                {k: (v[inside], None if m is None else m[inside]) for k, (v, m) in batch.items()}
            )

    def _sky_cells(self, batch: Batch) -> NDArray[np.int64]:
        first, second = (
            batch[name][0].astype(np.float64) * angle_unit_deg(self.units[name])
            for name in self.positions or ()
        )
        cells = sky_cells(first, second)
        measured = np.isfinite(first) & np.isfinite(second)
        self.off_sky += int((measured & (cells == NO_CELL)).sum())
        return cells

    def _take_ids(self, first: int, values: NDArray[Any]) -> None:
        """Ids of all rows, or their hashes where they are text."""
        if values.dtype.kind == "S":
            values = np.array([_text_key(one) for one in values.tolist()], np.int64)
        if self.ids is None:
            self.ids = np.empty(self.rows, values.dtype)
        self.ids[first : first + len(values)] = values

    def _count_bad(self, value: str, values: NDArray[Any], errors: NDArray[Any]) -> None:
        with np.errstate(invalid="ignore"):
            bad = ~(errors > 0) | ~np.isfinite(errors)
        if bad.shape != values.shape:
            bad = np.broadcast_to(bad.reshape(len(bad), *[1] * (values.ndim - 1)), values.shape)
        bad = (
            bad
            & np.isfinite(values)
            & ~np.isin(values, np.array(self.config.missing, values.dtype))
        )
        self.bad_errors[value] = self.bad_errors.get(value, 0) + int(bad.sum())

    def kept_rows(self) -> tuple[NDArray[np.int64], list[str]]:
        """Rows to archive: all but those whose id an earlier row has; and the reasons."""
        if self.ids is None:
            return np.arange(self.rows), []
        _, first = np.unique(self.ids, return_index=True)
        if len(first) == self.rows:
            return np.arange(self.rows), []
        kept = np.sort(first)
        doubles = np.setdiff1d(np.arange(self.rows), kept)
        some = ", ".join(str(row) for row in doubles[:10])
        return kept, [
            f"catalog {self.config.name!r}: {len(doubles)} rows have an id ({self.config.id}) "
            "that an "
            "earlier row has, and are not archived: rows "
            f"{some}{', ...' if len(doubles) > 10 else ''}; "
            "correct the ids, or take id out of the configuration to keep them"
        ]

    def notices(self, info: CatalogInfo) -> list[str]:
        """Columns without any value, and values whose error says nothing."""
        out = [
            f"column {name!r} holds no value in any row; it is kept as it is, and not modelled"
            for name, count in self.present.items()
            if not count
        ]
        if self.off_sky:
            out.append(
                f"{self.off_sky} rows have a position that is not on the sky (declination beyond "
                "90 deg, or right ascension beyond 720 deg); they are kept, and no cone finds them"
            )
        return out + [
            f"{count} values of {name!r} have an error that is zero, negative or not a number; "
            "they are "
            "kept exactly at `bounded`"
            for name, count in self.bad_errors.items()
            if count and info.column(name).kind == "scaled"
        ]


def _text_key(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def _count_present(
    values: NDArray[Any], nulls: NDArray[np.bool_] | None, missing: tuple[float, ...]
) -> int:
    here = np.ones(values.shape, bool) if nulls is None else ~nulls
    if values.dtype.kind == "f":
        here &= ~np.isnan(values) & ~np.isin(values, np.array(missing, values.dtype))
    return int(here.sum())


# Columns.


def _describe(
    config: CatalogConfig,
    columns: Sequence[InputColumn],
    positions: tuple[str, str] | None,
    sample: Batch,
    look: _Look,
    fraction: float,
    seed: int,
) -> CatalogInfo:
    """The catalog's columns, each with its kind and place."""
    counts = {"real": 0, "whole": 0, "text": 0, "list": 0}
    errors = {error for error, _, _ in look.pairs.values()}
    described = []
    for column in columns:
        one = _column(column, config, look, positions or (), errors, sample[column.name])
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
        ra=positions[0] if positions else None,
        dec=positions[1] if positions else None,
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
    look: _Look,
    positions: Sequence[str],
    errors: set[str],
    sampled: tuple[NDArray[Any], NDArray[np.bool_] | None],
) -> Column:
    base = Column(column.name, column.dtype, column.shape, column.unit, column.description)
    if column.is_list:
        return _list_column(replace(base, kind="list", width=look.widths[column.name]))
    kind = np.dtype("S1" if column.dtype == "str" else column.dtype).kind
    if kind == "S":
        return replace(base, kind="text", width=max(look.widths.get(column.name, 1), 1))
    if kind != "f":
        return replace(base, kind="whole", missing=config.missing if kind in "iu" else ())
    missing = _missing(sampled[0], config.missing)
    base = replace(base, missing=missing, fills=_fills(sampled[0], missing))
    if column.name in positions:
        return replace(
            base, kind="fixed", is_position=True, precision=_position_precision(column, config)
        )
    if column.name in config.precision:
        return replace(base, kind="fixed", precision=config.precision[column.name])
    if column.name in errors:
        return replace(base, kind="error")
    if column.name in look.pairs:
        partner, factor, is_inverse = look.pairs[column.name]
        return replace(base, kind="scaled", partner=partner, factor=factor, is_inverse=is_inverse)
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


# Order of rows.


def _ordered(
    info: CatalogInfo,
    files: list[CatalogFile],
    look: _Look,
    kept: NDArray[np.int64],
    sample: Batch,
    aside: list[tuple[str, str]],
) -> SurveyedCatalog:
    """Rows cut into chunks along the sky, those of each chunk in the order of the input."""
    keys = look.keys[kept]
    order = np.argsort(keys, kind="stable") if look.positions else np.arange(len(kept))
    rows = len(kept)
    chunk = min(CHUNK_ROWS, rows)
    lists = [column.row_bytes for column in info.columns if column.kind == "list"]
    chunk = min(chunk, MAX_LIST_CHUNK_BYTES // max(lists, default=1))
    row_bytes = sum(column.row_bytes for column in info.columns)
    chunks = int(np.clip(SHARD_BYTES // max(row_bytes * chunk, 1), 1, MAX_SHARD_CHUNKS))
    starts = np.arange(0, rows, chunk)
    low = np.array([keys[order[a : a + chunk]].min() for a in starts], np.int64)
    high = np.array([keys[order[a : a + chunk]].max() for a in starts], np.int64)
    stored = np.concatenate([np.sort(kept[order[a : a + chunk]]) for a in starts])
    hold_out, training = _hold_out(look, kept, info.seed)
    shard = chunk * min(chunks, len(starts))
    info = replace(info, rows=rows, chunk_rows=chunk, shard_rows=shard, hold_out_order=hold_out)
    return SurveyedCatalog(info, files, stored, low, high, sample, look.chosen, training, aside)


NO_HOLD_OUT = -2


def _hold_out(look: _Look, kept: NDArray[np.int64], seed: int) -> tuple[int, NDArray[np.bool_]]:
    """HEALPix order of the cells that are held out, and which sampled rows may train."""
    inside = np.isin(look.chosen, kept)
    order = -1
    if look.positions:
        for order in range(2, 20):
            if len(np.unique(look.keys[look.chosen] >> 2 * (HEALPIX_ORDER - order))) >= _HELD_CELLS:
                break
    training = inside & ~held_out(hold_out_cells(look.keys[look.chosen], look.chosen, order), seed)
    if training.sum() < MIN_TRAINING_ROWS:
        return NO_HOLD_OUT, inside
    return order, training


def hold_out_cells(
    keys: NDArray[np.int64], rows: NDArray[np.int64], order: int
) -> NDArray[np.int64]:
    """What decides whether a row is held out: its cell of sky, or its number."""
    return rows if order < 0 else keys >> 2 * (HEALPIX_ORDER - order)
