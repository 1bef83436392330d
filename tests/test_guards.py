"""What must stay true of the package as a whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_clean_leaves_releases_and_stacks(tmp_path):
    kept = {"archive/my/dr1/zarr.json", "demo/survey.toml", "build/stack/stack.json"}
    for name in (*kept, "build/docs/index.html", "dist/skyfold.whl", ".mypy_cache/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    makefile = Path(__file__).parents[1] / "Makefile"
    command = ["make", "-f", str(makefile), "clean"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    left = {str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()}
    assert left == kept


def test_decoding_needs_no_training_library(tiny_url):
    statement = (
        "import skyfold\n"
        f"release = skyfold.open_release({tiny_url!r})\n"
        "[release.images.read(next(iter(release.images)), level) for level in release.levels]\n"
        "release.choose('photometry', '1 sigma')"
    )
    assert not modules_after(statement) & HEAVY
