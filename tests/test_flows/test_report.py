"""The report page: complete in itself, safe whatever names it holds, and right about choices."""

import base64
import hashlib
import io
import json
import math
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.gallery import png_uri
from flows.report import render_report
from skyfold import FidelityRecord, cli, open_release
from skyfold.errors import NeedNotMetError
from skyfold.images.index import _to_parquet, index_key, read_index
from skyfold.layout import CARD_KEY, FIDELITY_KEY, MANIFEST_KEY, PROVENANCE_KEY, ZARR_KEY

HOSTILE = "r</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HISTORY = [
    {"step": float(50 * i), "seconds": i / 3, "bpp": 0.1 + 1 / (i + 1), "mse": 1.0}
    for i in range(1000)
]


class Page(HTMLParser):
    """Elements and their attributes, and the text inside scripts and outside them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.words = [], [], []
        self.inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def record(self):
        return json.loads(self.scripts[0])


@pytest.fixture(scope="module")
def html(tiny_url):
    return render_report(open_release(tiny_url), HISTORY)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def copy_release(url, folder, *, about=(), band=None, rows=None):
    """An unsealed copy with other metadata, band names or record."""
    target = Path(shutil.copytree(url, folder / "dr1"))
    (target / MANIFEST_KEY).unlink()
    root = json.loads((target / ZARR_KEY).read_text())
    root["attributes"]["skyfold"] |= dict(about)
    (target / ZARR_KEY).write_text(json.dumps(root))
    record = FidelityRecord.from_ecsv((target / FIDELITY_KEY).read_text())
    if band is not None:
        path = target / index_key("night1")
        entries = read_index(path.read_bytes(), str(path))
        changed = [replace(entry, band=band).to_row() for entry in entries]
        path.write_bytes(
            _to_parquet([row | {"bytes": sorted(row["bytes"].items())} for row in changed])
        )
        rows = [row | {"band": band} for row in record.rows()]
    if rows is not None:
        (target / FIDELITY_KEY).write_text(FidelityRecord.from_rows(rows).to_ecsv())
    return open_release(target, unsealed=True)


def pixels(uri):
    kind, data = uri.split(",", 1)
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return np.asarray(picture.convert("RGB"))


def test_page_needs_no_other_file(html, page):
    sources = [attributes["src"] for _, attributes in page.elements if "src" in attributes]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    links = {attributes["href"] for _, attributes in page.elements if "href" in attributes}
    outside = {link for link in links if not link.startswith(("#", "data:,"))}
    assert outside == {PROVENANCE_KEY, FIDELITY_KEY, MANIFEST_KEY, CARD_KEY}
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert len(html.encode()) < 3_000_000


def test_policy_allows_this_script_alone(page):
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    digest = hashlib.sha256(page.scripts[1].encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy


def test_same_release_gives_same_page(html, tiny_url):
    assert render_report(open_release(tiny_url), HISTORY) == html


def test_no_path_of_this_machine(html, tiny_url):
    assert str(Path(tiny_url).parent) not in html


def test_anchors_and_labels_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    inner = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    targets = inner + [label["for"] for label in page.all("label")]
    targets += [a[key] for _, a in page.elements for key in a if key == "aria-labelledby"]
    assert set(targets) <= set(ids)
    named = {label["for"] for label in page.all("label")}
    for control in page.all("input") + page.all("select"):
        assert control["id"] in named or control.get("aria-label")


def test_levels_and_sizes_are_those_of_the_release(page, tiny_release):
    info = tiny_release.info()["images"]["night1"]
    for level, stored in info["levels"].items():
        digits = 2 if stored["bpp"] >= 0.995 else 3
        assert f"{level} {stored['bpp']:.{digits}f}" in page.text
    entries = tiny_release.images.entries.values()
    raw = sum(entry.pixels * np.dtype(entry.dtype).itemsize for entry in entries)
    ratio = raw / info["levels"]["latent"]["bytes"]
    assert f"{ratio:.3g} ×" in page.text
    assert "float32, uint16" in page.text or "float32, int16" in page.text


def test_embedded_rows_are_the_record(page, tiny_release):
    rows, record = tiny_release.fidelity.rows(), page.record
    assert len(record["rows"]) == len(rows)
    for numbers, row in zip(record["rows"], rows, strict=True):
        level, area, case, measure, _, n, value, low, high = numbers
        assert record["levels"][level] == row["level"]
        assert record["areas"][area]["band"] == row["band"]
        assert record["cases"][case]["name"] == row["case"]
        assert record["cases"][case]["measures"][measure]["name"] == row["measure"]
        assert (n, low, high) == (row["n"], row["low"], row["high"])  # to the last digit
        shown = row["p90"] if row["statistic"] == "p90" else row["bias"]
        assert value == (shown if shown is None else pytest.approx(shown, rel=1e-4))


def test_every_bin_can_be_asked_about(page, tiny_release):
    for case in page.record["cases"]:
        own = tiny_release.fidelity.filter(case=case["name"])
        for measure in case["measures"]:
            bins = set(own.filter(measure=measure["name"]).table["bin"])
            assert len(measure["needs"]) == len(bins)


def test_bins_of_another_kind_are_told_apart(tiny_url, tmp_path):
    record = open_release(tiny_url).fidelity.rows()
    stacks = [row | {"bin": name} for row in record[:1] for name in ("all", "n1", "n2")]
    found = Page(render_report(copy_release(tiny_url, tmp_path, rows=stacks), HISTORY)).record
    assert sorted(found["bins"]) == ["all objects", "n1", "n2"]
    assert [one["label"] for one in found["cases"][0]["measures"][0]["needs"]] == ["all objects"]


def test_pixel_scale_and_position(page):
    for area in page.record["areas"]:
        assert area["pixel_deg2"] == pytest.approx((0.2 / 3600) ** 2, rel=1e-6)
        assert area["position"] == pytest.approx([150, 2], abs=0.05)


def test_history_is_thinned_and_keeps_its_ends(page):
    curves = page.record["history"]
    assert set(curves) == {"bpp", "mse"}
    assert len(curves["bpp"]) <= 400
    assert curves["bpp"][0] == [0, 1.1]
    assert curves["bpp"][-1][0] == HISTORY[-1]["step"]


def test_history_may_be_empty_or_not_finite(tiny_url, tmp_path):
    release = copy_release(tiny_url, tmp_path, about={"images": []}, rows=[])
    without = Page(render_report(release, []))
    assert without.record["history"] == {}
    assert "Training" not in without.text
    broken = [{"loss": 1.0}, {"loss": math.nan}, {"loss": math.inf}]
    curve = Page(render_report(release, broken)).record["history"]["loss"]
    assert curve == [[0, 1], [1, None], [2, None]]


def test_gallery_shows_what_each_level_loses(page):
    pictures = page.all("img")
    assert 18 <= len(pictures) <= 6 * 9
    assert len(pictures) % 9 == 0
    for start in range(0, len(pictures), 9):
        raw, *others = pictures[start : start + 9]
        decoded, residuals = others[0::2], others[1::2]
        exact = pixels(decoded[3]["src"])
        assert np.array_equal(exact, pixels(raw["src"]))
        assert exact.std() > 1
        assert not np.array_equal(exact, pixels(decoded[0]["src"]))
        flat = pixels(residuals[3]["src"])
        assert np.ptp(flat, axis=(0, 1)).max() == 0
        assert flat.min() > 240  # no difference is white
        colour = [np.ptp(pixels(one["src"]).astype(int), axis=2).mean() for one in residuals]
        assert colour[0] > colour[2] > colour[3]
        assert "raw" in raw["alt"]
        for picture, level in zip(decoded, ("latent", "sources", "bounded", "exact"), strict=True):
            assert level in picture["alt"]


def test_png_is_upright_and_exact():
    palette = np.arange(768, dtype=np.uint32).reshape(256, 3).astype(np.uint8)
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(pixels(png_uri(indices, palette))[::-1], palette[indices])


def test_model_card_and_set_aside(tiny_url, tmp_path):
    aside = [{"file": "raw/broken.fits", "reason": "truncated at 60 %"}]
    release = copy_release(tiny_url, tmp_path, about={"set_aside": aside})
    published = {"published": "2026-03-04T05:06:07+00:00", "skyfold": "9.8.7"}
    (tmp_path / "dr1" / PROVENANCE_KEY).write_text(json.dumps(published))
    page = Page(render_report(release, []))
    assert "raw/broken.fits truncated at 60 %" in page.text
    assert "published 2026-03-04" in page.text
    assert "skyfold 9.8.7" in page.text
    digest = next(iter(release.images.entries.values())).model
    assert digest in page.text
    assert f"name {release.network(digest).card['name']}" in page.text


def test_hostile_names_stay_text(html, tiny_url, tmp_path):
    aside = [{"file": HOSTILE, "reason": HOSTILE}]
    release = copy_release(
        tiny_url, tmp_path, about={"name": HOSTILE, "set_aside": aside}, band=HOSTILE
    )
    hostile, plain = Page(render_report(release, [{HOSTILE: 1.0}])), Page(html)
    assert len(hostile.all("script")) == len(plain.all("script")) == 2
    assert all("onerror" not in attributes for _, attributes in hostile.elements)
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in plain.elements} | {"thead"}
    assert hostile.text.count(HOSTILE) >= 4  # name, band, file, reason, as they are
    assert hostile.record["areas"][0]["band"] == HOSTILE
    assert list(hostile.record["history"]) == [HOSTILE]


def test_release_without_anything_to_measure(tiny_url, tmp_path):
    release = copy_release(tiny_url, tmp_path, about={"images": []}, rows=[])
    page = Page(render_report(release, []))
    assert "No object to show" in page.text
    assert "No image of this release is coded with a model" in page.text
    assert "All images" not in page.text  # nor how many times smaller nothing is
    assert page.record["rows"] == []


def luminance(colour):
    full = colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])
    parts = np.array([int(full[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    """WCAG 2.2, "contrast ratio"."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_in_both_themes(html):
    themes = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]+);", theme))
        for surface in ("page", "card"):
            for text in ("text", "quiet", "accent", "good", "bad"):
                assert contrast(colours[text], colours[surface]) >= 4.5, (text, surface)
        assert contrast(colours["text"], colours["note"]) >= 4.5
        for number in range(6):
            assert contrast(colours[f"c{number}"], colours["card"]) >= 3


# In a browser.

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
DRIVER = """
const set = (id, value, kind) => {
  const node = document.getElementById(id);
  if (node.type === "checkbox") node.checked = value; else node.value = value;
  node.dispatchEvent(new Event(kind, { bubbles: true }));
};
const answers = QUERIES.map((query) => {
  for (const id of ["case", "measure", "bin", "area", "lossy"]) set(id, query[id], "change");
  set("most", query.most, "input");
  const big = document.querySelector("#answer .big code");
  return { level: big && big.textContent, words: document.getElementById("answer").textContent,
    python: big && document.getElementById("python").textContent,
    pasted: getComputedStyle(document.getElementById("paste")).display !== "none",
    shell: big && document.getElementById("shell").textContent,
    judged: document.getElementById("verdicts").checkVisibility() };
});
const series = [...document.querySelectorAll("#figures .card")].map((card) => ({
  legend: [...card.querySelectorAll(".legend li")].map((one) =>
    [one.textContent, one.querySelector("svg").getAttribute("class")]),
  panels: [...card.querySelectorAll(".panels svg")].map((svg) =>
    [...svg.querySelectorAll("g")].map((one) => one.getAttribute("class"))) }));
answers[0].figures = series;
const out = document.createElement("pre");
out.id = "out";
out.textContent = JSON.stringify(answers);
document.body.append(out);
"""


def browse(path, fragment="", width=1000):
    """The page's document as the browser has it, and what its console says."""
    flags = (
        "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --enable-logging=stderr "
        f"--virtual-time-budget=8000 --window-size={width},900 --dump-dom"
    )
    profile = path.parent / "profile"
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", path.as_uri() + fragment]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def drive(html, folder, queries):
    """What the page answers when its controls are set, in one go."""
    opened = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", html)
    script = DRIVER.replace("QUERIES", json.dumps(queries))
    path = folder / "report.html"
    path.write_text(opened.replace("</body>", f"<script>{script}</script></body>"))
    document, console = browse(path)
    assert console == []
    out = re.search(r'<pre id="out">(.*?)</pre>', document, re.DOTALL)[1]
    unescaped = out.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(unescaped)


def asked(record):
    """Questions over all measures and bins, areas, tolerances loose to strict."""
    areas = ["all", *range(len(record["areas"]))]
    for i, case in enumerate(record["cases"]):
        for j, measure in enumerate(case["measures"]):
            for k, _ in enumerate(measure["needs"]):
                scale = 100 if measure["unit"] == "fraction" else 1
                for number, most in enumerate((0, 0.04, 0.11, 0.4, 5)):
                    if scale == 100 and most > 1:
                        continue
                    area = areas[(i + j + k + number) % len(areas)]
                    yield {"case": i, "measure": j, "bin": k, "area": area} | {
                        "most": round(most * scale, 6),
                        "lossy": (number + k) % 2 == 1,
                    }


def by_the_record(fidelity, record, query):
    case = record["cases"][query["case"]]
    need = case["measures"][query["measure"]]["needs"][query["bin"]]
    where = {}
    if query["area"] != "all":
        area = record["areas"][query["area"]]
        where = {name: area[name] for name in ("set", "band")}
    if query["lossy"]:
        where["levels"] = [level for level in record["levels"] if level != "exact"]
    text = f"{need['before']}{query['most']}{need['after']}"
    try:
        return fidelity.choose(case["name"], text, **where).level
    except NeedNotMetError:
        return None


def varied(rows):
    """The rows with losses of all sizes, some of them not known, none at `exact`."""
    rng = np.random.default_rng(8)
    typical = {"latent": 2.0, "sources": 0.3, "bounded": 0.08, "exact": 0.0}
    for row in rows:
        high = typical[row["level"]] * rng.lognormal(0, 0.5)
        high = min(high, 1.0) if row["unit"] == "fraction" else high
        low = high / 2
        if row["unit"] != "fraction" and rng.random() < 0.3:
            low, high = -high, low  # a bias
        known = row["level"] == "exact" or rng.random() > 0.1
        yield row | {"low": low if known else None, "high": high if known else None}


@needs_browser
def test_page_chooses_as_the_record_does(tiny_release, tmp_path):
    rows = list(varied(tiny_release.fidelity.rows()))
    release = copy_release(tiny_release.url, tmp_path, about={"images": []}, rows=rows)
    html = render_report(release, [])
    record = Page(html).record
    queries = list(asked(record))
    answers = drive(html, tmp_path, queries)
    expected = [by_the_record(release.fidelity, record, one) for one in queries]
    assert [answer["level"] for answer in answers] == expected
    assert set(expected) == {None, "latent", "sources", "bounded", "exact"}
    assert all(one["pasted"] == (one["level"] is not None) for one in answers)
    refused = [answer for answer in answers if answer["level"] is None]
    assert all("No level is recorded to meet this" in one["words"] for one in refused)
    assert any("The nearest is" in one["words"] for one in refused)


def table_rows():
    """A record of densities: all of them in one measure, stacks of them in another."""
    names = "kind set band level case measure bin unit statistic note"
    text = "densities pz  {} densities {} {} {} mean "
    numbers = dict.fromkeys(("bias", "scatter", "p50", "p90", "p99"), 0.2)
    numbers |= {"n": 900, "exposure_lost": None, "bytes": 14_700, "bpp": 0.5, "held_out": False}
    for level, low, high in (("latent", -0.9, 0.1), ("exact", 0.0, 0.0)):
        for measure, name in (("stack", "n1"), ("stack", "n2"), ("kld", "all")):
            words = text.format(level, measure, name, "").split(" ")
            row = dict(zip(names.split(), words, strict=True)) | numbers
            yield row | {
                "low": low,
                "high": high,
                "bytes": 14_700 if level == "latent" else 509_000,
            }


@needs_browser
def test_tables_are_counted_in_rows(tiny_url, tmp_path):
    release = copy_release(tiny_url, tmp_path, about={"images": []}, rows=list(table_rows()))
    html = render_report(release, []).replace('"rows":null', '"rows":1000')
    query = {"case": 0, "measure": 1, "bin": 0, "area": 0, "lossy": False}
    answers = drive(html, tmp_path, [query | {"most": most} for most in (1, 0.5, "")])
    assert [one["level"] for one in answers] == ["latent", "exact", None]
    assert "latent at 14.7 bytes per row" in answers[0]["words"]
    assert "My rows: 1.47 GB" in answers[0]["words"]  # 100 million
    assert answers[0]["python"].endswith('\npdf = release.densities["pz"].read(level=level)')
    assert "densities " in answers[0]["shell"].splitlines()[-1]
    assert [one["judged"] for one in answers] == [True, True, False]
    (figures,) = answers[0]["figures"]
    assert figures["legend"] == [["n1", "s0"], ["n2", "s1"], ["all objects", "s2"]]
    assert figures["panels"] == [["s0", "s1"], ["s2"]]


@needs_browser
def test_pasted_code_runs(html, page, tiny_url, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(tiny_url, tmp_path / "it's a release"))
    query = next(one for one in asked(page.record) if one["most"] == 5 and one["area"] != "all")
    (answer,) = drive(html, folder, [query | {"lossy": False}])
    (folder / "report.html").unlink()
    space = {}
    exec(compile(answer["python"], "pasted", "exec"), space)
    assert space["level"] == answer["level"] == space["cutout"].meta["level"]
    assert space["cutout"].meta["band"] == page.record["areas"][query["area"]]["band"]
    monkeypatch.chdir(tmp_path)
    for line in answer["shell"].splitlines():
        program, *arguments = shlex.split(line)
        assert program == "skyfold"
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 0
    assert (tmp_path / "cutout.fits").exists()


@needs_browser
def test_page_works_under_its_own_policy(html, page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(html)
    measure = next(i for i, one in enumerate(page.record["cases"]) if one["name"] == "photometry")
    document, console = browse(path, f"#case={measure}&measure=1&bin=0&area=all&most=0", width=390)
    assert console == []
    answer = re.search(r'id="answer".*?</div>', document, re.DOTALL)[0]
    assert "<code>exact</code>" in answer  # of the address: no loss at all is allowed
    panels = sum(len(case["measures"]) for case in page.record["cases"])
    figures = re.findall(r'<svg[^>]*role="img"[^>]*aria-label="[^"]+"', document)
    assert len(figures) == panels + len(page.record["history"])
    assert 'class="mark"' in document
