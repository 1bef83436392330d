"""What is delivered: a wheel of the same bytes each time, the reader alone; pins with hashes."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheel, built twice."""
    built = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("wheel")
        code = "import os, sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT, check=True)
        built += folder.glob("*.whl")
    return built


def test_the_wheel_is_the_same_each_time(wheels):
    digests = {hashlib.sha256(one.read_bytes()).hexdigest() for one in wheels}
    assert len(wheels) == 2
    assert len(digests) == 1


def test_the_wheel_holds_the_reader_alone(wheels):
    names = zipfile.ZipFile(wheels[0]).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"skyfold"}
    assert not [name for name in names if name.endswith((".pyc", ".toml", ".env"))]


@pytest.mark.parametrize("lock", sorted((ROOT / "requirements").glob("*.txt")), ids=str)
def test_every_locked_package_has_hashes_and_no_address(lock):
    text = lock.read_text()
    blocks = re.split(r"\n(?=[\w.-]+==)", text)
    assert len(blocks) > 5 or lock.name == "uv.txt"
    assert [one.split()[0] for one in blocks if "==" in one and "--hash=sha256:" not in one] == []
    assert "://" not in text
