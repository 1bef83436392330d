"""Which images a survey consists of: globs, HDUs, bands, and the ids by which they are known.

A file that cannot be used is set aside with its reason; only a wrong configuration, or a store that
does not answer, stops the search.
"""

import glob
import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from skyfold.errors import ConfigError, InputError
from storage.config import ImagesConfig, PlaneConfig, SurveyConfig, is_url
from storage.images.fits_input import glob_url, keyword, open_headers, select_hdus
from storage.images.image_input import ImageRef, PlaneRef, SurveyImage, read_image

__all__ = ["ImageRef", "PlaneRef", "SetAside", "SurveyImage", "find_images", "read_image"]

_SUFFIX = re.compile(r"(\.(fits|fit|fts|fz|gz|bz2))+$", re.IGNORECASE)


@dataclass(frozen=True)
class SetAside:
    """An input that is not archived, and why.

    Attributes
    ----------
    file, reason, set : str
    is_empty : bool
        It is sound but holds nothing: constant, or no pixel at all. Not a sign of damage.
    """

    file: str
    reason: str
    set: str
    is_empty: bool = False


def find_images(config: SurveyConfig) -> tuple[list[ImageRef], list[SetAside]]:
    """Images that the configuration names, in its order, and the files that cannot be used.

    A file is opened only where `hdu` or `band` cannot be known without it, and then only its
    headers are read; whether its pixels can be used shows in `read_image`.

    Raises
    ------
    ConfigError
        If a pattern matches no file, or one image is named twice in a set.
    StoreUnavailableError
        If an object store refuses or breaks off.
    """
    refs: list[ImageRef] = []
    aside: list[SetAside] = []
    for number, images in enumerate(config.images):
        for file in _files(config, images, f"images[{number}].files"):
            try:
                refs += _images_of_file(config, images, file)
            except InputError as error:
                aside.append(SetAside(file, str(error), images.set))
    _refuse_doubles(refs)
    return _with_ids(refs), aside


def _files(config: SurveyConfig, images: ImagesConfig, field: str) -> list[str]:
    found: dict[str, None] = {}
    for pattern in images.files:
        matches = (
            glob_url(pattern, config.storage.options)
            if is_url(pattern)
            else sorted(glob.glob(pattern, root_dir=config.folder, recursive=True))
        )
        files = [
            name for name in matches if is_url(name) or not os.path.isdir(config.resolve(name))
        ]
        if not files:
            raise ConfigError(
                f"{field} of set {images.set!r}: no file matches {pattern!r} under "
                f"{config.folder}; correct the pattern or take it out"
            )
        found.update(dict.fromkeys(files))
    return list(found)


def _images_of_file(config: SurveyConfig, images: ImagesConfig, file: str) -> list[ImageRef]:
    url = config.resolve(file)
    from_header = images.band.startswith("header:")
    if isinstance(images.hdu, int) and not from_header:
        found = [(images.hdu, images.band)]
    else:
        with open_headers(url, config.storage.options) as hdus:
            numbers = select_hdus(hdus, images.hdu, file)
            if images.hdu == "all":
                numbers = _without_planes(numbers, hdus, images, file)
            found = [(number, _band(images.band, hdus, number, file)) for number in numbers]
    return [_reference(config, images, file, number, band) for number, band in found]


def _without_planes(numbers: list[int], hdus: Any, images: ImagesConfig, file: str) -> list[int]:
    """Without the HDUs that are the mask, weight or variance of the others."""
    planes = set()
    for plane in (images.mask, images.weight, images.variance):
        if plane is not None and plane.file is None and plane.replace is None:
            planes.update(select_hdus(hdus, plane.hdu, file))
    return [number for number in numbers if number not in planes]


def _band(band: str, hdus: Any, number: int, file: str) -> str:
    if not band.startswith("header:"):
        return band
    name = band.removeprefix("header:").strip()
    value = keyword(name, hdus[number].header, hdus[0].header)
    if value is None:
        raise InputError(
            f"{file}: neither HDU {number} nor the primary header has {name}, which is to name the "
            "band; give the band itself in the configuration"
        )
    return str(value)


def _reference(
    config: SurveyConfig, images: ImagesConfig, file: str, hdu: int, band: str
) -> ImageRef:
    url = config.resolve(file)
    mask, weight, variance = (
        None if plane is None else _plane(config, plane, file, hdu)
        for plane in (images.mask, images.weight, images.variance)
    )
    gain, time = images.gain, images.time
    return ImageRef("", images.set, band, file, url, hdu, mask, weight, variance, gain, time)


def _plane(config: SurveyConfig, plane: PlaneConfig, file: str, hdu: int) -> PlaneRef:
    path = file
    if plane.file is not None:
        folder, name = os.path.split(file)
        values = {"stem": _stem(file), "folder": folder, "name": name, "hdu": str(hdu)}
        path = re.sub(r"{(\w+)}", lambda found: values[found[1]], plane.file)
    elif plane.replace is not None:
        path = file.replace(*plane.replace)
        if path == file:
            raise InputError(
                f"{file}: its path has no {plane.replace[0]!r} to replace, so its plane cannot be "
                "named; correct replace in the configuration"
            )
    return PlaneRef(path, config.resolve(path), plane.hdu, plane.bits, plane.relative)


def _refuse_doubles(refs: list[ImageRef]) -> None:
    counts = Counter((ref.set, ref.url, ref.hdu) for ref in refs)
    for ref in refs:
        if counts[ref.set, ref.url, ref.hdu] > 1:
            raise ConfigError(
                f"images: set {ref.set!r} names HDU {ref.hdu} of {ref.file} twice; each image may "
                "be in a set once: correct files or hdu"
            )


def _stem(file: str) -> str:
    return _SUFFIX.sub("", os.path.basename(file)) or os.path.basename(file)


def _safe(text: str) -> str:
    text = re.sub(r"[^A-Za-z0-9._-]", "_", text)
    return "_" + text[1:] if text[:1] in (".", "-") else text


def _with_ids(refs: list[ImageRef]) -> list[ImageRef]:
    files = list(dict.fromkeys((ref.set, ref.file) for ref in refs))
    names = _unique_names(files)
    images = Counter((ref.set, ref.file) for ref in refs)
    named = []
    for ref in refs:
        several = images[ref.set, ref.file] > 1
        name = f"{ref.set}/{names[ref.set, ref.file]}" + (f"/{ref.hdu}" if several else "")
        named.append(replace(ref, id=name))
    return named


def _unique_names(files: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Name of each (set, file): its stem, after as many parent folders as tell it from others."""
    parts = {key: [*os.path.dirname(key[1]).split("/"), _stem(key[1])] for key in files}
    depth = dict.fromkeys(files, 1)
    while True:
        names = {key: _safe("-".join(filter(None, parts[key][-depth[key] :]))) for key in files}
        counts = Counter((key[0], names[key]) for key in files)
        clash = [key for key in files if counts[key[0], names[key]] > 1]
        longer = [key for key in clash if depth[key] < len(parts[key])]
        if not longer:
            break
        depth |= {key: depth[key] + 1 for key in longer}
    # Only the suffix, or characters that became "_", still tell these apart.
    marks = {key: hashlib.sha256(key[1].encode()).hexdigest()[:8] for key in clash}
    return names | {key: f"{names[key]}-{mark}" for key, mark in marks.items()}
