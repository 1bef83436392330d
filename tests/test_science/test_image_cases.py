"""Science cases of images, on images whose losses are known."""

import galsim
import numpy as np
import pytest

from skyfold.errors import InvalidRequestError, MissingDependencyError
from skyfold.fidelity.record import summarise
from skyfold.science import ImageContext, cases, get_case, injection
from skyfold.science.epochs import align
from skyfold.science.morphology import (
    MEASURES,
    concentration,
    gini,
    morphology,
    petrosian_radius,
    sky_difference,
)
from skyfold.science.shapes import adaptive_moments

FWHM = 4.0
SIZE = 384
ONE_IMAGE = ("astrometry", "shapes", "morphology", "low_surface_brightness", "anomalies")
PLACE = [("x", "f8"), ("y", "f8"), ("flux", "f8")]


def context_of(shape, **more):
    everywhere = np.ones(shape, bool)
    about = {"seed": 1, "fwhm_pix": FWHM, "scale_arcsec": 0.2} | more
    return ImageContext(np.ones(shape), ~everywhere, everywhere, **about)


def stars(shape=(SIZE, SIZE), step=32, flux=(60.0, 6000.0), seed=1):
    """Stars on a jittered grid, as a table."""
    rng = np.random.default_rng(seed)
    y, x = (plane.ravel() for plane in np.indices(shape)[:, step // 2 :: step, step // 2 :: step])
    table = np.zeros(x.size, PLACE)
    table["x"], table["y"] = x + rng.uniform(-1, 1, x.size), y + rng.uniform(-1, 1, x.size)
    table["flux"] = np.exp(rng.uniform(*np.log(flux), x.size))
    return table


@pytest.fixture(scope="module")
def scene():
    table = stars()
    light = injection.draw((SIZE, SIZE), table, FWHM)
    raw = light + np.random.default_rng(2).normal(size=light.shape)
    return raw, table, light


def values(case, raw, decoded, context):
    return {(s.measure, s.bin): s.values for s in get_case(case).measure(raw, decoded, context)}


@pytest.mark.parametrize("case", ONE_IMAGE)
def test_identical_images_lose_exactly_nothing(scene, case):
    raw, _, _ = scene
    found = get_case(case).measure(raw, raw.copy(), context_of(raw.shape))
    assert sum(len(sample.values) for sample in found) > 0
    assert all(np.all(sample.values == 0) for sample in found)


@pytest.mark.parametrize("case", [*ONE_IMAGE, "photometry", "detection"])
def test_losses_know_no_unit(scene, case):
    raw, _, _ = scene
    decoded = raw + np.random.default_rng(3).normal(0, 0.2, raw.shape)
    context = context_of(raw.shape)
    scale, level = 4e-12, -7e-12
    small = ImageContext(
        context.sigma * scale, context.mask, context.counted, 1, FWHM, context.scale_arcsec
    )
    expected = values(case, raw, decoded, context)
    found = values(case, raw * scale + level, decoded * scale + level, small)
    assert expected.keys() == found.keys()
    for key, one in expected.items():
        assert abs(len(one) - len(found[key])) <= 1
        if one.size > 20:
            assert np.mean(np.abs(found[key])) == pytest.approx(np.mean(np.abs(one)), rel=0.05)


def test_a_shifted_image_moves_every_centroid_by_the_shift(scene):
    _, table, light = scene
    moved = table.copy()
    moved["x"] += 0.3
    shifted = injection.draw(light.shape, moved, FWHM)
    found = values("astrometry", light * 10, shifted * 10, context_of(light.shape))
    assert len(found["position_pix", ">50"]) > 80
    np.testing.assert_allclose(found["position_pix", ">50"], 0.3, atol=0.005)
    np.testing.assert_allclose(found["position_mas", ">50"], 60, atol=1)
    along_x = found["position", ">50"][::2]
    assert np.all(along_x > 0)
    assert np.abs(found["position", ">50"][1::2]).max() < 0.05 * along_x.max()


def test_centroid_errors_are_the_scatter_of_repeated_exposures(scene):
    raw, _, light = scene
    again = light + np.random.default_rng(9).normal(size=light.shape)
    shifts = values("astrometry", raw, again, context_of(raw.shape))["position", "20-50"]
    assert len(shifts) > 40
    assert np.std(shifts) == pytest.approx(np.sqrt(2), rel=0.25)  # two exposures' errors


def test_a_source_without_a_centroid_has_moved_by_its_width(scene):
    raw, table, light = scene
    brightest = np.argsort(-table["flux"])[:1]
    gone = raw - injection.draw(light.shape, table[brightest], FWHM)
    hole = gone - 40 * injection.draw(light.shape, table[brightest], FWHM)
    found = values("astrometry", raw, hole, context_of(raw.shape))["position_pix", ">50"]
    assert found.max() == pytest.approx(FWHM)


@pytest.mark.parametrize(("g1", "g2"), [(0.2, 0.0), (-0.1, 0.15)])
def test_moments_of_an_elliptical_gaussian(g1, g2):
    profile = galsim.Gaussian(sigma=2.0, flux=1000).shear(g1=g1, g2=g2)
    image = profile.drawImage(nx=61, ny=61, scale=1.0, method="no_pixel").array
    place = np.zeros(1, PLACE)
    place["x"] = place["y"] = 30
    shape, flux = adaptive_moments(image, place, FWHM)
    np.testing.assert_allclose(shape[0], [g1, g2, 2.0], atol=2e-3)
    assert flux[0] == pytest.approx(1000, rel=2e-3)


def test_shape_errors_are_the_scatter_of_repeated_exposures(scene):
    raw, _, light = scene
    again = light + np.random.default_rng(9).normal(size=light.shape)
    changes = values("shapes", raw, again, context_of(raw.shape))["ellipticity", "20-50"]
    assert len(changes) > 40
    assert np.std(changes) == pytest.approx(np.sqrt(2), rel=0.25)


def test_a_source_without_moments_has_changed_by_one(scene):
    raw, table, light = scene
    brightest = np.argsort(-table["flux"])[:1]
    hole = raw - 40 * injection.draw(light.shape, table[brightest], FWHM)
    found = values("shapes", raw, hole, context_of(raw.shape))
    assert max(found["g1", ">50"].max(), found["size", ">50"].max()) == 1.0


def test_shapes_without_galsim_say_what_to_install(scene, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "galsim", None)
    with pytest.raises(MissingDependencyError, match=r"skyfold\[measure\]"):
        get_case("shapes").prepare(scene[0], context_of(scene[0].shape))


def test_sky_that_is_lifted_is_recorded_at_every_scale():
    raw = np.random.default_rng(5).normal(size=(256, 256))
    found = values("low_surface_brightness", raw, raw + 0.01, context_of(raw.shape))
    for scale in (4, 16, 64):
        full = found[f"sky_{scale}pix", "all"]
        assert np.median(full) == pytest.approx(0.01 * scale, rel=0.05)  # mean over sigma / side


def test_objects_that_become_unusual_displace_those_that_were(scene):
    raw, _, light = scene
    context = context_of(raw.shape)
    assert values("anomalies", raw, raw, context)["missed", "all"].tolist() == [0.0] * 5
    smoothed = light  # without its noise no faint object looks odd
    missed = values("anomalies", raw, smoothed, context)["missed", "all"]
    assert missed.sum() >= 2
    empty = np.random.default_rng(1).normal(size=(64, 64))
    assert not values("anomalies", empty, empty, context_of(empty.shape))["missed", "all"].size


def galaxies():
    """Round to moderately flattened Sersic galaxies in one row each, with their Sersic indices."""
    rng = np.random.default_rng(4)
    side, image, places, indices = 120, galsim.ImageF(4 * 120, 2 * 120), [], []
    psf = galsim.Gaussian(fwhm=FWHM)
    for number, (row, column) in enumerate(np.ndindex(2, 4)):
        index = (0.8, 1.5, 2.5, 4.0)[number % 4]
        profile = galsim.Sersic(n=index, half_light_radius=5.0, flux=2e4, trunc=40.0)
        profile = galsim.Convolve(profile.shear(g1=rng.uniform(-0.15, 0.15), g2=0.05), psf)
        x, y = side * (column + 0.5), side * (row + 0.5)
        stamp = profile.drawImage(
            nx=side, ny=side, scale=1.0, center=galsim.PositionD(x + 1, y + 1)
        )
        image[stamp.bounds & image.bounds] += stamp[stamp.bounds & image.bounds]
        places.append((x, y, 2e4))
        indices.append(index)
    raw = image.array + rng.normal(0, 0.5, image.array.shape)
    return raw.astype(np.float32), np.array(places, PLACE), np.array(indices)


@pytest.mark.filterwarnings("ignore")  # statmorph's own
def test_morphology_agrees_with_statmorph():
    statmorph = pytest.importorskip("statmorph")
    raw, places, indices = galaxies()
    reach = 6 * FWHM
    radius = petrosian_radius(raw, places, FWHM)
    known = np.isfinite(radius)
    assert known.sum() >= 6
    free = np.ones(raw.shape, bool)
    y, x = np.indices(raw.shape)
    for one in places:
        free[np.hypot(y - one["y"], x - one["x"]) < 50] = False
    sky = sky_difference(raw, free, FWHM)
    ours = morphology(raw, sky, places, radius, FWHM)[known]
    theirs = []
    for one in places[known]:
        row, column = int(one["y"]), int(one["x"])
        stamp = raw[row - 59 : row + 60, column - 59 : column + 60].astype(float)
        yy, xx = np.indices(stamp.shape) - 59
        found = statmorph.SourceMorphology(
            stamp,
            segmap=(np.hypot(xx, yy) < reach).astype(int),
            label=1,
            weightmap=np.full(stamp.shape, 0.5),
            sersic_fitting_args={"maxiter": 1},
            doublesersic_fitting_args={"maxiter": 1},
        )
        theirs.append([found.concentration, found.asymmetry, found.gini, found.m20])
    theirs = np.array(theirs)
    for number, (measure, most) in enumerate(zip(MEASURES, (0.15, 0.05, 0.04, 0.2), strict=True)):
        apart = ours[:, number] - theirs[:, number]
        assert np.median(np.abs(apart)) < most, measure
    for number in (0, 2, 3):
        assert abs(np.corrcoef(ours[:, number], theirs[:, number])[0, 1]) > 0.9, MEASURES[number]
    assert np.corrcoef(ours[:, 0], indices[known])[0, 1] > 0.9


def test_concentration_and_gini_of_known_profiles():
    y, x = np.indices((121, 121)) - 60.0
    width = 6.0
    gaussian = np.exp(-(x**2 + y**2) / (2 * width**2)).astype(np.float32)
    place = np.array([(60, 60, 1)], PLACE)
    # of a Gaussian, 1 - exp(-r^2 / 2 s^2) = share; 1.5 r_p hold nearly all
    expected = 2.5 * np.log10(np.log(0.2) / np.log(0.8))
    radius = petrosian_radius(gaussian, place, 8.0)
    # of a Gaussian, x exp(-x) / (1 - exp(-x)) = 0.2 where x = r^2 / 2 s^2 = 2.6634
    assert radius[0] == pytest.approx(width * np.sqrt(2 * 2.6634), rel=0.02)
    assert concentration(gaussian, place, radius, 8.0)[0] == pytest.approx(expected, rel=0.03)
    flat, one = np.ones((1, 100)), np.zeros((1, 100))
    one[0, 7] = 5
    inside = np.ones((1, 100), bool)
    assert gini(flat, inside)[0] == pytest.approx(0, abs=1e-12)
    assert gini(one, inside)[0] == pytest.approx(1)


def injected_scene(seed=1):
    raw = np.random.default_rng(seed).normal(1000, 10, (300, 400)).round().astype("u2")
    sigma = np.full(raw.shape, 10.0)
    return raw, injection.inject(raw, sigma, fwhm=FWHM, slope=0.5, step=None, seed=seed)


def test_injected_sources_are_where_and_what_they_say():
    raw, (pixels, sigma, sources) = injected_scene()
    assert pixels.dtype == raw.dtype
    assert len(sources) == (300 // 20) * (400 // 20)
    added = pixels.astype(float) - raw
    light = injection.draw(raw.shape, sources, FWHM)
    assert light.sum() == pytest.approx(sources["flux"].sum(), rel=1e-6)
    assert np.std((added - light)[light < 1]) < 1  # rounding and its photon noise alone
    assert np.all(sigma >= 10)
    np.testing.assert_allclose(sigma**2 - 100, 0.5 * light, atol=1e-6)
    again = injected_scene()[1]
    assert np.array_equal(pixels, again[0])
    stepped, *_ = injection.inject(
        np.zeros((100, 100)), np.ones((100, 100)), fwhm=3.0, slope=0, step=0.25, seed=1
    )
    assert np.array_equal(stepped / 0.25, np.rint(stepped / 0.25))
    full = np.full((100, 100), 255, np.uint8)
    over, *_ = injection.inject(full, np.ones((100, 100)), fwhm=3.0, slope=0, step=None, seed=1)
    assert over.min() == 255


def test_loss_of_injected_sources():
    _, (pixels, sigma, sources) = injected_scene()
    context = ImageContext(
        sigma,
        np.zeros(sigma.shape, bool),
        np.ones(sigma.shape, bool),
        1,
        FWHM,
        product="injected",
        injected=sources,
    )
    raw = pixels.astype(float)
    same = values("transients", raw, raw.copy(), context)
    assert all(np.all(one == 0) for one in same.values())
    assert len(same["injected_flux", ">=5"]) > 100
    weak = sources[sources["flux"] < np.median(sources["flux"])]
    gone = raw - injection.draw(raw.shape, weak, FWHM)
    found = values("transients", raw, gone, context)
    assert found["injected_missed", "5-10"].mean() == 1
    assert found["injected_missed", ">50"].mean() == 0
    assert np.median(found["injected_flux", "5-10"]) == pytest.approx(-7, abs=1.5)
    with pytest.raises(InvalidRequestError, match="no injected sources"):
        get_case("transients").prepare(raw, context_of(raw.shape))


def test_loss_of_a_difference_image():
    rng = np.random.default_rng(6)
    raw = rng.normal(size=(256, 256))
    context = context_of(raw.shape, product="difference")
    noisy = raw + rng.normal(0, 0.3, raw.shape)
    found = {s.measure: s for s in get_case("transients").measure(raw, noisy, context)}
    assert np.std(found["difference_flux"].values) == pytest.approx(0.3, rel=0.15)
    assert found["difference_alarm"].values.mean() == 0
    spot = np.zeros(1, PLACE)
    spot["x"], spot["y"], spot["flux"] = 12 * 8, 12 * 9, 60 * FWHM
    flash = raw + injection.draw(raw.shape, spot, FWHM)
    found = {s.measure: s for s in get_case("transients").measure(raw, flash, context)}
    assert found["difference_alarm"].values.sum() >= 1


def test_another_epoch_on_the_pixels_of_an_image():
    import synthetic

    wcs = synthetic.simple_wcs((90, 100))
    y, x = np.indices((90, 100))
    ramp = 3.0 * x + 2.0 * y
    whole = wcs.deepcopy()
    whole.wcs.crpix += np.array([5, -3])
    found = align(wcs, (90, 100), whole, (90, 100))
    assert found.inside.sum() == 87 * 95
    np.testing.assert_array_equal(found.image(ramp)[found.inside], (ramp + 15 - 6)[found.inside])
    turned = wcs.deepcopy()
    turned.wcs.pc = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    found = align(wcs, (90, 100), turned, (90, 100))
    there = turned.world_to_pixel(wcs.pixel_to_world(40, 30))
    assert (found.x[30, 40], found.y[30, 40]) == pytest.approx(tuple(map(float, there)), abs=1e-4)
    linear = found.image(ramp)[found.inside]
    np.testing.assert_allclose(linear, (3 * found.x + 2 * found.y)[found.inside], rtol=1e-9)
    assert found.variance(np.ones((90, 100)))[found.inside].max() <= 1
    piece = align(wcs, (20, 30), turned, (90, 100))
    window, within = piece.cropped()
    assert ramp[window].size < 0.3 * ramp.size
    np.testing.assert_array_equal(within.image(ramp[window]), piece.image(ramp))
    bad = np.zeros((90, 100), bool)
    bad[45, 50] = True
    assert 1 < (found.mask(bad) & found.inside).sum() < 9


@pytest.mark.parametrize("case", [*ONE_IMAGE])
def test_images_without_sources_or_pixels_give_no_numbers(case):
    rng = np.random.default_rng(4)
    blank = np.full((50, 70), np.nan)
    for image in (rng.normal(size=(50, 70)) * 0.1, blank):
        found = get_case(case).measure(image, image, context_of(image.shape))
        rows = summarise([{case: found}], seed=1)
        dark = [row for row in rows if not row["measure"].startswith("sky")]
        assert {row["note"] for row in dark} <= {"too few"}


def test_every_case_has_its_default_measure(scene):
    raw, _, _ = scene
    for case in cases("images"):
        assert case.default_measure
        if "image" in case.products:
            found = case.measure(raw, raw, context_of(raw.shape))
            assert case.default_measure in {sample.measure for sample in found}
