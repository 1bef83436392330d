"""Training a catalog's model: noise units, a self-organizing map, an autoencoder.

What this module knows is how to find them from a sample of rows: where a column's error is known
at each value, one noise unit is that error; where it is not, an eighth of the column's spread near
its middle and an eighth of the distance from it in the tails, as a logarithm has it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.som import quantization_error, topographic_error, train_som, u_matrix
from skyfold.catalogs.columns import Floats, interpolate
from skyfold.catalogs.index import CatalogInfo, Column
from skyfold.catalogs.model import HIDDEN_BITS, HIDDEN_SCALE, WEIGHT_UNIT, TableModel

__all__ = ["train_table"]

KNOTS = 48
MAX_CHANNELS = 16
MIN_ROWS = 1000  # that an autoencoder is trained on
STEPS = 1500
_CELL = 0.2  # noise units: width of cells at `bounded`
MAX_FEATURES = 16
MAX_PREDICTORS = 12  # values that are tried as predictors of an error
SPREAD_UNITS = 8  # noise units in one spread of a column without errors
_TINY = 1e-12


def train_table(
    info: CatalogInfo,
    values: Floats,
    *,
    seed: int = 1,
    channels: int | None = None,
    side: int | None = None,
    step: float = 0.75,
    kind: str = "pca",
    steps: int = STEPS,
) -> TableModel | None:
    """Model of a catalog, from a sample of its rows.

    Parameters
    ----------
    info : CatalogInfo
        Its columns.
    values : ndarray, shape (real elements, n), float64
        Sample of rows that may train; NaN where missing.
    seed : int
    channels : int, optional
        Most latents of a row; 16 unless given.
    side : int, optional
        Cells a side of the map; by the number of rows unless given.
    step : float
        Noise units in one step of a latent.
    kind : {"autoencoder", "pca"}
        What gives the latents. An autoencoder needs 1000 rows, and is kept only if it costs less
        than principal components on rows that it was not trained on; the card says what was met.
    steps : int
        Batches that the autoencoder is trained on.

    Returns
    -------
    TableModel or None
        None if no column holds floats to be modelled.
    """
    targets = _targets(info, values)
    if not targets:
        return None
    knots_v, knots_y = _all_units(info, values, targets)
    units = _to_units(values, targets, knots_v, knots_y)
    features, mean, scale = _features(info, units, targets)
    rows = _scaled(units, features, mean, scale)
    som = train_som(rows, side, seed=seed)
    basis, offset = _components(units, min(channels or MAX_CHANNELS, len(targets)))
    curves = _curves(info, values, targets)
    draft = TableModel(
        targets=np.array([element for _, element in targets], np.int64),
        knots_y=knots_y,
        knots_v=knots_v,
        weights=np.rint(basis * step * WEIGHT_UNIT).astype(np.int64),
        offset=np.rint(offset * WEIGHT_UNIT).astype(np.int64),
        **_no_hidden(basis),
        encoder=basis.T / step,
        centres=np.zeros((som.shape[0] * som.shape[1], basis.shape[1]), np.int64),
        prototypes=np.full((som.shape[0] * som.shape[1], len(values)), np.nan),
        features=features,
        feature_mean=mean,
        feature_scale=scale,
        som=som,
        **curves,
        card=_card(rows, som, seed, step, basis.shape[1]),
    )
    if kind == "autoencoder":
        draft = _corrected(draft, units, basis, step, seed, steps)
    return _with_centres(draft, values, units)


def _no_hidden(basis: Floats) -> dict[str, Any]:
    elements, channels = basis.shape
    return {
        "hidden_weights": np.zeros((0, channels), np.int64),
        "hidden_offset": np.zeros(0, np.int64),
        "hidden_out": np.zeros((elements, 0), np.int64),
        "encoder_in": np.zeros((0, elements)),
        "encoder_offset": np.zeros(0),
        "encoder_out": np.zeros((channels, 0)),
    }


def _corrected(
    model: TableModel, units: Floats, basis: Floats, step: float, seed: int, steps: int
) -> TableModel:
    """The model with hidden layers, if they save more than they cost on rows kept back."""
    if units.shape[1] < MIN_ROWS:
        return model
    from models.table_network import train_rows

    centred = (units - model.offset[:, None] / WEIGHT_UNIT).T
    kept_back = np.arange(len(centred)) % 8 == 7
    found = train_rows(centred[~kept_back], basis, step=step, seed=seed, steps=steps)
    trial = replace(
        model,
        weights=_whole(found.decoder, WEIGHT_UNIT),
        hidden_weights=_whole(found.decoder_in / HIDDEN_SCALE, WEIGHT_UNIT),
        hidden_offset=_whole(found.decoder_offset, WEIGHT_UNIT),
        hidden_out=_whole(found.decoder_out, 2**HIDDEN_BITS),
        encoder=found.encoder,
        encoder_in=found.encoder_in,
        encoder_offset=found.encoder_offset,
        encoder_out=found.encoder_out,
    )
    costs = {
        "pca": _cost(model, units[:, kept_back]),
        "autoencoder": _cost(trial, units[:, kept_back]),
    }
    if not costs["autoencoder"] < costs["pca"]:
        return replace(model, card=model.card | {"bits": costs})
    return replace(trial, card=model.card | {"kind": "autoencoder", "steps": steps, "bits": costs})


def _whole(values: Floats, unit: int) -> NDArray[np.int64]:
    return np.rint(values * unit).astype(np.int64)


def _cost(model: TableModel, units: Floats) -> float:
    """Bits of a row: entropy of its latents, and of what they leave in cells of 0.2 noise units."""
    cells = np.zeros(units.shape[1], np.int32)  # of which all centres are still 0
    whole = model.encode(units, cells)
    rest = np.rint((units - model.predict_units(whole.astype(np.int64))) / _CELL)
    values = [*whole, *(row[np.isfinite(row)] for row in rest)]
    return float(sum(_entropy(row) * len(row) for row in values) / units.shape[1])


def _entropy(values: NDArray[Any]) -> float:
    """Bits a value, by their frequencies; 0 for none."""
    share = np.unique(values, return_counts=True)[1] / max(len(values), 1)
    return float(-(share * np.log2(share)).sum())


def _card(
    rows: NDArray[np.float32], som: NDArray[np.float32], seed: int, step: float, channels: int
) -> dict[str, Any]:
    return {
        "kind": "pca",
        "seed": seed,
        "rows": len(rows),
        "latents": channels,
        "step": step,
        "som": {
            "shape": list(som.shape[:2]),
            "quantization_error": quantization_error(rows, som),
            "topographic_error": topographic_error(rows, som),
        },
    }


def _targets(info: CatalogInfo, values: Floats) -> list[tuple[Column, int]]:
    """Real elements that are modelled, each with its column: those with at least two values."""
    return [
        (column, element)
        for column in info.columns
        if column.is_real and column.kind != "error" and not column.is_position
        for element in column.places("bounded")
        if np.isfinite(values[element]).sum() >= 2
    ]


def _all_units(
    info: CatalogInfo, values: Floats, targets: list[tuple[Column, int]]
) -> tuple[Floats, Floats]:
    found = [
        _units(values[element], _known_errors(info, column, element, values), column)
        for column, element in targets
    ]
    return np.stack([v for v, _ in found]), np.stack([y for _, y in found])


def _known_errors(info: CatalogInfo, column: Column, element: int, values: Floats) -> Floats | None:
    if column.kind != "scaled" or column.partner is None:
        return None
    partner = info.column(column.partner)
    errors = values[partner.first + (element - column.first) % partner.elements]
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma = np.where(errors > 0, 1 / np.sqrt(errors) if column.is_inverse else errors, np.nan)
    return np.asarray(sigma * column.factor)


def _units(values: Floats, errors: Floats | None, column: Column) -> tuple[Floats, Floats]:
    """Knots of the map from values to noise units, shape (KNOTS,) each."""
    good = np.isfinite(values) if errors is None else np.isfinite(values) & np.isfinite(errors)
    if good.sum() < 2:
        errors, good = None, np.isfinite(values)
    found = values[good]
    knots = _spread_knots(found)
    scale = _spread(found)
    if errors is None:
        middle = np.median(found)
        unit = np.hypot(scale, knots - middle) / SPREAD_UNITS
        unit = np.maximum(unit, column.precision or 0)
    else:
        unit = _running_median(found, errors[good], knots)
    unit = np.maximum(unit, _TINY * max(np.abs(knots).max(), scale))
    rise = np.diff(knots) * 2 / (unit[1:] + unit[:-1])
    rise = np.maximum(rise, max(1e-3, 1e-9 * rise.sum()))  # strictly rising, after rounding too
    return knots, np.concatenate([[0.0], np.cumsum(rise)])


def _spread(values: Floats) -> float:
    """Robust standard deviation; never 0."""
    mad = 1.4826 * float(np.median(np.abs(values - np.median(values))))
    return mad or float(values.std()) or abs(float(values[0])) or 1.0


def _spread_knots(values: Floats) -> Floats:
    """Rising values, as quantiles where these differ, `KNOTS` of them."""
    reach = max(_spread(values), 1e-300)
    quantiles = np.quantile(values, np.linspace(0, 1, KNOTS))
    knots = [float(quantiles[0])]
    for value in quantiles[1:].tolist():
        if value - knots[-1] > max(1e-6 * reach, 1e-12 * abs(value)):
            knots.append(value)
    while len(knots) < KNOTS:
        knots.append(knots[-1] + max(reach, 1e-6 * abs(knots[-1])))
    return np.array(knots)


def _running_median(values: Floats, other: Floats, knots: Floats) -> Floats:
    """Median of the other quantity among values near each knot."""
    order = np.argsort(values, kind="stable")
    place = np.searchsorted(values[order], knots)
    half = max(len(values) // (2 * KNOTS), 2)
    window = min(2 * half, len(values))
    starts = np.clip(place - half, 0, len(values) - window)
    return np.asarray(np.median(other[order][starts[:, None] + np.arange(window)], axis=1))


def _to_units(
    values: Floats, targets: list[tuple[Column, int]], knots_v: Floats, knots_y: Floats
) -> Floats:
    units = np.full((len(targets), values.shape[1]), np.nan)
    for place, (_, element) in enumerate(targets):
        good = np.isfinite(values[element])
        units[place, good] = interpolate(values[element][good], knots_v[place], knots_y[place])
    return units


def _features(
    info: CatalogInfo, units: Floats, targets: list[tuple[Column, int]]
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Places of what the map is made of: values with errors, or else all but the redshift."""
    every = [i for i, (column, _) in enumerate(targets) if column.name != info.redshift]
    scaled = [i for i in every if targets[i][0].kind == "scaled"]
    chosen = np.array((scaled or every or [0])[:MAX_FEATURES], np.int64)
    mean = np.nanmedian(units[chosen], axis=1)
    scale = np.array([_spread(row[np.isfinite(row)]) for row in units[chosen]])
    return chosen, mean, scale


def _scaled(
    units: Floats, features: NDArray[np.int64], mean: Floats, scale: Floats
) -> NDArray[np.float32]:
    rows = np.nan_to_num((units[features] - mean[:, None]) / scale[:, None]).T
    return np.clip(rows, -10, 10).astype(np.float32)


def _components(units: Floats, channels: int) -> tuple[Floats, Floats]:
    """Principal components, shape (m, channels), and centre; bright rows do not choose them."""
    low, high = np.nanquantile(units, (0.01, 0.99), axis=1)
    kept = np.clip(units, low[:, None], high[:, None])
    centre = np.nanmean(kept, axis=1)
    moved = np.nan_to_num(kept - centre[:, None])
    _, vectors = np.linalg.eigh(moved @ moved.T / moved.shape[1])
    basis = vectors[:, ::-1][:, :channels]
    return np.asarray(basis * np.where(basis.sum(axis=0) < 0, -1.0, 1.0)), centre


def _curves(info: CatalogInfo, values: Floats, targets: list[tuple[Column, int]]) -> dict[str, Any]:
    """Typical error at each value of whichever modelled column predicts it best."""
    found: dict[int, tuple[int, Floats, Floats]] = {}
    for column in info.columns:
        for error in column.places("bounded") if column.kind == "error" else []:
            likely = _likely_predictors(info, column, error, targets)
            curves = [_curve(values, place, targets[place][1], error) for place in likely]
            known = [curve for curve in curves if curve is not None]
            if known:
                found[error] = min(known, key=lambda curve: curve[0])[1:]
    shape = (len(found), KNOTS)
    return {
        "curve_error": np.array(list(found), np.int64),
        "curve_target": np.array([one[0] for one in found.values()], np.int64),
        "curve_v": np.array([one[1] for one in found.values()]).reshape(shape),
        "curve_e": np.array([one[2] for one in found.values()]).reshape(shape),
    }


def _likely_predictors(
    info: CatalogInfo, error_column: Column, error: int, targets: list[tuple[Column, int]]
) -> list[int]:
    """Places of the error's own value, and of the first values that have errors."""
    scaled = [i for i, (column, _) in enumerate(targets) if column.kind == "scaled"]
    own = [
        i
        for i in scaled
        if targets[i][0].partner == error_column.name
        and (targets[i][1] - targets[i][0].first) % error_column.elements
        == error - error_column.first
    ]
    return list(dict.fromkeys([*own, *scaled[:MAX_PREDICTORS]]))


def _curve(
    values: Floats, place: int, element: int, error: int
) -> tuple[float, int, Floats, Floats] | None:
    """How badly a value predicts an error (median |log ratio|), and the curve that does it."""
    good = np.isfinite(values[element]) & (values[error] > 0)
    if good.sum() < 2:
        return None
    value, sigma = values[element][good], values[error][good]
    knots = _spread_knots(value)
    curve = np.maximum(_running_median(value, sigma, knots), sigma.min())
    inside = np.clip(value, knots[0], knots[-1])
    miss = float(np.median(np.abs(np.log(sigma / interpolate(inside, knots, curve)))))
    return miss, place, knots, curve


def _with_centres(model: TableModel, values: Floats, units: Floats) -> TableModel:
    """The model with what its cells hold: mean latents and median values of the sample."""
    cells = model.assign(units)
    whole = model.encode(units, cells)  # the centres are still 0
    used = np.unique(cells)
    centres, prototypes = model.centres.copy(), model.prototypes.copy()
    for cell in used:
        rows = cells == cell
        centres[cell] = np.rint(np.median(whole[:, rows], axis=1))
        prototypes[cell] = _medians(values[:, rows])
    flat = model.som.reshape(model.cells, -1)
    nearest = used[assign_nearest(flat, flat[used])]
    return replace(model, centres=centres[nearest], prototypes=prototypes[nearest])


def assign_nearest(rows: NDArray[np.float32], some: NDArray[np.float32]) -> NDArray[np.intp]:
    """Nearest of some rows to each row."""
    return np.asarray(((rows[:, None, :] - some[None, :, :]) ** 2).sum(axis=-1).argmin(axis=1))


def _medians(values: Floats) -> Floats:
    out = np.full(len(values), np.nan)
    some = np.isfinite(values).any(axis=1)
    out[some] = np.nanmedian(values[some], axis=1)
    return out


__all__ += ["u_matrix"]
