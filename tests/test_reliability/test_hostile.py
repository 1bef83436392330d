"""Hostile releases: named errors, little memory, nothing run, written or contacted.

Those whose name holds some words; all of them by ``python -m tests.test_reliability.hostile``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from skyfold import open_release
from skyfold.errors import MemoryCapError
from tests.test_reliability.hostile import is_fine
from tests.test_reliability.hostile_cases import cases


def test_there_are_as_many_as_the_table_says():
    found = cases()
    assert len(found) >= 150
    assert {one.part for one in found} >= {"all", "images", "catalogs", "densities", "names"}


@pytest.mark.slow
@pytest.mark.parametrize("words", ["with a shape of", "pickle", "without end"])
def test_cases_end_as_they_must(whole_url, tmp_path, words):
    told = tmp_path / "told.json"
    command = [sys.executable, "-W", "ignore", "-m", "tests.test_reliability.hostile", whole_url]
    limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "--only", words, "--json", str(told)],
        env=os.environ | limits,
        capture_output=True,
        check=False,
    )
    played = json.loads(told.read_text())
    assert played
    assert [one for one in played if not is_fine(one)] == []


def test_the_cap_is_kept_before_anything_is_fetched(whole_url):
    release = open_release(whole_url, max_bytes=1000)
    for ask in (
        lambda: release.images.read("night1/a", "exact"),
        lambda: release.catalogs["galaxies"].read(),
        lambda: release.densities["pz"].read(),
    ):
        with pytest.raises(MemoryCapError, match="max_bytes"):
            ask()


def test_the_cap_comes_from_the_environment(whole_url, monkeypatch):
    monkeypatch.setenv("SKYFOLD_MAX_BYTES", "4321")
    assert open_release(whole_url).max_bytes == 4321
