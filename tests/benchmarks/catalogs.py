"""Catalogs side by side: the same tables, the same values kept, in one run.

    python -m tests.benchmarks --only catalogs [--rows N] [--data FOLDER] [--out FOLDER]

Every table of the survey data that is there, and a simulated one of N rows, as skyfold archives it
and as others do (`tests.benchmarks.table_peers`). `exact` is compared with the same bits; `bounded`
with the very values that it returns in Parquet, and with values of which the peers round away as
many bits as the same bounds allow. Leaves ``catalogs.json`` and ``catalogs.png``.
"""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from minisom import MiniSom
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from flows.catalogs import build_catalog
from flows.job import Job
from skyfold.catalogs.columns import LEVELS
from skyfold.catalogs.library import Catalog, CatalogLibrary
from skyfold.catalogs.model import assign_cells
from skyfold.catalogs.tables import plain_values
from skyfold.fidelity.catalogs import catalog_rows
from skyfold.release import open_release
from tests.benchmarks.table_peers import EXACT, byte_stream_split, parquet, pcodec_columns, rounded

Record = dict[str, Any]
BOUNDED = {
    "Parquet zstd": parquet,
    "Parquet zstd, byte-stream split": byte_stream_split,
    "pcodec per column": pcodec_columns,
}
BANDS = "ugrizy"
SOM_ROWS, SOM_SIDE, SOM_COLUMNS = 1_000_000, 32, 10


@dataclass(frozen=True)
class Case:
    """One table: its file under the data folder, and what its configuration says."""

    name: str
    file: str
    settings: str = ""


# The table has no errors. Bounds of a tenth, or less, of what Gaia DR2 states at G = 17: 0.1 mas,
# 0.2 mas/yr, 2 mmag in G, 10 mmag in BP and RP (Gaia Collaboration 2018, A&A 616, A1); 0.05 km/s.
GAIA = (
    "precision = { parallax = 0.02, pmra = 0.02, pmdec = 0.02, radial_velocity = 0.1, "
    "phot_g_mean_mag = 0.0004, phot_bp_mean_mag = 0.002, phot_rp_mean_mag = 0.002 }"
)
CASES = (
    Case("dc2", "dc2_photoz/test_dc2_training_9816.hdf5", 'id = "id"\nredshift = "redshift"'),
    Case("dc2_objects", "dc2_photoz/rubin_dm_dc2_example.pq", 'id = "objectId"'),
    Case("des", "des_catalogs/DECam_00241238_01_cat.fits"),
    Case("gaia", "gaia_2mass/gaia_results.fits"),
    Case("gaia_declared", "gaia_2mass/gaia_results.fits", GAIA),
    Case("twomass", "gaia_2mass/2MASS_results.fits"),
    Case("sdss_mgs", "sdss/SDSS_MGS.train", 'redshift = "zs"'),
    Case("sdss_photoobj", "sdss/photoObj-001000-1-0100.fits"),
    Case("tractor", "desi_catalogs/tractor-3303p000.fits"),
    Case("sweep", "desi_catalogs/sweep-330m005-340p000.fits"),
    Case("cosmos", "hst_cosmos/real_galaxy_catalog_26_extension_example.fits"),
    Case("spitzer", "spitzer/spitzer_example_catalog.xml"),
    Case("ztf", "lightcurves/ztf_000250_zg_c01_q1_dr5.parquet"),
)


def run(data: Path, out: Path, rows: int, console: Console) -> list[Record]:
    """Compare every table, print and keep the records.

    Parameters
    ----------
    data, out : Path
        Survey files; where records, pictures and releases go.
    rows : int
        Of the simulated table; 0 leaves it out.
    """
    records: list[Record] = []
    out.mkdir(parents=True, exist_ok=True)
    for case in _cases(data, out, rows):
        records += list(_compare(case, out / "catalog_releases", console))
        (out / "catalogs.json").write_text(json.dumps(records, indent=1) + "\n")
    _show(console, records)
    _draw(records, out / "catalogs.png")
    som = assignment_rates()
    (out / "som.json").write_text(json.dumps(som, indent=1) + "\n")
    shown = ", ".join(f"{name} {rate:.3g}" for name, rate in som.items())
    about = f"map of {SOM_SIDE} x {SOM_SIDE} cells, {SOM_COLUMNS} columns"
    console.print(f"{about}, rows a processor second: {shown}")
    return records


def _cases(data: Path, out: Path, rows: int) -> Iterator[Case]:
    for case in CASES:
        path = data / case.file
        if path.is_file():
            file = _with_names(path, out) if case.name == "sdss_mgs" else path
            yield Case(case.name, str(file), case.settings)
    if rows:
        yield Case("simulated", str(_simulated(out, rows)), 'id = "object_id"\nredshift = "z"')


def _with_names(path: Path, out: Path) -> Path:
    """The SDSS sample with a header that names all 19 of its columns."""
    head, rest = path.read_text().split("\n", 1)
    fixed = out / "SDSS_MGS.txt"
    fixed.write_text(head.replace(" eg ", " eu eg ", 1) + "\n" + rest)
    return fixed


def _simulated(out: Path, rows: int, batch: int = 100_000) -> Path:
    """Galaxies with positions, six magnitudes and errors, written a batch at a time."""
    path, writer = out / f"simulated_{rows}.parquet", None
    if path.is_file():
        return path
    for start in range(0, rows, batch):
        table = pa.table(_galaxies(start, min(batch, rows - start)))
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return path


def _galaxies(first: int, rows: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(first)
    z, kind = rng.gamma(3.0, 0.25, rows), rng.random(rows)
    bright = 20 + 2 * z + rng.exponential(1.5, rows)
    columns: dict[str, NDArray[Any]] = {
        "object_id": first + np.arange(rows),
        "ra": 30 + 10 * rng.random(rows),
        "dec": np.degrees(np.arcsin(0.17 * rng.random(rows))),
    }
    for place, band in enumerate(BANDS):
        mag = bright - place * (0.2 + 0.6 * kind * np.tanh(2 * z - 0.4 * place))
        error = np.hypot(0.005, 0.04 * 10 ** (0.4 * (mag - 25)))
        columns[f"mag_{band}"] = (mag + error * rng.standard_normal(rows)).astype(np.float32)
        columns[f"mag_err_{band}"] = error.astype(np.float32)
    return columns | {"z": z.astype(np.float32), "flags": rng.integers(0, 8, rows, np.int16)}


def _compare(case: Case, folder: Path, console: Console) -> Iterator[Record]:
    """Records of one table: of skyfold first."""
    start = time.perf_counter()
    catalog = _build(case, folder / case.name)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    rows = len(catalog)
    console.print(
        f"{case.name}: {rows} rows, {len(catalog.columns)} columns, {seconds:.1f} s, "
        f"peak of this process so far {peak:.0f} MB", highlight=False,
    )  # fmt: skip
    science = _photo_z(catalog)
    for level in LEVELS:
        size = catalog.info()["levels"][level]["bytes"]
        about = {"seconds": seconds, "peak_mb": peak, **science.get(level, {})}
        yield _record(case, rows, "skyfold", level, size) | about
    if rows > 2_000_000:  # the peers hold whole tables in memory
        return
    raw, bounded = _columns(catalog, "exact"), _columns(catalog, "bounded")
    for name, size_of in EXACT.items():
        yield _record(case, rows, name, "exact", size_of(raw))
    near = rounded(raw, _bounds(catalog, raw))
    for name, size_of in BOUNDED.items():
        yield _record(case, rows, name, "bounded", size_of(bounded))
        yield _record(case, rows, f"bit rounding, {name}", "bounded", size_of(near))


def _record(case: Case, rows: int, codec: str, level: str, size: int) -> Record:
    return {
        "catalog": case.name, "rows": rows, "codec": codec, "level": level,
        "bytes": size, "bytes_per_row": size / rows,
    }  # fmt: skip


def _build(case: Case, folder: Path) -> Catalog:
    """A release of one table, made anew, opened by the public client."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    survey = folder / "survey.toml"
    survey.write_text(
        f'[release]\nurl = "release"\n[[catalogs]]\nname = "{case.name}"\n'
        f'files = ["{Path(case.file).resolve()}"]\n{case.settings}\n'
    )
    job = Job(str(survey))
    job.builder.start({"name": "bench/dr1", "images": [], "catalogs": [case.name]}, {})
    build_catalog(job, case.name)
    release = open_release(str(folder / "release"), unsealed=True)
    return CatalogLibrary(release, [case.name])[case.name]


def _columns(catalog: Catalog, level: str) -> dict[str, NDArray[Any]]:
    """Columns as arrays in native byte order; text as bytes."""
    table = catalog.read(level=level)
    out = {}
    for name in table.colnames:
        values = plain_values(table[name])
        values = np.strings.encode(values, "utf-8") if values.dtype.kind == "U" else values
        out[name] = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("=")))
    return out


def _bounds(catalog: Catalog, raw: dict[str, Any]) -> dict[str, NDArray[np.float64]]:
    """How far `bounded` may be from each value, by column."""
    info, out = catalog.description, {}
    for column in info.real_columns:
        values = raw[column.name]
        if column.kind == "error":
            out[column.name] = np.abs(values.astype(np.float64)) / 64
        elif column.kind == "fixed" and column.precision is not None:
            out[column.name] = np.full(values.shape, column.precision / 2)
        elif column.kind == "scaled" and column.partner is not None:
            with np.errstate(all="ignore"):
                errors = raw[column.partner].astype(np.float64)
                sigma = (1 / np.sqrt(errors) if column.is_inverse else errors) * column.factor
            sigma = sigma.reshape(*sigma.shape, *[1] * (values.ndim - sigma.ndim))
            out[column.name] = np.broadcast_to(info.fraction * sigma, values.shape)
    return out


def _photo_z(catalog: Catalog) -> dict[str, Record]:
    """Change of sigma_NMAD of photometric redshifts at each level, where there are redshifts."""
    if catalog.description.redshift is None:
        return {}
    rows = [row for row in catalog_rows(catalog) if row["measure"] == "nmad_change"]
    return {
        row["level"]: {"nmad_change": row["bias"], "low": row["low"], "high": row["high"]}
        for row in rows
    }


def assignment_rates() -> dict[str, float]:
    """Rows a processor second that are assigned to a map: here, and one by one as MiniSom does."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((SOM_ROWS, SOM_COLUMNS)).astype(np.float32)
    som = rng.standard_normal((SOM_SIDE, SOM_SIDE, SOM_COLUMNS)).astype(np.float32)
    assign_cells(rows[:1000], som)
    start = time.process_time()
    assign_cells(rows, som)
    ours = SOM_ROWS / (time.process_time() - start)
    other = MiniSom(SOM_SIDE, SOM_SIDE, SOM_COLUMNS)
    other._weights = som.astype(np.float64)
    some = rows[:2000]
    start = time.process_time()
    for row in some:
        other.winner(row)
    return {"skyfold": ours, "MiniSom": len(some) / (time.process_time() - start)}


def _show(console: Console, records: list[Record]) -> None:
    """One line a catalog: bytes a row of skyfold, and the ratio of the others to it."""
    names = list(dict.fromkeys(one["catalog"] for one in records))
    for level, peers in (("exact", list(EXACT)), ("bounded", _bounded_names(records))):
        table = Table("catalog", "rows", "skyfold B/row", *(f"{peer} /" for peer in peers))
        for name in names:
            here = {r["codec"]: r for r in records if r["catalog"] == name and r["level"] == level}
            own = here["skyfold"]
            ratios = [f"{here[p]['bytes'] / own['bytes']:.2f}" if p in here else "" for p in peers]
            table.add_row(name, str(own["rows"]), f"{own['bytes_per_row']:.2f}", *ratios)
        table.title = f"{level}: bytes of others over those of skyfold"
        console.print(table)


def _bounded_names(records: list[Record]) -> list[str]:
    found = [r["codec"] for r in records if r["level"] == "bounded" and r["codec"] != "skyfold"]
    return list(dict.fromkeys(found))


def _draw(records: list[Record], path: Path) -> None:
    """Bytes a row of every codec, as bars by catalog."""
    mpl.use("Agg")
    names = list(dict.fromkeys(one["catalog"] for one in records))
    figure, axes = plt.subplots(1, 2, figsize=(14, 5), constrained_layout=True)
    for axis, level in zip(axes, ("exact", "bounded"), strict=True):
        found = [one for one in records if one["level"] == level]
        codecs = list(dict.fromkeys(one["codec"] for one in found))
        for number, codec in enumerate(codecs):
            own = {one["catalog"]: one["bytes_per_row"] for one in found if one["codec"] == codec}
            place = np.arange(len(names)) + 0.8 * number / len(codecs) - 0.4
            axis.bar(place, [own.get(name, 0) for name in names], 0.8 / len(codecs), label=codec)
        axis.set(yscale="log", ylabel="bytes a row", title=level)
        axis.set_xticks(range(len(names)), names, rotation=60)
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=90)
    plt.close(figure)
