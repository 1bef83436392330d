"""The sections of a ``survey.toml``: their keys, defaults, and what each refuses.

Credentials never stand in it: they come from the environment, and what looks like one is refused.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_serializer,
    field_validator,
    model_validator,
)

_SECRET_OPTION = re.compile(r"key|secret|token|passw|credential|username", re.IGNORECASE)
URL_WITH_LOGIN = re.compile(r"[A-Za-z0-9+.]+://[^/]*@")
_PLACEHOLDERS = ("stem", "folder", "name", "hdu")


def is_url(path: str) -> bool:
    """Whether a path is a URL (``s3://...``) and not a local file name."""
    return "://" in path


def _path_without_login(path: str) -> str:
    if URL_WITH_LOGIN.match(path):
        raise ValueError("a URL may not carry a login; give it in the environment instead")
    return path


def _as_table(plane: Any) -> Any:
    return {"file": plane} if isinstance(plane, str) else plane


Text = Annotated[str, Field(min_length=1)]
PathText = Annotated[Text, BeforeValidator(lambda v: _path_without_login(v) if _is_str(v) else v)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Index = Annotated[int, Field(strict=True, ge=0)]
Number = Annotated[float, Field(strict=True)]


def _is_str(value: object) -> bool:
    return isinstance(value, str)


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_hdu(value: object) -> bool:
    return _is_index(value) or (isinstance(value, str) and bool(value.strip()))


class Section(BaseModel):
    """A table of the file; a key that it does not know is refused."""

    # The reference of survey.toml is made of these docstrings.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ReleaseConfig(Section):
    """Where the release goes: a folder or ``s3://bucket/product/release``, and its name."""

    url: PathText
    """Where the release goes: a folder, or ``s3://bucket/product/release``."""
    name: Text | None = None
    """What the release is called; the last two parts of `url` unless given."""
    base: Name | None = None
    """An earlier release beside this one, such as ``dr1``, whose model is used without training
    and whose images are referred to where input and settings are the same."""

    @property
    def title(self) -> str:
        """The name, by default the last two parts of the URL (``demo/dr1``)."""
        return self.name or "/".join(self.url.rstrip("/").split("/")[-2:])


class PlaneConfig(Section):
    """Where the mask, weight or variance of an image lies."""

    file: PathText | None = None
    """Path of the plane's file, in which ``{stem}``, ``{folder}``, ``{name}`` and ``{hdu}``
    stand for the image's. The image's own file unless given."""
    hdu: int | str | None = None
    """HDU of the plane, by number or name, of several of one name that of the image's version
    (EXTVER); the one with the image's number, or else the first image, unless given."""
    replace: tuple[Text, str] | None = None
    """``[old, new]``: the plane's path is the image's with one text replaced; not with `file`."""
    bits: tuple[Annotated[int, Field(strict=True, ge=0, le=62)], ...] | None = None
    """Of a mask: numbers (from 0) of the bits that make a pixel bad; any bit unless given."""
    relative: bool = False
    """Of a weight: its unit is not known, so only how it differs from pixel to pixel is used."""

    @field_validator("hdu", mode="plain")
    @classmethod
    def _one_hdu(cls, value: Any) -> Any:
        if not _is_hdu(value):
            raise ValueError("give a number from 0 or a name such as 'MASK' or 'MASK,2'")
        return value

    @field_validator("file")
    @classmethod
    def _known_placeholders(cls, value: str | None) -> str | None:
        unknown = set(re.findall(r"{(.*?)}", value or "")) - set(_PLACEHOLDERS)
        if unknown:
            known = " ".join("{" + name + "}" for name in _PLACEHOLDERS)
            raise ValueError(f"unknown placeholder {sorted(unknown)}; known are {known}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.file is None and self.replace is None and self.hdu is None:
            raise ValueError("give a file, an hdu, or replace")
        if self.file is not None and self.replace is not None:
            raise ValueError("give either file or replace")
        return self


Plane = Annotated[PlaneConfig | None, BeforeValidator(_as_table)]


class ImagesConfig(Section):
    """One ``[[images]]`` table: files of a set, and where in them the pixels and their facts are.

    `gain` is in electrons per physical unit; `band`, `gain` and `time` may be ``header:KEYWORD``.
    """

    set: Name
    """Name of the set: letters, digits, ``-``, ``_``, ``.``. Several tables may share a set."""
    files: Annotated[tuple[PathText, ...], Field(min_length=1)]
    """Paths or patterns (``*``, ``**``); each must match. FITS, also fpacked, ``.gz``,
    ``.bz2``."""
    hdu: int | str | tuple[int | str, ...] | None = None
    """Where the pixels are: a number, a name (every image of it), a list of these, or ``"all"``;
    the first HDU that holds an image unless given. A cube is one image, its slices one above the
    other, of one noise and one model of points: give slices that are unlike as HDUs of their
    own."""
    band: Text = "unknown"
    """Name of the band, or ``"header:KEYWORD"``."""
    mask: Plane = None
    """Plane in which any bit set (or those of its `bits`) marks a bad pixel."""
    weight: Plane = None
    """Plane of inverse variances [1 / physical unit squared]; 0 and below is bad. Not with
    `variance`."""
    variance: Plane = None
    """Plane of variances [physical unit squared]; 0 and below is bad. Not with `weight`."""
    gain: float | str | None = None
    """Electrons per physical unit, or ``"header:KEYWORD"``; ``GAIN`` or ``EGAIN`` of an image
    in counts unless given."""
    time: Text | None = None
    """Start of the exposure, ISO 8601, or ``"header:KEYWORD"``; ``DATE-OBS`` or ``MJD-OBS``
    unless given."""

    @field_validator("hdu", mode="plain")
    @classmethod
    def _hdus(cls, value: Any) -> Any:
        several = isinstance(value, list) and value and all(map(_is_hdu, value))
        if not (several or _is_hdu(value)):
            raise ValueError("give a number from 0, a name, a list of these, or 'all'")
        return tuple(value) if several else value

    @field_serializer("hdu", mode="plain")
    def _plain_hdus(self, value: Any) -> Any:
        """As a list; Prefect puts one in the place of a tuple when it looks for futures."""
        return list(value) if isinstance(value, tuple | list) else value

    @field_validator("gain", mode="plain")
    @classmethod
    def _number_or_keyword(cls, value: Any) -> Any:
        if isinstance(value, str) and re.fullmatch(r"header:\s*\S+", value):
            return value
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (is_number and 0 < value < float("inf")):
            raise ValueError("give a number above 0 or 'header:KEYWORD'")
        return float(value)

    @field_validator("band")
    @classmethod
    def _names_keyword(cls, value: str) -> str:
        if not value.removeprefix("header:").strip():
            raise ValueError("name the keyword after 'header:'")
        return value

    @model_validator(mode="after")
    def _planes_agree(self) -> Self:
        if self.weight is not None and self.variance is not None:
            raise ValueError("weight and variance say the same: give one of them")
        for role, plane in (("mask", self.mask), ("variance", self.variance)):
            if plane is not None and plane.relative:
                raise ValueError(f"{role}.relative: only a weight can be relative")
        for role, plane in (("weight", self.weight), ("variance", self.variance)):
            if plane is not None and plane.bits is not None:
                raise ValueError(f"{role}.bits: only a mask has bits")
        return self


class CatalogConfig(Section):
    """One ``[[catalogs]]`` table; `key` is the group of an HDF5 file or the HDU of a FITS file."""

    name: Name
    """Name of the catalog: letters, digits, ``-``, ``_``, ``.``; each table has its own."""
    files: Annotated[tuple[PathText, ...], Field(min_length=1)]
    """Paths or patterns of FITS, Parquet, HDF5, CSV, ECSV or VOTable files."""
    id: Text | None = None
    """Column of ids."""
    ra: Text | None = None
    """Column of right ascensions [deg]; only with `dec`."""
    dec: Text | None = None
    """Column of declinations [deg]; only with `ra`."""
    redshift: Text | None = None
    """Column of spectroscopic redshifts, for the science case ``photoz``."""
    errors: dict[str, Text] = {}
    """Table of value column = error column: standard deviations, or inverse variances where the
    name says ``ivar``. Columns that are not named here are paired by their names."""
    precision: dict[str, Positive] = {}
    """Table of value column = the step that matters [unit of the column]; ``bounded`` keeps
    half of it. Not for columns in `errors`."""
    missing: tuple[Number, ...] = ()
    """Numbers that stand for no value, such as 99.0. Taken for such without being named: 99,
    999, 9999 and 99.99 of either sign with no other value near, and a lowest or highest one that
    several rows share, a thousand times farther out than all others reach; of positions, only
    what is no angle on the sky."""
    key: Text | None = None
    """Group of an HDF5 file, or HDU of a FITS file."""

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        if (self.ra is None) != (self.dec is None):
            raise ValueError("give both ra and dec, or neither")
        both = sorted(set(self.errors) & set(self.precision))
        if both:
            raise ValueError(f"columns {both} have both an error and a precision: give one")
        return self


class DensitiesConfig(Section):
    """One ``[[densities]]`` table; `grid` is a file, ``last-row``, a key, or (start, stop, n)."""

    name: Name
    """Name of the set: letters, digits, ``-``, ``_``, ``.``; each table has its own."""
    files: Annotated[tuple[PathText, ...], Field(min_length=1)]
    """Paths or patterns of NumPy, HDF5, FITS or Parquet files with a density a row."""
    grid: str | tuple[float, float, int]
    """Points of the densities: a file, ``"last-row"``, an HDF5 key, or ``[start, stop, n]``."""
    key: Text | None = None
    """Group of an HDF5 file, or HDU of a FITS file."""
    samples: bool = False
    """Whether rows hold samples drawn from each density, which are counted around grid points."""
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Probabilities, rising, where rows hold the quantiles of each density."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.samples and self.quantiles:
            raise ValueError("give either samples or quantiles: what the rows hold")
        if list(self.quantiles) != sorted(set(self.quantiles)) or len(self.quantiles) == 1:
            raise ValueError("quantiles must rise, and be two at least")
        if self.grid == "last-row" and (self.samples or self.quantiles):
            raise ValueError("samples and quantiles are no values on a grid: give the grid itself")
        return self

    @field_validator("grid", mode="plain")
    @classmethod
    def _grid(cls, value: Any) -> Any:
        if isinstance(value, str) and value:
            return _path_without_login(value)
        numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
        if not (numbers and len(value) == 3 and value[0] < value[1]):
            raise ValueError("give a file, 'last-row', an HDF5 key, or [start, stop, n]")
        if type(value[2]) is not int or value[2] < 2:
            raise ValueError("n of [start, stop, n] is a whole number from 2")
        return float(value[0]), float(value[1]), value[2]


class TrainingConfig(Section):
    """How long, with which seed, and which model is trained; 3 minutes unless `steps` is given."""

    minutes: Positive | None = None
    """Time to train [minutes]; 3 unless `steps` is given."""
    steps: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Steps to train, instead of `minutes`: the same on a faster machine."""
    seed: Index = 1
    """Of everything that is drawn at random, and of the sky that is held out."""
    model: Literal["autoencoder", "pca"] = "autoencoder"
    """The network, or ``"pca"``, which is linear and trained in seconds."""
    channels: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Latent channels; the model's own number unless given."""

    @model_validator(mode="before")
    @classmethod
    def _one_budget(cls, data: Any) -> Any:
        if isinstance(data, dict) and not {"minutes", "steps"} & data.keys():
            return {**data, "minutes": 3.0}
        if isinstance(data, dict) and {"minutes", "steps"} <= data.keys():
            raise ValueError("give either minutes or steps")
        return data


class LevelsConfig(Section):
    """Width of the cells in noise units: `bounded` keeps every pixel within half of it."""

    step: Positive = 0.5
    """Width of a cell [noise units]."""

    smallest: Literal["reads", "storage"] = "reads"
    """What is kept small where an image's raw array by itself takes fewer bytes than its ladder:
    what a reader of `exact` fetches, for which the array is stored beside `bounded` and its noise
    twice; or what the release stores."""


class FidelityConfig(Section):
    """What the fidelity record holds beside what every record does."""

    shear_galaxies: Index = 0
    """Galaxies of known shear to put into copies of the images of each set and band, from which
    the multiplicative and additive bias of shear are measured (case `shear`); 0 for none."""


class LimitsConfig(Section):
    """When a flow stops: more than this share of the inputs is bad."""

    bad_fraction: Annotated[float, Field(strict=True, ge=0, le=1)] = 0.2
    """Share of damaged inputs, 0 to 1, above which a flow stops; constant and blank images do
    not count."""


class StorageConfig(Section):
    """Options of the file system behind URLs, such as ``endpoint_url`` and ``anon``; no secrets."""

    options: dict[str, Any] = {}
    """Of the file system behind URLs, such as ``endpoint_url`` and ``anon`` of s3fs; no
    credentials."""

    @field_validator("options")
    @classmethod
    def _no_secrets(cls, options: dict[str, Any]) -> dict[str, Any]:
        for key, value in _walk(options):
            if _SECRET_OPTION.search(key) or (_is_str(value) and URL_WITH_LOGIN.match(value)):
                raise ValueError(
                    f"{key} looks like a credential, which a survey file may not hold; use the "
                    "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE)"
                )
        return options


def _walk(table: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        yield key, value
        if isinstance(value, dict):
            yield from _walk(value)
