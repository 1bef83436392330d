"""Densities of real surveys, and of qp: bits, bounds, and what they cost."""

from pathlib import Path

import numpy as np
import pytest

from skyfold.densities.rows import to_masses

from .conftest import build, open_densities_of, write_survey

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "pz"

pytestmark = [
    pytest.mark.survey,
    pytest.mark.skipif(not DATA.is_dir(), reason="the survey files are not beside the clone"),
]


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    text = f"""
[[densities]]
name = "cfhtlens"
files = ["{DATA}/CFHTLens_sample.P.npy"]
grid = "last-row"
[[densities]]
name = "qp"
files = ["{DATA}/test.hdf5"]
grid = [-4.0, 4.0, 200]
"""
    made = build(write_survey(tmp_path_factory.mktemp("real"), text))
    return made, open_densities_of(made.builder)


@pytest.mark.parametrize("name", ["cfhtlens", "qp"])
def test_bits_and_bounds(release, name):
    made, densities = release
    one = densities[name]
    raw = made.sources[name].read(0, 100)
    assert one.read(level="exact").tobytes() == raw.tobytes()
    mass, reason = to_masses(raw, one.index.weights())
    assert (reason == "").all()
    for level in ("latent", "bounded"):
        decoded = one.read(level=level) * one.index.weights()
        assert one.index.bounds.used(level, mass, decoded).max() <= 1 + 1e-9


def test_cfhtlens_fits_in_twenty_bytes_a_row(release):
    one = release[1]["cfhtlens"]
    assert one.index.normalisation == "sum"
    levels = one.info()["levels"]
    assert levels["latent"]["bytes_per_row"] <= 20
    assert levels["exact"]["bytes_per_row"] < 230  # of 1600; 257 by pcodec alone
    raw, decoded = one.read(level="exact"), one.read(level="latent")
    shift = (decoded / decoded.sum(1, keepdims=True) - raw / raw.sum(1, keepdims=True)) @ one.grid
    assert abs(shift.mean()) <= 1e-4 * (1 + np.mean(raw @ one.grid))
