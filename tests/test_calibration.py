"""The record holds what photutils finds on the same sky, and the comparison would tell if not."""

from pathlib import Path

import pytest

from skyfold.fidelity.record import FidelityRecord
from tests.calibration.__main__ import compare
from tests.calibration.surveys import REAL, Survey, build

pytestmark = pytest.mark.filterwarnings("ignore")  # photutils' on empty sky, astropy's on headers

SIMULATED = Survey("sim", {"seed": 77, "seeing_arcsec": 0.65, "density_per_arcmin2": 150.0})


def require_calibrated(rows):
    assert len(rows) >= 6
    assert sum(row["inside"] for row in rows) >= 0.95 * len(rows) - 1  # a row of six weighs 17 %
    assert max(row["understated_widths"] for row in rows) <= 2


def test_independent_measurements_lie_in_the_recorded_intervals(tmp_path, monkeypatch):
    release, _ = build(SIMULATED, tmp_path / "sim", Path(), images=1, size=640)
    rows = compare("sim", release)
    require_calibrated(rows)
    flattering = [
        row
        | {name: None if row[name] is None else row[name] / 3 for name in ("p90", "low", "high")}
        for row in release.fidelity.rows()
    ]
    monkeypatch.setattr(type(release), "fidelity", FidelityRecord.from_rows(flattering))
    found_out = [row for row in compare("sim", release) if not row["inside"] and row["recorded"]]
    assert len(found_out) >= 4


@pytest.mark.survey
@pytest.mark.slow
def test_a_real_image_too(survey_data, tmp_path):
    emmi = next(one for one in REAL if one.name == "emmi")
    release, _ = build(emmi, tmp_path / "emmi", survey_data)
    require_calibrated(compare("emmi", release))
