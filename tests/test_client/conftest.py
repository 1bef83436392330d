"""A release of four small images: across RA 0, at the pole, and one field at two times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic
from astropy.io import fits
from small_release import build_release

from skyfold import DataRelease, open_release

SHAPE, SMALL = (280, 300), (270, 200)
PLACES = {"wrap": (0.0, -20.0), "pole": (30.0, 90.0), "early": (150.0, 2.0), "late": (150.003, 2.0)}


@pytest.fixture(scope="session")
def sky_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skies")
    for number, (name, (ra, dec)) in enumerate(PLACES.items()):
        shape = SMALL if name == "pole" else SHAPE
        wcs = synthetic.simple_wcs(shape, ra, dec)
        pixels = synthetic.sky(shape, sources=30, sigma=9.0, background=200, seed=number)
        cards = {"FILTER": "r", "BUNIT": "electron", "DATE-OBS": f"2026-01-0{number + 1}T00:00:00"}
        if name == "early":
            cards["DATE-OBS"] = "2026-01-09T00:00:00"
        synthetic.write_fits(folder / f"raw/{name}.fits", pixels.round().astype("i2"), wcs, **cards)
    text = '[[images]]\nset = "sky"\nfiles = ["raw/*.fits"]\nband = "header:FILTER"\n'
    return synthetic.survey_toml(folder, text)


@pytest.fixture(scope="session")
def sky_url(sky_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("skies") / "sky" / "dr1")
    build_release(sky_survey, url)
    return url


@pytest.fixture
def sky_release(sky_url: str) -> DataRelease:
    return open_release(sky_url, cache=False)


@pytest.fixture(scope="session")
def sky_pixels(sky_survey: Path) -> dict[str, np.ndarray]:
    """What was archived, by image id."""
    raw = sky_survey.parent / "raw"
    return {f"sky/{name}": fits.getdata(raw / f"{name}.fits").astype(float) for name in PLACES}
