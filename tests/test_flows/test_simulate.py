import itertools
import tomllib

import numpy as np
import pyarrow.parquet as pq
import pytest
import sep
from astropy.io import fits
from astropy.wcs import WCS

from flows.simulate import (
    BANDS,
    Z_GRID,
    Camera,
    Sky,
    noise_entropy_bits,
    photo_z,
    simulate_image,
    simulate_survey,
)
from skyfold.errors import InvalidRequestError

SMALL = {"images": 2, "size": 256, "catalog_rows": 500}


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return simulate_survey(tmp_path_factory.mktemp("survey"), seed=3, damage=True, **SMALL)


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "truncated" not in path.name
    }


def exposure(survey, number):
    (path,) = (survey.parent / "raw/night1").glob(f"exposure_{number:04d}_*.fits")
    with fits.open(path) as hdus:
        return hdus[0].data, hdus[0].header


def table(path):
    return {name: column.to_numpy() for name, column in zip(*columns(path), strict=True)}


def columns(path):
    read = pq.read_table(path)
    return read.column_names, read.columns


def white_noise(pixels):
    """Sigma of white noise from pairs of neighbours: blind to smooth sky, clipped for stars."""
    steps = np.diff(pixels.astype(float), axis=1).ravel() / np.sqrt(2)
    for _ in range(10):
        steps = steps[np.abs(steps) < 3 * steps.std()]
    return steps.std() / 0.9866  # of a Gaussian cut at 3 sigma


def galaxies(seed, number_of_cells):
    cells = [Sky(seed).cell(c, r) for c, r in itertools.product(range(number_of_cells), repeat=2)]
    rows = np.concatenate(cells)
    return rows[~rows["is_star"]]


def test_same_seed_same_bytes_and_more_images_change_none(survey, tmp_path):
    done = []
    again = simulate_survey(
        tmp_path, seed=3, progress=lambda *step: done.append(step), **{**SMALL, "images": 3}
    )
    first, second = files(survey.parent), files(again.parent)
    grown = [path for path in second if second[path] != first.get(path)]
    assert sorted(path.name for path in grown) == ["exposure_0002_r.fits", "truth.parquet"]
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_other_seed_other_survey(survey, tmp_path):
    other = files(simulate_survey(tmp_path, seed=4, **SMALL).parent)
    same = [path.name for path, data in files(survey.parent).items() if other[path] == data]
    assert same == ["zgrid.npy"]


def test_images_are_stored_as_a_camera_stores_them(survey):
    for number, band in enumerate("ri"):
        pixels, header = exposure(survey, number)
        assert (pixels.shape, pixels.dtype) == ((256, 256), np.uint16)
        assert (header["BITPIX"], header["BZERO"], header["FILTER"]) == (16, 32768, band)
        assert (header["GAIN"], header["RDNOISE"], header["EXPTIME"]) == (1.5, 5.0, 30.0)
        assert 0.6 < header["SEEING"] < 1.0
        assert header["DATE-OBS"].startswith("2026-01-01T00:00")


def test_fields_are_distinct_and_bands_share_them():
    camera = Camera(size=64)
    centers = []
    for number in range(6):
        _, header, _ = simulate_image(Sky(1), camera, number)
        wcs = WCS(header)
        assert wcs.wcs.ctype[0] == "RA---TAN"
        assert np.abs(wcs.proj_plane_pixel_scales()[0].to_value("arcsec") - 0.2) < 1e-6
        centers.append(wcs.all_pix2world([[31.5, 31.5]], 0)[0])
    width = 64 * 0.2 / 3600
    apart = np.abs(np.array(centers)[:, None] - np.array(centers)).max(axis=2) / width
    field = np.arange(6) // 2
    assert (apart[field[:, None] == field] < 0.05).all()
    assert (apart[field[:, None] != field] > 0.85).all()


@pytest.mark.parametrize(("sky_e", "read_noise_e", "gain"), [(600, 5, 1.5), (90, 12, 0.8)])
def test_sky_noise_is_as_asked(sky_e, read_noise_e, gain):
    camera = Camera(size=256, sky_e=sky_e, read_noise_e=read_noise_e, gain=gain)
    pixels, _, _ = simulate_image(Sky(5), camera, 0)
    expected = np.sqrt((sky_e + read_noise_e**2) / gain**2 + 1 / 12)
    assert white_noise(pixels) == pytest.approx(expected, rel=0.05)
    assert np.median(pixels) == pytest.approx(1000 + sky_e / gain, abs=0.2 * expected)


def test_sources_lie_where_truth_says(tmp_path):
    asked = {"size": 512, "density_per_arcmin2": 150.0, "catalog_rows": 10}
    survey = simulate_survey(tmp_path, seed=7, images=2, **asked)
    truth = table(survey.parent / "truth.parquet")
    for number, band in enumerate("ri"):
        pixels, header = exposure(survey, number)
        data = pixels.astype(np.float64)
        data -= sep.Background(data)
        found = sep.extract(data, 3.0, err=white_noise(pixels), minarea=9)
        x, y = WCS(header).all_world2pix(truth["ra"], truth["dec"], 0)
        inside = np.maximum(abs(x - 255.5), abs(y - 255.5)) < 245
        bright = inside & (truth[f"flux_e_{band}"] > 5_000)
        assert bright.sum() >= 15
        distance = np.hypot(found["x"][:, None] - x[bright], found["y"][:, None] - y[bright])
        assert np.mean(distance.min(axis=0) < 0.7) > 0.8


def test_stars_have_the_flux_and_the_width_of_the_header():
    camera = Camera(size=512)
    sky = Sky(2, density_per_arcmin2=0.1, stars_per_arcmin2=8.0)
    pixels, header, objects = simulate_image(sky, camera, 0, bands=("i",))
    x, y = np.array(WCS(header).all_world2pix(*sky_positions(objects), 0))
    adu = 10 ** (-0.4 * (objects["mag"][:, BANDS.index("i")] - header["MAGZERO"]))
    alone = (objects["neighbor_arcsec"] > 12) & objects["is_star"]
    inside = np.maximum(abs(x - 255.5), abs(y - 255.5)) < 225
    kept = alone & inside & (adu > 5e3) & (adu < 5e5)
    assert kept.sum() >= 5
    data = pixels.astype(np.float64)
    data -= sep.Background(data, mask=pixels < 1000)
    flux, _, _ = sep.sum_circle(data, x[kept], y[kept], 14.0)
    assert np.median(flux / adu[kept]) == pytest.approx(0.985, abs=0.03)
    radius, _ = sep.flux_radius(data, x[kept], y[kept], [14.0] * kept.sum(), 0.5, normflux=flux)
    # Half of the light of a Kolmogorov PSF lies within 0.555 FWHM.
    assert np.median(radius) * 0.2 == pytest.approx(0.555 * header["SEEING"], rel=0.06)


def sky_positions(objects):
    plane = WCS(naxis=2)
    plane.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    plane.wcs.crval, plane.wcs.crpix = [150.1, 2.2], [1.0, 1.0]
    plane.wcs.cdelt = [-1 / 3600, 1 / 3600]
    return plane.all_pix2world(objects["u"], objects["v"], 0)


def test_the_unexpected_is_there():
    camera = Camera(size=256)
    first, _, _ = simulate_image(Sky(6, 0.1, 0.1), camera, 0)
    trailed, _, _ = simulate_image(Sky(6, 0.1, 0.1), camera, 1)
    dead = np.median(first[-100:], axis=0) < 1100
    assert dead.sum() == 1
    sharp = np.abs(np.diff(first[:, ~dead].astype(float), axis=1)) > 10 * white_noise(first)
    assert sharp.any()
    noise = white_noise(trailed)
    lit = [np.mean(image > np.median(image) + 2 * noise) for image in (first, trailed)]
    assert lit[1] > lit[0] + 0.005


def test_catalog_is_complete_and_in_the_field(survey):
    catalog = table(survey.parent / "raw/galaxies.parquet")
    assert catalog["object_id"].dtype == np.int64
    assert np.unique(catalog["object_id"]).size == catalog["object_id"].size == 500
    assert np.hypot(catalog["ra"] - 150.1, catalog["dec"] - 2.2).max() < 0.1
    assert set(catalog["class"]) <= {"elliptical", "spiral", "irregular"}
    assert (np.hypot(catalog["g1"], catalog["g2"]) < 0.71).all()
    for band in BANDS:
        lost = catalog[f"mag_{band}"] == 99
        assert ((catalog[f"mag_err_{band}"] == 99) == lost).all()
        assert (catalog[f"mag_err_{band}"][~lost] < 1.0).all()
        assert ((catalog["flags"][lost] & 1) == 1).all()
    truth = table(survey.parent / "truth.parquet")
    galaxy = truth["kind"] == "galaxy"
    assert np.isin(truth["object_id"][galaxy], catalog["object_id"]).all()


def test_errors_state_the_scatter_of_the_magnitudes(survey):
    catalog = table(survey.parent / "raw/galaxies.parquet")
    cells = np.concatenate([Sky(3).cell(c, r) for c in range(-4, 5) for r in range(-4, 5)])
    order = np.argsort(cells["object_id"])
    rows = order[np.searchsorted(cells["object_id"], catalog["object_id"], sorter=order)]
    assert (cells["object_id"][rows] == catalog["object_id"]).all()
    for k, band in enumerate(BANDS):
        error = catalog[f"mag_err_{band}"]
        good = error < 0.1
        pull = (catalog[f"mag_{band}"] - cells["mag"][rows, k])[good] / error[good]
        assert pull.std() == pytest.approx(1.0, abs=0.2)
        assert abs(pull.mean()) < 0.25


def test_counts_rise_to_faint_magnitudes():
    mag = galaxies(1, 5)["mag"][:, BANDS.index("i")]
    counts = np.histogram(mag, [19.5, 21.5, 23.5, 25.5])[0]
    assert counts[0] * 2 < counts[1] < counts[2] / 2
    assert mag.size / 25 == pytest.approx(45, rel=0.15)


def test_the_4000_angstrom_break_reddens_ellipticals():
    rows = galaxies(1, 12)
    red = rows[rows["spectrum"] < 0.15]
    color = red["mag"][:, 1] - red["mag"][:, 2]
    near, far = red["redshift"] < 0.25, np.abs(red["redshift"] - 0.5) < 0.1
    assert near.sum() > 3
    assert np.median(color[far]) > np.median(color[near]) + 0.4


def test_densities_are_normalised_and_match_the_catalog(survey):
    density = np.load(survey.parent / "raw/pz.npy")
    grid = np.load(survey.parent / "raw/zgrid.npy")
    catalog = table(survey.parent / "raw/galaxies.parquet")
    assert (density.shape, density.dtype) == ((500, 201), np.float32)
    assert (density >= 0).all()
    assert np.trapezoid(density, grid, axis=1) == pytest.approx(1.0, abs=1e-4)
    bright = catalog["mag_i"] < 23
    off = (grid[density.argmax(axis=1)] - catalog["redshift"]) / (1 + catalog["redshift"])
    assert np.mean(np.abs(off[bright]) < 0.15) > 0.9
    inner = density[:, 1:-1]
    peak = (inner > density[:, :-2]) & (inner >= density[:, 2:])
    peak &= inner > 0.2 * density.max(axis=1, keepdims=True)
    assert 0.1 < np.mean(peak.sum(axis=1) > 1) < 0.9


def test_better_photometry_gives_narrower_densities():
    flux = 10 ** (-0.4 * galaxies(2, 2)["mag"])
    widths = []
    for relative in (0.01, 0.2):
        density = photo_z(flux, relative * flux)
        mean = np.trapezoid(density * Z_GRID, Z_GRID, axis=1)
        spread = np.trapezoid(density * (Z_GRID - mean[:, None]) ** 2, Z_GRID, axis=1)
        widths.append(np.median(np.sqrt(spread)))
    assert widths[0] < 0.3 * widths[1]


def test_survey_file_names_what_lies_beside_it(survey):
    with survey.open("rb") as stream:
        config = tomllib.load(stream)
    for kind in ("images", "catalogs", "densities"):
        (part,) = config[kind]
        assert all(list(survey.parent.glob(pattern)) for pattern in part["files"])
    assert (survey.parent / config["densities"][0]["grid"]).is_file()
    names, _ = columns(survey.parent / "raw/galaxies.parquet")
    catalog = config["catalogs"][0]
    for mapping in (catalog["errors"], catalog["precision"]):
        assert set(mapping) <= set(names)
    assert set(catalog["errors"].values()) | {catalog["redshift"]} <= set(names)
    assert config["training"] == {"minutes": 3.0, "seed": 3}


def test_damage_leaves_a_file_shorter_than_its_header_says(survey):
    (path,) = (survey.parent / "raw/night1").glob("*truncated*.fits")
    header = fits.Header.fromfile(path)
    assert header["NAXIS1"] * header["NAXIS2"] * 2 > path.stat().st_size


@pytest.mark.parametrize("sigma", [0.0, 0.4, 3.0, 16.7])
def test_entropy_is_that_of_rounded_gaussian_noise(sigma):
    draws = np.rint(np.random.default_rng(0).normal(0, sigma, 400_000)).astype(int)
    odds = np.unique(draws, return_counts=True)[1] / draws.size
    measured = -np.sum(odds * np.log2(odds))
    assert noise_entropy_bits(0.0, 2 * sigma, 2.0) == pytest.approx(measured, abs=0.005)


def test_an_empty_cell_is_no_error():
    assert Sky(1, 0.0, 0.0).cell(0, 0).size == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bands": ("r", "K")}, r"bands \['r', 'K'\].*one of u, g"),
        ({"bands": ()}, "one of u, g"),
        ({"images": 0}, "images = 0.*at least 1"),
        ({"size": 10}, "size = 10.*at least 64"),
        ({"seeing_arcsec": 0.05}, "seeing_arcsec = 0.05.*at least 0.1"),
        ({"gain": float("nan")}, "gain = nan"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, wrong, message):
    with pytest.raises(InvalidRequestError, match=message):
        simulate_survey(tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()


def test_entropy_refuses_negative_noise():
    with pytest.raises(InvalidRequestError, match="sky_e = -1"):
        noise_entropy_bits(-1.0, 5.0, 1.5)
