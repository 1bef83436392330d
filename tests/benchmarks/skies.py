"""The images that codecs are compared on, each with sky of its own kind to train on.

This module alone knows which files those are, and how test and training sky are kept apart: by
exposure where a set has several, else by halves of the image, so that neither bits nor errors are
ever counted on sky that a model has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from flows.simulate import Camera, Sky, noise_entropy_bits, simulate_image
from storage.config import load_config
from storage.survey import SurveyImage, find_images, read_image

MIN_PIXELS = 50_000  # smaller images say more about headers than about codecs
TRAINING_EXPOSURES = 3
TEST_SEED, TRAINING_SEED = 11, 1011


@dataclass(frozen=True)
class Simulation:
    """A camera under a sky; see `flows.simulate`."""

    name: str
    camera: dict[str, Any]
    galaxies: float = 45.0
    stars: float = 4.0


@dataclass(frozen=True)
class Source:
    """Real files under the data folder: what is measured, and what trains if not its own half."""

    name: str
    test: str
    training: tuple[str, ...] = ()
    extra: str = ""  # further lines of its [[images]] table


@dataclass(frozen=True)
class Case:
    """One image of the comparison.

    Attributes
    ----------
    kind : str
        ``simulated`` or ``real``; all of one kind share a model.
    noise_bits : float or None
        Entropy of the sky noise, where it is known [bits a pixel].
    """

    name: str
    kind: str
    test: SurveyImage
    training: tuple[SurveyImage, ...]
    noise_bits: float | None = None


SIMULATIONS = (
    Simulation("sim_typical", {}),
    Simulation("sim_crowded", {"sky_e": 1500.0}, galaxies=120.0, stars=60.0),
    Simulation("sim_deep_sharp", {"sky_e": 6000.0, "seeing_arcsec": 0.55}),
    Simulation("sim_shallow_blurred", {"sky_e": 80.0, "seeing_arcsec": 1.2}, stars=10.0),
)
_MASK = 'mask = {replace = ["_ooi_", "_ood_"]}'
SOURCES = (
    Source("emmi", "emmi/galaxies.fits"),
    Source("sdss", "sdss/reprojected_sdss_g.fits.bz2"),
    Source("decam_epochs", "decam_epochs/DEC-OBS04a*.fits", ("decam_epochs/DEC-OBS*b*.fits",)),
    Source("m13", "m13/*.fits"),
    Source("saao", "saao/*.fits"),
    Source("poss", "poss/*.fits"),
    Source("twomass", "twomass/*.fits"),
    Source("spitzer", "spitzer/*.fits"),
    Source("hst_cosmos", "hst_cosmos/*_masknoise.fits"),
    Source("kids_r", "kids_viking/r.fits"),
    Source("viking_z", "kids_viking/Z.fits"),
    Source("legacysurvey", "legacysurvey_coadd/*-image-g.fits.fz"),
    Source("decam", "decam/testcase4/*_ooi_*.fits", ("decam/testcase[569]/*_ooi_*.fits",), _MASK),
)


def simulated(folder: Path, chosen: set[str] | None, side: int, count: int) -> Iterator[Case]:
    """The simulated images, of `side` pixels a side; files are kept for the next run."""
    for one in SIMULATIONS[:count]:
        if chosen is not None and one.name not in chosen:
            continue
        camera = Camera(**{"size": side, **one.camera})
        plan = [(TEST_SEED, 0)] + [(TRAINING_SEED, n) for n in range(TRAINING_EXPOSURES)]
        paths = [_exposure(folder / one.name, one, camera, *exposure) for exposure in plan]
        test, *training = (_read(folder, one.name, str(path))[0] for path in paths)
        bits = noise_entropy_bits(camera.sky_e, camera.read_noise_e, camera.gain)
        yield Case(one.name, "simulated", test, tuple(training), bits)


def _exposure(folder: Path, one: Simulation, camera: Camera, seed: int, number: int) -> Path:
    about = repr((sorted(asdict(camera).items()), one.galaxies, one.stars, seed, number))
    path = folder / f"{hashlib.sha256(about.encode()).hexdigest()[:12]}.fits"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        sky = Sky(seed, one.galaxies, one.stars)
        pixels, header, _ = simulate_image(sky, camera, number, bands=("r",))
        fits.writeto(path, pixels, header)
    return path


def real(
    data: Path, folder: Path, chosen: set[str] | None, most: int, count: int
) -> Iterator[Case | str]:
    """The real images, at most `most` pixels of each; a line of text where one is left out."""
    for source in SOURCES[:count]:
        if chosen is not None and source.name not in chosen:
            continue
        if not list(data.glob(source.test)):
            yield f"{source.name}: no file {data / source.test}; left out"
            continue
        whole = _read(folder, source.name, str(data / source.test), source.extra)[0]
        if whole.stored.size < MIN_PIXELS:
            yield f"{source.name}: {whole.stored.size} pixels are fewer than {MIN_PIXELS}; left out"
            continue
        yield _split(source, whole, data, folder, most)


def _split(source: Source, whole: SurveyImage, data: Path, folder: Path, most: int) -> Case:
    ny, nx = whole.stored.shape
    if source.training:
        patterns = [str(data / pattern) for pattern in source.training]
        others = [image for one in patterns for image in _read(folder, source.name, one)]
        return Case(source.name, "real", _window(whole, (0, ny), most), tuple(others))
    lower = crop(whole, slice(0, ny // 2), slice(0, nx))
    return Case(source.name, "real", _window(whole, (ny // 2, ny), most), (lower,))


def _read(folder: Path, name: str, pattern: str, extra: str = "") -> list[SurveyImage]:
    """Images as a survey.toml would bring them."""
    folder.mkdir(parents=True, exist_ok=True)
    survey = folder / f"{name}.toml"
    table = f'[[images]]\nset = "{name}"\nfiles = ["{Path(pattern).resolve()}"]\n{extra}\n'
    survey.write_text(f'[release]\nurl = "release"\n{table}')
    refs, _ = find_images(load_config(survey))
    return [read_image(ref, storage_options={}) for ref in refs]


def _window(image: SurveyImage, rows: tuple[int, int], most: int) -> SurveyImage:
    """At most `most` pixels of some rows, about the middle of what was measured there."""
    nx = image.stored.shape[1]
    side = int(np.sqrt(most))
    height = min(rows[1] - rows[0], max(side, most // nx))
    if image.quantum is not None:
        height = min(rows[1] - rows[0], most // nx)  # whole rows: their integers stay known
    width = min(nx, most // height)
    measured = _measured(image.stored[rows[0] : rows[1]])
    y0 = _start(np.any(measured, axis=1), height) + rows[0]
    y0 -= y0 % image.quantum[0].rows if image.quantum is not None else 0
    x0 = _start(np.any(measured, axis=0), width)
    return crop(image, slice(y0, y0 + height), slice(x0, x0 + width))


def _measured(stored: NDArray[Any]) -> NDArray[np.bool_]:
    return np.isfinite(stored) & (stored != 0)


def _start(used: NDArray[Any], length: int) -> int:
    places = np.flatnonzero(used)
    middle = float(places.mean()) if places.size else len(used) / 2
    return int(np.clip(round(middle - length / 2), 0, len(used) - length))


def crop(image: SurveyImage, rows: slice, columns: slice) -> SurveyImage:
    """Part of an image with its planes; the header stays that of the whole."""

    def cut(plane: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if plane is None else np.ascontiguousarray(plane[rows, columns])

    stored = np.ascontiguousarray(image.stored[rows, columns])
    return replace(
        image,
        stored=stored,
        shape=stored.shape,
        mask=cut(image.mask),
        variance=cut(image.variance),
        relative_variance=cut(image.relative_variance),
        quantum=_quantum(image, rows, columns),
    )


def _quantum(image: SurveyImage, rows: slice, columns: slice) -> Any:
    """How whole rows of compressed tiles were quantised; None of other parts."""
    ny, nx = image.stored.shape
    whole = columns.start == 0 and columns.stop == nx
    if image.quantum is None or not whole or rows.start % image.quantum[0].rows:
        return None
    how, parameters = image.quantum
    first = rows.start // how.rows * how.grid((ny, nx))[1]
    stop = -(-rows.stop // how.rows) * how.grid((ny, nx))[1]
    return replace(how, seed=how.seed + first), parameters[:, first:stop]
