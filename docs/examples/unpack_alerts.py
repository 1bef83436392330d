"""Stamps and candidates of ZTF alert packets, as FITS files and a Parquet table.

    python docs/examples/unpack_alerts.py ALERTS OUT

reads every ``*.avro`` under ALERTS (schema 3) and leaves ``OUT/science``, ``OUT/template``,
``OUT/difference`` and ``OUT/candidates.parquet``. Pixels are not touched.
"""

from __future__ import annotations

import gzip
import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

KINDS = ("Science", "Template", "Difference")
BANDS = {1: "g", 2: "r", 3: "i"}
JD_OF_MJD = 2400000.5


def main(alerts: Path, out: Path) -> None:
    """Unpack every alert once."""
    candidates: dict[int, dict[str, Any]] = {}
    for alert in packets(alerts):
        for kind in KINDS:
            write_stamp(alert, kind, out / kind.lower())
        candidates[alert["candid"]] = {"objectId": alert["objectId"], **alert["candidate"]}
    pq.write_table(pa.Table.from_pylist(list(candidates.values())), out / "candidates.parquet")
    print(f"{out}: {len(candidates)} alerts")


def packets(folder: Path) -> Iterator[dict[str, Any]]:
    """Alerts of all files of a folder."""
    for path in sorted(folder.rglob("*.avro")):
        with path.open("rb") as file:
            yield from fastavro.reader(file)


def write_stamp(alert: dict[str, Any], kind: str, folder: Path) -> None:
    """One stamp as FITS, with what the packet knows of it in the header."""
    about, stamp = alert["candidate"], alert[f"cutout{kind}"]
    if stamp is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # packets hold odd SIMPLE cards
        found = fits.open(io.BytesIO(gzip.decompress(stamp["stampData"])))[0]
    hdu = fits.PrimaryHDU(found.data)
    hdu.header["BUNIT"] = found.header.get("BUNIT", "DN")
    hdu.header["FILTER"] = BANDS[about["fid"]]
    hdu.header["OBJECT"] = alert["objectId"]
    hdu.header["RA"], hdu.header["DEC"] = about["ra"], about["dec"]
    if kind != "Template":  # a sum of many nights
        hdu.header["MJD-OBS"] = about["jd"] - JD_OF_MJD
    hdu.writeto(folder / f"{alert['candid']}.fits", overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
