"""Real catalogs: bit for bit at `exact`, smaller than Parquet, photo-z kept at `latent`."""

from __future__ import annotations

from pathlib import Path

import conftest_catalogs as made
import numpy as np
import pytest

from flows.job import Job
from skyfold.catalogs.columns import LEVELS
from skyfold.catalogs.tables import plain_values
from skyfold.errors import InputError
from skyfold.fidelity.catalogs import read_levels
from skyfold.science.photoz import PHOTOZ, _colors, nmad
from storage.catalogs.archive import find_catalog_files
from storage.catalogs.reader import open_catalog

pytestmark = pytest.mark.survey

FILES = {
    "dc2": ("dc2_photoz/test_dc2_training_9816.hdf5", 'id = "id"\nredshift = "redshift"'),
    "gaia": ("gaia_2mass/gaia_results.fits", 'id = "source_id"'),
    "twomass": ("gaia_2mass/2MASS_results.fits", ""),
    "des": ("des_catalogs/DECam_00241238_01_cat.fits", ""),
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_real_catalogs_return_every_bit(survey_data, tmp_path, name):
    file, settings = FILES[name]
    survey = made.write_survey(tmp_path, name, [str(survey_data / file)], settings)
    catalog = made.build(survey, name)
    source = _source(survey)
    table = catalog.read()
    for column in source.columns:
        values, found = (
            source.read(column.name, 0, source.rows)[0],
            plain_values(table[column.name]),
        )
        assert found.dtype == np.dtype(column.dtype)
        assert found.astype(values.dtype).tobytes() == np.ascontiguousarray(values).tobytes()
    sizes = catalog.info()["levels"]
    assert sizes["exact"]["bytes"] < (survey_data / file).stat().st_size
    if name == "dc2":
        _check_photo_z(catalog)


def _source(survey: Path):
    config = Job(str(survey)).config
    ((file, url),) = find_catalog_files(config, config.catalogs[0])
    return open_catalog(file, url, None, {})


def _check_photo_z(catalog) -> None:
    assert catalog.description.som["topographic_error"] <= 0.15
    tables, context = read_levels(catalog)
    state = PHOTOZ.prepare(tables["exact"], context)
    spread = {}
    for level in LEVELS:
        found = state.estimate(_colors(tables[level], context)[state.rows])
        spread[level] = nmad((found - state.spec) / (1 + state.spec))
    assert spread["latent"] <= 1.05 * spread["exact"]
    assert spread["bounded"] == pytest.approx(spread["exact"], rel=0.005)


def test_names_that_do_not_fit_the_columns_are_an_error(survey_data):
    path = survey_data / "sdss" / "SDSS_MGS.train"
    with pytest.raises(InputError, match="names 18 columns, and row 1 has 19"):
        open_catalog(path.name, str(path), None, {})
