"""Where densities and their grid are found in survey files, and what is refused."""

import warnings
from statistics import NormalDist

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from skyfold.errors import ConfigError, InputError
from storage.config import load_config
from storage.densities.reader import open_densities
from storage.densities.writer import find_normalisation, plan_densities

from .conftest import make_mixtures, write_survey


@pytest.fixture
def rows():
    return make_mixtures(12, points=30)


def open_one(folder, files, grid, key=None):
    lines = [f"files = {files!r}", f"grid = {grid!r}", f'key = "{key}"' if key else ""]
    text = '[[densities]]\nname = "pz"\n' + "\n".join(lines).replace("'", '"')
    config = load_config(write_survey(folder, text))
    return open_densities(config, config.densities[0])


def check(source, x, p):
    np.testing.assert_allclose(source.grid, x)
    assert source.rows == len(p)
    got = source.read(0, source.rows)
    assert got.dtype == p.dtype.newbyteorder("=")
    assert got.tobytes() == p.astype(got.dtype).tobytes()
    assert np.array_equal(source.read(3, 5), p[3:5])


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_with_its_grid_beside_it(tmp_path, rows, dtype, order):
    x, p = rows
    p = np.asarray(100 * p, dtype, order=order)
    np.save(tmp_path / "p.npy", p)
    np.save(tmp_path / "x.npy", x)
    check(open_one(tmp_path, ["p.npy"], "x.npy"), x, p)


def test_npy_whose_last_row_is_the_grid(tmp_path, rows):
    x, p = rows
    np.save(tmp_path / "p.npy", np.concatenate([p, x[np.newaxis]]))
    check(open_one(tmp_path, ["p.npy"], "last-row"), x, p)


@pytest.mark.parametrize("name", ["p.npy", "p.h5"])
def test_objects_behind_a_url(tmp_path, rows, name):
    x, p = rows
    np.save(tmp_path / "p.npy", p)
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["pdf"] = p
    remote = fsspec.filesystem("memory")
    for one in (name, "x.npy"):
        remote.pipe_file(f"/densities/{one}", (tmp_path / one).read_bytes())
    source = open_one(tmp_path, [f"memory://densities/p*{name[-3:]}"], "memory://densities/x.npy")
    check(source, x, p)
    remote.rm("/densities", recursive=True)


def test_files_follow_one_another(tmp_path, rows):
    x, p = rows
    np.save(tmp_path / "a.npy", p[:4])
    np.save(tmp_path / "b.npy", p[4:])
    source = open_one(tmp_path, ["*.npy"], [0.0, 3.0, 30])
    check(source, x, p)
    assert source.files == ["a.npy", "b.npy"]


@pytest.mark.parametrize("grid", ["z", "x.npy"])
def test_hdf5(tmp_path, rows, grid):
    x, p = rows
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["z"], file["deep/pdf"] = x, p.astype("f4")
    check(open_one(tmp_path, ["p.h5"], grid), x, p.astype("f4"))
    check(open_one(tmp_path, ["p.h5"], grid, "deep/pdf"), x, p.astype("f4"))


def test_qp_values_are_read_without_qp(tmp_path, rows):
    x, p = rows
    with h5py.File(tmp_path / "p.hdf5", "w") as file:
        file["meta/pdf_name"], file["meta/xvals"] = np.array([b"interp"]), x[np.newaxis]
        file["data/yvals"] = p
    check(open_one(tmp_path, ["p.hdf5"], "meta/xvals"), x, p)


def test_qp_mixtures_become_values(tmp_path):
    with h5py.File(tmp_path / "p.hdf5", "w") as file:
        file["data/means"], file["data/stds"] = [[1.0, 2.0]], [[0.1, 0.2]]
        file["data/weights"] = [[0.25, 0.75]]
    source = open_one(tmp_path, ["p.hdf5"], [0.0, 3.0, 601])
    p = source.read(0, 1)[0]
    assert np.trapezoid(p, source.grid) == pytest.approx(1)
    assert np.trapezoid(p * source.grid, source.grid) == pytest.approx(1.75)


def test_qp_quantiles_become_values(tmp_path):
    levels = np.linspace(0.01, 0.99, 99)
    with h5py.File(tmp_path / "p.hdf5", "w") as file:
        file["meta/quants"], file["data/locs"] = levels[np.newaxis], [1 + levels, 2 * levels]
    source = open_one(tmp_path, ["p.hdf5"], [0.0, 3.0, 301])
    p = source.read(0, 2)
    np.testing.assert_allclose(p[0, 110:190], 1, rtol=0.01)  # uniform from 1 to 2
    np.testing.assert_allclose(p[1, 10:190], 0.5, rtol=0.01)


def test_fits_vector_column_and_image(tmp_path, rows):
    x, p = rows
    columns = [
        fits.Column(name="ID", format="J", array=np.arange(12)),
        fits.Column(name="PZ", format="30E", array=p),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    check(open_one(tmp_path, ["t.fits"], [0.0, 3.0, 30], "PZ"), x, p.astype("f4"))
    check(open_one(tmp_path, ["t.fits"], [0.0, 3.0, 30]), x, p.astype("f4"))
    fits.PrimaryHDU(p).writeto(tmp_path / "i.fits")
    check(open_one(tmp_path, ["i.fits"], [0.0, 3.0, 30]), x, p)


def test_parquet_lists(tmp_path, rows):
    x, p = rows
    pq.write_table(pa.table({"id": list(range(12)), "pz": list(p)}), tmp_path / "p.parquet")
    check(open_one(tmp_path, ["p.parquet"], [0.0, 3.0, 30]), x, p)


def test_one_bad_file_among_others_is_set_aside(tmp_path, rows):
    _, p = rows
    np.save(tmp_path / "a.npy", p)
    np.save(tmp_path / "b.npy", p[:, :20])
    (tmp_path / "c.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-100])
    (tmp_path / "d.npy").write_bytes(b"not an array")
    np.save(tmp_path / "e.npy", p.astype("f4"))
    source = open_one(tmp_path, ["*.npy"], [0.0, 3.0, 30])
    assert source.rows == 12
    reasons = {one.file: one.reason for one in source.set_aside}
    assert set(reasons) == {"b.npy", "c.npy", "d.npy", "e.npy"}
    assert "20" in reasons["b.npy"]
    assert "truncated" in reasons["c.npy"]
    assert "float32" in reasons["e.npy"]


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        ([0.0, 3.0, 29], "29"),
        ("falling.npy", "does not rise"),
        ("nan.npy", "finite"),
        ("absent.npy", "neither a file nor a name"),
    ],
)
def test_a_grid_that_does_not_fit_is_named(tmp_path, rows, grid, reason):
    x, p = rows
    np.save(tmp_path / "p.npy", p)
    np.save(tmp_path / "falling.npy", x[::-1])
    np.save(tmp_path / "nan.npy", np.where(x > 2, np.nan, x))
    with pytest.raises(InputError, match=reason):
        open_one(tmp_path, ["p.npy"], grid)


def test_nothing_to_read_is_named(tmp_path, rows):
    np.save(tmp_path / "p.npy", rows[1][:0])
    np.save(tmp_path / "flat.npy", rows[1].ravel())
    np.save(tmp_path / "text.npy", np.array([["a"] * 30] * 3))
    with pytest.raises(ConfigError, match=r"no file matches 'q\*"):
        open_one(tmp_path, ["q*.npy"], [0.0, 3.0, 30])
    with pytest.raises(InputError, match="rows x grid"):
        open_one(tmp_path, ["flat.npy"], [0.0, 3.0, 30])
    with pytest.raises(InputError, match="allowed are float32"):
        open_one(tmp_path, ["text.npy"], [0.0, 3.0, 30])
    with pytest.raises(InputError, match="no rows"):
        plan_densities(open_one(tmp_path, ["p.npy"], [0.0, 3.0, 30]))


@pytest.mark.parametrize("name", ["trapezoid", "sum", "rectangle"])
def test_what_is_one_is_found_out(tmp_path, name):
    x, p = make_mixtures(20, points=40)
    p[:, 0] += 0.5  # what tells the trapezoidal rule from the others
    total = {"trapezoid": np.trapezoid(p, x), "sum": p.sum(1), "rectangle": p.sum(1) * x[1]}[name]
    np.save(tmp_path / "p.npy", p / np.reshape(total, (-1, 1)))
    assert find_normalisation(open_one(tmp_path, ["p.npy"], [0.0, 3.0, 40])) == name


def open_of(folder, text):
    config = load_config(write_survey(folder, text))
    return open_densities(config, config.densities[0])


SHAPES = {
    "samples": ("samples = true", lambda rng, mean: mean + 0.3 * rng.standard_normal((40, 4000))),
    "quantiles": (
        f"quantiles = {np.linspace(0.005, 0.995, 199).tolist()}",
        lambda rng, mean: (
            mean + 0.3 * np.array([NormalDist().inv_cdf(p) for p in np.linspace(0.005, 0.995, 199)])
        ),
    ),
}


@pytest.mark.parametrize("form", sorted(SHAPES))
def test_samples_and_quantiles_become_densities(tmp_path, form):
    settings, make = SHAPES[form]
    rng = np.random.default_rng(1)
    mean = np.linspace(1, 2, 40)[:, np.newaxis]
    rows = make(rng, mean)
    rows[5] = np.nan
    np.save(tmp_path / "r.npy", rows)
    text = f'[[densities]]\nname = "p"\nfiles = ["r.npy"]\ngrid = [0.0, 3.0, 61]\n{settings}\n'
    part = open_of(tmp_path, text)
    found = part.read(0, 40)
    good = np.arange(40) != 5
    x = part.grid
    np.testing.assert_allclose(found[good].sum(axis=1) * 0.05, 1, atol=0.02)
    np.testing.assert_allclose((found * x)[good].sum(axis=1) * 0.05, mean[good, 0], atol=0.03)
    assert not np.nansum(found[5])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("samples = true\nquantiles = [0.1, 0.5]", "either samples or quantiles"),
        ("quantiles = [0.5, 0.1]", "must rise"),
        ("quantiles = [0.5, 1.5]", "quantiles"),
        ('samples = true\ngrid = "last-row"', "no values on a grid"),
    ],
)
def test_forms_that_contradict_are_refused(tmp_path, settings, words):
    grid = "" if "grid" in settings else "grid = [0.0, 3.0, 61]\n"
    np.save(tmp_path / "r.npy", np.ones((3, 4)))
    text = f'[[densities]]\nname = "p"\nfiles = ["r.npy"]\n{grid}{settings}\n'
    with pytest.raises(ConfigError, match=words):
        open_of(tmp_path, text)


def test_another_number_of_quantiles_is_named(tmp_path):
    np.save(tmp_path / "r.npy", np.ones((3, 4)))
    text = (
        '[[densities]]\nname = "p"\nfiles = ["r.npy"]\ngrid = [0.0, 3.0, 61]\n'
        "quantiles = [0.1, 0.5]\n"
    )
    with pytest.raises(InputError, match="4 values and `quantiles` names 2"):
        open_of(tmp_path, text).read(0, 3)


def test_an_ensemble_that_only_qp_reads(tmp_path):
    qp = pytest.importorskip("qp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = np.linspace(1, 2, 20)[:, np.newaxis]
        made = qp.Ensemble(qp.stats.norm, data={"loc": mean, "scale": np.full((20, 1), 0.2)})
        made.write_to(str(tmp_path / "e.hdf5"))
    text = '[[densities]]\nname = "p"\nfiles = ["e.hdf5"]\ngrid = [0.0, 3.0, 301]\n'
    part = open_of(tmp_path, text)
    wanted = np.exp(-(((part.grid - mean) / 0.2) ** 2) / 2) / (0.2 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(part.read(0, 20), wanted, rtol=1e-9, atol=1e-12)
