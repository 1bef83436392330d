"""What notebooks and other libraries meet: HTML, lazy arrays, pictures."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from skyfold import FidelityRecord, cli, errors, open_release
from skyfold.plot import plot_fidelity


def test_pages_say_what_is_there_and_escape_it(tiny_release):
    release = tiny_release
    release.about["name"] = "<script>alert(1)</script>"
    page = release._repr_html_()
    assert "<script" not in page
    assert "night1" in page
    assert "3 images" in page
    assert "bits per pixel at bounded" in release.images._repr_html_()
    assert "images night1" in repr(release)
    assert repr(release.images["night1"]) == "<ImageSet night1: 3 images in bands g, i, r>"


def test_images_of_a_set_are_one_lazy_array(tiny_url):
    pytest.importorskip("xarray")
    release = open_release(tiny_url, cache=False)
    lazy = release.images["night1"].to_xarray("bounded")
    assert lazy.data.dims == ("image", "y", "x")
    assert lazy.data.data.chunksize == (1, 256, 256)
    assert lazy.sizes == {"image": 3, "y": 300, "x": 520}
    release.network(release.images.entry("night1/g").model)
    before = release.traffic.snapshot()
    part = lazy.sel(image="night1/g").isel(y=slice(0, 50), x=slice(0, 50)).compute()
    entry = release.images.entry("night1/g")
    assert (release.traffic - before).bytes < entry.bytes_at("bounded") / 2
    section = release.images.section("night1/g", slice(0, 50), slice(0, 50), "bounded")
    np.testing.assert_array_equal(part.data, section.data)
    np.testing.assert_array_equal(part.mask, section.mask)
    np.testing.assert_array_equal(part.noise, section.uncertainty.array)
    assert lazy.attrs["bound"] == 0.25
    assert list(lazy.band.values) == ["g", "i", "r"]
    with pytest.raises(errors.UnknownNameError, match="night1"):
        release.images["night1"].to_xarray("bounded", ["night1/x"])
    with pytest.raises(errors.UnknownNameError, match="night1"):
        release.images["night2"]


def test_lazy_arrays_pad_smaller_images(sky_url):
    pytest.importorskip("xarray")
    release = open_release(sky_url, cache=False)
    lazy = release.images["sky"].to_xarray("latent", ["sky/pole", "sky/wrap"])
    plane = lazy.sel(image="sky/pole").mask.compute().values
    assert plane.shape == (280, 300)
    assert plane[270:].all()
    assert plane[:, 200:].all()
    assert not plane[:270, :200].any()


def test_lazy_arrays_say_what_to_install(tiny_release, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(errors.MissingDependencyError, match=r"skyfold\[xarray\]"):
        tiny_release.images["night1"].to_xarray()


def test_pictures(tiny_release, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cutout = tiny_release.images.section("night1/g", slice(0, 60), slice(0, 60))
    picture = cutout.plot()
    assert picture.get_array().shape == (60, 60)
    assert picture.axes.get_title() == "night1/g at sources"
    rows = tiny_release.fidelity.rows()  # of so few objects that no percentile is recorded
    known = [row | {"p90": 1 / row["bpp"]} for row in rows]
    record = SimpleNamespace(url="here", fidelity=FidelityRecord.from_rows(known))
    lines = plot_fidelity(record, "photometry").get_lines()
    assert len(lines) > 2
    for line in lines:
        assert len(line.get_xdata()) == 4
        assert (np.diff(line.get_xdata()) >= 0).all()
        np.testing.assert_allclose(line.get_ydata(), 1 / line.get_xdata())
    told = [
        row | {"p90": float(row["level"] != "exact")} for row in rows if row["case"] == "shapes"
    ]
    for row in told:
        if (row["level"], row["bin"]) in (("latent", "3-5"), ("sources", "3-5")):
            row["p90"] = None  # here and there too few: no other place in the order
        if row["bin"] == "5-10" and row["level"] != "exact":
            row["p90"] = None
    record.fidelity = FidelityRecord.from_rows(told)
    axes = plot_fidelity(record, "shapes")
    assert axes.get_ylim()[0] == 0
    shown = [one.get_text() for one in axes.get_legend().get_texts()]
    assert [one.split()[2] for one in shown[:5]] == ["3-5", "10-20", "20-50", ">50", ">=5"]
    biases = [row | {"statistic": "mean", "bias": -0.5 * row["bpp"]} for row in known]
    record.fidelity = FidelityRecord.from_rows(biases)
    axes = plot_fidelity(record, "photometry")
    assert "size of the mean" in axes.get_ylabel()
    for line in axes.get_lines():
        np.testing.assert_allclose(line.get_ydata(), 0.5 * line.get_xdata())
    with pytest.raises(errors.InvalidRequestError, match="photometry"):
        tiny_release.plot_fidelity("astrology")
    plt.close("all")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(errors.MissingDependencyError, match=r"skyfold\[plot\]"):
        cutout.plot()


def told(capsys, *arguments: str) -> str:
    """What a command prints on a terminal of 80 columns."""
    with pytest.raises(SystemExit):
        cli.main(arguments)
    printed = capsys.readouterr()
    return printed.out + printed.err


def test_the_record_is_readable_on_a_narrow_terminal(tiny_release, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    rows = tiny_release.fidelity.filter(case="detection").rows()
    rate = {"n": 1234, "bias": 0.0123, "p90": 1.0, "high": 0.0321, "low": 0.009, "unit": "fraction"}
    bias = {"bias": -0.0456, "low": -0.0789, "high": 0.01, "statistic": "mean", "unit": "sigma"}
    rows = [row | rate | {"measure": "injected_missed", "statistic": "mean"} for row in rows]
    rows += [rows[0] | bias, rows[0] | {"high": None, "n": 7}]
    cli.fidelity.print_record(rows + [row | {"case": "one"} for row in rows[:1]])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines()[:-1])) <= 80
    assert "\u2026" not in shown
    assert "\ndetection, set night1, measure injected_missed\n" in shown
    lines = [line.split() for line in shown.splitlines() if line.startswith("g ")]
    assert lines[0][3:7] == ["1234", "0.0123", "0.0321", "fraction"]
    assert ["1234", "-0.0456", "0.0789", "sigma"] in [line[3:7] for line in lines]
    assert "too few" in shown
    assert "n 1234, loss 0.0123, at most 0.0321, unit fraction" in shown.splitlines()[-1]


def test_the_record_is_filtered_by_the_command(tiny_url, capsys):
    options = ("--case", "photometry", "--band", "r", "--level", "latent", "--level", "exact")
    rows = json.loads(told(capsys, "fidelity", tiny_url, "--json", *options))
    wanted = {"case": "photometry", "band": "r", "level": ["latent", "exact"]}
    assert rows == open_release(tiny_url).fidelity.filter(**wanted).rows()
    assert "photometry, set night1, band r, " in told(capsys, "fidelity", tiny_url, *options)
    assert "there are anomalies" in told(capsys, "fidelity", tiny_url, "--case", "astrology")


def test_a_position_off_the_sky_is_wrong_usage(tiny_url, capsys):
    command = ("cutout", tiny_url, "--ra", "150", "--size", "5", "-o", "never.fits", "--dec")
    assert "Dec from -90" in told(capsys, *command, "222")
    assert "Dec from -90" in told(capsys, *command, "nan")
