"""A survey built on an S3 server by the command: what is read, and that no secret is told.

Every credential that the environment may hold has `MARK` in it. The bucket keeps all versions, so
what was written and removed again, as staging is, is looked at too.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from skyfold.access.store import Store

pytestmark = [
    pytest.mark.s3,
    pytest.mark.filterwarnings("ignore"),  # Prefect's and TensorFlow's own
]
MARK = "planted91b7"
AWS = {
    "AWS_ACCESS_KEY_ID": f"AKIA{MARK}1",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}/2",
    "AWS_SESSION_TOKEN": f"{MARK}/3",
}
PLANTED = AWS | {
    "FSSPEC_S3_KEY": f"AKIA{MARK}4",  # as fsspec gives them to s3fs, before those above
    "FSSPEC_S3_SECRET": f"{MARK}/5",
    "FSSPEC_S3_TOKEN": f"{MARK}/6",
    "PREFECT_API_KEY": f"pnu_{MARK}7",
}
URL = "s3://bucket/demo/dr1"
TRAINING = '[training]\nmodel = "pca"\nsteps = 1\n'


@dataclass
class OnS3:
    """A built release, and what the command that built it printed."""

    endpoint: str
    survey: Path
    printed: str

    @property
    def options(self) -> dict[str, Any]:
        """Options of a consumer's file system."""
        return {"endpoint_url": self.endpoint}

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """Every version of every object that was ever written to the bucket."""
        client = boto3.client("s3", endpoint_url=self.endpoint)
        for page in client.get_paginator("list_object_versions").paginate(Bucket="bucket"):
            for one in page["Versions"]:
                given = {"Bucket": "bucket", "Key": one["Key"], "VersionId": one["VersionId"]}
                yield one["Key"], client.get_object(**given)["Body"].read()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The producer's command on the server of the tests, with all that is planted."""
    from prefect.settings import PREFECT_API_URL

    settings = {"PREFECT_API_URL": PREFECT_API_URL.value(), "PREFECT_LOGGING_LEVEL": "DEBUG"}
    return subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | PLANTED | settings,
        timeout=900,
    )


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Address of an S3 protocol server, a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from moto.server import main; main(['-p', '{port}', '-H', '127.0.0.1'])"
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def survey(s3, tmp_path_factory) -> Path:
    """Small, of every kind, its release on the server, with a model of no training."""
    from flows.simulate import simulate_survey

    path = simulate_survey(tmp_path_factory.mktemp("survey"), images=2, size=256, catalog_rows=60)
    text = path.read_text().replace('"archive/demo/dr1"', f'"{URL}"')
    storage = f'[storage]\noptions = {{ endpoint_url = "{s3}" }}\n'
    path.write_text(text[: text.index("[training]")] + TRAINING + storage)
    return path


@pytest.fixture(scope="module")
def on_s3(prefect, s3, survey) -> Iterator[OnS3]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (AWS | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=s3)
        client.create_bucket(Bucket="bucket")
        kept = {"Status": "Enabled"}
        client.put_bucket_versioning(Bucket="bucket", VersioningConfiguration=kept)
        done = command("build", str(survey))
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == URL
        yield OnS3(s3, survey, done.stdout + done.stderr)


def test_build_and_read_on_object_storage(on_s3, tmp_path):
    from skyfold import open_release
    from skyfold.access.store import Store

    store = Store(URL, on_s3.options)
    with pytest.raises(FileExistsError):
        store.create("manifest.json", b"another")
    release = open_release(URL, options=on_s3.options)
    assert release.verify() == {}
    store.fs.get(f"{URL}/", f"{tmp_path}/", recursive=True)
    local = open_release(tmp_path)
    entry = local.images.entry(next(iter(local.images)))
    position = SkyCoord(entry.ra, entry.dec, unit="deg")
    for level in release.levels:
        here = local.images.cutout(position, 6 * u.arcsec, band=entry.band, level=level)
        there = release.images.cutout(position, 6 * u.arcsec, band=entry.band, level=level)
        np.testing.assert_array_equal(here.data, there.data)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("report.html", "text/html; charset=utf-8"),
        ("card.md", "text/markdown; charset=utf-8"),
        ("manifest.json", "application/json"),
    ],
)
def test_a_browser_shows_what_is_to_be_read(on_s3, key, kind):
    address = Store(URL, on_s3.options).address(key)
    assert address == f"{on_s3.endpoint}/bucket/demo/dr1/{key}"  # and nothing that signs it
    client = boto3.client("s3", endpoint_url=on_s3.endpoint)
    assert client.head_object(Bucket="bucket", Key=f"demo/dr1/{key}")["ContentType"] == kind


def test_a_build_tells_no_secret(on_s3):
    """Neither in what it prints, nor in any object, nor to the Prefect server."""
    objects = list(on_s3.objects())
    keys = {key for key, _ in objects}
    assert {f"demo/dr1/{one}" for one in ("provenance.json", "card.md", "report.html")} < keys
    assert any("_staging" in key for key in keys)
    assert [key for key, data in objects if MARK.encode() in data] == []
    assert f"sealed {URL}" in on_s3.printed
    assert MARK not in on_s3.printed
    _require_untold(f"sealed {URL}")


def test_a_build_that_is_refused_tells_no_secret(on_s3):
    """Keys that the server does not know, met by a flow and by a task, with all tracebacks."""
    other = on_s3.survey.with_name("refused.toml")
    other.write_text(on_s3.survey.read_text().replace(URL, f"{URL}-refused"))
    _let_in(on_s3.endpoint, 0)
    try:
        done = command("--debug", "build", str(other))
        told = _traceback_of_a_task(str(other))
    finally:
        _let_in(on_s3.endpoint, float("inf"))
    assert done.returncode == 1
    for text in (done.stderr, told):
        assert "StoreUnavailableError" in text
        assert "Traceback" in text
        assert "access" in text.lower()
        assert MARK not in text + done.stdout
    _require_untold(f"{URL}-refused")


def _traceback_of_a_task(survey: str) -> str:
    """What a task says that cannot read a model, and all errors behind it."""
    from prefect import flow

    from flows.encode import encode_images
    from flows.job import Job

    @flow(name="refused")
    def refused() -> None:
        encode_images.with_options(retries=0)(Job(survey), [], "0" * 64)

    with pytest.raises(OSError, match="refused") as caught:
        refused()
    return "".join(traceback.format_exception(caught.value))


def _let_in(endpoint: str, count: float) -> None:
    """Let moto ask for known keys after so many requests; it knows none."""
    plain = {"Content-Type": "text/plain"}  # a form would leave moto no body
    asked = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", str(count).encode(), plain)
    urllib.request.urlopen(asked, timeout=10).close()


def _require_untold(known: str) -> None:
    """No secret in logs and artifacts of the Prefect server, nor in the files of its database."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

    with get_client(sync_client=True) as client:
        logs = _all(client.read_logs)
        artifacts = _all(client.read_artifacts)
    assert [one for one in logs if known in one.message]
    assert artifacts
    assert [one for one in (*logs, *artifacts) if MARK in one.model_dump_json()] == []
    database = Path(PREFECT_SERVER_DATABASE_CONNECTION_URL.value().partition("///")[2])
    files = list(database.parent.glob(f"{database.name}*"))
    assert any(known.encode() in one.read_bytes() for one in files)
    assert [one.name for one in files if MARK.encode() in one.read_bytes()] == []


def _all(read: Any, page: int = 200) -> list[Any]:
    """Everything that the server lists, page by page."""
    found: list[Any] = []
    while rows := read(limit=page, offset=len(found)):
        found += rows
    return found
