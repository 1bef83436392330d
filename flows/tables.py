"""Catalogs and densities that the base release holds already: known by what they are made of.

A table's *recipe* is the digest of its files, its settings and the version of its writer. It stands
in the root of the release, so that a later one with the same recipe can refer to the table instead
of training, encoding and storing it again.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flows.job import Job

NOTE = "recipes"


def keep_recipe(job: Job, path: str, settings: Mapping[str, Any]) -> bool:
    """Keep what a table is made of for the root of the release.

    Parameters
    ----------
    path : str
        Key below which the table lies, such as ``catalogs/galaxies``.
    settings : mapping
        All that its stored bytes depend on, as JSON.

    Returns
    -------
    bool
        Whether the base holds the same table.
    """
    data = json.dumps(settings, sort_keys=True).encode()
    recipes = _recipes(job) | {path: hashlib.sha256(data).hexdigest()}
    job.builder.note(NOTE, recipes)
    return path in held(job)


def held(job: Job) -> dict[str, str]:
    """Name of the release beside this one that holds a table, by the table's path."""
    if job.base is None:
        return {}
    there, home = job.base.about.get("recipes", {}), job.base.url.rpartition("/")[2]
    homes = job.base.about.get("held", {})
    return {
        path: homes.get(path, home)
        for path, recipe in _recipes(job).items()
        if there.get(path) == recipe
    }


def about_tables(job: Job) -> dict[str, dict[str, str]]:
    """What the root of the release says of its tables."""
    return {"recipes": _recipes(job), "held": held(job)}


def set_aside_by_base(job: Job, name: str, files: Collection[str]) -> list[dict[str, str]]:
    """What the base set aside of the files of a table that it holds."""
    assert job.base is not None
    return [
        row
        for row in job.base.about.get("set_aside", [])
        if row["set"] == name and set(row["file"].split(", ")) <= set(files)
    ]


def _recipes(job: Job) -> dict[str, str]:
    """Recipes of the tables that the configuration names."""
    catalogs = {f"catalogs/{one.name}" for one in job.config.catalogs}
    names = catalogs | {f"densities/{one.name}" for one in job.config.densities}
    kept = job.builder.read_note(NOTE) or {}
    return {path: recipe for path, recipe in kept.items() if path in names}
