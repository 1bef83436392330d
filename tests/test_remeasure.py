"""A consumer measures a release again, and finds what was recorded, or that it was not so."""

import json
import shutil

import numpy as np
import pytest

from skyfold import DataRelease, cli, open_release
from skyfold.errors import CorruptDataError, InvalidRequestError
from skyfold.fidelity.record import FidelityRecord
from skyfold.fidelity.remeasure import compare_records, measure_release, require_same_raw


@pytest.fixture(scope="module")
def again(tiny_url):
    return measure_release(open_release(tiny_url))


def test_the_same_numbers_come_out(tiny_release, again):
    table = compare_records(tiny_release.fidelity, again)
    assert len(table) == len(tiny_release.fidelity.rows())
    assert set(table["verdict"]) == {"same"}
    known = np.isfinite(table["recorded"])
    assert known.sum() > 100
    assert np.all(table["difference"][known] == 0)


def test_a_flattering_record_is_found_out(tiny_release, again):
    rows = tiny_release.fidelity.rows()
    changed = next(
        row for row in rows if row["level"] == "latent" and row["p90"] and row["statistic"] == "p90"
    )
    for name in ("p90", "low", "high"):
        changed[name] /= 3
    rows.pop()
    table = compare_records(FidelityRecord.from_rows(rows), again)
    verdicts = [str(one) for one in table["verdict"]]
    assert verdicts.count("outside") == 1
    assert verdicts.count("not recorded") == 1
    row = table[verdicts.index("outside")]
    assert row["measured"] == pytest.approx(3 * row["recorded"])
    fewer = FidelityRecord.from_rows(again.rows()[:-2])
    assert list(compare_records(again, fewer)["verdict"]).count("not measured here") == 2


def test_raw_files_are_held_against_exact(tiny_release, tiny_survey, tmp_path):
    raw = sorted((tiny_survey.parent / "raw").glob("*.fits"))
    assert require_same_raw(tiny_release, raw) == [f"night1/{path.stem}" for path in raw]
    other = tmp_path / "other.fits"
    shutil.copy(raw[0], other)
    with other.open("ab") as file:
        file.write(b"\0" * 2880)
    with pytest.raises(InvalidRequestError, match="is no file that this release was made of"):
        require_same_raw(tiny_release, [other])


def test_a_raw_file_that_exact_does_not_hold(tiny_release, tiny_survey, monkeypatch):
    path = next((tiny_survey.parent / "raw").glob("r.fits"))
    read = tiny_release.images.read

    def damaged(image_id, level):
        window = read(image_id, level)
        window.values[0, 0] += 1
        return window

    monkeypatch.setattr(tiny_release.images, "read", damaged)
    with pytest.raises(CorruptDataError, match="`exact` is not what"):
        require_same_raw(tiny_release, [path])


@pytest.mark.parametrize("as_json", [True, False])
def test_command_line(as_json, tiny_url, tiny_survey, capsys, monkeypatch, again):
    monkeypatch.setattr("skyfold.fidelity.remeasure.measure_release", lambda *_: again)
    raw = str(tiny_survey.parent / "raw/r.fits")
    options = ["--json"] if as_json else []
    with pytest.raises(SystemExit) as left:
        cli.run(cli.app, ["measure", tiny_url, "--raw", raw, *options])
    assert left.value.code == 0
    out = capsys.readouterr().out
    if as_json:
        found = json.loads(out)
        assert found["raw"] == ["night1/r"]
        assert {row["verdict"] for row in found["rows"]} == {"same"}
    else:
        assert "same" in out
        assert "night1/r: exact is the survey file" in out
    rows = open_release(tiny_url).fidelity.rows()
    for row in rows:
        for name in ("bias", "p90", "low", "high"):
            row[name] = None if row[name] is None else row[name] / 3
    monkeypatch.setattr(DataRelease, "fidelity", FidelityRecord.from_rows(rows))
    with pytest.raises(SystemExit) as left:
        cli.run(cli.app, ["measure", tiny_url, *options])
    assert left.value.code == cli.OUTSIDE == 5
