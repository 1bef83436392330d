"""What seals a release: the manifest, and the digests by which a reader knows changed metadata.

The root's ``zarr.json`` holds the SHA-256 of every object that is read whole (indexes, catalog
descriptions, the record) and, last, of itself; layers hold checksums of their own. So whatever a
reader touches is compared, and the manifest, which grows with the release, is needed to verify
all of it only.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from skyfold.access.trust import MAX_MANIFEST_BYTES, check_key, load_json, reading
from skyfold.errors import CorruptDataError
from skyfold.layout import (
    CARD_KEY,
    FORMAT,
    MANIFEST_KEY,
    PROVENANCE_KEY,
    REPORT_KEY,
    ZARR_KEY,
)

Objects = dict[str, dict[str, Any]]
_HEX = frozenset("0123456789abcdef")
_DIGEST, _DIGESTS = "digest", "digests"
_NONE = "0" * 64  # in place of a digest, while it is taken


def manifest_digest(objects: Objects) -> str:
    """SHA-256, hex, of a manifest's objects as compact JSON with sorted keys."""
    text = json.dumps(objects, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(objects: Objects) -> bytes:
    """Manifest of a release's objects; the same objects always give the same bytes."""
    manifest = {"format": FORMAT, "objects": objects, "digest": manifest_digest(objects)}
    return json.dumps(manifest, sort_keys=True, indent=1).encode()


def read_manifest(data: bytes, name: str) -> Objects:
    """Size and SHA-256 of every object, by key.

    Raises
    ------
    CorruptDataError
        If it is no manifest, was changed, or names what lies outside the release.
    """
    manifest = load_json(data, name, MAX_MANIFEST_BYTES)
    with reading(name, "a manifest"):
        objects: Objects = manifest["objects"]
        intact = manifest["digest"] == manifest_digest(objects)
        intact &= json.dumps(manifest, sort_keys=True, indent=1).encode() == data
        for key, stated in objects.items():
            check_key(key)
            size, digest = stated["size"], stated["sha256"]
            if type(size) is not int or size < 0 or len(digest) != 64 or not set(digest) <= _HEX:
                raise ValueError(f"it states {str(stated)[:100]} of {key}")
    if not intact:
        raise CorruptDataError(
            f"{name} does not have the digest that it states; fetch the release again"
        )
    return objects


def is_read_whole(key: str) -> bool:
    """Whether a reader takes an object whole and it carries no checksum of its own."""
    apart = (ZARR_KEY, MANIFEST_KEY, PROVENANCE_KEY, REPORT_KEY, CARD_KEY)
    parts = key.split("/")
    return not (key in apart or parts[0] in ("models", "_staging") or {"c", ZARR_KEY} & set(parts))


def seal_root(root: bytes, digests: dict[str, str]) -> bytes:
    """The root's ``zarr.json`` with the digests of other objects, and its own.

    Parameters
    ----------
    root : bytes
        As Zarr wrote it, with consolidated metadata.
    digests : dict
        SHA-256, hex, by key, of what `is_read_whole` names.
    """
    content = json.loads(root)
    content["attributes"]["skyfold"] |= {_DIGESTS: digests, _DIGEST: _NONE}
    data = json.dumps(content, indent=1).encode()
    return data.replace(_NONE.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def check_root(data: bytes, about: dict[str, Any], name: str) -> dict[str, str]:
    """Digests that a sealed root states, if it has the digest that it states of itself.

    Parameters
    ----------
    data : bytes
        The root's ``zarr.json``.
    about : dict
        Its attribute ``skyfold``.

    Raises
    ------
    CorruptDataError
    """
    stated = about.get(_DIGEST)
    if stated is None:
        return {}
    with reading(name, "the root of a release"):
        plain = data.replace(stated.encode(), _NONE.encode(), 1)
        digests = {check_key(key): str(digest) for key, digest in about[_DIGESTS].items()}
    check_digest(plain, stated, name)
    return digests


def check_digest(data: bytes, stated: str | None, name: str) -> bytes:
    """The bytes of an object, if they have the digest that the root states.

    Raises
    ------
    CorruptDataError
    """
    met = hashlib.sha256(data).hexdigest()
    if stated is not None and met != stated:
        raise CorruptDataError(
            f"{name} has SHA-256 {met}, sealed was {stated}; fetch the release again"
        )
    return data
