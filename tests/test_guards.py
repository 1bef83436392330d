"""What must stay true of the package as a whole."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"tensorflow", "keras", "prefect", "matplotlib", "minisom", "galsim", "pydantic", "sep"}


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return {name.partition(".")[0] for name in json.loads(out.stdout.splitlines()[-1])}


@pytest.mark.parametrize("statement", ["import skyfold", "from skyfold import open_release"])
def test_importing_skyfold_is_light(statement):
    assert not modules_after(statement) & HEAVY


def test_the_command_line_is_light():
    assert not modules_after("import skyfold.cli") & HEAVY


def test_decoding_needs_no_training_library(tiny_url):
    statement = (
        "import skyfold\n"
        f"release = skyfold.open_release({tiny_url!r})\n"
        "[release.images.read(next(iter(release.images)), level) for level in release.levels]\n"
        "release.choose('photometry', '1 sigma')"
    )
    assert not modules_after(statement) & HEAVY
