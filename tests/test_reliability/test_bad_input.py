"""Every kind of bad survey file or row is told, never archived in silence as if it were good."""

from __future__ import annotations

import re

import numpy as np
import pytest

from skyfold.densities.rows import to_masses
from skyfold.errors import InputError, SkyfoldError
from storage.catalogs.archive import find_catalog_files
from storage.catalogs.plan import survey_catalog
from storage.config import load_config
from storage.densities.reader import open_densities
from storage.images.archive import inspect_image
from storage.survey import SetAside, find_images
from tests.test_reliability.bad_files import CATALOGS, DENSITIES, IMAGES, Bad, write


def told(text: str, bad: Bad) -> None:
    assert re.search(bad.said, text, re.I), text
    assert len(text) < 2000


@pytest.mark.parametrize("bad", IMAGES, ids=lambda bad: bad.name)
def test_images(tmp_path, bad):
    config = load_config(write(tmp_path, bad, '[[images]]\nset = "night"'))
    refs, aside = find_images(config)
    found = [inspect_image(ref, options={}, step=0.5) for ref in refs]
    reasons = [one.reason for one in [*aside, *found] if isinstance(one, SetAside)]
    assert len(reasons) == 1, found
    told(reasons[0], bad)
    assert bad.file.partition(".")[0] in reasons[0]


@pytest.mark.parametrize("bad", CATALOGS, ids=lambda bad: bad.name)
@pytest.mark.filterwarnings("ignore")  # of the libraries that read it
def test_catalogs(tmp_path, bad):
    config = load_config(write(tmp_path, bad, '[[catalogs]]\nname = "objects"'))
    catalog = config.catalogs[0]
    try:
        files = find_catalog_files(config, catalog)
        surveyed = survey_catalog(catalog, files, seed=1, fraction=0.1, options={})
    except SkyfoldError as error:
        told(str(error), bad)
        return
    notices = [*surveyed.info.notices, *(reason for _, reason in surveyed.set_aside)]
    assert notices, "archived in silence"
    told("; ".join(notices), bad)


@pytest.mark.parametrize("bad", DENSITIES, ids=lambda bad: bad.name)
def test_densities(tmp_path, bad):
    config = load_config(write(tmp_path, bad, '[[densities]]\nname = "pz"'))
    try:
        source = open_densities(config, config.densities[0])
    except InputError as error:
        told(str(error), bad)
        return
    stored = source.read(0, source.rows)
    _, reasons = to_masses(stored, np.ones(stored.shape[1]))
    assert (reasons != "").sum() == 1
    told("".join(reasons), bad)


def test_there_are_as_many_as_the_table_says():
    kinds = [len({bad.name for bad in table}) for table in (IMAGES, CATALOGS, DENSITIES)]
    assert kinds == [len(IMAGES), len(CATALOGS), len(DENSITIES)]
    assert sum(kinds) >= 60
