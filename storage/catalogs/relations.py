"""Finding which columns of a catalog follow from others, on a sample of its rows.

Every pair and every kind of relation is looked at on a few rows, the likely ones are fitted on
more, and what is taken must make the column's stored bits, or its cells, smaller. A column that
others are told from stands by itself, so that reading any column decodes few others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone

from skyfold.catalogs.columns import Floats, bits_of
from skyfold.catalogs.index import Column
from skyfold.catalogs.relations import Relation, log2, to_rest

MAX_COLUMNS = 160  # that are looked at: the number of triples grows as its cube
GLANCE, LOOK, SAMPLE = 16, 256, 2048  # rows of each step
MIN_ROWS = 200  # of fewer, a relation takes about as much as it saves
WORTH = 0.97  # of a column's own bytes, or less
_COST = 0.02  # bytes a value of a relation's description, counted on the sample
_FITTED = 8  # rows, at least, that a fit rests on
_EACH = 0.05  # bits a value that one more column must save
_TRIED = 5
_MEASURED = 2  # centres of a column that are encoded
_NEAR = 4  # columns whose planes are tried
_MAG = -2.5 * np.log10(2)

Values = Mapping[str, NDArray[np.float64]]  # of each column, shape (elements, n)


@dataclass(frozen=True)
class Told:
    """A column that follows from others.

    Attributes
    ----------
    column : str
    relation : Relation
    share : float
        Of its own bytes, that are left to store.
    gain : float
        Bytes that are not stored, of the sample.
    rests_on : frozenset of str
        Columns that may not be told from others then.
    """

    column: str
    relation: Relation
    share: float
    gain: float
    rests_on: frozenset[str]


def find_relations(
    columns: Sequence[Column], values: Mapping[str, NDArray[np.generic]]
) -> list[Told]:
    """Every relation that makes the bits of a column smaller, the largest gains first.

    Parameters
    ----------
    columns : sequence of Column
        Of floats.
    values : mapping of ndarray, shape (elements, n)
        Their values in a sample of rows, in native byte order.
    """
    columns = columns[:MAX_COLUMNS]
    rows = values[columns[0].name].shape[1] if columns else 0
    if rows < MIN_ROWS:
        return []
    kept = _spread_rows(rows, SAMPLE)
    sample = {c.name: np.ascontiguousarray(values[c.name][:, kept]) for c in columns}
    found = [one for column in columns for one in _relations_of(column, columns, sample)]
    return _largest_first(found)


def find_centres(
    columns: Sequence[Column],
    values: Mapping[str, NDArray[np.generic]],
    widths: Mapping[str, Floats],
    size_of: Callable[[Column, Relation | None], int],
) -> list[Told]:
    """Every relation that makes the cells of a column smaller, the largest gains first.

    Parameters
    ----------
    columns : sequence of Column
        Of floats.
    values : mapping of ndarray, shape (elements, n)
        Their values as `bounded` gives them, NaN where missing.
    widths : mapping of ndarray, shape (elements, n)
        About how wide the cells are of those columns that have some.
    size_of : callable
        Bytes of a column's cells on the sample, counted from a centre.
    """
    columns = columns[:MAX_COLUMNS]
    if not columns or values[columns[0].name].shape[1] < MIN_ROWS:
        return []
    found: list[Told] = []
    for column in columns:
        if column.name in widths:
            sources = [c for c in columns if c.partner != column.name]
            found += _centres_of(column, sources, values, widths[column.name], size_of)
    return _largest_first(found)


def _centres_of(
    column: Column,
    columns: Sequence[Column],
    values: Mapping[str, NDArray[np.generic]],
    width: Floats,
    size_of: Callable[[Column, Relation | None], int],
) -> Iterator[Told]:
    """Centres of one column that are worth storing."""
    partners = {c.name: c.partner for c in columns}
    own = values[column.name]
    others = _others(column, columns, values, own.shape)
    alone = size_of(column, None)
    for relation in _likely(_wide(own, own.shape), width, others)[:_MEASURED]:
        size = size_of(column, relation) + _COST * own.size
        if size < WORTH * alone:
            names = {*relation.columns, *(partners[name] for name in relation.columns)} - {None}
            rests_on = frozenset(str(name) for name in names)
            yield Told(column.name, relation, size / alone, alone - size, rests_on)


def _largest_first(found: list[Told]) -> list[Told]:
    return sorted(found, key=lambda one: (-one.gain, one.column))


def _others(
    column: Column,
    columns: Sequence[Column],
    values: Mapping[str, NDArray[np.generic]],
    shape: tuple[int, ...],
) -> dict[str, Floats]:
    """Values of all columns that a column may be told from, in its shape."""
    return {
        c.name: _wide(values[c.name], shape)
        for c in columns
        if c.name != column.name and c.elements in (1, column.elements)
    }


def choose_relations(found: Sequence[Told], columns: Sequence[Column]) -> dict[str, Told]:
    """Relations of columns whose bits are stored and not refined; each stands or is told.

    What is read at `bounded` is told from what is read there.
    """
    names = {c.name for c in columns}
    plain = {c.name for c in columns if c.kind == "plain"}
    found = [
        one
        for one in found
        if one.column in names and one.rests_on <= (plain if one.column in plain else names)
    ]
    return choose_together(found)


def choose_together(found: list[Told]) -> dict[str, Told]:
    """Of relations in falling order of gain those that save most, so that what they rest on stands.

    The largest first; then a column stands after all where others gain more by that.
    """
    standing: set[str] = set()
    best = _largest(found, standing)
    for name in list(best):
        other = _largest(found, standing | {name})
        if sum(one.gain for one in other.values()) > sum(one.gain for one in best.values()):
            best, standing = other, standing | {name}
    return best


def _largest(found: list[Told], standing: set[str]) -> dict[str, Told]:
    """Relations in falling order of gain, so that none is told from a column that is told."""
    chosen: dict[str, Told] = {}
    told_from = set(standing)
    for one in found:
        free = one.column not in chosen and one.column not in told_from
        if free and not chosen.keys() & one.rests_on:
            chosen[one.column] = one
            told_from |= one.rests_on
    return chosen


def _spread_rows(rows: int, most: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.intp))


def _relations_of(
    column: Column, columns: Sequence[Column], sample: Mapping[str, NDArray[np.generic]]
) -> Iterator[Told]:
    """Relations of one column that are worth storing."""
    own = sample[column.name]
    others = _others(column, columns, sample, own.shape)
    alone = min(_bytes(own), _bytes(bits_of(own).astype(f"u{own.dtype.itemsize}")))
    for relation in _likely(_wide(own, own.shape), _unit(own), others):
        rest = to_rest(own, relation.predict([others[name] for name in relation.columns]))
        size = _bytes(rest) + _COST * rest.size
        if size < WORTH * alone:
            rests_on = frozenset(relation.columns)
            yield Told(column.name, relation, size / alone, alone - size, rests_on)


def _wide(values: NDArray[np.generic], shape: tuple[int, ...]) -> Floats:
    with np.errstate(invalid="ignore"):  # of NaN that signal
        wide = values.astype(np.float64)
    return np.ascontiguousarray(np.broadcast_to(wide, shape))


def _unit(values: NDArray[np.generic]) -> Floats:
    """Distance of neighbouring floats at each value."""
    with np.errstate(invalid="ignore"):
        found = np.spacing(np.abs(values)).astype(np.float64)
    return np.asarray(np.where(np.isfinite(found), found, np.nan))


def _bytes(rest: NDArray[np.generic]) -> int:
    return len(standalone.simple_compress(rest.ravel(), ChunkConfig()))


def _likely(own: Floats, unit: Floats, others: Values) -> list[Relation]:
    """Relations of the fewest bits a value, by a glance at all and a look at some."""
    rows = _spread_rows(own.shape[1], LOOK)
    seen: dict[Relation, float] = {}
    for operation, names in _drafts(own, unit, others):
        inputs = [others[name][:, rows] for name in names]
        for relation in _fits(operation, names, own[:, rows], inputs):
            with np.errstate(all="ignore"):  # a width may be 0
                rest = (own[:, rows] - relation.predict(inputs)) / unit[:, rows]
            bits = float(_bits(rest.reshape(1, -1))[0])
            seen[relation] = bits + _EACH * len(names)
    return sorted(seen, key=lambda one: seen[one])[:_TRIED]


def _bits(rest: Floats) -> Floats:
    """About how many bits a value takes that is so many units away, for each row."""
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.log2(1 + np.abs(rest))
    return np.asarray(np.where(np.isfinite(size), size, 64.0).mean(axis=1))


def _drafts(own: Floats, unit: Floats, others: Values) -> list[tuple[str, tuple[str, ...]]]:
    """Operations and columns of the fewest bits, on a few rows."""
    names = list(others)
    rows = _usual_rows(own)
    if not names or len(rows) < _FITTED:
        return []
    x = np.stack([others[name][:, rows].ravel() for name in names])
    y, u = own[:, rows].ravel(), unit[:, rows].ravel()
    ordered = np.array(list(permutations(range(len(names)), 2)), int).reshape(-1, 2)
    either = ordered[ordered[:, 0] < ordered[:, 1]]
    every = np.arange(len(names))[:, np.newaxis]
    with np.errstate(all="ignore"):
        shapes = [
            ("sum", every, x),
            ("log", every, _MAG * log2(x)),
            ("sum", ordered, x[ordered[:, 0]] - x[ordered[:, 1]]),
            ("sum", either, x[either[:, 0]] + x[either[:, 1]]),
            ("ratio", ordered, x[ordered[:, 0]] / x[ordered[:, 1]]),
        ]
        found: list[tuple[float, str, tuple[str, ...]]] = []
        for operation, places, shape in shapes:
            bits = _straight_bits(shape, y, u) if len(shape) else np.empty(0)
            found += [
                (float(bits[one]), operation, tuple(names[i] for i in places[one]))
                for one in np.argsort(bits, kind="stable")[:_TRIED].tolist()
            ]
    near = [columns[0] for _, operation, columns in found[:_NEAR] if operation == "sum"]
    drafts = [(operation, columns) for _, operation, columns in sorted(found)[: 2 * _TRIED]]
    return list(dict.fromkeys(drafts + [("sum", pair) for pair in combinations(near, 2)]))


def _usual_rows(own: Floats) -> NDArray[np.intp]:
    """A few rows without the lowest and highest values, which may stand for none."""
    first = own[0]
    finite = np.flatnonzero(np.isfinite(own).all(axis=0))
    if not finite.size:
        return finite
    low, high = np.quantile(first[finite], (0.05, 0.95))
    inside = finite[(first[finite] >= low) & (first[finite] <= high)]
    return inside[_spread_rows(len(inside), GLANCE)]


def _straight_bits(shape: Floats, y: Floats, unit: Floats) -> Floats:
    """Bits that are left of y after the straight line through each row of a shape."""
    x = shape - shape.mean(axis=1, keepdims=True)
    away = y - y.mean()
    slope = (x @ away) / (x * x).sum(axis=1)
    fitted = _bits((away - slope[:, np.newaxis] * x) / unit)
    return np.minimum(fitted, _bits((y - shape) / unit))


def _fits(
    operation: str, names: tuple[str, ...], own: Floats, inputs: list[Floats]
) -> Iterator[Relation]:
    """Relations of one kind with factors that are usual, or fitted."""
    y = own.ravel()
    if operation == "sum" and len(names) == 2:
        for factors in ((1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)):
            yield Relation(operation, names, factors)
        plane = _least_squares(np.stack([one.ravel() for one in inputs]), y)
        if plane is not None:
            yield Relation("sum", names, (plane[0], plane[1]), plane[2])
        return
    with np.errstate(all="ignore"):
        shape = Relation(operation, names, (1.0,)).predict(inputs).ravel()
        usual = _MAG if operation == "log" else 1.0
        drafts = [(usual, 0.0), (usual, _median(y - usual * shape)), (_median(y / shape), 0.0)]
    line = _least_squares(shape[np.newaxis], y)
    for a, c in dict.fromkeys([*drafts, *([] if line is None else [(line[0], line[1])])]):
        if np.isfinite([a, c]).all() and a:
            yield Relation(operation, names, (a,), c)


def _median(values: Floats) -> float:
    good = values[np.isfinite(values)]
    return float(np.median(good)) if good.size else float("nan")


def _least_squares(columns: Floats, y: Floats) -> list[float] | None:
    """Factors and offset; fitted again without what lies far away."""
    good = np.isfinite(columns).all(axis=0) & np.isfinite(y)
    found = np.zeros(len(columns) + 1)
    for _ in range(3):
        if good.sum() < _FITTED:
            return None
        matrix = np.vstack([columns[:, good], np.ones(int(good.sum()))]).T
        scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
        found = np.linalg.lstsq(matrix / scale, y[good], rcond=None)[0] / scale
        rest = np.abs(y - found[:-1] @ columns - found[-1])
        good &= rest <= 5 * np.median(rest[good])
    return found.tolist() if np.isfinite(found).all() and found[:-1].all() else None
