"""Builds that are killed at some of their changes, and the release that comes out in the end.

``python -m tests.resume`` does the same at as many points as one likes.
"""

from __future__ import annotations

import pytest
import resume

POINTS = 5  # of one build after another: each dies that much further on


def test_a_build_that_is_killed_again_and_again_ends_with_the_same_bytes(tmp_path):
    survey = resume.small_survey(tmp_path / "whole" / "survey", images=2)
    builder = resume.Builder(tmp_path, resume.build_storage)
    code, changes = builder.build(survey)
    assert code == 0
    assert changes > 40
    expected = resume.content(survey)
    assert "manifest.json" in expected
    again = resume.copy_of(survey, tmp_path / "killed" / "survey")
    for _ in range(POINTS):  # what is done is skipped, so each run comes further
        code, _ = builder.build(again, changes // (POINTS + 1))
        assert code == resume.KILLED
    assert builder.build(again)[0] == 0
    assert resume.content(again) == expected


@pytest.mark.filterwarnings("ignore")  # Prefect's own
def test_a_kill_between_seal_and_catalog_is_made_up_for(prefect, tmp_path):
    """The next run enters the release, and clears what was staged."""
    from flows.build import build
    from skyfold import list_releases

    survey = resume.small_survey(tmp_path / "survey", images=1, rows=50)
    url = build(str(survey))
    product = survey.parent / "archive/demo"
    (product / "releases.json").unlink()
    (product / "_releases/dr1.json").unlink()
    (product / "dr1/_staging").mkdir()
    (product / "dr1/_staging/plan.json").write_text("{}")
    assert build(str(survey)) == url
    assert [one["name"] for one in list_releases(product)] == ["dr1"]
    assert not list(product.glob("dr1/_staging/*"))
