"""What happens to one catalog of a survey: planned, encoded shard by shard, finished.

Between the steps a plan lies in the release's staging area: the description, the files, the order
of the rows shard by shard. So every shard can be a task of its own, on any machine.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyfold.access.model_files import CARD
from skyfold.catalogs.index import CatalogInfo, catalog_path
from skyfold.catalogs.model import ARRAYS, TableModel
from skyfold.errors import ConfigError, InputError, ReleaseError
from skyfold.layout import STAGING
from storage.builder import ReleaseBuilder
from storage.catalogs.encoder import EncodedRows, encode_rows
from storage.catalogs.plan import CatalogFile, SurveyedCatalog
from storage.catalogs.reader import Batch, CatalogSource, join, open_catalog
from storage.catalogs.writer import CatalogWriter, plan_key
from storage.config import CatalogConfig, SurveyConfig, is_url
from storage.images.fits_input import glob_url

Options = Mapping[str, Any]


def find_catalog_files(config: SurveyConfig, catalog: CatalogConfig) -> list[tuple[str, str]]:
    """Files of a catalog: as the pattern found each, and where it is.

    Raises
    ------
    ConfigError
        If a pattern matches no file.
    """
    found: dict[str, str] = {}
    for pattern in catalog.files:
        if is_url(pattern):
            matches = glob_url(pattern, config.storage.options)
        else:
            matches = sorted(glob.glob(pattern, root_dir=config.folder, recursive=True))
            matches = [one for one in matches if os.path.isfile(config.resolve(one))]
        if not matches:
            raise ConfigError(
                f"catalog {catalog.name!r}: no file matches {pattern!r} under {config.folder}; "
                "correct the "
                "pattern or take it out"
            )
        found |= {one: config.resolve(one) for one in matches}
    return list(found.items())


@dataclass(frozen=True)
class CatalogPlan:
    """What encoding a catalog's shards needs.

    Attributes
    ----------
    info : CatalogInfo
        With its model.
    files : tuple of CatalogFile
    key : str
        Digest of all that the stored rows depend on.
    input_key : str or None
        HDU, group or table of each file.
    set_aside : tuple of (file, reason)
    """

    info: CatalogInfo
    files: tuple[CatalogFile, ...]
    key: str
    input_key: str | None
    set_aside: tuple[tuple[str, str], ...]

    def to_note(self) -> dict[str, Any]:
        """Plan as JSON."""
        return {
            "info": self.info.to_json().decode(),
            "files": [asdict(one) for one in self.files],
            "key": self.key,
            "input_key": self.input_key,
            "set_aside": [list(one) for one in self.set_aside],
        }

    @classmethod
    def from_note(cls, note: dict[str, Any]) -> CatalogPlan:
        """Inverse of `to_note`."""
        return cls(
            CatalogInfo.from_json(note["info"].encode(), "plan"),
            tuple(CatalogFile(**one) for one in note["files"]),
            note["key"],
            note["input_key"],
            tuple((file, reason) for file, reason in note["set_aside"]),
        )


def plan_catalog(
    builder: ReleaseBuilder,
    surveyed: SurveyedCatalog,
    info: CatalogInfo,
    *,
    input_key: str | None,
    inputs: Sequence[str],
) -> CatalogPlan:
    """Keep the plan of a catalog for the steps that follow.

    Parameters
    ----------
    info : CatalogInfo
        As surveyed, with model and forms of `exact` chosen.
    inputs : sequence of str
        Digests of the files.
    """
    key = plan_key(info, surveyed.order, inputs)
    plan = CatalogPlan(info, tuple(surveyed.files), key, input_key, tuple(surveyed.set_aside))
    for shard in range(info.shards):
        first = shard * info.shard_rows
        rows = surveyed.order[first : first + info.shard_rows]
        builder.store.write(_order_key(info.name, shard), _array_bytes(rows))
    for name, values in (("low", surveyed.low), ("high", surveyed.high)):
        builder.store.write(f"{STAGING}/{catalog_path(info.name)}/{name}.npy", _array_bytes(values))
    builder.note(f"catalogs/{info.name}/plan", plan.to_note())
    return plan


def read_plan(builder: ReleaseBuilder, name: str) -> CatalogPlan:
    """Plan of a catalog; ReleaseError if training has not been run."""
    note = builder.read_note(f"catalogs/{name}/plan")
    if note is None:
        raise ReleaseError(
            f"{builder.store.url} has no plan for catalog {name!r}; run `python -m flows "
            "train` first"
        )
    return CatalogPlan.from_note(note)


def _order_key(name: str, shard: int) -> str:
    return f"{STAGING}/{catalog_path(name)}/order/{shard}.npy"


def _array_bytes(values: NDArray[Any]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, values, allow_pickle=False)
    return sink.getvalue()


def _read_array(builder: ReleaseBuilder, key: str) -> NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(builder.store.read(key)), allow_pickle=False))


def read_table_model(builder: ReleaseBuilder, digest: str) -> TableModel | None:
    """Model of a digest as written; None for no digest."""
    if not digest:
        return None
    files = {name: builder.store.read(f"models/{digest}/{name}") for name in (CARD, ARRAYS)}
    return TableModel.from_files(files, digest)


def encode_shard(
    builder: ReleaseBuilder, plan: CatalogPlan, shard: int, *, options: Options
) -> bool:
    """Encode and write one shard of a catalog, unless it is there already.

    Returns
    -------
    bool
        Whether it was encoded now.

    Raises
    ------
    InputError
        If a file changed since it was planned, or cannot be read any more.
    """
    writer = CatalogWriter(builder, plan.info, plan.key)
    if writer.is_written(shard):
        return False
    rows = _read_array(builder, _order_key(plan.info.name, shard))
    batch = take_rows(plan, rows, options=options)
    model = read_table_model(builder, plan.info.model)
    encoded: EncodedRows = encode_rows(plan.info, model, batch, rows)
    writer.write(shard, encoded)
    return True


def take_rows(plan: CatalogPlan, rows: NDArray[np.int64], *, options: Options) -> Batch:
    """Columns of rows of the input, in the order asked for."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    found = []
    for file in plan.files:
        inside = ordered[(ordered >= file.first) & (ordered < file.first + file.rows)] - file.first
        if inside.size:
            found.append(_require_planned(file, plan, options).take(inside))
    batch = join(found)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return {k: (v[back], None if m is None else m[back]) for k, (v, m) in batch.items()}


def _require_planned(file: CatalogFile, plan: CatalogPlan, options: Options) -> CatalogSource:
    source = open_catalog(file.file, file.url, plan.input_key, options)
    if source.rows != file.rows:
        raise InputError(
            f"{file.file} had {file.rows} rows when it was planned, and has {source.rows} now; "
            "run train "
            "again"
        )
    return source


def finish_catalog(builder: ReleaseBuilder, plan: CatalogPlan) -> CatalogInfo:
    """Write index, map and description of a catalog, once every shard is there."""
    low, high = (
        _read_array(builder, f"{STAGING}/{catalog_path(plan.info.name)}/{name}.npy")
        for name in ("low", "high")
    )
    model = read_table_model(builder, plan.info.model)
    return CatalogWriter(builder, plan.info, plan.key).finish(model, low, high)


def file_digest(url: str, options: Options) -> str:
    """SHA-256, hex, of a file's bytes, read in pieces."""
    import fsspec

    found = hashlib.sha256()
    with fsspec.open(url, "rb", **(options if is_url(url) else {})) as stream:
        while piece := stream.read(2**22):
            found.update(piece)
    return found.hexdigest()
