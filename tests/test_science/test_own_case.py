"""A survey's own case, as the documents show it: found by its entry point, recorded, chosen by."""

import importlib.metadata
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import skyfold.science
from skyfold import open_release
from skyfold.fidelity.images import images_to_measure, measure_image, record_of
from skyfold.fidelity.record import FidelityRecord
from skyfold.science import GROUP, ImageContext, cases, get_case

PAGE = Path(__file__).resolve().parents[2] / "docs/fidelity.md"
CODE = re.search(r"^```python\n(import numpy.*?)^```$", PAGE.read_text(), re.M | re.S)


def install(monkeypatch, **names):
    """Register objects of a module as a package would that lists them in its pyproject.toml."""
    entries = [
        importlib.metadata.EntryPoint(name, f"mysurvey_peak:{target}", GROUP)
        for name, target in names.items()
    ]
    monkeypatch.setattr(
        skyfold.science, "entry_points", lambda *, group: entries if group == GROUP else []
    )
    skyfold.science._cases.cache_clear()


@pytest.fixture
def package(monkeypatch):
    module = ModuleType("mysurvey_peak")
    monkeypatch.setitem(sys.modules, "mysurvey_peak", module)
    exec(compile(CODE[1], str(PAGE), "exec"), vars(module))
    yield module
    monkeypatch.undo()
    skyfold.science._cases.cache_clear()


def test_the_documented_case_is_in_the_record_and_can_be_chosen_by(package, monkeypatch, tiny_url):
    install(monkeypatch, peak="PEAK")
    assert get_case("peak") in cases("images")
    release = open_release(tiny_url)
    one = images_to_measure(release)[:1]
    record = record_of(release, [(image_id, measure_image(release, image_id)) for image_id in one])
    rows = record.filter(case="peak").rows()
    assert {row["level"] for row in rows} == {"latent", "sources", "bounded", "exact"}
    assert {row["n"] for row in rows} == {1}
    assert {row["note"] for row in rows} == {"too few", "lossless"}
    enough = [row | {"n": 50, "low": 0.1, "high": 0.2, "note": ""} for row in rows]
    again = FidelityRecord.from_ecsv(FidelityRecord.from_rows(enough).to_ecsv())
    assert again.choose("peak", "0.25 sigma").level == "latent"


def test_the_documented_case_measures_what_it_says(package):
    raw = np.random.default_rng(1).normal(size=(60, 70))
    raw[20, 30] = 50
    raw[5, 5] = 99
    mask = np.zeros(raw.shape, bool)
    mask[5, 5] = True
    context = ImageContext(np.full(raw.shape, 2.0), mask, ~mask)
    (found,) = package.PEAK.measure(raw, raw + 1.0, context)
    np.testing.assert_allclose(found.values, [0.5])


def test_a_built_in_case_cannot_be_taken_over(package, monkeypatch):
    mine = get_case("photometry")
    install(monkeypatch, photometry="PEAK")
    assert get_case("photometry") is mine
