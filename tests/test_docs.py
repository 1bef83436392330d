"""What the documents say runs: code blocks, links, configurations, deployments."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import synthetic
import yaml
from small_release import build_release

from skyfold import cli
from storage.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "deploy/README.md", *(ROOT / "docs").rglob("*.md")],
)
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.M | re.S,
)
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
LANGUAGES = {"python", "console", "toml", "text"}
DEPLOYMENTS = ("train", "encode", "measure", "publish", "build")


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
    shape = (280, 280)
    for number in range(2):
        pixels = synthetic.sky(
            shape, sources=180, sigma=16, background=400, seed=number, flux=(70, 120)
        )
        synthetic.write_fits(
            folder / f"raw/{number}.fits",
            pixels.round().astype("u2"),
            synthetic.simple_wcs(shape, 150.1, 2.2),
            FILTER="r",
        )
    survey = synthetic.survey_toml(
        folder, '[[images]]\nset = "night1"\nfiles = ["raw/*.fits"]\nband = "header:FILTER"\n'
    )
    build_release(survey, str(folder / "build/demo/archive/demo/dr1"))
    return folder


@pytest.mark.parametrize(("page", "code"), runnable("python"))
def test_python_runs(page, code, demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    names: dict = {}
    exec(compile(code, str(page), "exec"), names)
    assert capsys.readouterr().out == "sources (150, 150) adu\n"
    assert np.isfinite(names["cutout"].data).all()


@pytest.mark.parametrize(("page", "code"), runnable("console"))
def test_console_runs(page, code, demo, monkeypatch, capsys):
    monkeypatch.chdir(demo)
    commands = [line.removeprefix("$ ") for line in code.splitlines()]
    for command in commands:
        program, *arguments = shlex.split(command, comments=True)
        assert program == "skyfold", f"{page}: mark the block with a reason, or run {program} here"
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code in (0, None), command
        assert capsys.readouterr().out


@pytest.mark.parametrize(("page", "code"), runnable("toml"))
def test_configurations_load(page, code, tmp_path):
    path = tmp_path / "survey.toml"
    path.write_text(code)
    assert load_config(path).release.url


def test_something_runs_and_every_block_is_of_a_known_language():
    assert len(runnable("python")) >= 1
    assert len(runnable("console")) >= 1
    assert len(runnable("toml")) >= 2
    assert {found["language"] for _, found in blocks()} <= LANGUAGES
    for page in PAGES:
        fences = page.read_text().count("\n```")
        assert fences == 2 * len(BLOCK.findall(page.read_text())), f"{page}: a block of no language"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    targets = [found["target"] for found in LINK.finditer(page.read_text())]
    inside = [one.partition("#")[0] for one in targets if not one.startswith(("http", "#"))]
    missing = [one for one in inside if not (page.parent / one).exists()]
    assert missing == []


def test_every_decision_is_listed():
    notes = {path.name for path in (ROOT / "docs/decisions").glob("*.md")} - {"README.md"}
    listed = LINK.findall((ROOT / "docs/decisions/README.md").read_text())
    assert sorted(listed) == sorted(notes)


def test_every_key_of_survey_toml_is_described():
    from storage import config

    text = (ROOT / "docs/survey_toml.md").read_text()
    sections = (
        "Release",
        "Images",
        "Plane",
        "Catalog",
        "Densities",
        "Training",
        "Levels",
        "Limits",
        "Storage",
    )
    for section in sections:
        for key in getattr(config, f"{section}Config").model_fields:
            assert f"`{key}`" in text, f"{section}: {key}"


def test_the_format_page_names_what_is_stored():
    from skyfold import index, layout
    from skyfold.codecs import blocks, latents, sparse
    from skyfold.network import ALLOWED_OPERATORS

    text = (ROOT / "docs/format.md").read_text()
    names = {*layout.LAYERS, *(field.name for field in index._SCHEMA)}
    names |= {blocks.BlocksCodec.codec_name, sparse.SparseCodec.codec_name}
    names |= {latents.LatentsCodec.codec_name}
    assert [name for name in names if f"`{name}`" not in text] == []
    assert set(re.findall(r"\w+", text)) >= ALLOWED_OPERATORS
    assert f"Format number {layout.FORMAT}." in text


def deployments() -> dict[str, dict]:
    content = yaml.safe_load((ROOT / "deploy/prefect.yaml").read_text())
    return {one["name"]: one for one in content["deployments"]}


def test_prefect_accepts_the_deployments():
    from prefect.cli.deploy._models import PrefectYamlModel

    content = yaml.safe_load((ROOT / "deploy/prefect.yaml").read_text())
    found = PrefectYamlModel.model_validate(content).deployments
    assert [one.name for one in found] == list(DEPLOYMENTS)
    assert all(one.work_pool.name == "skyfold" and one.tags for one in found)
    scheduled = {one.name: one.schedules[0].cron for one in found if one.schedules}
    assert set(scheduled) == {"train", "build"}
    assert scheduled["train"].endswith(" * * 6")
    assert scheduled["build"].endswith(" * * *")


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_entrypoints_are_flows(name):
    from prefect import Flow
    from prefect.flows import load_flow_from_entrypoint

    path, _, function = deployments()[name]["entrypoint"].partition(":")
    flow = load_flow_from_entrypoint(f"{ROOT / path}:{function}")
    assert isinstance(flow, Flow)
    assert flow.name == name
    given = deployments()[name]["parameters"]
    assert given.keys() == inspect.signature(flow.fn).parameters.keys()
    assert flow.validate_parameters(given) == given
    assert flow.parameters.properties["survey"]["type"] == "string"
