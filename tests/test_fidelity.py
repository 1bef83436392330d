"""The record's statistics, its file, and the choice of a level."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import synthetic
from astropy import units as u
from astropy.io import fits
from astropy.table import Table
from small_release import build_release

from skyfold import open_release
from skyfold.errors import (
    CorruptDataError,
    FormatVersionError,
    InvalidNeedError,
    InvalidRequestError,
    NeedNotMetError,
    UnknownNameError,
)
from skyfold.fidelity.images import (
    LEAST_GAIN,
    _cut_down,
    _quarters,
    _spread_pieces,
    _window_in,
    images_to_measure,
    measure_image,
    record_of,
)
from skyfold.fidelity.needs import Need
from skyfold.fidelity.record import FidelityRecord, summarise
from skyfold.images.offsets import read_offsets
from skyfold.ladder import TILE
from skyfold.science import Sample

P90_OF_NORMAL = 1.6448536269514722  # of |x|, x of unit variance


def samples(values, *, measure="flux_1fwhm", bin="5-10", unit="sigma", statistic="p90"):
    return [Sample(measure, bin, np.asarray(values, float), unit, statistic)]


def one_row(values, seed=1, **labels):
    (row,) = summarise([{"photometry": samples(values, **labels)}], seed=seed)
    return row


def record_row(level, high, *, size, band="r", bin="10-20", measure="flux_1fwhm", **changes):
    row = dict.fromkeys(("bias", "scatter", "p50", "p90", "p99", "exposure_lost"), 0.0)
    row |= {"kind": "images", "set": "night1", "band": band, "level": level, "note": ""}
    row |= {"case": "photometry", "measure": measure, "bin": bin, "n": 100, "unit": "sigma"}
    row |= {"low": None if high is None else high / 2, "high": high, "statistic": "p90"}
    return row | {"bytes": size, "bpp": size / 1000, "held_out": True} | changes


def ladder(*highs, **changes):
    levels = zip(("latent", "sources", "bounded", "exact"), highs, (10, 60, 300, 800), strict=True)
    return [record_row(level, high, size=size, **changes) for level, high, size in levels]


def test_statistics_of_a_known_sample():
    values = np.arange(-50, 51, dtype=float)  # absolute values 0, 1, 1, 2, 2, ... 50, 50
    row = one_row(values)
    assert (row["n"], row["bias"], row["p50"], row["p90"], row["p99"]) == (101, 0.0, 25, 45, 50)
    assert row["scatter"] == pytest.approx(1.4826 * 25)
    assert row["exposure_lost"] == pytest.approx(row["scatter"] ** 2 / (1 + row["scatter"] ** 2))
    assert row["low"] < row["p90"] < row["high"]


def test_images_are_pooled_by_case_measure_and_bin():
    images = [
        {"photometry": samples([1.0] * 30) + samples([2.0] * 40, bin="3-5"), "detection": []},
        {"photometry": samples([1.0] * 20), "own": samples([3.0] * 50)},
    ]
    rows = {(row["case"], row["bin"]): row for row in summarise(images, seed=1)}
    assert {key: row["n"] for key, row in rows.items()} == {
        ("photometry", "5-10"): 50,
        ("photometry", "3-5"): 40,
        ("own", "5-10"): 50,
    }
    assert rows["own", "5-10"]["bias"] == 3.0


@pytest.mark.parametrize(
    ("statistic", "unit", "least"), [("p90", "sigma", 36), ("mean", "fraction", 20)]
)
def test_too_few_objects_give_no_number(statistic, unit, least):
    few = one_row(np.ones(least - 1), statistic=statistic, unit=unit)
    assert few["n"] == least - 1
    assert few["note"] == "too few"
    assert all(math.isnan(few[name]) for name in ("bias", "scatter", "p90", "low", "high"))
    assert one_row(np.ones(least), statistic=statistic, unit=unit)["high"] == 1.0


@pytest.mark.parametrize("count", [40, 400])
def test_percentile_interval_holds_a_repeat_as_often_as_it_claims(count):
    rng = np.random.default_rng(5)
    rows = [one_row(rng.normal(size=count), seed=trial) for trial in range(601)]
    held = [row["low"] <= other["p90"] <= row["high"] for row, other in pairwise(rows)]
    assert 0.93 <= np.mean(held) <= 0.99  # 95 %, give or take what 600 trials cannot tell
    truth = np.mean([row["low"] <= P90_OF_NORMAL <= row["high"] for row in rows])
    assert truth >= 0.97


@pytest.mark.parametrize(("rate", "count"), [(0.01, 150), (0.3, 60)])
def test_rate_interval_holds_a_repeat_as_often_as_it_claims(rate, count):
    rng = np.random.default_rng(6)
    about = {"statistic": "mean", "unit": "fraction"}
    rows = [one_row(rng.random(count) < rate, **about) for _ in range(601)]
    held = [row["low"] <= other["bias"] <= row["high"] for row, other in pairwise(rows)]
    assert 0.93 <= np.mean(held) <= 1


def test_mean_interval_matches_the_standard_error():
    values = np.random.default_rng(7).normal(3, 2, size=500)
    row = one_row(values, statistic="mean", unit="mag")
    width = 2 * 1.96 * np.sqrt(2) * values.std() / np.sqrt(500)
    assert row["high"] - row["low"] == pytest.approx(width, rel=0.1)
    assert row["low"] < values.mean() < row["high"]


def test_objects_that_err_together_count_for_fewer():
    rng = np.random.default_rng(9)
    areas = np.repeat(np.arange(60), 20)
    alone, shared = rng.normal(size=1200), np.repeat(rng.normal(size=60), 20)
    sample = samples(shared)[0]
    together = Sample("m", "all", sample.values, "mag", "mean", areas)
    (wide,) = summarise([{"case": [together]}], seed=1)
    narrow = one_row(shared, statistic="mean", unit="mag")
    assert (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"]) == pytest.approx(
        np.sqrt(20), rel=0.25
    )
    (free,) = summarise([{"case": [Sample("m", "all", alone, "mag", "mean", areas)]}], seed=1)
    other = one_row(alone, statistic="mean", unit="mag")
    assert (free["high"] - free["low"]) / (other["high"] - other["low"]) < 1.15
    few = Sample("m", "all", shared[:80], "sigma", "p90", areas[:80])
    (row,) = summarise([{"case": [few]}], seed=1)
    assert row["note"] in ("", "too few")


def test_an_interval_holds_what_other_definitions_find():
    values = np.random.default_rng(4).normal(size=400)
    alone = one_row(values)
    more, fewer = (
        Sample("flux_1fwhm", "5-10", factor * values, "sigma", "p90", definition=name)
        for name, factor in (("more", 2.0), ("fewer", 0.5))
    )
    few = Sample("flux_1fwhm", "5-10", np.full(30, 9.0), "sigma", "p90", definition="few")
    (row,) = summarise([{"photometry": [more, *samples(values), fewer, few]}], seed=1)
    assert row["low"] == pytest.approx(alone["p90"] / 2)
    assert row["high"] == pytest.approx(alone["p90"] * 2)
    assert {name: row[name] for name in ("n", "p90", "bias")} == {
        name: alone[name] for name in ("n", "p90", "bias")
    }
    rates = [
        Sample("lost", "all", np.arange(200.0) < count, "fraction", "mean", definition=name)
        for name, count in (("", 20), ("peaks", 60))
    ]
    (row,) = summarise([{"detection": rates}], seed=1)
    assert (row["bias"], row["high"]) == (0.1, 0.3)


def test_no_event_in_a_rate_is_not_certainty():
    row = one_row(np.zeros(100), statistic="mean", unit="fraction")
    assert row["low"] == 0
    assert row["high"] == pytest.approx(0.0713, abs=0.001)  # z^2 / (n + z^2)


def test_intervals_depend_on_the_seed_and_the_row_alone():
    values = np.random.default_rng(8).normal(size=100)
    about = {"statistic": "mean", "unit": "mag"}
    alone = one_row(values, seed=3, **about)
    images = [{"other": samples(values), "photometry": samples(values, **about)}]
    among = summarise(images, seed=3)[1]
    assert alone == among
    assert len({one_row(values, seed=seed, **about)["high"] for seed in range(9)}) == 9


def test_lossless_is_exactly_zero_however_few():
    (row,) = summarise([{"detection": samples([], statistic="mean")}], seed=1, lossless=True)
    assert (row["n"], row["high"], row["scatter"], row["note"]) == (0, 0.0, 0.0, "lossless")


def test_a_loss_at_a_lossless_level_is_corruption():
    with pytest.raises(CorruptDataError, match=r"photometry/flux_1fwhm/5-10 shows a loss.*0\.25"):
        summarise([{"photometry": samples([0.0, -0.25])}], seed=1, lossless=True)


def test_record_survives_its_file_with_units():
    odd = record_row("map", 3.5, size=4, set="ü, 'q'")
    rows = [*ladder(None, 0.2, 0.1, 0.0, note="too few"), odd]
    record = FidelityRecord.from_rows(rows)
    again = FidelityRecord.from_ecsv(record.to_ecsv().encode())
    assert again.rows() == record.rows()
    assert again.table["bytes"].unit == u.byte
    assert again.table["bpp"].unit == u.bit / u.pixel
    assert again.rows()[0]["high"] is None
    assert again.rows()[4]["note"] == ""
    json.dumps(again.rows(), allow_nan=False)


def test_record_that_cannot_be_read():
    text = FidelityRecord.from_rows(ladder(3, 2, 1, 0)).to_ecsv()
    with pytest.raises(CorruptDataError, match="not ECSV"):
        FidelityRecord.from_ecsv(b"\xff\xfe")
    with pytest.raises(CorruptDataError, match="not ECSV"):
        FidelityRecord.from_ecsv(text[: len(text) // 3])
    with pytest.raises(FormatVersionError, match="version 9"):
        FidelityRecord.from_ecsv(text.replace("version: 1", "version: 9"))
    with pytest.raises(CorruptDataError, match=r"columns kind, set.* are missing"):
        FidelityRecord(Table({"n": [1]}))
    short = record_row("latent", 1, size=1)
    del short["bytes"]
    with pytest.raises(CorruptDataError, match="a row lacks bytes"):
        FidelityRecord.from_rows([short])


def test_filter_by_one_value_or_several():
    record = FidelityRecord.from_rows(ladder(3, 2, 1, 0) + ladder(6, 4, 2, 0, band="g"))
    assert len(record.filter(band="g", level=["latent", "exact"]).rows()) == 2
    with pytest.raises(UnknownNameError, match="no band 'z' here; there are g, r"):
        record.filter(band="z")
    without = FidelityRecord.from_rows([row | {"band": ""} for row in ladder(3, 2, 1, 0)])
    with pytest.raises(UnknownNameError, match="no band 'z' here; there are none;"):
        without.filter(band="z")
    with pytest.raises(InvalidRequestError, match="no column 'filter'"):
        record.filter(filter="g")


@pytest.mark.parametrize(
    ("need", "level"),
    [
        ("3 sigma at S/N 10", "latent"),
        ("2.99 sigma at S/N 10", "sources"),
        ("0.2 sigma at S/N 19.9", "bounded"),
        ("0.1 sigma at S/N 10-20", "bounded"),
        ("0.09 sigma at S/N 12", "exact"),
        (["3 sigma at S/N 10", "0.5 sigma at S/N 15"], "sources"),
        (Need(0.5, "sigma", sn=10.0, measure="flux_1fwhm"), "sources"),
        ("0 sigma at S/N 10", "exact"),
    ],
)
def test_cheapest_level_that_meets_the_need(need, level):
    record = FidelityRecord.from_rows(ladder(3.0, 0.5, 0.1, 0.0))
    choice = record.choose("photometry", need)
    assert choice.level == level
    assert choice.bytes == record.filter(level=level).rows()[0]["bytes"]
    assert choice.bpp == pytest.approx(choice.bytes / 1000)
    assert choice.row["level"] == level


def test_every_band_must_meet_the_need_unless_one_is_named():
    record = FidelityRecord.from_rows(ladder(3, 0.5, 0.1, 0) + ladder(4, 1.5, 0.2, 0, band="g"))
    assert record.choose("photometry", "1 sigma at S/N 10", band="r").level == "sources"
    both = record.choose("photometry", "1 sigma at S/N 10")
    assert (both.level, both.bytes, both.row["band"]) == ("bounded", 600, "g")
    assert both.bpp == pytest.approx(0.3)


def test_a_band_without_a_number_meets_nothing_but_exact():
    silent = ladder(None, None, None, None, band="g", note="too few")
    record = FidelityRecord.from_rows(ladder(3, 0.5, 0.1, 0) + silent)
    assert record.choose("photometry", "9 sigma at S/N 10").level == "exact"
    unmeasured = [row | {"case": "detection"} for row in silent]
    record = FidelityRecord.from_rows(ladder(3, 0.5, 0.1, 0) + unmeasured)
    assert record.choose("photometry", "9 sigma at S/N 10").level == "exact"


def test_bytes_decide_and_the_ladder_breaks_ties():
    rows = ladder(0.1, 0.1, 0.1, 0.0)
    direct = [row | {"bytes": 50} if row["level"] == "exact" else row for row in rows]
    record = FidelityRecord.from_rows(direct)
    assert record.choose("photometry", "0 sigma at S/N 10").level == "exact"
    assert (
        record.choose("photometry", "1 sigma at S/N 10", levels=["bounded", "exact"]).level
        == "exact"
    )
    same = FidelityRecord.from_rows([row | {"bytes": 7} for row in reversed(rows)])
    assert same.choose("photometry", "1 sigma at S/N 10").level == "latent"


def test_need_without_signal_to_noise_is_about_every_bin_from_five():
    def record(bright):
        rows = ladder(9, 9, 9, 0, bin="3-5") + ladder(3, 0.5, 0.1, 0, bin="5-10")
        rows += ladder(3, 0.5, 0.1, 0, bin=">=5") + ladder(3, bright, 0.1, 0, bin=">50")
        return FidelityRecord.from_rows(rows)

    assert record(0.4).choose("photometry", "0.5 sigma").level == "sources"
    assert record(0.6).choose("photometry", "0.5 sigma").level == "bounded"
    assert record(None).choose("photometry", "0.5 sigma").level == "sources"
    choice = record(None).choose("photometry", "0.5 sigma at S/N > 50")
    assert choice.level == "bounded"
    assert [one.split(":")[0] for one in choice.missed] == ["latent", "sources"]
    assert "too few objects" in choice.missed[1]
    choice = record(0.6).choose("photometry", "0.5 sigma")
    assert "sources: 0.6 sigma (flux_1fwhm, bin >50, " in choice.missed[1]
    assert choice.missed[1].endswith("allowed 0.5")


def test_refusal_names_the_nearest_level_and_holds_the_table():
    rows = ladder(3, 0.5, 0.1, 0)[:3] + ladder(7, 7, 7, 0, bin="3-5")[:3]
    with pytest.raises(NeedNotMetError) as refused:
        FidelityRecord.from_rows(rows).choose("photometry", "0.05 sigma at S/N 10")
    message = str(refused.value)
    assert "nearest is bounded, whose upper end is 0.1 sigma" in message
    assert "'0.05 sigma at S/N 10'" in message
    assert set(refused.value.table["bin"]) == {"10-20"}
    assert len(refused.value.table) == 3
    assert all(level in message for level in ("latent", "sources", "bounded"))


def test_a_record_of_what_is_all_exact_says_so():
    empty = FidelityRecord(FidelityRecord.from_rows(ladder(3, 0.5, 0.1, 0)).table[:0])
    with pytest.raises(UnknownNameError, match="stored directly is exact at every level"):
        empty.choose("photometry", "0.1 sigma")


def test_what_is_not_in_the_record_is_named():
    record = FidelityRecord.from_rows(ladder(3, 0.5, 0.1, 0))
    with pytest.raises(UnknownNameError, match="no case 'astrology' here; there are photometry"):
        record.choose("astrology", "0.1 sigma")
    with pytest.raises(UnknownNameError, match=r"no measure 'flux_9'.*there are flux_1fwhm"):
        record.choose("photometry", "flux_9 < 0.1 sigma at S/N 10")
    with pytest.raises(InvalidNeedError, match=r"unit is mag.*recorded in sigma.*'0\.1 sigma'"):
        record.choose("photometry", "0.1 mag at S/N 10")
    with pytest.raises(InvalidNeedError, match="unit is fraction"):
        record.choose("photometry", "10% at S/N 10")
    with pytest.raises(InvalidNeedError, match=r"no bin of photometry flux_1fwhm.*10-20"):
        record.choose("photometry", "0.1 sigma at S/N 2")


def test_rates_and_cases_that_are_not_installed():
    about = {"unit": "fraction", "statistic": "mean", "bin": "5-10"}
    lost = ladder(0.2, 0.009, 0.001, 0, case="detection", measure="lost", **about)
    made = ladder(0.2, 0.2, 0.001, 0, case="detection", measure="created", **about)
    own = ladder(9, 5, 1, 0, case="centroid", measure="shift", unit="mas", bin="all")
    record = FidelityRecord.from_rows(made + lost + own)
    assert record.choose("detection", "1% completeness at S/N 5").level == "sources"
    assert record.choose("detection", "99% purity at S/N 5").level == "bounded"
    assert record.choose("centroid", "0.005 arcsec").level == "sources"


@pytest.mark.parametrize("plane", [(2600, 2600), (1040, 1392), (1100, 300), (5000, 1024)])
def test_pieces_of_a_large_image_lie_one_in_each_quarter(plane):
    counted = np.random.default_rng(1).random(plane) < 0.1
    parts = _quarters(plane)
    assert sum(counted[part].size for part in parts) == counted.size
    assert len(parts) == (2 if min(plane) < 1024 else 4)
    for part in parts:
        piece = _window_in(counted, part)
        for mine, its in zip(piece, part, strict=True):
            assert its.start <= mine.start < mine.stop <= its.stop
            assert mine.start % TILE == 0
            assert mine.stop - mine.start <= 512 or mine.stop == its.stop


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_pieces_of_a_large_image_never_overlap(share):
    tiles = np.random.default_rng(2).random((10, 10)) < share
    counted = np.kron(tiles, np.ones((TILE, TILE), bool))[:2500, :2500]
    found = _spread_pieces(counted, 8)
    taken = np.zeros(counted.shape, int)
    for piece in found:
        taken[piece] += 1
        assert counted[piece].sum() >= LEAST_GAIN
    assert taken.max() == 1
    assert len(found) == 8 if share > 0.3 else len(found) <= 8
    if share == 0.1:
        assert counted[taken == 1].sum() > 0.8 * counted.sum()
    assert len(_spread_pieces(counted, 2)) == 2
    assert len(_spread_pieces(np.zeros((1200, 1200), bool), 8)) == 1


@pytest.mark.parametrize("margin", [5, 24, 70])
@pytest.mark.parametrize("held", [(0, 0, 1, 1), (300, 420, 200, 32), (250, 0, 262, 512)])
def test_a_piece_is_cut_down_to_the_sky_that_counts_and_its_margin(margin, held):
    y, x, height, width = held
    counted = np.zeros((512, 512), bool)
    counted[y : y + height, x : x + width] = True
    piece = slice(256, 768), slice(512, 1024)
    found = _cut_down(piece, counted, margin)
    for of, now, first, size in zip(piece, found, (y, x), (height, width), strict=True):
        assert of.start <= now.start
        assert now.stop <= of.stop
        assert now.stop - now.start >= TILE
        assert now.start <= max(of.start + first - margin, of.start)
        assert now.stop >= min(of.start + first + size + margin, of.stop)
        assert now.stop - now.start <= max(size + 2 * margin + 64, TILE)
    assert _cut_down(piece, np.zeros((512, 512), bool), margin) == piece


def test_pieces_of_sky_that_differ_widen_an_interval():
    rng = np.random.default_rng(3)
    pieces = [rng.normal(0, scale, 200) for scale in (1.0, 1.0, 2.0, 1.0, 0.5, 2.0, 1.5, 1.0)]
    apart = [{"photometry": samples(values)} for values in pieces]
    (row,) = summarise(apart, seed=1)
    alike = one_row(np.concatenate(pieces))
    assert row["p90"] == alike["p90"]
    assert row["high"] - row["low"] > 1.5 * (alike["high"] - alike["low"])


def test_sets_of_small_images_are_measured_on_as_much_sky(tmp_path):
    """Thirty stamps, of which five would be a whole piece of 512 pixels each."""
    for number in range(30):
        stamp = synthetic.sky((110, 96), sources=4, sigma=3.0, background=50, seed=number)
        synthetic.write_fits(tmp_path / f"raw/stamp{number}.fits", stamp.astype(">f4"))
    survey = synthetic.survey_toml(tmp_path, '[[images]]\nset = "s"\nfiles = ["raw/*.fits"]\n')
    url = str(tmp_path / "archive")
    assert build_release(survey, url) == []
    release = open_release(url)
    chosen = images_to_measure(release)
    assert len(chosen) == 30
    rows = record_of(release, [(one, measure_image(release, one)) for one in chosen]).rows()
    found = [row["n"] for row in rows if (row["case"], row["bin"]) == ("photometry", ">=5")]
    assert max(found) > 40


def test_the_record_is_of_images_without_their_offsets(tmp_path):
    """Rows of a jitter of three times the noise would make a source of every other one."""
    (tmp_path / "raw").mkdir()
    jitter = np.random.default_rng(2).normal(0, 60, (512, 1))
    sky = 1000 + synthetic.sky((512, 512), sources=60, sigma=20.0, seed=1, flux=(3000, 9000))
    fits.writeto(tmp_path / "raw/a.fits", np.rint(sky + jitter).astype("i4"))
    table = '[[images]]\nset = "night"\nfiles = ["raw/*.fits"]\n'
    url = str(tmp_path / "release" / "dr1")
    build_release(synthetic.survey_toml(tmp_path, table), url, seal=False, inject=True)
    release = open_release(url, unsealed=True)
    (entry,) = release.images.entries.values()
    offsets = read_offsets(release, entry, slice(0, 512), slice(0, 512))
    assert np.std(np.diff(offsets - jitter, axis=0)) < 3  # the mesh has the means of 64 rows
    part = read_offsets(release, entry, slice(30, 90), slice(200, 300))
    np.testing.assert_array_equal(part, offsets[30:90, 200:300])
    rows = release.fidelity.filter(case="photometry", measure="flux_1fwhm", bin=">=5").rows()
    bounded = next(row for row in rows if row["level"] == "bounded")
    assert 5 < bounded["n"] < 30  # 39 with them
