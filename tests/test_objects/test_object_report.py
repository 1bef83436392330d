"""Maps, novel objects and explanations on the report page, and the script that draws them."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from flows.report import render_report
from flows.report_maps import colour_picture, explanations, maps, scatters
from skyfold import open_release

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@pytest.fixture(scope="module")
def page(objects_url):
    return render_report(open_release(objects_url), [])


def pixels(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.split(",", 1)[1])
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def test_brightness_rises_with_the_value():
    values = np.arange(20.0).reshape(4, 5)
    values[0, 0] = np.nan
    uri, low, high = colour_picture(values)
    shown = pixels(uri)[::-1].astype(int).sum(axis=2).ravel()
    assert (low, high) == ("1", "19")
    assert (np.diff(shown[1:]) > 0).all()
    assert np.ptp(pixels(uri)[-1, 0]) == 0  # gray
    assert colour_picture(np.full((2, 2), np.nan))[1:] == ("0", "0")


def test_map_of_objects(objects_release):
    (one,) = maps(objects_release)
    objects = objects_release.objects
    assert one["count"] == len(objects)
    titles = [plane["title"] for plane in one["planes"]]
    assert titles[:2] == ["U-matrix", "objects in each cell"]
    hits = pixels(one["planes"][1]["picture"])
    assert hits.shape[:2] == objects.som["hits"].shape
    assert one["planes"][1]["high"] == f"{objects.som['hits'].max():.3g}"


def test_points_have_the_values_of_their_objects(objects_release):
    (one,) = scatters(objects_release)
    rows = [row for *_, row in one["points"]]
    table = objects_release.objects.table(rows, columns=["novelty", "band"])
    colours = {colour["name"]: colour["values"] for colour in one["colours"]}
    assert np.allclose(colours["novelty"], table["novelty"], rtol=1e-3)
    assert colours["band"] == list(table["band"])
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y, _ in one["points"])


def test_novel_objects_are_shown_with_their_reasons(objects_release, page):
    told = explanations(objects_release)
    numbers = [int(one["title"].split()[1]) for one in told["objects"]]
    assert numbers == objects_release.objects.novel(len(numbers))["object"].tolist()
    for one in told["objects"]:
        assert np.ptp(pixels(one["panels"][0]["picture"])) > 100  # raw pixels, not a flat field
        assert len(one["alike"]) == 3
        assert f"<strong>{one['title']}</strong>" in page
    assert page.count("<strong>Most novel</strong>") == 1


def test_release_without_objects_has_no_such_section(tiny_release):
    without = render_report(tiny_release, [])
    assert 'id="maps"' not in without
    assert 'id="novel"' not in without
    assert "#novel" not in without


SCRIPT = """
const pick = document.getElementById("colour-0");
const fills = () => [...document.querySelectorAll(".scatter circle")].map((one) => one.style.fill);
const before = fills();
pick.value = [...pick.options].findIndex((one) => one.textContent === "band");
pick.dispatchEvent(new Event("change"));
const out = document.createElement("pre");
out.id = "out";
out.textContent = JSON.stringify({ before, after: fills(),
  label: document.querySelector(".scatter").getAttribute("aria-label"),
  wide: document.documentElement.scrollWidth, window: innerWidth });
document.body.append(out);
"""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_points_change_colour_in_a_browser(page, tmp_path, objects_release):
    opened = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", page)
    path = tmp_path / "report.html"
    path.write_text(opened.replace("</body>", f"<script>{SCRIPT}</script></body>"))
    flags = "--headless=new --no-sandbox --disable-gpu --no-first-run --enable-logging=stderr"
    extra = ["--virtual-time-budget=8000", "--window-size=500,900", "--dump-dom"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), *extra, profile, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr
    out = json.loads(re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1])
    rows, _ = objects_release.objects.tsne()
    assert len(out["before"]) == len(out["after"]) == len(rows)
    assert len(set(out["before"])) > 20
    bands = set(objects_release.objects.table(rows, columns=["band"])["band"])
    assert len(set(out["after"])) == len(bands)
    assert "coloured by band" in out["label"]
    assert out["wide"] <= out["window"]  # nothing runs off the side of a narrow page
