"""The tutorial of consumers runs, cell after cell, on a small release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs/consumers/tutorial.ipynb"


def test_the_tutorial_runs(tiny_url, tmp_path, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKYFOLD_DEMO", tiny_url)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    told = capsys.readouterr().out
    assert "requests=" in told
    assert "<Cutouts: 3 of 4 positions>" in told
    assert "NeedNotMetError no level is recorded" in told
    assert (tmp_path / "cutout.fits").is_file()
    plt.close("all")
