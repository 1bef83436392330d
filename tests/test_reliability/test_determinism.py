"""The same input gives the same bytes in any process, and every reader decodes the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from skyfold import open_release

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")


def digests(url: str | Path) -> dict[str, str]:
    objects = json.loads((Path(url) / "manifest.json").read_text())["objects"]
    return {key: one["sha256"] for key, one in objects.items()}


def test_another_process_with_other_threads_writes_the_same_bytes(whole_url, tmp_path):
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests']\n"
        "from pathlib import Path\n"
        "from tests.test_reliability.whole_release import build\n"
        "print(build(Path(sys.argv[2])))"
    )
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "3")
    command = [sys.executable, "-W", "ignore", "-c", code, str(root), str(tmp_path)]
    environment = os.environ | threads | {"PYTHONHASHSEED": "7"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert digests(done.stdout.split()[-1]) == digests(whole_url)


@pytest.mark.parametrize("level", LEVELS)
def test_every_optimisation_of_the_network_decodes_the_same_bits(whole_url, monkeypatch, level):
    expected = open_release(whole_url)
    made = ort.SessionOptions

    def options() -> ort.SessionOptions:
        one = made()
        one.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        return one

    monkeypatch.setattr(ort, "SessionOptions", options)
    release = open_release(whole_url)
    for image in release.images:
        for name in ("bounded", "exact"):
            met = release.images.read(image, name).values
            np.testing.assert_array_equal(met, expected.images.read(image, name).values)
