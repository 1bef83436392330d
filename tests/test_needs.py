"""What a need's text means, and which bins it is about."""

import math
from itertools import pairwise

import pytest

from skyfold.errors import InvalidNeedError
from skyfold.fidelity.needs import Need, matching_bins, parse_need, parse_needs, value_in
from skyfold.science.bins import SN_BINS, limits

INF = math.inf


@pytest.mark.parametrize(
    ("text", "need"),
    [
        ("0.1 sigma at S/N 10", Need(0.1, "sigma", 10.0)),
        ("  .1sigma  at  s/n 10 ", Need(0.1, "sigma", 10.0)),
        ("0.2 sigma", Need(0.2, "sigma")),
        ("<= 2e-1 sigma at SNR 7.5", Need(0.2, "sigma", 7.5)),
        ("|flux_2fwhm| < 0.1 sigma at S/N 10-20", Need(0.1, "sigma", (10, 20), "flux_2fwhm")),
        ("flux_2fwhm ≤ 0.1 sigma for S/N >= 5", Need(0.1, "sigma", (5, INF), "flux_2fwhm")),
        ("0.1 sigma flux_auto at SN > 50", Need(0.1, "sigma", (50, INF), "flux_auto")),
        ("1% completeness at S/N 5", Need(0.01, "fraction", 5.0, "lost")),
        ("99 % completeness at S/N 5", Need(0.01, "fraction", 5.0, "lost")),
        ("completeness >= 99% at S/N 5", Need(0.01, "fraction", 5.0, "lost")),
        ("lost <= 0.01 at S/N 5", Need(0.01, "fraction", 5.0, "lost")),
        ("2 percent contamination", Need(0.02, "fraction", None, "created")),
        ("0.9 purity at S/N 5", Need(0.1, "fraction", 5.0, "created")),
        ("|m| < 1e-3", Need(0.001, "", None, "m")),
        ("5 mas at S/N 20", Need(5.0, "mas", 20.0)),
        ("sigma_NMAD +1%", Need(0.01, "fraction", None, "nmad_change")),
        ("outliers + 2 %", Need(0.02, "fraction", None, "outlier_moved")),
        ("0.5σ at S/N=10", Need(0.5, "sigma", 10.0)),
        ("0.5 Sigma Completeness_like at SNR = 10", Need(0.5, "sigma", 10.0, "Completeness_like")),
        ("1% Completeness at S/N 5", Need(0.01, "fraction", 5.0, "lost")),
    ],
)
def test_text_of_a_need(text, need):
    parsed = parse_need(text)
    assert parsed == need
    assert parse_need(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a need reads"),
        ("sigma", "a need reads"),
        ("0.1 sigma please do", "a need reads"),
        ("0.1 sigma S/N 10", "a need reads"),
        ("0.1 sigma at noon", "after 'at' stands"),
        ("0.1 sigma at S/N >= 5-10", "after 'at' stands"),
        ("0.1 sigma at S/N 20-10", "range from low to high"),
        ("-0.1 sigma", "at least 0"),
        ("- 0.1 sigma", "'-0.1 sigma' cannot be understood.*at least 0"),
        ("0.1 sigma at S/N -3", "'0.1 sigma at S/N -3' cannot be understood"),
        ("0.1 sigma at S/N = 5-", "after 'at' stands"),
        ("1e999 sigma", "finite"),
        ("flux_auto > 0.1 sigma", "from above"),
        ("flux_auto < 0.1 sigma flux_2fwhm", "two measures"),
        ("completeness < 99%", "wrong side"),
        ("lost > 1%", "wrong side"),
        ("150% completeness", "at most 1"),
    ],
)
def test_text_that_is_no_need(text, why):
    with pytest.raises(InvalidNeedError, match=why) as refused:
        parse_need(text)
    assert "'0.1 sigma at S/N 10'" in str(refused.value)


def test_several_needs_texts_and_typed():
    typed = Need(1, "sigma", (5, 10))
    assert parse_needs("1 sigma") == [Need(1, "sigma")]
    assert parse_needs(["1 sigma", typed]) == [Need(1, "sigma"), typed]
    with pytest.raises(InvalidNeedError, match="at least one need"):
        parse_needs([])
    with pytest.raises(InvalidNeedError, match=r"'0\.5'.*it is a float"):
        parse_needs(0.5)


@pytest.mark.parametrize("sn", [-1.0, math.nan, INF, (10, 5), (INF, INF)])
def test_signal_to_noise_that_is_none(sn):
    with pytest.raises(InvalidNeedError, match="S/N is one number, or a range"):
        Need(0.1, "sigma", sn)


def test_units_convert_where_they_can():
    assert value_in(Need(5, "arcsec"), "mas", "astrometry") == pytest.approx(5000)
    assert value_in(Need(0.01, ""), "fraction", "detection") == 0.01
    assert value_in(Need(0.01, ""), "", "shapes") == 0.01
    assert value_in(Need(0.01, "fraction"), "", "photoz") == 0.01
    with pytest.raises(InvalidNeedError, match=r"unit is missing.*recorded in sigma"):
        value_in(Need(0.1, ""), "sigma", "photometry")


@pytest.mark.parametrize(
    ("sn", "required", "checked"),
    [
        (10.0, ["10-20"], []),
        (9.99, ["5-10"], []),
        (1000, [">50"], []),
        ((10, 50), ["10-20", "20-50"], []),
        ((7, 12), ["5-10", "10-20"], []),
        ((5, INF), [">=5"], ["5-10", "10-20", "20-50", ">50"]),
        (None, [">=5"], ["5-10", "10-20", "20-50", ">50"]),
        ((20, INF), ["20-50", ">50"], []),
    ],
)
def test_bins_that_a_need_is_about(sn, required, checked):
    assert matching_bins(Need(0.1, "sigma", sn), SN_BINS, "photometry") == (required, checked)


def test_bins_without_signal_to_noise():
    assert matching_bins(Need(1, "mas"), ["all"], "astrometry") == (["all"], [])
    with pytest.raises(InvalidNeedError, match="recorded are all"):
        matching_bins(Need(1, "mas", 10.0), ["all"], "astrometry")
    with pytest.raises(InvalidNeedError, match="no bin of photometry holds this S/N"):
        matching_bins(Need(0.1, "sigma", (1, 10)), SN_BINS, "photometry")


def test_bins_tile_the_range_from_three():
    spans = [limits(name) for name in SN_BINS[:-1]]
    assert spans[0][0] == 3
    assert spans[-1][1] == INF
    assert all(low[1] == high[0] for low, high in pairwise(spans))
    assert limits("all") is None
