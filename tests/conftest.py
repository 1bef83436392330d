"""Fixtures: a small sealed release, built with real parts and a network without training."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `synthetic`, beside the tests

import synthetic

from skyfold import DataRelease, open_release
from skyfold.layout import FIDELITY_KEY, PROVENANCE_KEY
from skyfold.measure import images_to_measure, measure_image, record_of
from skyfold.network import Network, model_digest
from skyfold.store import Store
from storage.archive import archive_image, inspect_image, plan_hold_out
from storage.builder import ReleaseBuilder, plan_groups
from storage.config import load_config
from storage.survey import SetAside, find_images

SURVEY_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def survey_data() -> Path:
    if not SURVEY_DATA.is_dir():
        pytest.skip("the real survey files are not beside the clone")
    return SURVEY_DATA


@pytest.fixture(scope="session")
def network() -> Network:
    return synthetic.cosine_network()


def build_release(survey: Path, url: str, options: dict | None = None, *, seal: bool = True):
    """Build the images of a survey with the block cosine network; returns the set-aside list."""
    config = load_config(survey)
    refs, bad = find_images(config)
    files = synthetic.cosine_files()
    network = Network(files, model_digest(files))
    builder = ReleaseBuilder(Store(url, options))
    builder.write_model(files)
    step = config.levels.step
    found = [inspect_image(ref, options=options or {}, step=step) for ref in refs]
    entries = [one for one in found if not isinstance(one, SetAside)]
    bad += [one for one in found if isinstance(one, SetAside)]
    placed, groups = plan_groups(entries, network.channels, network.tables)
    about = {
        "name": "test/dr1",
        "images": sorted({entry.set for entry in entries}),
        "hold_out": {name: rule.to_dict() for name, rule in plan_hold_out(entries, 1).items()},
        "set_aside": [{"file": one.file, "reason": one.reason} for one in bad],
    }
    builder.start(about, groups)
    by_id = {ref.id: ref for ref in refs}
    written = [
        archive_image(builder, network, by_id[one.id], one, options=options or {})[0]
        for one in placed
    ]
    builder.write_indexes(written)
    release = open_release(url, options=options, unsealed=True)
    measured = [(one, measure_image(release, one)) for one in images_to_measure(release)]
    builder.store.write(FIDELITY_KEY, record_of(release, measured).to_ecsv().encode())
    builder.store.write(PROVENANCE_KEY, json.dumps({"test": True}).encode())
    if seal:
        builder.seal()
    return bad


@pytest.fixture(scope="session")
def tiny_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of 300 x 520 pixels in two bands: integers, and floats with NaN and padding."""
    folder = tmp_path_factory.mktemp("tiny")
    shape = (300, 520)
    wcs = synthetic.simple_wcs(shape)
    for band, seed in (("r", 1), ("i", 2)):
        pixels = synthetic.sky(shape, sources=150, sigma=12.0, background=400, seed=seed)
        path = folder / f"raw/{band}.fits"
        synthetic.write_fits(path, pixels.round().astype("u2"), wcs, FILTER=band, GAIN=2.0)
    floats = synthetic.sky(shape, sources=150, sigma=3e-12, background=1e-12, seed=3)
    floats[:40, :60] = 0
    floats[100:105, 200:300] = float("nan")
    synthetic.write_fits(folder / "raw/g.fits", floats.astype("f4"), wcs, FILTER="g")
    return synthetic.survey_toml(
        folder, '[[images]]\nset = "night1"\nfiles = ["raw/*.fits"]\nband = "header:FILTER"\n'
    )


@pytest.fixture(scope="session")
def tiny_url(tiny_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("archive") / "test" / "dr1")
    build_release(tiny_survey, url)
    return url


@pytest.fixture
def tiny_release(tiny_url: str) -> DataRelease:
    return open_release(tiny_url)
