"""Pictures for notebooks, with matplotlib, which the extra `plot` installs.

Colours come from one colour-blind safe cycle (Okabe & Ito 2008), levels in a fixed order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.errors import InvalidRequestError, MissingDependencyError

if TYPE_CHECKING:
    from astropy.nddata import CCDData

    from skyfold.release import DataRelease

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
STYLES = ("-", "--", ":")


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingDependencyError(
            'plotting needs matplotlib; run `pip install "skyfold[plot]"`'
        ) from error
    return plt


def plot_cutout(cutout: CCDData, ax: Any = None, *, sigmas: float = 5.0, **options: Any) -> Any:
    """Picture of a cutout, from the median less a noise to so many noises above it.

    Parameters
    ----------
    cutout : CCDData
        Masked pixels are left blank.
    ax : matplotlib Axes, optional
        A new one with celestial coordinates, where the cutout has them, unless given.
    sigmas : float
        Brightest value shown, in units of the noise above the median.
    **options
        For `matplotlib.axes.Axes.imshow`.

    Returns
    -------
    matplotlib.image.AxesImage

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    pyplot = _pyplot()
    if ax is None:
        ax = pyplot.figure().add_subplot(projection=cutout.wcs)
    shown = np.where(cutout.mask, np.nan, cutout.data)
    good = shown[np.isfinite(shown)]
    middle = float(np.median(good)) if good.size else 0.0
    noise = 1.4826 * float(np.median(np.abs(good - middle))) if good.size else 1.0
    if cutout.uncertainty is not None and good.size:
        noise = float(np.nanmedian(cutout.uncertainty.array))
    limits = {"vmin": middle - noise, "vmax": middle + sigmas * noise}
    image = ax.imshow(shown, **({"origin": "lower", "cmap": "gray"} | limits | options))
    meta = cutout.meta
    ax.set_title(f"{meta.get('image', '')} at {meta.get('level', '')}".strip())
    return image


def plot_som(release: DataRelease, name: str | None = None, plane: str = "u_matrix") -> Any:
    """Picture of one plane of a self-organizing map.

    Parameters
    ----------
    release : DataRelease
    name : str, optional
        Of a catalog; the objects of the images unless given.
    plane : str
        ``u_matrix``, ``hits``, or a column that the map knows.

    Returns
    -------
    matplotlib.image.AxesImage

    Raises
    ------
    UnknownNameError
        If there is no such catalog, or no objects.
    InvalidRequestError
        If the map has no such plane.
    MissingDependencyError
        If matplotlib is not installed.
    """
    planes = _som_planes(release, name)
    if plane not in planes:
        raise InvalidRequestError(
            f"the map of {name or 'the objects'} has no plane {plane!r}; it has "
            f"{', '.join(planes)}: choose one"
        )
    pyplot = _pyplot()
    ax = pyplot.figure().add_subplot()
    image = ax.imshow(planes[plane], origin="lower", cmap="viridis", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label=plane)
    ax.set_title(f"{plane} of {name or 'objects'}")
    ax.set_xlabel("cell x")
    ax.set_ylabel("cell y")
    return image


def _som_planes(release: DataRelease, name: str | None) -> dict[str, Any]:
    """Planes of a map by name."""
    if name is None:
        som, names = release.objects.som, release.objects.description.som["mean"]
        means = {one: som["mean"][..., place] for place, one in enumerate(names)}
    else:
        catalog = release.catalogs[name]
        som, names = catalog.som, catalog.description.som.get("features", [])
        means = {one: som["weights"][..., place] for place, one in enumerate(names)} if som else {}
        means |= {"redshift": som["redshift"]} if "redshift" in som else {}
    return {one: som[one] for one in ("u_matrix", "hits") if one in som} | means


def plot_fidelity(
    release: DataRelease, case: str = "photometry", measure: str | None = None, ax: Any = None
) -> Any:
    """Recorded loss of a science case against bits per pixel: a point a level, a line a bin.

    Parameters
    ----------
    release : DataRelease
    case : str
        Science case.
    measure : str, optional
        One of the case; its first unless given.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    InvalidRequestError
        If the record has no such case or measure.
    MissingDependencyError
        If matplotlib is not installed.
    """
    pyplot = _pyplot()
    of_case = [row for row in release.fidelity.rows() if row["case"] == case]
    measures = list(dict.fromkeys(row["measure"] for row in of_case if _loss(row) is not None))
    measure = measure or next(iter(measures), None)
    rows = [row for row in of_case if row["measure"] == measure]
    if measure not in measures:
        cases = sorted({row["case"] for row in release.fidelity.rows()})
        raise InvalidRequestError(
            f"the record of {release.url} has no {measure or 'measure'} of {case}; it has the "
            f"cases {', '.join(cases)}, and of this one {', '.join(measures) or 'nothing'}"
        )
    ax = ax or pyplot.figure().add_subplot()
    known = [row for row in rows if _loss(row) is not None]
    sizes = [size for size in map(_loss, known) if size]
    least = min(sizes, default=1.0)
    ax.set_xscale("log")
    ax.set_yscale("symlog", linthresh=10 ** np.floor(np.log10(least)))  # exact loses 0
    for number, (label, points) in enumerate(_lines(rows).items()):
        ax.plot(
            [row["bpp"] for row in points],
            [_loss(row) for row in points],
            label=label,
            color=COLOURS[number % len(COLOURS)],
            ls=STYLES[number // len(COLOURS) % len(STYLES)],
            marker="o",
        )
    ax.set_ylim(0, 2 * max(sizes, default=1.0))
    what = "90th percentile" if rows[0]["statistic"] == "p90" else "size of the mean"
    unit = f" [{rows[0]['unit']}]" if rows[0]["unit"] else ""
    ax.set_xlabel(f"bits per {'pixel' if rows[0]['kind'] == 'images' else 'value'}")
    ax.set_ylabel(f"{case}: {measure}, {what}{unit}")
    for row in {row["level"]: row for row in known}.values():
        place = (row["bpp"], _loss(row))
        ax.annotate(row["level"], place, textcoords="offset points", xytext=(4, 4))
    ax.legend(fontsize="small")
    return ax


def _loss(row: dict[str, Any]) -> float | None:
    """Size of the number that the row's interval is about; None if too few objects tell."""
    value = row["p90"] if row["statistic"] == "p90" else row["bias"]
    return None if value is None else abs(value)


def _lines(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Points of each set, band and bin in the record's order, by rate.

    Lines of `exact` alone are left out where there are others: they say that nothing is lost.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        label = " ".join(part for part in (row["set"], row["band"], row["bin"]) if part)
        found.setdefault(label, [])
        if _loss(row) is not None:
            found[label].append(row)
    found = {label: sorted(of, key=lambda row: row["bpp"]) for label, of in found.items() if of}
    told = {label: of for label, of in found.items() if any(r["level"] != "exact" for r in of)}
    return told or found
