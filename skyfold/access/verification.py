"""Whether a release is as it was sealed: keys, sizes and digests against its manifest."""

from __future__ import annotations

import hashlib
import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from skyfold.access.seal import Objects, manifest_digest
from skyfold.errors import CorruptDataError, InvalidRequestError, SkyfoldError
from skyfold.layout import MANIFEST_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyfold.access.store import Store
    from skyfold.release import DataRelease


def verify_release(
    release: DataRelease,
    progress: Callable[[int, int], None] | None,
    sample: float,
    seed: int,
    threads: int,
) -> dict[str, str]:
    """What is wrong with the objects of a release, by key; see `DataRelease.verify`.

    Raises
    ------
    InvalidRequestError
        If the sample is not above 0 and up to 1.
    """
    try:
        objects = release.manifest()
    except CorruptDataError as error:
        return {MANIFEST_KEY: str(error)}
    if not 0 < sample <= 1:
        raise InvalidRequestError(f"a sample of {sample}: give a share above 0 and up to 1")
    problems = _wrong_keys(release.store, objects)
    chosen = [key for key in objects if key not in problems]
    if sample < 1:
        some = set(random.Random(seed).sample(chosen, math.ceil(sample * len(chosen))))
        chosen = [key for key in chosen if key in some or "/c/" not in key]
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda key: _wrong_object(release.store, key, objects), chosen)
        for done, (key, problem) in enumerate(zip(chosen, found, strict=True), 1):
            if problem:
                problems[key] = problem
            if progress:
                progress(done, len(chosen))
    return dict(sorted((problems | _wrong_homes(release)).items()))


def _wrong_homes(release: DataRelease) -> dict[str, str]:
    """Earlier releases that hold layers of this one, and are not those it was sealed with."""
    pinned = json.loads(release.read(MANIFEST_KEY)).get("releases", {})
    problems = {}
    for name, digest in pinned.items():
        try:
            found = manifest_digest(release.home(name).manifest())
        except SkyfoldError as error:
            problems[f"../{name}"] = str(error)
            continue
        if found != digest:
            problems[f"../{name}"] = f"digest {found}, sealed with {digest}"
    return problems


def _wrong_keys(store: Store, objects: Objects) -> dict[str, str]:
    """Objects that are missing, too many, or of another size; a web server cannot list."""
    if not store.can_list:
        return {}
    sizes = store.sizes()
    sizes.pop(MANIFEST_KEY, None)
    problems = {key: "not in the manifest" for key in sizes if key not in objects}
    for key, stated in objects.items():
        if key not in sizes:
            problems[key] = "missing"
        elif sizes[key] != stated["size"]:
            problems[key] = f"has {sizes[key]} bytes, the manifest states {stated['size']}"
    return problems


def _wrong_object(store: Store, key: str, objects: Objects) -> str | None:
    stated, met, size = objects[key], hashlib.sha256(), 0
    try:
        for block in store.blocks(key, stated["size"]):
            met.update(block)
            size += len(block)
    except FileNotFoundError:
        return "missing"
    except CorruptDataError as error:
        return str(error)
    if size != stated["size"]:
        return f"has another size than the {stated['size']} bytes that the manifest states"
    digest = met.hexdigest()
    return None if digest == stated["sha256"] else f"has SHA-256 {digest}, not that stated"
