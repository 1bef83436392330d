"""The report's maps: self-organizing maps, t-SNE, and why what is most novel is so.

This module knows how a map becomes pictures that need no script: one pixel a cell, a palette whose
brightness rises with the value and is told beside it, and words for who cannot see it. The t-SNE
maps are numbers, which the page's script draws so that they can be coloured by any column.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flows.gallery import gray_picture, png_uri
from skyfold.catalogs.index import catalog_path
from skyfold.catalogs.tables import plain_values
from skyfold.errors import CorruptDataError

if TYPE_CHECKING:
    from skyfold.catalogs.library import Catalog
    from skyfold.release import DataRelease

__all__ = ["explanations", "maps", "scatters"]

PLANES = 8  # component planes of a map, at most
COLOURINGS = 8  # columns that a t-SNE map can be coloured by, at most
SHOWN = 6  # objects that are explained
ALIKE = 3  # stamps of objects like one
STAMP = 48  # pixels a side
_ANCHORS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))  # viridis
_EMPTY = (128, 128, 128)
Row = dict[str, Any]


def maps(release: DataRelease) -> list[Row]:
    """Every self-organizing map of a release, with its planes as pictures.

    Returns
    -------
    list of dict
        ``name``, ``shape``, ``quantization``, ``topographic``, ``rows`` and ``planes``: ``title``,
        ``picture`` (PNG as data URI), ``low``, ``high`` and ``alt``.
    """
    found = [_map_of_objects(release)] if len(release.objects) else []
    found += [_map_of_catalog(one) for one in release.catalogs.values() if one.som]
    return found


def _map_of_objects(release: DataRelease) -> Row:
    objects = release.objects
    som, about = objects.som, objects.description.som
    planes = [("U-matrix", som["u_matrix"]), ("objects in each cell", som["hits"])]
    planes += [(f"mean {name}", som["mean"][..., i]) for i, name in enumerate(about["mean"])]
    return _map("objects of the images", "objects", len(objects), about, planes)


def _map_of_catalog(catalog: Catalog) -> Row:
    som, about = catalog.som, catalog.description.som
    planes = [("U-matrix", som["u_matrix"]), ("rows in each cell", som["hits"])]
    if "redshift" in som:
        planes.append(("mean redshift", som["redshift"]))
    features = about.get("features", [])
    planes += [(name, som["weights"][..., i]) for i, name in enumerate(features)]
    return _map(f"catalog {catalog.name}", "rows", len(catalog), about, planes)


def _map(
    name: str, unit: str, count: int, about: Row, planes: list[tuple[str, NDArray[Any]]]
) -> Row:
    ny, nx = planes[0][1].shape
    return {
        "name": name,
        "unit": unit,
        "count": count,
        "shape": f"{ny} x {nx}",
        "quantization": about.get("quantization_error"),
        "topographic": about.get("topographic_error"),
        "planes": [_plane(name, title, values) for title, values in planes[: PLANES + 2]],
    }


def _plane(name: str, title: str, values: NDArray[Any]) -> Row:
    picture, low, high = colour_picture(values)
    alt = f"{title} on the map of {name}: from {low} to {high}"
    return {"title": title, "picture": picture, "low": low, "high": high, "alt": alt}


def colour_picture(values: NDArray[Any]) -> tuple[str, str, str]:
    """Picture of a plane, dark to light, gray where there is no value; lowest and highest value."""
    plane = np.asarray(values, np.float64)
    good = np.isfinite(plane)
    low, high = (float(plane[good].min()), float(plane[good].max())) if good.any() else (0.0, 0.0)
    scaled = (plane - low) / (high - low) if high > low else np.zeros(plane.shape)
    indices = np.where(good, 1 + np.rint(254 * np.nan_to_num(scaled)), 0).astype(np.uint8)
    place = np.linspace(0, len(_ANCHORS) - 1, 255)
    channels = [
        np.interp(place, range(len(_ANCHORS)), part) for part in zip(*_ANCHORS, strict=True)
    ]
    colours = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    palette = np.concatenate([np.array([_EMPTY], np.uint8), colours])
    return png_uri(indices, palette), _short(low), _short(high)


def _short(value: float) -> str:
    return f"{value:.3g}"


# t-SNE.


def scatters(release: DataRelease) -> list[Row]:
    """t-SNE maps as the page's script reads them.

    Returns
    -------
    list of dict
        ``name``, ``points`` (x, y and number of each), and ``colours``: ``name`` and ``values``,
        numbers (null where missing) or, for few distinct texts, the texts.
    """
    found = []
    if len(release.objects) and release.objects.description.tsne:
        rows, places = release.objects.tsne()
        names = ["novelty", "snr", "half_light_radius", "residual", "isolation", "cell", "band"]
        table = release.objects.table(rows, columns=names)
        found.append(_scatter("objects of the images", rows, places, table, names))
    for catalog in release.catalogs.values():
        drawn = atlas_of(release, catalog.name).get("tsne", {})
        if drawn:
            features = catalog.description.som.get("features", [])
            names = [name for name in [catalog.description.redshift, *features] if name]
            names = [one for one in dict.fromkeys(names) if one in catalog.columns][:COLOURINGS]
            order = np.argsort(drawn["rows"])
            rows, places = np.array(drawn["rows"])[order], np.array(drawn["places"])[order]
            table = catalog.read(names, rows)
            found.append(_scatter(f"catalog {catalog.name}", rows, places, table, names))
    return found


def _scatter(
    name: str, rows: NDArray[Any], places: NDArray[Any], table: Any, names: list[str]
) -> Row:
    low, high = places.min(axis=0), places.max(axis=0)
    unit = (places - low) / np.where(high > low, high - low, 1)
    points = [
        [round(float(x), 3), round(float(y), 3), int(n)]
        for (x, y), n in zip(unit, rows, strict=True)
    ]
    colours = [{"name": one, "values": _values(table[one])} for one in names]
    return {"name": name, "points": points, "colours": colours}


def _values(column: Any) -> list[Any]:
    plain = plain_values(column)
    if plain.dtype.kind in "US":
        return [str(one) for one in plain]
    mask = getattr(column, "mask", np.zeros(len(plain), bool))
    good = np.isfinite(plain.astype(float)) & ~np.asarray(mask, bool)
    return [float(f"{v:.4g}") if ok else None for v, ok in zip(plain.tolist(), good, strict=True)]


def atlas_of(release: DataRelease, name: str) -> Row:
    """Atlas of a catalog; empty where none was drawn; CorruptDataError if it is no JSON."""
    key = f"{catalog_path(name)}/atlas.json"
    release = release.holder(catalog_path(name))
    if not release.store.exists(key):
        return {}
    try:
        found = json.loads(release.read(key))
    except ValueError as error:
        raise CorruptDataError(f"{release.url}/{key} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


# Why.


def explanations(release: DataRelease) -> Row:
    """Why the most novel objects and rows are so.

    Returns
    -------
    dict
        ``objects``: ``title``, ``about``, ``panels`` (``title``, ``picture``, ``alt``), ``alike``
        (pictures of the nearest others); ``catalogs``: ``name``, ``of``, and ``rows``, each with
        ``number``, ``distance`` and ``shares`` (``name``, ``value``, ``share`` of the largest).
    """
    has = len(release.objects) and release.objects.description.explained
    objects = _explained_objects(release) if has else []
    catalogs = [
        {"name": name, **_explained_rows(atlas)}
        for name in release.catalogs
        if (atlas := atlas_of(release, name).get("explained"))
    ]
    return {"objects": objects, "catalogs": catalogs}


def _explained_objects(release: DataRelease) -> list[Row]:
    told = release.objects.explained()
    rows = told["rows"][:SHOWN]
    table = release.objects.table(rows)
    raw, latent = (_stamps(release, table, level) for level in ("exact", "latent"))
    return [
        _explained(release, *one)
        for one in zip(table, raw, latent, told["occlusion"], strict=False)
    ]


def _explained(release: DataRelease, row: Any, raw: Any, latent: Any, hidden: Any) -> Row:
    number = int(row["object"])
    name = f"object {number}"
    like = release.objects.similar(number, ALIKE, columns=["object"])
    alike = _stamps(release, like, "exact")
    values = {key: _number(row[key]) for key in ("snr", "novelty", "residual", "isolation")}
    shown, occlusion = in_noise(raw), np.maximum(np.asarray(hidden, float), 0)
    picture, _, most = colour_picture(np.kron(occlusion, np.ones((6, 6))))
    return {
        "title": f"Object {number}",
        "about": f"novelty {values['novelty']:.3g}, S/N {values['snr']:.3g}, "
        f"residual {values['residual']:.3g}, isolation {values['isolation']:.3g}; {row['image']}, "
        f"x {_number(row['x']):.0f}, y {_number(row['y']):.0f}",
        "panels": [
            _panel("raw", gray_picture(shown, max(float(shown.max()), 6.0)), f"{name}: raw pixels"),
            _panel(
                "network",
                gray_picture(in_noise(latent), max(float(shown.max()), 6.0)),
                f"{name}: decoded at latent",
            ),
            _panel("isolates it", picture, f"{name}: isolation owed to each block, up to {most}"),
        ],
        "alike": [
            _panel(
                f"{int(one.meta['object'])}",
                gray_picture(in_noise(one), max(float(in_noise(one).max()), 6.0)),
                f"object {int(one.meta['object'])}, one of the nearest to {name}",
            )
            for one in alike
        ],
    }


def _stamps(release: DataRelease, table: Any, level: str) -> list[Any]:
    return list(release.objects.cutouts(table, level, size=STAMP))


def _panel(title: str, picture: str, alt: str) -> Row:
    return {"title": title, "picture": picture, "alt": alt}


def in_noise(stamp: Any) -> NDArray[np.float64]:
    """Pixels of a stamp less their median, over their noise; 0 where bad."""
    good = ~stamp.mask & np.isfinite(stamp.data)
    if not good.any():
        return np.zeros(stamp.shape)
    middle = np.median(stamp.data[good])
    if stamp.uncertainty is not None:
        noise = float(np.median(stamp.uncertainty.array[good]))
    else:  # the raw array was stored by itself
        noise = 1.4826 * float(np.median(np.abs(stamp.data[good] - middle))) or 1.0
    return np.where(good, (stamp.data - middle) / noise, 0)


def _number(value: Any) -> float:
    plain = getattr(value, "unmasked", value)
    return float(getattr(plain, "value", plain))


def _explained_rows(atlas: Row) -> Row:
    rows = []
    for number, distance, shares in zip(
        atlas["rows"], atlas["distance"], atlas["shap"], strict=True
    ):
        order = np.argsort(-np.abs(shares))[:5]
        most = max(float(np.abs(shares).max()), 1e-12)
        parts = [
            {
                "name": atlas["features"][place],
                "value": f"{shares[place]:+.2g}",
                "share": round(100 * abs(shares[place]) / most),
            }
            for place in order.tolist()
        ]
        rows.append({"number": number, "distance": f"{distance:.3g}", "shares": parts})
    return {"of": atlas["of"], "rows": rows}
