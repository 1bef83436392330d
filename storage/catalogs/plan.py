"""Looking at a catalog once: its columns and kinds, the order of its rows, a sample to train on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.catalogs.index import CatalogInfo
from skyfold.errors import InputError
from storage.catalogs.kinds import describe_catalog
from storage.catalogs.order import order_rows
from storage.catalogs.reader import Batch, CatalogSource, InputColumn, join, open_catalog
from storage.catalogs.scan import Scan
from storage.config import CatalogConfig


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
    scan = Scan(config, columns, sum(source.rows for source in sources))
    for source, place in zip(sources, placed, strict=True):
        for start, batch in source.batches():
            scan.take(place.first + start, batch)
    scan.require_positions()
    sample = join(scan.sample)
    kept, doubles = scan.kept_rows()
    info = describe_catalog(config, columns, scan, sample, fraction=fraction, seed=seed)
    order = order_rows(info, scan, kept)
    notices = [notice for source in sources for notice in source.notices]
    return SurveyedCatalog(
        replace(
            info,
            rows=len(kept),
            chunk_rows=order.chunk_rows,
            shard_rows=order.shard_rows,
            hold_out_order=order.hold_out,
            notices=(*notices, *scan.notices(info)),
        ),
        files=placed,
        order=order.rows,
        low=order.low,
        high=order.high,
        sample=sample,
        sample_rows=scan.chosen,
        training=order.training,
        set_aside=aside + [(placed[0].file, reason) for reason in doubles],
    )


def _require_named(config: CatalogConfig, columns: Sequence[InputColumn]) -> None:
    names = [column.name for column in columns]
    roles = {"id": config.id, "redshift": config.redshift}
    roles |= {f"precision.{name}": name for name in config.precision}
    for role, name in roles.items():
        if name is not None and name not in names:
            raise InputError(
                f"{role} names the column {name!r}, which is not there; there are such as "
                f"{', '.join(names[:8])}; correct it"
            )


def _require_numbers(config: CatalogConfig, columns: Sequence[InputColumn]) -> None:
    for column in columns:
        is_text = column.dtype == "str" or np.dtype(column.dtype).kind in "SU"
        sort = "lists" if column.is_list else "text" if is_text else ""
        if sort and column.name in config.precision:
            raise InputError(
                f"precision.{column.name} is given for a column of "
                f"{sort}, which is kept as it is; take it out"
            )
        several = column.is_list or column.shape
        if several and column.name in (config.id, config.redshift):
            raise InputError(
                f"{column.name!r} holds several values in each row, and "
                "cannot be id or redshift; name a column of one value a row"
            )
        if is_text and column.name == config.redshift:
            raise InputError(
                f"{column.name!r} holds text, and cannot be redshift; name a column of numbers"
            )
