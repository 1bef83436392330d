"""Science cases of catalogs, each against a change whose effect is known."""

from __future__ import annotations

import numpy as np
import pytest

from skyfold.errors import InvalidRequestError
from skyfold.fidelity.catalogs import catalog_rows
from skyfold.fidelity.record import FidelityRecord
from skyfold.science.colors import COLORS
from skyfold.science.photoz import PHOTOZ, nmad
from skyfold.science.positions import POSITIONS
from skyfold.science.selection import SELECTION
from skyfold.science.tables import TableContext

ROWS = 6000


def make_table(seed: int = 1) -> tuple[dict[str, np.ndarray], TableContext]:
    rng = np.random.default_rng(seed)
    z = rng.uniform(0.1, 1.5, ROWS)
    table = {
        "ra": rng.uniform(0, 360, ROWS),
        "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, ROWS))),
        "g": 22 + z,
        "r": 22 - z,
        "i": 21.5 - 0.3 * z**2,
        "z": z,
    }
    sigma = {band: np.full(ROWS, 0.1) for band in "gri"}
    counted = rng.random(ROWS) < 0.25
    return table, TableContext(counted, sigma, redshift="z", ra="ra", dec="dec")


def only(samples, measure, name="all"):
    (found,) = [one for one in samples if one.measure == measure and one.bin == name]
    return found


@pytest.mark.parametrize("case", [COLORS, PHOTOZ, POSITIONS, SELECTION])
def test_no_change_is_no_loss_and_other_rows_are_refused(case):
    table, context = make_table()
    samples = case.measure(table, table, context)
    assert samples
    assert all(not np.any(sample.values) for sample in samples)
    with pytest.raises(InvalidRequestError, match="shape"):
        case.measure(table, {name: values[1:] for name, values in table.items()}, context)


def test_positions_measure_the_angle_on_the_sky():
    table, context = make_table()
    moved = dict(table, dec=np.clip(table["dec"], -89, 89) + 5 / 3.6e6)
    table["dec"] = np.clip(table["dec"], -89, 89)
    np.testing.assert_allclose(
        only(POSITIONS.measure(table, moved, context), "separation").values, 5, rtol=1e-6
    )
    moved = dict(table, ra=table["ra"] + 5 / 3.6e6 / np.cos(np.radians(table["dec"])))
    np.testing.assert_allclose(
        only(POSITIONS.measure(table, moved, context), "separation").values, 5, rtol=1e-5
    )


def test_values_and_colors_are_measured_in_their_own_errors():
    table, context = make_table()
    moved = dict(table, g=table["g"] + 0.05)
    samples = COLORS.measure(table, moved, context)
    values = only(samples, "value", "10-20").values  # 1.0857 / 0.1
    assert len(values) == 3 * context.counted.sum()
    assert np.unique(np.round(values, 9)).tolist() == [0, 0.5]
    colors = only(samples, "color", "10-20").values
    assert np.unique(np.round(colors, 9)).tolist() == [0, round(0.5 / np.sqrt(2), 9)]


def test_fluxes_make_colors_too():
    table, context = make_table()
    fluxes = {band: 10 ** (-0.4 * (table[band] - 25)) for band in "gri"}
    sigma = {band: fluxes[band] / 20 for band in "gri"}
    context = TableContext(context.counted, sigma, frozenset("gri"))
    moved = dict(fluxes, g=fluxes["g"] * 1.01)
    samples = COLORS.measure(fluxes, moved, context)
    color = only(samples, "color", "20-50").values
    wanted = 2.5 * np.log10(1.01) / (np.sqrt(2) * 2.5 / np.log(10) / 20)
    assert np.abs(color).max() == pytest.approx(wanted, rel=1e-6)


def test_a_cut_loses_the_rows_that_cross_it():
    table, context = make_table()
    rank = np.argsort(np.argsort(table["g"])).astype(float)
    raw = {"g": rank}
    context = TableContext(np.ones(ROWS, bool))
    moved = only(SELECTION.measure(raw, {"g": rank + 60}, context), "moved")
    assert moved.values.mean() == pytest.approx(60 / ROWS, rel=0.02)
    assert moved.unit == "fraction"


def test_photo_z_answers_to_a_shift_of_the_colors():
    table, context = make_table()
    moved = dict(table, g=table["g"] + 0.1)  # g - r = 2 z, so z grows by 0.05
    shift = only(PHOTOZ.measure(table, moved, context), "photoz_shift").values
    spec = table["z"][context.counted]
    inner = (spec > 0.3) & (spec < 1.3)
    assert np.median(shift[inner] * (1 + spec[inner])) == pytest.approx(0.033, abs=0.02)
    far = dict(table, g=table["g"] + 1.5)
    assert only(PHOTOZ.measure(table, far, context), "outlier_moved").values.mean() > 0.5


def test_photo_z_worsens_by_the_noise_that_is_added():
    rng = np.random.default_rng(7)
    table, context = make_table()
    for band in "gri":
        table[band] = table[band] + 0.1 * rng.standard_normal(ROWS)
    noisy = {band: table[band] + 0.2 * rng.standard_normal(ROWS) for band in "gri"}
    samples = PHOTOZ.measure(table, dict(table, **noisy), context)
    assert only(samples, "nmad_change").values.mean() > 0.3


def test_without_redshift_or_position_there_is_nothing_to_say():
    table, context = make_table()
    bare = TableContext(context.counted, context.sigma)
    assert PHOTOZ.measure(table, table, bare) == []
    assert POSITIONS.measure(table, table, bare) == []


def test_nmad_is_one_sigma_of_a_gaussian():
    assert nmad(np.random.default_rng(1).standard_normal(200_000)) == pytest.approx(1, rel=0.01)


def test_a_release_is_recorded_and_chosen_from(galaxies):
    rows = catalog_rows(galaxies)
    record = FidelityRecord.from_rows(rows)
    assert all(row["held_out"] for row in rows)
    exact = [row for row in rows if row["level"] == "exact" and row["note"] == "lossless"]
    assert exact
    assert all(row["p99"] == 0 for row in exact)
    worst = {
        level: max(
            row["p99"] for row in rows if row["level"] == level and row["measure"] == "value"
        )
        for level in ("latent", "bounded")
    }
    assert worst["bounded"] <= 0.1 < worst["latent"]
    apart = [r for r in rows if r["case"] == "positions" and r["level"] == "bounded"]
    assert apart[0]["p99"] <= 0.71
    assert FidelityRecord.from_ecsv(record.to_ecsv()).rows()
