"""Fixtures: a small sealed release, built with real parts and a network without training."""

from __future__ import annotations

from pathlib import Path

import pytest
import synthetic
from small_release import build_release

from skyfold import DataRelease, open_release
from skyfold.images.network import Network

SURVEY_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def survey_data() -> Path:
    if not SURVEY_DATA.is_dir():
        pytest.skip("the real survey files are not beside the clone")
    return SURVEY_DATA


@pytest.fixture(scope="session")
def network() -> Network:
    return synthetic.cosine_network()


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
