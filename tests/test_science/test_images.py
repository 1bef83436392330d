"""Photometry and detection on simulated sky whose losses are known."""

import numpy as np
import pytest

from skyfold.errors import InvalidRequestError, UnknownNameError
from skyfold.fidelity.record import summarise
from skyfold.science import ImageContext, cases, get_case
from skyfold.science.detection import has_neighbour
from skyfold.science.field import prepare_field
from skyfold.science.matched_filter import peaks_of
from skyfold.science.sky import row_medians, sky
from skyfold.science.sources import FALLBACK_FWHM, circle_sum

FWHM = 4.0
SIGMA = FWHM / 2.3548200450309493


def star(shape, x, y, flux=1.0, width=SIGMA):
    """Point source of a Gaussian profile, in an empty image."""
    rows, columns = (
        np.exp(-(((np.arange(size) - at) / width) ** 2) / 2) / np.sqrt(2 * np.pi) / width
        for size, at in zip(shape, (y, x), strict=True)
    )
    return flux * rows[:, None] * columns


def grid_sky(size=512, step=32, seed=1, unit=1.0, level=0.0, fluxes=(30.0, 3000.0)):
    """Stars on a jittered grid over white noise; image, context, positions and fluxes."""
    rng = np.random.default_rng(seed)
    at = np.arange(step // 2, size, step)
    x, y = (plane.ravel() + rng.uniform(-1, 1, plane.size) for plane in np.meshgrid(at, at))
    flux = np.exp(rng.uniform(*np.log(fluxes), x.size))
    truth = sum(star((size, size), *one) for one in zip(x, y, flux, strict=True))
    raw = unit * (truth + level + rng.normal(size=truth.shape))
    everywhere = np.ones(raw.shape, bool)
    context = ImageContext(np.full(raw.shape, unit), ~everywhere, everywhere, 1, FWHM)
    return raw, context, np.column_stack([x, y, flux])


@pytest.fixture(scope="module")
def scene():
    return grid_sky()


def by_bin(case, raw, decoded, context):
    found = get_case(case).measure(raw, decoded, context)
    return {(s.measure, s.bin): s.values for s in found if not s.definition}


@pytest.mark.parametrize("case", ["photometry", "detection"])
def test_identical_images_lose_exactly_nothing(scene, case):
    raw, context, _ = scene
    found = get_case(case).measure(raw, raw.copy(), context)
    assert sum(len(sample.values) for sample in found) > 500
    assert all(np.all(sample.values == 0) for sample in found)
    rows = summarise([{case: found}], seed=1, lossless=True)
    assert {row["high"] for row in rows} == {0.0}


@pytest.mark.parametrize(("measure", "radius"), [("flux_1fwhm", FWHM), ("flux_2fwhm", 2 * FWHM)])
def test_offset_within_apertures_is_the_known_flux(scene, measure, radius):
    raw, context, _ = scene
    sources = prepare_field(raw, context).sources
    offset = np.zeros(raw.shape)
    yy, xx = np.indices(raw.shape)
    for x, y in zip(sources["x"], sources["y"], strict=True):
        offset[np.hypot(xx - x, yy - y) <= radius + 1.5] = 0.125
    losses = by_bin("photometry", raw, raw + offset, context)[measure, ">=5"]
    area = np.pi * radius**2
    assert len(losses) > 200
    np.testing.assert_allclose(losses, 0.125 * area / np.sqrt(area), rtol=2e-3)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_added_noise_is_recorded_as_its_share(scene, share):
    raw, context, _ = scene
    noise = np.random.default_rng(2).normal(0, share, raw.shape)
    found = get_case("photometry").measure(raw, raw + noise, context)
    rows = {(r["measure"], r["bin"]): r for r in summarise([{"photometry": found}], seed=1)}
    for measure in ("flux_1fwhm", "flux_2fwhm"):
        row = rows[measure, ">=5"]
        assert row["scatter"] == pytest.approx(share, rel=0.2)
        assert row["low"] <= 1.645 * share <= row["high"]
        assert row["exposure_lost"] == pytest.approx(share**2 / (1 + share**2), rel=0.4)
    assert rows["flux_auto", ">=5"]["p90"] >= 1.645 * share * 0.9  # its radius moves as well


def test_errors_that_cancel_between_neighbours_cost_fluxes_little(scene):
    raw, context, _ = scene
    rng = np.random.default_rng(3)
    signs = np.kron(rng.choice([-1.0, 1.0], size=(256, 256)), [[1, -1], [-1, 1]])
    losses = by_bin("photometry", raw, raw + 0.8 * signs, context)["flux_1fwhm", ">=5"]
    alone = rng.normal(0, 0.8, raw.shape)
    white = by_bin("photometry", raw, raw + alone, context)["flux_1fwhm", ">=5"]
    assert np.quantile(np.abs(losses), 0.9) < 0.3 * np.quantile(np.abs(white), 0.9)


def test_signal_to_noise_bins_hold_what_they_say():
    raw, context, placed = grid_sky(fluxes=(100.0, 100.0000001))
    error = np.sqrt(np.pi) * FWHM
    snr = 100 * (1 - 2.0**-4) / error  # a circle of one FWHM holds 1 - 2^-4 of a Gaussian
    assert 10 < snr < 20
    found = by_bin("photometry", raw, raw, context)
    assert len(found["flux_1fwhm", "10-20"]) > 0.95 * len(placed)
    assert len(found["flux_1fwhm", ">=5"]) == len(placed)


@pytest.mark.parametrize(
    ("unit", "level", "dtype"),
    [(4e-12, -3.0, ">f8"), (4e-12, 0.0, "f4"), (60.0, 200.0, "<i4"), (25.0, 500.0, ">u2")],
)
def test_losses_know_no_scale_and_no_dtype(unit, level, dtype):
    expected = None
    for scale, kind in ((1.0, "f8"), (unit, dtype)):
        raw, context, _ = grid_sky(size=256, unit=scale, level=level)
        step = scale * 0.5
        decoded = np.round(raw / step) * step
        if np.dtype(kind).kind in "iu":
            raw, decoded = np.rint(raw), np.rint(decoded)
        row = summarise(
            [
                {
                    "photometry": get_case("photometry").measure(
                        raw.astype(kind), decoded.astype(kind), context
                    )
                }
            ],
            seed=1,
        )[5]
        assert (row["measure"], row["bin"]) == ("flux_1fwhm", ">=5")
        expected = expected or row
        assert row["n"] == expected["n"]
        assert row["p90"] == pytest.approx(expected["p90"], rel=0.05)


def test_noise_free_decoding_is_judged_by_the_noise_of_raw(scene):
    raw, context, placed = scene
    truth = sum(star(raw.shape, *one) for one in placed)
    fluxes = by_bin("photometry", raw, truth, context)["flux_1fwhm", ">=5"]
    assert np.std(fluxes) == pytest.approx(1, abs=0.12)  # the noise itself is what is missing
    rates = by_bin("detection", raw, truth, context)
    assert rates["lost", ">50"].mean() == 0
    assert len(rates["created", ">=5"]) > 200
    assert rates["created", ">=5"].mean() < 0.02


def test_a_removed_source_is_lost_and_an_added_one_created(scene):
    raw, context, placed = scene
    bright = placed[np.argsort(-placed[:, 2])][:3]
    gone = raw - sum(star(raw.shape, *one) for one in bright)
    rates = by_bin("detection", raw, gone, context)
    assert (rates["lost", ">50"].sum(), rates["lost", ">=5"].sum()) == (3, 3)
    assert rates["created", ">=5"].sum() == 0
    more = raw + star(raw.shape, 32.0, 32.0, 2000.0) + star(raw.shape, 224.0, 96.0, 150.0)
    rates = by_bin("detection", raw, more, context)
    assert (rates["created", ">50"].sum(), rates["created", "10-20"].sum()) == (1, 1)
    assert rates["lost", ">=5"].sum() == 0


def test_sources_count_only_on_clear_and_held_out_sky(scene):
    raw, context, placed = scene
    right = np.zeros(raw.shape, bool)
    right[:, 256:] = True
    mask = np.zeros(raw.shape, bool)
    x, y, _ = placed[np.argmax(np.where(placed[:, 0] > 280, placed[:, 2], 0))]
    mask[round(y), round(x) + 6] = True  # inside two FWHM, outside one
    spoiled = np.where(mask, np.nan, raw)
    held = ImageContext(context.sigma, mask, right, 1, FWHM)
    everywhere = by_bin("photometry", raw, raw, context)
    found = by_bin("photometry", spoiled, spoiled, held)
    expected = np.count_nonzero(prepare_field(raw, context).sources["x"] > 255.5)
    counted = {m: len(found[m, ">=5"]) + len(found[m, "3-5"]) for m in ("flux_1fwhm", "flux_2fwhm")}
    assert abs(counted["flux_1fwhm"] - expected) <= 3  # some fall below S/N 3
    assert counted["flux_2fwhm"] < counted["flux_1fwhm"]
    assert len(found["flux_2fwhm", ">50"]) < len(everywhere["flux_2fwhm", ">50"])
    rates = by_bin("detection", spoiled, spoiled, held)
    assert len(rates["lost", ">=5"]) < 0.6 * len(
        by_bin("detection", raw, raw, context)["lost", ">=5"]
    )


def test_sky_follows_a_gradient_around_sources(scene):
    raw, context, _ = scene
    free = prepare_field(raw, context).free
    slope = np.linspace(0, 10, raw.shape[1])[None, :] + np.zeros(raw.shape)
    level = sky((raw + slope).astype("f4"), np.ones(raw.shape, "f4"), free)
    inner = np.s_[:, 128:-128]  # the smoothing cannot follow a slope in the outermost blocks
    assert np.abs(level - slope)[inner].max() < 0.25
    assert abs(np.mean((level - slope)[inner])) < 0.02


@pytest.mark.parametrize("fwhm", [2.5, 4.0, 6.5])
def test_width_is_found_among_stars_and_galaxies(fwhm):
    rng = np.random.default_rng(3)
    image, width = rng.normal(size=(512, 512)), fwhm / 2.3548
    for index in range(90):
        x, y = 28 + 52 * (index % 9), 28 + 50 * (index // 9)
        larger = 1.0 if index % 3 == 0 else rng.uniform(1.4, 2.2)
        image += star(
            image.shape, x + rng.uniform(-1, 1), y, rng.uniform(800, 8000), width * larger
        )
    good = np.ones(image.shape, bool)
    context = ImageContext(np.ones(image.shape), ~good, good)
    assert prepare_field(image, context).fwhm == pytest.approx(fwhm, rel=0.12)


@pytest.mark.parametrize("case", ["photometry", "detection"])
def test_images_without_sources_or_pixels_give_empty_samples(case):
    rng = np.random.default_rng(4)
    noise, everywhere = rng.normal(size=(50, 70)), np.ones((50, 70), bool)
    blank = np.full((50, 70), np.nan)
    for image, sigma in ((noise * 0.1, 1.0), (blank, 1.0), (noise, np.nan), (noise, 0.0)):
        context = ImageContext(np.full(image.shape, sigma), ~everywhere, everywhere)
        assert prepare_field(image, context).fwhm == FALLBACK_FWHM
        found = get_case(case).measure(image, image, context)
        assert len(found) % 6 == 0
        assert {len(sample.values) for sample in found} == {0}
        assert {row["note"] for row in summarise([{case: found}], seed=1)} == {"too few"}


def test_work_on_raw_is_done_once_for_all_cases_and_levels(scene):
    raw, context, _ = scene
    assert prepare_field(raw, context) is prepare_field(raw, context)
    assert prepare_field(raw.copy(), context) is not prepare_field(raw, context)


def test_circle_sums_are_exact(scene):
    raw, context, _ = scene
    sources = prepare_field(raw, context).sources
    inner = sources[np.hypot(sources["x"] - 256, sources["y"] - 256) < 200]
    area = circle_sum(np.ones(raw.shape, np.float32), inner, FWHM)
    np.testing.assert_allclose(area, np.pi * FWHM**2, rtol=1e-6)


def test_every_top_of_a_blend_is_a_peak():
    yy, xx = np.indices((64, 64))
    tops = [(20.3, 30.0, 50.0), (27.6, 31.2, 20.0), (50.0, 12.5, 4.5), (50.0, 50.0, 3.5)]
    plane = sum(
        height * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * 2.0**2)) for x, y, height in tops
    )
    found = peaks_of(plane.astype(np.float32))
    at = np.column_stack([found["x"], found["y"]])[np.argsort(found["x"])]
    np.testing.assert_allclose(at, [top[:2] for top in tops[:3]], atol=0.15)  # the fourth: too low
    flat = np.zeros((9, 9), np.float32)
    flat[4, 4:6] = 7.0  # of two that are equal one is the peak, between them
    assert peaks_of(flat)[["x", "y"]].tolist() == [(4.5, 4.0)]


def test_neighbours_are_those_of_a_direct_search():
    rng = np.random.default_rng(5)
    kind = [("x", "f8"), ("y", "f8")]
    here, there = (np.array(list(map(tuple, rng.uniform(0, 99, (n, 2)))), kind) for n in (300, 80))
    apart = np.hypot(here["x"][:, None] - there["x"], here["y"][:, None] - there["y"])
    near = has_neighbour(here, there, 4.0)
    assert 0 < near.sum() < 300
    np.testing.assert_array_equal(near, apart.min(axis=1) <= 4.0)
    assert not has_neighbour(here, there[:0], 4.0).any()
    assert has_neighbour(here[:0], there, 4.0).shape == (0,)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_medians_of_rows_are_those_of_numpy(dtype):
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(40, 9)).astype(dtype)
    rows[rng.random(rows.shape) < 0.4] = np.nan
    rows[0], rows[1, 1:] = np.nan, np.nan
    with pytest.warns(RuntimeWarning, match="All-NaN"):
        expected = np.nanmedian(rows, axis=1)
    np.testing.assert_array_equal(row_medians(rows), expected)


def test_images_that_cannot_be_compared(scene):
    raw, context, _ = scene
    with pytest.raises(InvalidRequestError, match=r"shape \(10, 10\), its context \(512, 512\)"):
        get_case("photometry").prepare(raw[:10, :10], context)
    with pytest.raises(InvalidRequestError, match=r"shape \(10, 10\), its raw image \(512, 512\)"):
        get_case("detection").measure(raw, raw[:10, :10], context)
    holed = raw.copy()
    holed[5, 5:8] = np.nan
    with pytest.raises(InvalidRequestError, match="3 pixels are not finite"):
        get_case("photometry").measure(raw, holed, context)


def test_context_that_cannot_be():
    plane = np.ones((4, 4))
    with pytest.raises(InvalidRequestError, match=r"shapes \[\(4, 4\), \(4, 4\), \(4, 5\)\]"):
        ImageContext(plane, plane > 1, np.ones((4, 5), bool))
    with pytest.raises(InvalidRequestError, match="fwhm_pix is 0"):
        ImageContext(plane, plane > 1, plane > 0, fwhm_pix=0)


def test_cases_are_found_by_name():
    assert [case.name for case in cases("images")] == [
        "anomalies",
        "astrometry",
        "detection",
        "diffuse",
        "low_surface_brightness",
        "morphology",
        "movers",
        "photometry",
        "shapes",
        "shear",
        "transients",
    ]
    assert {case.name for case in cases("catalogs")} == {
        "colors",
        "photoz",
        "positions",
        "selection",
    }
    for case in cases():
        assert get_case(case.name) is case
    with pytest.raises(UnknownNameError, match=r"'astrology'; there are .*detection, .*photometry"):
        get_case("astrology")


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_independent_measurement_falls_inside_the_recorded_interval(seed):
    aperture = pytest.importorskip("photutils.aperture")
    background = pytest.importorskip("photutils.background")
    raw, context, placed = grid_sky(seed=seed, level=300.0)
    rng = np.random.default_rng(seed)
    decoded = np.round(raw / 0.5) * 0.5 + rng.normal(0, 0.2, raw.shape)
    found = get_case("photometry").measure(raw, decoded, context)
    recorded = summarise([{"photometry": found}], seed=1)
    row = next(r for r in recorded if (r["measure"], r["bin"]) == ("flux_1fwhm", ">=5"))
    circles = aperture.CircularAperture(placed[:, :2], FWHM)
    fluxes = []
    for image in (raw, decoded):
        level = background.Background2D(image, 64).background
        table = aperture.aperture_photometry(image - level, circles, error=context.sigma)
        fluxes.append(np.asarray(table["aperture_sum"]))
    error = np.asarray(table["aperture_sum_err"])
    losses = np.abs(fluxes[1] - fluxes[0])[fluxes[0] >= 5 * error] / error[0]
    assert row["low"] <= np.quantile(losses, 0.9) <= row["high"]
