"""What the documents say runs: code blocks, links, configurations, deployments."""

from __future__ import annotations

import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic
import yaml
from small_survey import build_survey

from skyfold import cli
from storage.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "deploy/README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]*) -->\n)?"
    r"^```(?P<language>\{?[\w-]+\}?)[^\n]*\n(?P<code>.*?)^```$",
    re.M | re.S,
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
NAMED = re.compile(r"(?<![\w./:\[])(?:skyfold|storage|models|flows|tests)(?:[./]\w+)+")
LANGUAGES = {"python", "console", "toml", "text"}  # beside those of the site, in braces


def blocks() -> list[tuple[Path, re.Match[str]]]:
    return [(page, found) for page in PAGES for found in BLOCK.finditer(page.read_text())]


def runnable(*languages: str) -> list:
    return [
        pytest.param(page, found["code"], id=f"{page.relative_to(ROOT)}:{found['language']}-{n}")
        for n, (page, found) in enumerate(blocks())
        if found["language"] in languages and not found["reason"]
    ]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a release where the documents say that the demo leaves one."""
    folder = tmp_path_factory.mktemp("demo")
    shape = (400, 400)
    for number in range(2):
        pixels = synthetic.sky(
            shape, sources=260, sigma=16, background=400, seed=number, flux=(70, 120)
        )
        synthetic.write_fits(
            folder / f"raw/night1/exposure_{number:04d}_r.fits",
            pixels.round().astype("u2"),
            synthetic.simple_wcs(shape, 150.1, 2.2),
            FILTER="r",
        )
    write_tables(folder / "raw")
    (folder / "survey.toml").write_text(SURVEY)
    build_survey(folder / "survey.toml")
    return folder


SURVEY = """
[release]
url = "build/demo/archive/demo/dr1"
[[images]]
set = "night1"
files = ["raw/night1/*.fits"]
band = "header:FILTER"
[[catalogs]]
name = "galaxies"
files = ["raw/galaxies.parquet"]
ra = "ra"
dec = "dec"
redshift = "redshift"
errors = { mag_r = "mag_err_r" }
[[densities]]
name = "pz"
files = ["raw/pz.npy"]
grid = [0.0, 2.0, 101]
"""


def write_tables(folder: Path) -> None:
    """Galaxies around the images, and p(z) of some."""
    rng = np.random.default_rng(3)
    rows = 500
    redshift = rng.gamma(4, 0.12, rows)
    columns = {
        "ra": 150.1 + rng.uniform(-0.05, 0.05, rows),
        "dec": 2.2 + rng.uniform(-0.05, 0.05, rows),
        "mag_r": 19 + 3 * redshift + rng.normal(0, 0.5, rows),
        "mag_err_r": rng.uniform(0.01, 0.1, rows),
        "redshift": redshift,
    }
    pq.write_table(pa.table(columns), folder / "galaxies.parquet")
    z = np.linspace(0, 2, 101)
    width = rng.uniform(0.03, 0.2, (120, 1))
    np.save(folder / "pz.npy", np.exp(-(((z - redshift[:120, None]) / width) ** 2) / 2))


def pages_with(*languages: str) -> list:
    found = dict.fromkeys(
        page for page, block in blocks() if block["language"] in languages and not block["reason"]
    )
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in found]


@pytest.mark.parametrize("page", pages_with("python", "console"))
def test_code_of_a_page_runs_from_top_to_bottom(page, demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    names: dict = {}
    for where, block in blocks():
        if where != page or block["reason"]:
            continue
        if block["language"] == "python":
            # annotations of a class are looked up in its module
            names.setdefault("__name__", "builtins")
            exec(compile(block["code"], str(page), "exec"), names)
        elif block["language"] == "console":
            for line in block["code"].splitlines():
                run_command(line.removeprefix("$ "), page, capsys)


def run_command(command: str, page: Path, capsys) -> None:
    capsys.readouterr()
    program, *arguments = shlex.split(command, comments=True)
    assert program == "skyfold", f"{page}: mark the block with a reason, or run {program} here"
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code in (0, None), command
    assert capsys.readouterr().out, command


def test_the_five_lines_of_the_readme(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    first = next(block for page, block in blocks() if page.name == "README.md")
    names: dict = {}
    exec(first["code"], names)
    assert capsys.readouterr().out == "sources (150, 150) adu\n"
    assert np.isfinite(names["cutout"].data).all()


@pytest.mark.parametrize(("page", "code"), runnable("toml"))
def test_configurations_load(page, code, tmp_path):
    if "release" not in tomllib.loads(code):  # a part of another file, such as pyproject.toml
        return
    path = tmp_path / "survey.toml"
    path.write_text(code)
    assert load_config(path, "2026-11-22").release.url


def test_something_runs_and_every_block_is_of_a_known_language():
    assert len(runnable("python")) >= 1
    assert len(runnable("console")) >= 1
    assert len(runnable("toml")) >= 2
    used = {found["language"] for _, found in blocks()}
    assert {one for one in used if not one.startswith("{")} <= LANGUAGES
    for page in PAGES:
        fences = page.read_text().count("\n```")
        assert fences == 2 * len(BLOCK.findall(page.read_text())), f"{page}: a block of no language"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    targets = [found["target"] for found in LINK.finditer(page.read_text())]
    inside = [one.partition("#")[0] for one in targets if not one.startswith(("http", "#"))]
    missing = [one for one in inside if not (page.parent / one).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_modules_that_pages_name_are_there(page):
    codecs = {one.name for one in entry_points(group="skyfold.codecs")}  # named as modules are
    named = set(NAMED.findall(page.read_text())) - codecs
    assert [name for name in named if not (ROOT / name).exists() and not is_python(name)] == []


def is_python(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_every_decision_is_listed():
    notes = {path.name for path in (ROOT / "docs/decisions").glob("*.md")} - {"README.md"}
    listed = LINK.findall((ROOT / "docs/decisions/README.md").read_text())
    assert sorted(listed) == sorted(notes)


def test_generated_parts_are_up_to_date():
    """Mend it by `python docs/generate.py`, which `make docs` runs."""
    checked = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_key_of_survey_toml_is_described():
    from storage import config

    sections = [one for name, one in vars(config).items() if name.endswith("Config")]
    keys = [
        (one.__name__, key, field) for one in sections for key, field in one.model_fields.items()
    ]
    assert len(keys) > 30
    of_file = ("folder", "digest", *config.SurveyConfig.model_fields)
    missing = [
        f"{name}.{key}" for name, key, field in keys if not field.description and key not in of_file
    ]
    assert missing == []


def test_the_format_page_names_what_is_stored(tiny_url):
    from skyfold import layout
    from skyfold.access.graph_check import ALLOWED_OPERATORS
    from skyfold.codecs import blocks, latents, sparse

    text = (ROOT / "docs/format.md").read_text()
    indexes = list(Path(tiny_url).glob("images/*/index.parquet"))
    assert indexes
    names = {*layout.LAYERS, *(one for path in indexes for one in pq.read_schema(path).names)}
    names |= {blocks.BlocksCodec.codec_name, sparse.SparseCodec.codec_name}
    names |= {latents.LatentsCodec.codec_name, latents.SparseLatentsCodec.codec_name}
    assert [name for name in names if f"`{name}`" not in text] == []
    assert set(re.findall(r"\w+", text)) >= ALLOWED_OPERATORS
    assert f"Format number {layout.FORMAT}." in text


def deployments() -> list[dict]:
    return yaml.safe_load((ROOT / "deploy/prefect.yaml").read_text())["deployments"]


def test_prefect_accepts_the_deployments():
    from prefect.cli.deploy._models import PrefectYamlModel

    content = yaml.safe_load((ROOT / "deploy/prefect.yaml").read_text())
    found = PrefectYamlModel.model_validate(content).deployments
    assert len(found) >= 5
    assert all(one.work_pool.name == "skyfold" and one.tags for one in found)
    crons = [schedule.cron for one in found for schedule in one.schedules or []]
    assert any(cron.endswith(" * * 6") for cron in crons)  # training, weekly
    assert any(cron.endswith(" * * *") for cron in crons)  # a night, nightly


@pytest.mark.parametrize("given", deployments(), ids=lambda one: one["name"])
def test_entrypoints_are_flows(given):
    from prefect import Flow
    from prefect.flows import load_flow_from_entrypoint

    flow = load_flow_from_entrypoint(given["entrypoint"])
    assert isinstance(flow, Flow)
    assert flow.fn.__module__.startswith("flows.")  # where a Dask worker imports its tasks from
    parameters = given["parameters"]
    assert parameters.keys() <= inspect.signature(flow.fn).parameters.keys()
    assert flow.validate_parameters(parameters).keys() >= parameters.keys()
    assert flow.parameters.properties["survey"]["type"] == "string"
