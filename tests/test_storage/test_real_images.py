"""Every real survey image, through layers and back: all bits, and the bound."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from small_release import build_release

from skyfold import open_release

SETS = {
    "m13": "m13/*.fits",
    "emmi": "emmi/galaxies.fits",
    "saao": "saao/*.fits",
    "poss": "poss/*.fits",
    "twomass": "twomass/*.fits",
    "spitzer": "spitzer/*.fits",
    "sdss": "sdss/*.bz2",
    "kids_viking": "kids_viking/r.fits",
    "decam": "decam/*[4569]/*.fits",
    "decam_epochs": "decam_epochs/*.fits",
    "mosaic3_90prime": "mosaic3_90prime/*/*.fits",
    "hsc": "hsc/*.fits",
    "legacysurvey_coadd": "legacysurvey_coadd/*image-g*",
    "hst_cosmos": "hst_cosmos/147*.fits",
    "hst_stamps": "hst_cosmos/real_galaxy_images_extension.fits",
    "radio": "radio/*.fits",
}


@pytest.mark.survey
@pytest.mark.filterwarnings("ignore")  # headers of real files break rules of their own
@pytest.mark.parametrize("name", SETS)
def test_every_bit_and_the_bound(name, survey_data, tmp_path):
    path = tmp_path / "survey.toml"
    path.write_text(
        '[release]\nurl = "dr1"\n'
        f'[[images]]\nset = "{name}"\nfiles = ["{survey_data}/{SETS[name]}"]\nhdu = "all"\n'
    )
    url = str(tmp_path / "dr1")
    bad = build_release(path, url)
    assert all("constant" in one.reason for one in bad)
    release = open_release(url)
    assert len(release.images) > 0
    for image_id, entry in release.images.entries.items():
        with fits.open(entry.file, do_not_scale_image_data=True) as hdus:
            stored = hdus[entry.hdu].data
        stored = stored.astype(stored.dtype.newbyteorder("=")).reshape(entry.plane)
        exact = release.images.read(image_id, "exact")
        assert exact.values.dtype == stored.dtype
        assert exact.values.tobytes() == stored.tobytes()
        bounded = release.images.read(image_id, "bounded")
        if bounded.sigma is None:
            assert bounded.values.tobytes() == stored.tobytes()
            continue
        good = bounded.flags < 2
        apart = np.abs(bounded.values[good].astype("f8") - stored[good].astype("f8"))
        assert (apart <= entry.bound * bounded.sigma[good]).all()
