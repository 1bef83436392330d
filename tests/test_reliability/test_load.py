"""Many consumers at once while another release is made; nothing left open, no secret told."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from skyfold import open_release
from skyfold.cli import main
from tests.test_reliability.whole_release import build

CONSUMERS = 32
SECRET = "planted-secret-91b7"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def consume(url: str) -> bytes:
    """What one consumer does, and what it got."""
    release = open_release(url)
    centre = SkyCoord(150.0, 2.0, unit="deg")
    cutout = release.images.cutout(centre, 8 * u.arcsec, band="r", level="bounded")
    table = release.catalogs["galaxies"].cone(centre, 0.1 * u.deg, level="bounded")
    pdf = release.densities["pz"].read(slice(0, 20), level="latent")
    return cutout.data.tobytes() + np.asarray(table["mag"]).tobytes() + pdf.tobytes()


@pytest.fixture(scope="module")
def next_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("next")


def test_consumers_read_while_another_release_is_published(whole_url, next_release):
    expected = consume(whole_url)
    with ThreadPoolExecutor(CONSUMERS + 1) as pool:
        published = pool.submit(build, next_release, seed=2)
        read = [pool.submit(consume, whole_url) for _ in range(2 * CONSUMERS)]
        assert {one.result() for one in read} == {expected}
        assert open_release(published.result()).verify() == {}
    assert open_release(whole_url).verify() == {}


def test_nothing_stays_open_or_behind(whole_url, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for _ in range(3):
        consume(whole_url)
    gc.collect()
    before = descriptors()
    for _ in range(25):
        consume(whole_url)
    gc.collect()
    assert descriptors() <= before + 2
    assert list(tmp_path.iterdir()) == []


def test_secrets_are_told_nowhere(whole_url, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    built = Path(build(tmp_path, seed=3))
    with pytest.raises(SystemExit):
        main(["--endpoint", "http://127.0.0.1:9", "info", "s3://bucket/a"])
    options = {"key": "someone", "secret": SECRET, "endpoint_url": "http://127.0.0.1:9"}
    retries = {"config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(OSError, match="s3://bucket/a") as caught:
        open_release("s3://bucket/a", options=options | retries)
    told = capsys.readouterr()
    texts = [told.out, told.err, str(caught.value), repr(open_release(whole_url))]
    texts += [one.read_bytes().decode("latin-1") for one in built.rglob("*") if one.is_file()]
    assert [text for text in texts if SECRET in text] == []
