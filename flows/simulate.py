"""A simulated survey whose truth is known: images, a galaxy catalog, p(z) densities, survey.toml.

Nothing that reads or compresses the survey may depend on what is here. The sky is in
`flows.simulated_sky`, exposures in `flows.simulated_images`, tables in `flows.simulated_catalog`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from flows.simulated_catalog import UNDETECTED, catalog, observe, photo_z
from flows.simulated_images import (
    GAIN,
    READ_NOISE_E,
    SKY_E,
    Camera,
    flux_e,
    noise_entropy_bits,
    simulate_image,
)
from flows.simulated_sky import BANDS, CATALOG_STREAM, Z_GRID, Rows, Sky, sky_wcs, spiral
from skyfold.errors import InvalidRequestError

__all__ = [
    "BANDS",
    "GAIN",
    "READ_NOISE_E",
    "SKY_E",
    "Z_GRID",
    "Camera",
    "Sky",
    "noise_entropy_bits",
    "photo_z",
    "simulate_image",
    "simulate_survey",
]

DENSITY_ROWS = 5000


def simulate_survey(
    folder: str | Path,
    *,
    seed: int = 1,
    images: int = 12,
    size: int = 1024,
    bands: Sequence[str] = ("r", "i"),
    seeing_arcsec: float = 0.8,
    pixel_scale_arcsec: float = 0.2,
    sky_e: float = SKY_E,
    read_noise_e: float = READ_NOISE_E,
    gain: float = GAIN,
    density_per_arcmin2: float = 45.0,
    catalog_rows: int = 20000,
    minutes: float = 3.0,
    steps: int | None = None,
    shear_galaxies: int = 0,
    progress: Callable[[int, int], None] | None = None,
    damage: bool = False,
) -> Path:
    """Write a simulated survey and the `survey.toml` that describes it.

    Parameters
    ----------
    folder : str or Path
        Made if absent; files of the same names in it are replaced.
    seed : int
        From 0. The same seed and arguments give the same bytes.
    images : int
        Number of exposures; a larger number later adds exposures and changes none.
    size : int
        Width and height of an image [pixel], at least 64.
    bands : sequence of str
        Of u, g, r, i, z, y; every field is seen in each.
    seeing_arcsec, pixel_scale_arcsec, sky_e, read_noise_e, gain : float
        See `Camera`.
    density_per_arcmin2 : float
        Galaxies brighter than i = 25.5 per square arcminute.
    catalog_rows : int
        Galaxies in the catalog; p(z) is written for the first 5000.
    minutes : float
        Training time that `survey.toml` asks for.
    steps : int, optional
        Steps of training to ask for instead: the same model on a slower or busier machine.
    shear_galaxies : int
        Galaxies of known shear that `survey.toml` asks the fidelity record for.
    progress : callable or None
        Called with (files done, files in all).
    damage : bool
        Also write one truncated FITS file, its name holding `truncated`.

    Returns
    -------
    Path
        `survey.toml` in `folder`, beside `truth.parquet` (every object in an image: position,
        kind, flux in e- in each band) and the folder `raw`.

    Raises
    ------
    InvalidRequestError
        If an argument cannot be met; the message names it.
    MissingDependencyError
        If GalSim is not installed.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> simulate_survey(mkdtemp(), images=1, size=64, catalog_rows=10).name
    'survey.toml'
    """
    camera = Camera(size, pixel_scale_arcsec, seeing_arcsec, sky_e, read_noise_e, gain)
    _check(camera, seed, images, bands, catalog_rows, density_per_arcmin2)
    folder, sky = Path(folder), Sky(seed, density_per_arcmin2)
    report = progress or (lambda done, total: None)
    night = folder / "raw" / "night1"
    night.mkdir(parents=True, exist_ok=True)
    seen = []
    for number in range(images):
        pixels, header, objects = simulate_image(sky, camera, number, bands)
        path = night / f"exposure_{number:04d}_{header['FILTER']}.fits"
        fits.PrimaryHDU(pixels, header).writeto(path, overwrite=True)
        seen.append(objects)
        report(number + 1, images + 1)
    if damage:
        whole = (night / f"exposure_0000_{bands[0]}.fits").read_bytes()
        (night / "exposure_truncated.fits").write_bytes(whole[: len(whole) * 3 // 5])
    _write_truth(folder / "truth.parquet", np.concatenate(seen))
    _write_catalog(folder / "raw", sky, catalog_rows)
    report(images + 1, images + 1)
    (folder / "survey.toml").write_text(
        _survey_toml(seed, f"steps = {steps}" if steps else f"minutes = {minutes}", shear_galaxies)
    )
    return folder / "survey.toml"


def _check(
    camera: Camera, seed: int, images: int, bands: Sequence[str], rows: int, density: float
) -> None:
    """Refuse what no simulation could meet."""
    unknown = [band for band in bands if band not in BANDS]
    if unknown or not bands:
        raise InvalidRequestError(
            f"cannot simulate bands {list(bands)}: each must be one of {', '.join(BANDS)}; "
            "pass for example bands=('r', 'i')"
        )
    least = {
        "seed": (seed, 0),
        "images": (images, 1),
        "size": (camera.size, 64),
        "catalog_rows": (rows, 1),
        # A sharper PSF would ask for a Fourier transform that does not fit.
        "seeing_arcsec": (camera.seeing_arcsec, 0.5 * camera.pixel_scale_arcsec),
        "pixel_scale_arcsec": (camera.pixel_scale_arcsec, 0.01),
        "sky_e": (camera.sky_e, 0),
        "read_noise_e": (camera.read_noise_e, 0),
        "gain": (camera.gain, 1e-3),
        "density_per_arcmin2": (density, 0.1),
    }
    for name, (value, bound) in least.items():
        if not (math.isfinite(value) and value >= bound):
            raise InvalidRequestError(
                f"cannot simulate a survey with {name} = {value}: it must be finite and at least "
                f"{bound}; pass another {name}"
            )


def _write_truth(path: Path, objects: Rows) -> None:
    _, first = np.unique(objects["object_id"], return_index=True)
    objects = objects[first]
    ra, dec = sky_wcs().all_pix2world(objects["u"], objects["v"], 0)
    columns: dict[str, Any] = {"object_id": objects["object_id"], "ra": ra, "dec": dec}
    columns["kind"] = np.where(objects["is_star"], "star", "galaxy").tolist()
    for band, flux in zip(BANDS, flux_e(objects).T, strict=True):
        columns[f"flux_e_{band}"] = flux
    for name in ("redshift", "radius_arcsec", "bulge", "g1", "g2"):
        columns[name] = objects[name]
    pq.write_table(pa.table(columns), path)


def _write_catalog(folder: Path, sky: Sky, number: int) -> None:
    """Catalog of the galaxies nearest to the centre, and the densities of its first rows."""
    cells: list[Rows] = []
    steps = spiral()
    while sum(cell.size for cell in cells) < number:
        cell = sky.cell(*next(steps))
        cells.append(cell[~cell["is_star"]])
    objects = np.concatenate(cells)[:number]
    rng = np.random.default_rng([CATALOG_STREAM, sky.seed])
    flux, error = observe(objects["mag"], rng)
    pq.write_table(catalog(objects, flux, error), folder / "galaxies.parquet")
    np.save(folder / "pz.npy", photo_z(flux[:DENSITY_ROWS], error[:DENSITY_ROWS]))
    np.save(folder / "zgrid.npy", Z_GRID)


def _survey_toml(seed: int, budget: str, shear_galaxies: int) -> str:
    errors = ", ".join(f'mag_{band} = "mag_err_{band}"' for band in BANDS)
    return f"""\
[release]
url = "archive/demo/dr1"

[[images]]
set = "night1"
files = ["raw/night1/*.fits"]
band = "header:FILTER"

[[catalogs]]
name = "galaxies"
files = ["raw/galaxies.parquet"]
id = "object_id"
ra = "ra"
dec = "dec"
redshift = "redshift"
errors = {{ {errors} }}
precision = {{ radius_arcsec = 0.01, g1 = 0.01, g2 = 0.01 }}
missing = [{UNDETECTED}]

[[densities]]
name = "pz"
files = ["raw/pz.npy"]
grid = "raw/zgrid.npy"

[training]
{budget}
seed = {seed}

[levels]
step = 0.5

[fidelity]
shear_galaxies = {shear_galaxies}
"""
