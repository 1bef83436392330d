"""The seal: what a complete release consists of, what is in it by mistake, and its manifest.

A build that was killed leaves things behind: files half written, a model that was trained and not
noted, shards of an earlier configuration. They are removed here, so that a release holds the same
objects whatever happened on the way to it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import zarr
from zarr.core.buffer import cpu

from skyfold import layout
from skyfold.access.seal import is_read_whole, manifest_digest, read_manifest, seal_root
from skyfold.errors import ReleaseError, SealedReleaseError
from skyfold.images.details import details_key
from skyfold.images.index import ImageEntry, index_key, read_index, shard_key
from skyfold.layout import LAYERS, STAGING
from skyfold.releases import sibling

if TYPE_CHECKING:
    from collections.abc import Callable

    from skyfold.access.store import Store

PARTIAL = ".partial"  # end of the name of a local file that is still being written
TABLES = ("catalogs", "densities")
_HASH_THREADS = 8
_NAMES = (".json", ".parquet")  # objects that may name a model


def seal_release(
    store: Store, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Check that a release is complete, remove what does not belong to it, write its manifest.

    Parameters
    ----------
    store : Store
        The release, not yet sealed.
    progress : callable, optional
        Called with objects done and objects in all.

    Returns
    -------
    dict
        The manifest's objects: size and SHA-256 by key.

    Raises
    ------
    SealedReleaseError
        If another process sealed it first.
    ReleaseError
        If an object is missing.
    """
    for key in (layout.ZARR_KEY, layout.FIDELITY_KEY, layout.PROVENANCE_KEY):
        if not store.exists(key):
            raise ReleaseError(
                f"{store.url} has no {key} and cannot be sealed; run the steps before: "
                "train, encode, measure"
            )
    entries = _require_images(store)
    for key in orphans(store, entries):
        store.delete(key)
    _seal_metadata(store)
    objects = _digests(store, progress)
    manifest = {
        "format": layout.FORMAT,
        "objects": objects,
        "digest": manifest_digest(objects),
        "releases": _referred(store, entries),
    }
    data = json.dumps(manifest, sort_keys=True, indent=1).encode()
    try:
        store.create(layout.MANIFEST_KEY, data)
    except FileExistsError as error:
        raise SealedReleaseError(f"{store.url} was sealed by another process") from error
    store.delete_prefix(STAGING)
    return objects


def _about(store: Store) -> dict[str, Any]:
    about: dict[str, Any] = store.read_json(layout.ZARR_KEY)["attributes"]["skyfold"]
    return about


def _require_images(store: Store) -> list[ImageEntry]:
    """Images of the release; ReleaseError unless every layer of theirs is there, whole."""
    sizes = store.sizes("images")
    keys = [index_key(name) for name in _about(store).get("images", [])]
    entries = [entry for key in keys if key in sizes for entry in read_index(store.read(key), key)]
    lacking = [
        f"{entry.id} ({layer})"
        for entry in entries
        if not entry.release
        for layer, size in entry.bytes.items()
        if sizes.get(shard_key(entry, layer)) != size
    ]
    if lacking:
        raise ReleaseError(
            f"{store.url} lacks {len(lacking)} objects of its images, the first of them of "
            f"{lacking[0]}; run encode and measure again"
        )
    return entries


def orphans(store: Store, entries: list[ImageEntry]) -> list[str]:
    """Keys of a release about to be sealed that do not belong to it, staging left out.

    Parameters
    ----------
    entries : list of ImageEntry
        Its images.
    """
    about, sizes = _about(store), store.sizes()
    keys = [key for key in sizes if not key.startswith(f"{STAGING}/")]
    wanted = _image_keys(entries)
    models = _models_named(store, list(sizes))
    tables = {f"{kind}/{name}" for kind in TABLES for name in about.get(kind, [])}
    tables -= set(about.get("held", {}))

    def belongs(key: str) -> bool:
        parts = key.split("/")
        if key.endswith(PARTIAL):
            return False
        if parts[0] == "images":
            return key in wanted
        if parts[0] == "models" and len(parts) > 2:
            return parts[1] in models
        return parts[0] not in TABLES or len(parts) < 3 or "/".join(parts[:2]) in tables

    return [key for key in keys if not belongs(key)]


def _image_keys(entries: list[ImageEntry]) -> set[str]:
    """Keys below ``images/``: indexes, metadata of groups and arrays, shards."""
    sets = {entry.set for entry in entries}
    wanted = {key(name) for name in sets for key in (index_key, details_key)}
    for entry in entries:
        if entry.release:
            continue
        group = f"images/{entry.set}/{entry.group}"
        documents = ("images", f"images/{entry.set}", group, *(f"{group}/{x}" for x in LAYERS))
        wanted |= {f"{path}/{layout.ZARR_KEY}" for path in documents}
        wanted |= {shard_key(entry, layer) for layer in entry.bytes}
    return wanted


def _models_named(store: Store, keys: list[str]) -> set[str]:
    """Digests of models that some index, description or note names."""
    digests = {key.split("/")[1] for key in keys if key.startswith("models/")}
    if not digests:
        return set()
    named: set[str] = set()
    for key in keys:
        if key.endswith(_NAMES) and not key.startswith("models/") and named != digests:
            text = store.read(key)
            named |= {digest for digest in digests if digest.encode() in text}
    return named


def _referred(store: Store, entries: list[ImageEntry]) -> dict[str, str]:
    """Digest of each earlier release that holds images or tables of this one, by name."""
    held = _about(store).get("held", {}).values()
    names = sorted({*(entry.release for entry in entries), *held} - {""})
    manifests = {name: sibling(store, name).read(layout.MANIFEST_KEY) for name in names}
    return {name: manifest_digest(read_manifest(data, name)) for name, data in manifests.items()}


def _seal_metadata(store: Store) -> None:
    """State in the root all metadata, the digests of what a reader takes whole, and its own.

    It is written once, as it stays: another process that seals may be reading it already.
    """
    keys = [key for key in store.sizes() if not key.startswith(f"{STAGING}/")]
    digests = {
        key: hashlib.sha256(store.read(key)).hexdigest() for key in filter(is_read_whole, keys)
    }
    documents: dict[str, Any] = {
        key: cpu.Buffer.from_bytes(store.read(key))
        for key in keys
        if key.rpartition("/")[2] == layout.ZARR_KEY
    }
    with warnings.catch_warnings():  # other Zarr libraries may not know of it
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(zarr.storage.MemoryStore(documents))
    store.write(layout.ZARR_KEY, seal_root(documents[layout.ZARR_KEY].to_bytes(), digests))


def _digests(store: Store, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
    outside = (layout.MANIFEST_KEY, f"{STAGING}/")
    keys = [key for key in store.sizes() if not key.startswith(outside)]
    objects = {}
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        found = zip(keys, pool.map(_describe_of(store), keys), strict=True)
        for done, (key, data) in enumerate(found, 1):
            objects[key] = data
            if progress:
                progress(done, len(keys))
    return objects


def _describe_of(store: Store) -> Callable[[str], dict[str, Any]]:
    def describe(key: str) -> dict[str, Any]:
        data = store.read(key)
        return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    return describe
