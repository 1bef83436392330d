"""What the science case and the flows say of densities."""

import json

import numpy as np
import pytest
from prefect.logging import disable_run_logger

from flows.densities import (
    encode_shards,
    measure_densities,
    require_few_bad_rows,
    require_plan,
    train_densities,
)
from flows.job import Job
from skyfold.densities.index import Shard, quadrature
from skyfold.errors import InvalidRequestError, ReleaseError, TooManyBadInputsError
from skyfold.fidelity.densities import rows_to_measure
from skyfold.fidelity.record import FidelityRecord
from skyfold.science.densities import DENSITIES, DensityContext
from storage.densities.writer import start_densities

from .conftest import make_mixtures, write_survey


def context_of(x):
    return DensityContext(x, quadrature(x, "trapezoid"))


def gaussians(x, means, sd):
    return np.exp(-(((x - np.reshape(means, (-1, 1))) / sd) ** 2) / 2)


def measured(raw, decoded, x):
    samples = DENSITIES.measure(raw, decoded, context_of(x))
    return {(one.measure, one.bin): one for one in samples}


def test_a_shift_of_gaussians_costs_what_theory_says():
    x = np.linspace(0, 4, 801)
    means, sd, shift = np.linspace(1, 3, 50), 0.1, 0.01
    got = measured(gaussians(x, means, sd), gaussians(x, means + shift, sd), x)
    np.testing.assert_allclose(got["kld", "all"].values, (shift / sd) ** 2 / 2, rtol=1e-4)
    np.testing.assert_allclose(got["mean_shift", "all"].values, shift / sd, rtol=1e-4)
    np.testing.assert_allclose(got["width_change", "all"].values, 0, atol=1e-6)
    # erf(shift / sd / sqrt(8)) is the largest difference of the two cumulated densities
    np.testing.assert_allclose(got["cdf_distance", "all"].values, 0.03988, rtol=0.01)
    for number in range(5):
        middle = means[number * 10 : number * 10 + 10].mean()
        stack = got["stack_mean_shift", f"n{number + 1}"]
        assert stack.values.mean() == pytest.approx(shift / (1 + middle), rel=1e-4)
        assert stack.statistic == "mean"


def test_no_change_is_exactly_no_loss():
    x, p = make_mixtures(30)
    assert all((one.values == 0).all() for one in measured(p, p, x).values())


def test_context_must_be_of_one_length():
    with pytest.raises(InvalidRequestError, match="one length"):
        DensityContext(np.arange(4.0), np.arange(5.0))


def test_record_of_a_release(archive):
    class Release:
        densities = archive.densities

    rows = measure_densities(Release())  # type: ignore[arg-type]
    record = FidelityRecord.from_rows(rows)
    found = {(r["set"], r["level"], r["measure"], r["bin"]): r for r in record.rows()}
    assert found["smooth", "latent", "kld", "all"]["high"] <= 1.00001e-3
    assert found["smooth", "latent", "kld", "all"]["n"] == 300
    assert found["bad", "exact", "kld", "all"]["p90"] == 0
    assert found["bad", "latent", "kld", "all"]["n"] == 36
    assert abs(found["smooth", "latent", "stack_mean_shift", "n3"]["bias"]) < 1e-3
    assert found["smooth", "latent", "kld", "all"]["bpp"] < 8 * 20 / 101
    bounded = record.choose("densities", "1e-4", kind="densities", set="smooth")
    assert bounded.level == "bounded"
    assert json.dumps(record.rows())


def test_only_good_rows_are_measured(archive):
    assert set(range(40)) - set(rows_to_measure(archive.densities["bad"])) == {3, 7, 11, 20}


def test_flow_steps_can_be_repeated(tmp_path):
    x, p = make_mixtures(60)
    np.save(tmp_path / "p.npy", np.concatenate([p, x[np.newaxis]]))
    (tmp_path / "q.npy").write_bytes(b"damaged")
    text = '[[densities]]\nname = "pz"\nfiles = ["*.npy"]\ngrid = "last-row"\n'
    job = Job(str(write_survey(tmp_path, text)))
    with pytest.raises(ReleaseError, match="train"):
        require_plan(job, "pz")
    job.builder.start({"name": "x"}, {})
    with disable_run_logger():
        aside = train_densities(job)
        assert [one["file"] for one in aside] == ["q.npy"]
        index = require_plan(job, "pz")
        start_densities(job.builder, index)
        assert index.rows == 60
        first = encode_shards.fn(job, [0], "pz")
        assert encode_shards.fn(job, [0], "pz") == first
    assert Shard.from_row(first[0]).stop == 60


def test_too_many_bad_rows_stop_the_flow(tmp_path):
    x, p = make_mixtures(20)
    p[:8] = -1
    np.save(tmp_path / "p.npy", np.concatenate([p, x[np.newaxis]]))
    text = '[[densities]]\nname = "pz"\nfiles = ["p.npy"]\ngrid = "last-row"\n'
    job = Job(str(write_survey(tmp_path, text)))
    job.builder.start({"name": "x"}, {})
    with disable_run_logger():
        train_densities(job)
        start_densities(job.builder, require_plan(job, "pz"))
        rows = encode_shards.fn(job, [0], "pz")
    shards = [Shard.from_row(row) for row in rows]
    with pytest.raises(TooManyBadInputsError, match=r"8 of 20 rows.*8 is negative"):
        require_few_bad_rows(require_plan(job, "pz"), shards, 0.2)
