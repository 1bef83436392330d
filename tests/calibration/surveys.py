"""The surveys that the record is checked on: simulated ones of other seeds, seeing and depth, and
real ones, each built into a release with the parts of the producer; and further simulated ones.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import galsim  # noqa: F401 - importing it takes seconds, which are not the record's
import synthetic
from small_release import build_release

from flows.simulate import simulate_survey
from skyfold import DataRelease, open_release


@dataclass(frozen=True)
class Survey:
    """Name and what makes it: arguments of `simulate_survey`, or a pattern of real files."""

    name: str
    camera: dict[str, Any] = field(default_factory=dict)
    files: str = ""
    extra: str = ""


SIMULATED = (
    Survey("sim_typical", {"seed": 31, "seeing_arcsec": 0.8, "sky_e": 600.0}),
    Survey("sim_sharp_deep", {"seed": 32, "seeing_arcsec": 0.55, "sky_e": 6000.0}),
    Survey("sim_blurred_shallow", {"seed": 33, "seeing_arcsec": 1.2, "sky_e": 80.0}),
)
OTHERS = (  # other seeds, seeing, depths, densities and samplings, which nothing was tried on
    Survey("other_typical", {"seed": 101, "seeing_arcsec": 0.75, "sky_e": 900.0}),
    Survey("other_sharp_shallow", {"seed": 102, "seeing_arcsec": 0.5, "sky_e": 60.0}),
    Survey("other_blurred_deep", {"seed": 103, "seeing_arcsec": 1.5, "sky_e": 20000.0}),
    Survey(
        "other_dense",
        {"seed": 104, "seeing_arcsec": 0.9, "sky_e": 300.0, "density_per_arcmin2": 200.0},
    ),
    Survey(
        "other_coarse",
        {"seed": 105, "seeing_arcsec": 0.9, "pixel_scale_arcsec": 0.4, "sky_e": 800.0},
    ),
    Survey(
        "other_coarse_dense",
        {
            "seed": 106,
            "seeing_arcsec": 0.8,
            "pixel_scale_arcsec": 0.35,
            "sky_e": 500.0,
            "density_per_arcmin2": 150.0,
        },
    ),
)
REAL = (
    Survey("emmi", files="emmi/galaxies.fits"),
    Survey("m13", files="m13/*.fits"),
    Survey("saao", files="saao/*.fits"),
    Survey("sdss", files="sdss/reprojected_sdss_g.fits.bz2"),
    Survey("twomass", files="twomass/*.fits"),
    Survey("spitzer", files="spitzer/*.fits"),
    Survey("decam_epochs", files="decam_epochs/DEC-OBS*.fits"),
    Survey("kids_r", files="kids_viking/r.fits"),
)


def build(
    survey: Survey, folder: Path, data: Path, *, images: int = 4, size: int = 1024
) -> tuple[DataRelease, dict[str, float]]:
    """The release of a survey with its record, and the seconds that each took.

    Parameters
    ----------
    folder : Path
        For raw files and release; emptied first.
    data : Path
        Where the real files are.
    images, size : int
        Of a simulated survey.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if survey.files:
        table = f'[[images]]\nset = "{survey.name}"\nfiles = ["{data / survey.files}"]\n'
        toml = synthetic.survey_toml(folder, table + survey.extra)
    else:
        simulate_survey(
            folder, images=images, size=size, catalog_rows=10, bands=("r",), **survey.camera
        )
        table = '[[images]]\nset = "night1"\nfiles = ["raw/night1/*.fits"]\n'
        toml = synthetic.survey_toml(folder, table + 'band = "header:FILTER"\n')
    seconds: dict[str, float] = {}
    url = folder / "release" / "dr1"
    build_release(toml, str(url), inject=True, seconds=seconds)
    return open_release(url), seconds
