"""The data sheet says what the release holds, and nothing from a survey can be markup in it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from skyfold import cli
from skyfold.card import _text, release_card


def test_every_level_of_every_set_is_there_with_its_bytes(tiny_release):
    page = release_card(tiny_release)
    for name, about in tiny_release.info()["images"].items():
        assert f"## Images: {name}" in page
        assert f"{about['pixels']:,}" in page
        for level, one in about["levels"].items():
            assert f"| `{level}` | {one['bytes']:,} | {one['bpp']:.3g} |" in page


def test_losses_are_those_of_the_record(tiny_release):
    page = release_card(tiny_release)
    rows = [
        row
        for row in tiny_release.fidelity.rows()
        if (row["measure"], row["bin"]) == ("flux_1fwhm", ">=5") and row["p90"] is not None
    ]
    assert rows
    for row in rows:
        assert f"| {row['n']} | {row['p90']:.3g}, " in page


def test_models_are_named_by_digest_with_their_card(tiny_release):
    page = release_card(tiny_release)
    for digest in {one.model for one in tiny_release.images.entries.values() if one.model}:
        assert f"| digest | {digest} |" in page
    assert "block cosine transform" in page


def test_what_was_set_aside_is_listed_and_is_no_markup(tiny_release):
    hostile = "<script>alert(1)</script> | [x](javascript:1)\n# not a title"
    about = tiny_release.about | {"set_aside": [{"file": hostile, "reason": hostile}] * 12}
    names = ("images", "catalogs", "densities", "fidelity", "info", "read", "network")
    parts = {name: getattr(tiny_release, name) for name in names}
    release = SimpleNamespace(about=about, sealed=False, name="a|b", **parts)
    page = release_card(release)
    assert "not sealed yet" in page
    assert "# a\\|b\n" in page
    assert "## Set aside: 12" in page
    assert "and 2 more" in page
    assert "<script" not in page.replace("\\<script", "")
    assert "\n# not" not in page


@pytest.mark.parametrize("mark", "\\`|<>[]*")
def test_marks_are_escaped(mark):
    assert _text(f"a{mark}b") == f"a\\{mark}b"


def test_the_command_prints_or_writes_it(tiny_url, tmp_path, capsys):
    path = tmp_path / "card.md"
    for arguments in (["card", tiny_url], ["card", tiny_url, "-o", str(path)]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code in (0, None)
    printed = capsys.readouterr().out
    assert printed.startswith(path.read_text())
