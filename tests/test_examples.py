"""The example configurations build a release of real survey files that decodes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from small_survey import build_survey

from skyfold import open_release
from storage.config import load_config

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs/examples"


def link(raw: Path, data: Path, files: dict[str, str]) -> None:
    for name, target in files.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(data / target)


def few_stamps(raw: Path, data: Path) -> None:
    folder = data / "hst_cosmos"
    names = {
        "mosaics/cosmos_masknoise.fits": "147246.0_150.416558_1.998697_masknoise.fits",
        "galaxies.fits": "real_galaxy_catalog_26_extension_example.fits",
    }
    link(raw, folder, names)
    with fits.open(folder / "real_galaxy_images_extension.fits") as hdus:
        fits.HDUList(hdus[:8]).writeto(raw / "stamps.fits")


def unpack(raw: Path, data: Path) -> None:
    few = raw / "alerts"
    few.mkdir(parents=True)
    for path in sorted((data / "alerts_ztf").glob("11*.avro"))[:2]:
        (few / path.name).symlink_to(path)
    command = [sys.executable, str(EXAMPLES / "unpack_alerts.py"), str(few), str(raw)]
    subprocess.run(command, check=True, capture_output=True)


RAW: dict[str, Callable[[Path, Path], None]] = {
    "rubin": lambda raw, data: link(
        raw,
        data,
        {
            "visits/HSC-0908120.fits": "hsc/HSC-0908120-056-small.fits",
            "objects.parquet": "dc2_photoz/rubin_dm_dc2_example.pq",
        },
    ),
    "decam": lambda raw, data: link(raw, data, {"9": "decam/testcase9", "12": "decam/testcase12"}),
    "hst": few_stamps,
    "ztf_alerts": unpack,
    "radio": lambda raw, data: link(raw, data, {"parkes.fits": "radio/1904-66_SIN.fits"}),
    "photoz": lambda raw, data: link(
        raw,
        data,
        {
            "photometry.hdf5": "dc2_photoz/test_dc2_training_9816.hdf5",
            "pz.npy": "pz/CFHTLens_sample.P.npy",
        },
    ),
}


def test_every_example_is_built():
    assert {path.stem for path in EXAMPLES.glob("*.toml")} == RAW.keys()
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"({path.name})" in listed for path in EXAMPLES.glob("*.[tp]*"))


@pytest.mark.survey
@pytest.mark.parametrize("name", RAW)
def test_an_example_builds_a_release_that_decodes(name, survey_data, tmp_path):
    survey = tmp_path / "survey.toml"
    survey.write_text((EXAMPLES / f"{name}.toml").read_text())
    RAW[name](tmp_path / "raw", survey_data)
    config = load_config(survey)
    release = open_release(build_survey(survey))
    assert release.verify() == {}
    assert release.info()["set_aside"] == []
    assert set(release.images.sets) == {one.set for one in config.images}
    for image_id, entry in list(release.images.entries.items())[:4]:
        with fits.open(tmp_path / entry.file, do_not_scale_image_data=True) as hdus:
            stored = hdus[entry.hdu].data
        window = release.images.read(image_id, "exact")
        assert window.values.tobytes() == stored.astype(stored.dtype.newbyteorder("=")).tobytes()
        bounded = release.images.read(image_id, "bounded")
        good = (bounded.flags == 0) & (bounded.sigma is not None)
        if good.any():
            off = np.abs(bounded.values.astype(float) - window.values)[good]
            assert (off <= entry.bound * bounded.sigma[good] * (1 + 1e-9)).all()
    for one in config.catalogs:
        table = release.catalogs[one.name].read(level="exact")
        assert len(table) > 0
        assert {one.id, *one.errors} <= {*table.colnames}
    for one in config.densities:
        assert release.densities[one.name].read(level="latent").shape[1] > 100
