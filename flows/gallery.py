"""Pictures for the report: objects of the held-out sky, raw, decoded and what differs.

This module knows which objects show what a level does to a survey (the brightest, the faintest,
the typical and those that came out worst), and how their pixels become small pictures: the same
stretch for raw and decoded, the difference in units of each pixel's noise.
"""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skyfold.fidelity.holdout import counted_pixels
from skyfold.fidelity.images import images_to_measure
from skyfold.ladder import LEVELS
from skyfold.science import ImageContext
from skyfold.science.field import Field, decoded_difference, prepare_field
from skyfold.science.sources import at_centre, circle_sum, is_clear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from skyfold.images.index import ImageEntry
    from skyfold.release import DataRelease

__all__ = ["gallery", "gray_picture", "png_uri"]

SIDE = 1024  # pixels of an image that are searched: enough objects of every kind
IMAGES, TRIES = 2, 4  # images that objects are taken from, and looked at for them
RANGE = 5.0  # differences are shown to this many sigma
NOVEL = 2  # most novel objects that are shown
AROUND = 256  # pixels from a novel object to the edge of what is seen of its image
DETECTED = 5.0  # S/N from which an object is typical, and of a faint one
_HALF = (16, 36)  # pixels from the centre of a picture to its edge, at least and at most
_GRAY = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
_BLUE, _WHITE, _RED = (33, 102, 172), (250, 250, 250), (178, 24, 43)


@dataclass(frozen=True, eq=False)
class _Piece:
    """Part of one image at every level, with the objects found in it.

    Planes have shape (ny, nx): `shown` the raw image less sky in units of its median noise,
    `change` decoded - raw in the same units, `residual` in units of each pixel's noise. `sources`
    are sep's, `snr` theirs in one FWHM, and `loss` the change of that flux in units of its error.
    """

    entry: ImageEntry
    corner: tuple[int, int]
    fwhm: float
    shown: NDArray[Any]
    change: dict[str, NDArray[Any]]
    residual: dict[str, NDArray[Any]]
    sources: NDArray[Any]
    snr: NDArray[np.float64]
    loss: dict[str, NDArray[np.float64]]


def gallery(release: DataRelease) -> list[dict[str, Any]]:
    """Objects of the sky that training never saw, with pictures at every level.

    Parameters
    ----------
    release : DataRelease
        Sealed or not.

    Returns
    -------
    list of dict
        At most six, of different kinds, and the most novel: ``title``, ``about``, and ``panels``,
        one for the raw image and each level: ``level``, ``picture`` and ``residual`` (PNG as data
        URI; no residual for raw), ``alt``, ``residual_alt`` and ``note``. Empty where no image
        has noise or no object is found.

    Raises
    ------
    MissingDependencyError
        If sep is not installed.
    """
    pieces: list[_Piece] = []
    for image_id in _spread(images_to_measure(release)):
        piece = _piece(release, image_id)
        if piece is not None:
            pieces.append(piece)
        if len(pieces) == IMAGES:
            break
    chosen = [*_choose(pieces), *_most_novel(release)]
    return [_exhibit(title, *found) for title, found in chosen]


def _spread(ids: list[str]) -> list[str]:
    """A few images, far from each other in sets and bands: the first and the last come first."""
    places = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), TRIES)).astype(int))
    return [ids[place] for place in (*places[:1], *places[:0:-1])]


def _piece(release: DataRelease, image_id: str) -> _Piece | None:
    """The part of an image with most held-out sky; None if no object is found there."""
    entry = release.images.entry(image_id)
    counted = counted_pixels(release, entry)
    place = _busiest(counted)
    return _piece_at(release, image_id, place, counted[place])


def _piece_at(
    release: DataRelease,
    image_id: str,
    place: tuple[slice, slice],
    counted: NDArray[np.bool_],
) -> _Piece | None:
    entry = release.images.entry(image_id)
    windows = {level: release.images.read(image_id, level, *place) for level in LEVELS}
    sigma = windows["bounded"].sigma
    raw = windows["exact"].values.astype(np.float64)
    if sigma is None:
        return None
    mask = (windows["bounded"].flags != 0) | ~np.isfinite(raw)
    planes = {level: np.where(mask, 0, one.values.astype(float)) for level, one in windows.items()}
    context = ImageContext(sigma, mask, counted, fwhm_pix=entry.fwhm_pix)
    field = prepare_field(planes["exact"], context)
    keep = is_clear(field.good, field.sources, field.fwhm)
    sources = field.sources[keep & at_centre(context.counted, field.sources)]
    if not len(sources):
        return None
    return _measured(entry, place, field, sources, planes, sigma)


def _busiest(counted: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Window of at most 1024 pixels a side that holds most of the counted pixels."""
    (ny, nx), grain = counted.shape, 16
    sides = min(ny, SIDE), min(nx, SIDE)
    corners = [
        (y, x)
        for y in {*range(0, ny - sides[0] + 1, SIDE // 4), ny - sides[0]}
        for x in {*range(0, nx - sides[1] + 1, SIDE // 4), nx - sides[1]}
    ]
    windows = [(slice(y, y + sides[0]), slice(x, x + sides[1])) for y, x in sorted(corners)]
    return max(windows, key=lambda window: int(counted[window][::grain, ::grain].sum()))


def _measured(
    entry: ImageEntry,
    place: tuple[slice, slice],
    field: Field,
    sources: NDArray[Any],
    planes: dict[str, NDArray[Any]],
    sigma: NDArray[np.float64],
) -> _Piece:
    """Objects with their S/N and the loss of their flux, and the planes to be shown."""
    raw = planes["exact"]
    error = np.sqrt(circle_sum(field.noise**2, sources, field.fwhm))
    moved = {
        level: circle_sum(decoded_difference(field, raw, plane), sources, field.fwhm) / error
        for level, plane in planes.items()
    }
    noise = np.where(field.good, sigma, 1.0)
    change = {level: np.where(field.good, plane - raw, 0) for level, plane in planes.items()}
    return _Piece(
        entry,
        (place[0].start, place[1].start),
        field.fwhm,
        field.image.astype(np.float64),
        {level: plane / field.unit for level, plane in change.items()},
        {level: plane / noise for level, plane in change.items()},
        sources,
        circle_sum(field.image, sources, field.fwhm) / error,
        {level: np.abs(one) for level, one in moved.items()},
    )


def _choose(pieces: list[_Piece]) -> list[tuple[str, tuple[_Piece, int]]]:
    """One object of each kind, none twice."""
    everyone = [(piece, i) for piece in pieces for i in range(len(piece.sources))]
    if not everyone:
        return []
    snr = np.concatenate([piece.snr for piece in pieces])
    size = np.concatenate([piece.sources["npix"] for piece in pieces])
    lost = {level: np.concatenate([piece.loss[level] for piece in pieces]) for level in LEVELS}
    usual = np.median(snr[snr >= DETECTED]) if (snr >= DETECTED).any() else np.median(snr)
    ranks = {
        "Brightest": -snr,
        "Typical": np.abs(snr - usual),
        "Faint": np.abs(snr - DETECTED),
        "Most extended": -size,
        "Worst at sources": -lost["sources"],
        "Worst at latent": -lost["latent"],
    }
    chosen: dict[int, str] = {}
    for title, rank in ranks.items():
        best = next((int(i) for i in np.argsort(rank, kind="stable") if int(i) not in chosen), None)
        if best is not None:
            chosen[best] = title
    return [(title, everyone[i]) for i, title in chosen.items()]


def _most_novel(release: DataRelease) -> list[tuple[str, tuple[_Piece, int]]]:
    """The most novel objects, wherever they are."""
    if not len(release.objects):
        return []
    found: list[tuple[str, tuple[_Piece, int]]] = []
    for row in release.objects.novel(min(NOVEL, len(release.objects)), columns=["image", "x", "y"]):
        image_id = str(row["image"])
        at = [float(getattr(row[axis], "value", row[axis])) for axis in ("y", "x")]
        sides = release.images.entry(image_id).plane
        rows, columns = (
            slice(max(round(one) - AROUND, 0), min(round(one) + AROUND, side))
            for one, side in zip(at, sides, strict=True)
        )
        every = np.ones((rows.stop - rows.start, columns.stop - columns.start), bool)
        piece = _piece_at(release, image_id, (rows, columns), every)
        if piece is not None:
            apart = np.hypot(
                piece.sources["y"] + rows.start - at[0], piece.sources["x"] + columns.start - at[1]
            )
            title = "Most novel" if not found else "Also novel"
            found.append((title, (piece, int(apart.argmin()))))
    return found


def _exhibit(title: str, piece: _Piece, number: int) -> dict[str, Any]:
    """One object as the page shows it."""
    source, entry = piece.sources[number], piece.entry
    box = _stamp(piece, float(source["y"]), float(source["x"]))
    raw = piece.shown[box]
    top = max(float(np.max(raw)), 6.0)
    x, y = source["x"] + piece.corner[1], source["y"] + piece.corner[0]
    panels = [{"level": "raw", "picture": gray_picture(raw, top), "alt": f"{title}: raw pixels"}]
    for level in LEVELS:
        residual = piece.residual[level][box]
        rms, most = float(np.sqrt(np.mean(residual**2))), float(np.abs(residual).max())
        panels.append(
            {
                "level": level,
                "picture": gray_picture(raw + piece.change[level][box], top),
                "alt": f"{title}: decoded at {level}",
                "residual": _difference(residual),
                "residual_alt": f"{title}: decoded at {level} less raw, up to {most:.2f} sigma",
                "note": f"rms {rms:.2f}",
                "loss": f"{piece.loss[level][number]:.2f}",
            }
        )
    about = f"S/N {piece.snr[number]:.3g}, {entry.id}, band {entry.band}, x {x:.0f}, y {y:.0f}"
    return {"title": title, "about": about, "panels": panels, "side": raw.shape[0]}


def _stamp(piece: _Piece, y: float, x: float) -> tuple[slice, slice]:
    """Square about an object, moved inwards at an edge."""
    ny, nx = piece.shown.shape
    half = min(int(np.clip(round(5 * piece.fwhm), *_HALF)), ny // 2, nx // 2)
    first = [int(np.clip(round(at) - half, 0, side - 2 * half)) for at, side in ((y, ny), (x, nx))]
    return slice(first[0], first[0] + 2 * half), slice(first[1], first[1] + 2 * half)


def gray_picture(values: NDArray[Any], top: float) -> str:
    """Noise units on an arcsinh stretch from -2 sigma to `top`, black to white."""
    low, high = np.arcsinh(-1.0), np.arcsinh(top / 2)
    scaled = (np.arcsinh(values / 2) - low) / (high - low)
    return png_uri(np.clip(255 * scaled, 0, 255).astype(np.uint8), _GRAY)


def _difference(residual: NDArray[Any]) -> str:
    """Noise units from -5 (blue) through 0 (white) to +5 (red)."""
    scaled = 127.5 * (1 + np.clip(residual / RANGE, -1, 1))
    return png_uri(np.rint(scaled).astype(np.uint8), _diverging())


def _diverging() -> NDArray[np.uint8]:
    ends = [0, 127.5, 255]
    channels = [
        np.interp(np.arange(256), ends, three) for three in zip(_BLUE, _WHITE, _RED, strict=True)
    ]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def png_uri(indices: NDArray[np.uint8], palette: NDArray[np.uint8]) -> str:
    """PNG picture with a palette, as data URI; the first row of the array is at the bottom.

    Parameters
    ----------
    indices : ndarray, shape (ny, nx), uint8
    palette : ndarray, shape (256, 3), uint8
        Red, green, blue.

    Notes
    -----
    PNG specification (third edition), sections 10 and 11: one zlib stream of rows, each led by
    its filter type, 0.
    """
    ny, nx = indices.shape
    rows = np.concatenate([np.zeros((ny, 1), np.uint8), indices[::-1]], axis=1)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            _chunk(b"IHDR", struct.pack(">IIBBBBB", nx, ny, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette.tobytes()),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        )
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
