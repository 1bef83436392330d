"""A whole ``survey.toml``: read, put together from its sections, and what is wrong with it told.

Every relative path in the file is relative to the folder that holds it; every path may be local
or a URL such as ``s3://bucket/key``.
"""

import hashlib
import os
import re
import tomllib
from typing import Any, Self

from pydantic import BaseModel, ValidationError, field_validator, model_validator

from skyfold.errors import ConfigError
from storage.sections import (
    URL_WITH_LOGIN,
    CatalogConfig,
    DensitiesConfig,
    FidelityConfig,
    ImagesConfig,
    LevelsConfig,
    LimitsConfig,
    PlaneConfig,
    ReleaseConfig,
    Section,
    StorageConfig,
    TrainingConfig,
    is_url,
)

__all__ = [
    "CatalogConfig",
    "DensitiesConfig",
    "FidelityConfig",
    "ImagesConfig",
    "LevelsConfig",
    "LimitsConfig",
    "PlaneConfig",
    "ReleaseConfig",
    "StorageConfig",
    "SurveyConfig",
    "TrainingConfig",
    "is_url",
    "load_config",
    "needs_night",
]

_NIGHT = "{night}"


class SurveyConfig(Section):
    """A whole ``survey.toml``.

    Attributes
    ----------
    folder : str
        Absolute path of the folder that holds the file; relative paths start there.
    digest : str
        SHA-256, in hex, of the file's bytes and, where it names one, of the night.
    """

    folder: str
    digest: str
    release: ReleaseConfig
    images: tuple[ImagesConfig, ...] = ()
    catalogs: tuple[CatalogConfig, ...] = ()
    densities: tuple[DensitiesConfig, ...] = ()
    training: TrainingConfig = TrainingConfig()
    levels: LevelsConfig = LevelsConfig()
    fidelity: FidelityConfig = FidelityConfig()
    limits: LimitsConfig = LimitsConfig()
    storage: StorageConfig = StorageConfig()

    @field_validator("catalogs", "densities")
    @classmethod
    def _unique_names(cls, tables: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [table.name for table in tables]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the names {twice} are given twice; each table needs its own name")
        return tables

    @model_validator(mode="after")
    def _has_input(self) -> Self:
        if not (self.images or self.catalogs or self.densities):
            raise ValueError("no input: add an [[images]], [[catalogs]] or [[densities]] table")
        return self

    def resolve(self, path: str) -> str:
        """Absolute path of a path in the file; a URL stays as it is."""
        return path if is_url(path) else os.path.abspath(os.path.join(self.folder, path))


def load_config(path: str | os.PathLike[str], night: str = "") -> SurveyConfig:
    """Survey configuration read from a TOML file.

    Parameters
    ----------
    path : path-like
        A local ``survey.toml``.
    night : str
        Takes the place of ``{night}`` in the file's texts.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not TOML, or has an unknown, missing or unusable field; the
        message names the file and the fields.
    """
    path = os.path.abspath(os.fspath(path))
    try:
        with open(path, "rb") as file:
            raw = file.read()
        data = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a survey.toml") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise ConfigError(f"{path}: not valid TOML: {error}; correct that line") from error
    reserved = sorted({"folder", "digest"} & data.keys())
    if reserved:
        raise ConfigError(f"{path}: {reserved[0]}: {_unknown_key((reserved[0],))}")
    if needs_night(path):
        data = _of_night(data, _checked_night(path, night))
        raw += night.encode()
    digest = hashlib.sha256(raw).hexdigest()
    place = {"folder": os.path.dirname(path), "digest": digest}
    try:
        return SurveyConfig.model_validate({**data, **place})
    except ValidationError as error:
        faults = [_describe(item) for item in error.errors(include_url=False)]
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        # The cause would show the values met, among which a refused credential may be.
        raise ConfigError(f"{path}: {'; '.join(faults[:3])}{more}") from None


def needs_night(path: str | os.PathLike[str]) -> bool:
    """Whether a ``survey.toml`` describes one night at a time: a text in it says ``{night}``."""
    try:
        with open(path, "rb") as file:
            return _NIGHT.encode() in file.read()
    except OSError:
        return False


def _checked_night(path: str, night: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", night):
        raise ConfigError(
            f"{path}: it says {_NIGHT}, and the night is {night!r}; allowed are letters, digits, "
            "'-' and '_': give one such as 2026-11-22 (--night on the command line)"
        )
    return night


def _of_night(value: Any, night: str) -> Any:
    """The same data, with the night in all texts."""
    if isinstance(value, dict):
        return {key: _of_night(one, night) for key, one in value.items()}
    if isinstance(value, list):
        return [_of_night(one, night) for one in value]
    return value.replace(_NIGHT, night) if isinstance(value, str) else value


def _describe(fault: Any) -> str:
    """One fault as ``field: reason``, without the value where that could be a credential."""
    loc, kind, value = fault["loc"], fault["type"], fault["input"]
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    field = field.removeprefix(".") or "the file"
    if kind == "missing":
        return f"{field}: required but missing; add it"
    if kind == "extra_forbidden":
        return f"{field}: {_unknown_key(loc)}"
    reason = fault["msg"].removeprefix("Value error, ")
    if kind == "tuple_type":
        reason = "give a list, such as ['raw/*.fits']"
    if kind == "string_pattern_mismatch":
        reason = "allowed are letters, digits, '-', '_' and '.', not first '.'"
    shown = isinstance(value, str | int | float | list) and not _may_be_secret(loc, value)
    return f"{field} = {str(value)[:80]!r}: {reason}" if shown else f"{field}: {reason}"


def _may_be_secret(loc: tuple[Any, ...], value: object) -> bool:
    return loc[:1] == ("storage",) or bool(URL_WITH_LOGIN.search(str(value)))


def _unknown_key(loc: tuple[Any, ...]) -> str:
    models: dict[str, type[BaseModel]] = {
        "release": ReleaseConfig,
        "images": ImagesConfig,
        "catalogs": CatalogConfig,
        "densities": DensitiesConfig,
        "training": TrainingConfig,
        "levels": LevelsConfig,
        "fidelity": FidelityConfig,
        "limits": LimitsConfig,
        "storage": StorageConfig,
        **dict.fromkeys(("mask", "weight", "variance"), PlaneConfig),
    }
    parents = [part for part in loc[:-1] if part in models]
    known = models[parents[-1]].model_fields if parents else SurveyConfig.model_fields
    names = [name for name in known if name not in ("folder", "digest")]
    return f"unknown key; known keys are {', '.join(names)}"
