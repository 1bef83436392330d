"""A small release with known objects: stars, ellipses, a ring, noise alone, no WCS, a mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import synthetic
from small_release import build_release

from flows.objects import describe_objects, keep_objects
from skyfold import DataRelease, open_release
from skyfold.access.store import Store
from storage.builder import ReleaseBuilder
from storage.objects.writer import ObjectWriter

SHAPE = (420, 600)
SIGMA = 10.0
FWHM = 3.5
RING = (300.0, 210.0)  # x, y
ELLIPSE = {"semi_major": 4.0, "semi_minor": 2.0, "theta": 30.0}
SETTINGS = """
[[images]]
set = "night1"
files = ["raw/*.fits"]
band = "header:FILTER"
"""


def grid_of_objects(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Sky with stars and ellipses on a loose grid, and what they are."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(SHAPE)
    image = rng.normal(0, SIGMA, SHAPE)
    width = FWHM / 2.3548
    rows = []
    for cy in range(30, SHAPE[0] - 20, 40):
        for cx in range(30, SHAPE[1] - 20, 40):
            if np.hypot(cx - RING[0], cy - RING[1]) < 50:
                continue
            at_x, at_y = cx + rng.uniform(-4, 4), cy + rng.uniform(-4, 4)
            flux = SIGMA * 10 ** rng.uniform(1.6, 3.4)
            extended = rng.random() < 0.3
            image += flux * profile(x - at_x, y - at_y, extended, width)
            rows.append((at_x, at_y, flux, extended))
    names = ("x", "y", "flux", "extended")
    return image, {k: np.array(v) for k, v in zip(names, zip(*rows, strict=True), strict=True)}


def profile(dx: np.ndarray, dy: np.ndarray, extended: bool, width: float) -> np.ndarray:
    """Gaussian of unit flux: round and of the width of stars, or the ellipse."""
    if not extended:
        return np.exp(-(dx**2 + dy**2) / (2 * width**2)) / (2 * np.pi * width**2)
    angle = np.radians(ELLIPSE["theta"])
    along, across = (
        dx * np.cos(angle) + dy * np.sin(angle),
        dy * np.cos(angle) - dx * np.sin(angle),
    )
    a, b = ELLIPSE["semi_major"], ELLIPSE["semi_minor"]
    return np.exp(-((along / a) ** 2 + (across / b) ** 2) / 2) / (2 * np.pi * a * b)


def ring() -> np.ndarray:
    """A thin broken ring with crossing lines: nothing like the other objects."""
    y, x = np.indices(SHAPE)
    radius = np.hypot(x - RING[0], y - RING[1])
    lines = (np.abs((x - RING[0]) - (y - RING[1])) < 1.5) & (radius < 14)
    return 12 * SIGMA * (np.exp(-((radius - 9) ** 2) / 2) + lines * ((x // 3) % 2))


@pytest.fixture(scope="session")
def truth() -> dict[str, dict[str, np.ndarray]]:
    """What was put into the images, by image id."""
    return {f"night1/{name}": grid_of_objects(seed)[1] for name, seed in (("r", 1), ("nowcs", 2))}


@pytest.fixture(scope="session")
def objects_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    wcs = synthetic.simple_wcs(SHAPE)
    image = grid_of_objects(1)[0] + ring()
    whole = (image + 400).round().astype("u2")
    synthetic.write_fits(folder / "raw/r.fits", whole, wcs, FILTER="r", BUNIT="adu")
    floats = (grid_of_objects(2)[0] * 1e-12).astype("f4")
    floats[:30, :50] = 0
    floats[200:204, 100:200] = np.nan
    synthetic.write_fits(folder / "raw/nowcs.fits", floats, FILTER="i", BUNIT="adu")
    noise = np.random.default_rng(3).normal(0, 1, (120, 140)).astype("f8")
    synthetic.write_fits(folder / "raw/noise.fits", noise, wcs, FILTER="g", BUNIT="adu")
    mask = np.zeros((90, 90), "u1")
    mask[20:30, 40:50] = 1
    synthetic.write_fits(folder / "raw/mask.fits", mask, FILTER="m")
    return synthetic.survey_toml(folder, SETTINGS)


def build_objects(survey: Path, url: str) -> ReleaseBuilder:
    """Images and objects of a survey, not sealed."""
    with pytest.MonkeyPatch.context() as patch:
        # the record has its own tests
        patch.setattr("small_release.measure_image", lambda *_, **__: {})
        build_release(survey, url, seal=False)
    builder = ReleaseBuilder(Store(url))
    add_objects(builder)
    return builder


def add_objects(builder: ReleaseBuilder) -> int:
    """Search all images and describe what was found; their number."""
    release = open_release(builder.store.url, unsealed=True)
    writer = ObjectWriter(builder, release)
    for entry in writer.entries:
        keep_objects(writer, release, entry.id)
    return describe_objects(builder, release, 1)


@pytest.fixture(scope="session")
def objects_url(objects_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("objects_archive") / "test" / "dr1")
    build_objects(objects_survey, url).seal()
    return url


@pytest.fixture
def objects_release(objects_url: str) -> DataRelease:
    return open_release(objects_url)
