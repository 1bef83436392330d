"""What may be removed from a product: unfinished releases, and what stray writers left.

Nothing that a manifest lists is ever removed. A release without a manifest counts as abandoned only
once nothing in it has been written for a while, because somebody may still be at work. One in
quarantine waits for somebody's decision, and is removed only where that is it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from skyfold.access.seal import read_manifest
from skyfold.errors import CorruptDataError, ReleaseError, ReleaseNotFoundError
from skyfold.layout import MANIFEST_KEY, QUARANTINE_KEY, STAGING, ZARR_KEY
from skyfold.releases import ENTRIES
from storage.sealing import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skyfold.access.store import Store

DEFAULT_AGE = timedelta(days=7)


@dataclass(frozen=True)
class Garbage:
    """Objects of one release that may go.

    Attributes
    ----------
    release : str
        Its name, the last part of its URL; empty for the product itself.
    reason : str
    keys : tuple of str
        Below the product's URL.
    size : int
        Bytes of all of them.
    age : timedelta
        Since the last of them was written.
    """

    release: str
    reason: str
    keys: tuple[str, ...]
    size: int
    age: timedelta


def find_garbage(
    product: Store, *, older_than: timedelta = DEFAULT_AGE, quarantined: bool = False
) -> list[Garbage]:
    """What may be removed, without removing it.

    Parameters
    ----------
    product : Store
        The folder or prefix in which releases lie.
    older_than : timedelta
        Objects written later are left alone, and so is the whole of an unfinished release in which
        one was.
    quarantined : bool
        Releases in quarantine may go too.

    Returns
    -------
    list of Garbage

    Raises
    ------
    ReleaseNotFoundError
        If nothing lies at the URL.
    ReleaseError
        If the URL is of a release or of a part of one, which would look unfinished.
    CorruptDataError
        If a manifest is damaged: nothing may go that it may list.
    StoreUnavailableError
    """
    now = datetime.now(UTC)
    found = []
    releases = _by_release(product)
    if not releases:
        raise ReleaseNotFoundError(f"{product.url} holds no object; check the URL")
    if releases.get("", {}).keys() & {MANIFEST_KEY, ZARR_KEY} or STAGING in releases:
        raise ReleaseError(
            f"{product.url} is a release, or a part of one; give the URL of a product, which is "
            "that of a release without its last part"
        )
    for name, objects in releases.items():
        if not quarantined and _is_in_quarantine(name, objects):
            continue
        for reason, keys in _candidates(product, name, objects):
            age = min((now - objects[key][1] for key in keys), default=timedelta(0))
            if keys and age >= older_than:
                size = sum(objects[key][0] for key in keys)
                found.append(Garbage(name, reason, tuple(sorted(keys)), size, age))
    return found


def remove_garbage(product: Store, garbage: list[Garbage]) -> None:
    """Remove it: last that by which a release is known, so that a cut removal can be taken up.

    A release that was sealed since it was found is left alone, from the object on at which its seal
    is met. Whoever seals makes good what was removed before, or cannot seal.
    """
    for one in garbage:
        for key in sorted(one.keys, key=partial(_is_mark, one.release)):
            if one.reason == _ABANDONED and product.exists(f"{one.release}/{MANIFEST_KEY}"):
                break
            product.delete(key)


_ABANDONED = "not sealed"
Objects = dict[str, tuple[int, datetime]]


def _by_release(product: Store) -> dict[str, Objects]:
    """Size and time of every object below a product, by release and key."""
    found: dict[str, Objects] = {}
    sizes, times = product.sizes(), product.times()
    for key in sizes.keys() & times.keys():
        name, _, rest = key.partition("/")
        if name == ENTRIES or not rest:
            name = ""
        found.setdefault(name, {})[key] = (sizes[key], times[key])
    return dict(sorted(found.items()))


def _candidates(product: Store, name: str, objects: Objects) -> Iterator[tuple[str, set[str]]]:
    """Reasons, and the objects that they concern."""
    unfinished = {key for key in objects if key.endswith(PARTIAL)}
    if not name:
        yield "half written", unfinished
    elif f"{name}/{MANIFEST_KEY}" in objects:
        listed = _listed(product, name)
        yield "not of the sealed release", {k for k in objects if k not in listed}
    elif _is_ours(product, {key for key in objects if _is_mark(name, key)}):
        yield _ABANDONED, set(objects)
    else:
        yield "half written", unfinished


def _is_in_quarantine(name: str, objects: Objects) -> bool:
    """Whether a release waits for somebody's decision."""
    return f"{name}/{QUARANTINE_KEY}" in objects and f"{name}/{MANIFEST_KEY}" not in objects


def _is_mark(name: str, key: str) -> bool:
    """Whether a key is one by which a release is known: its root, or a note of its build."""
    return key == f"{name}/{ZARR_KEY}" or key.startswith(f"{name}/{STAGING}/")


def _is_ours(product: Store, marks: set[str]) -> bool:
    """Whether marks are of a release, and not of somebody's own Zarr group."""
    if not marks or any(not key.endswith(f"/{ZARR_KEY}") for key in marks):
        return bool(marks)
    try:
        return any(product.read_json(key).get("attributes", {}).get("skyfold") for key in marks)
    except (CorruptDataError, FileNotFoundError):
        return False  # whose it is cannot be told, or it is being removed


def _listed(product: Store, name: str) -> set[str]:
    """Keys that a sealed release needs; CorruptDataError if its manifest came damaged."""
    key = f"{name}/{MANIFEST_KEY}"
    return {key, *(f"{name}/{one}" for one in read_manifest(product.read(key), key))}
