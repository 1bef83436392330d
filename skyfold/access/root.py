"""The root of a release, ``zarr.json``: whether it is one, its format, and what it may name."""

from __future__ import annotations

import json
from typing import Any

from skyfold import layout
from skyfold.access.seal import check_root
from skyfold.access.store import Store
from skyfold.access.trust import MAX_METADATA_BYTES, check_key, reading
from skyfold.errors import FormatVersionError, ReleaseNotFoundError


def read_root(store: Store) -> tuple[bytes, dict[str, Any]]:
    """The root as it is stored, and as JSON.

    Raises
    ------
    ReleaseNotFoundError, FormatVersionError, StoreUnavailableError, CorruptDataError
    """
    place = store.root if store.is_local else store.url  # whole: a relative one misleads
    try:
        data = store.read(layout.ZARR_KEY, MAX_METADATA_BYTES)
        root = json.loads(data)
        about = root["attributes"]["skyfold"]
        version = about.get("format")
    except FileNotFoundError as error:
        raise ReleaseNotFoundError(
            f"no release at {place}: it has no {layout.ZARR_KEY}; check the URL"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ReleaseNotFoundError(
            f"{place}/{layout.ZARR_KEY} does not describe a skyfold release; check the URL"
        ) from error
    if version != layout.FORMAT:
        raise FormatVersionError(
            f"{store.url} has format {version!r}; this version of skyfold reads {layout.FORMAT}: "
            "upgrade skyfold"
        )
    return data, root


def check_stated(data: bytes, root: dict[str, Any], store: Store, *, sealed: bool) -> None:
    """CorruptDataError unless a root has its digest, if sealed, and names what lies inside."""
    about = root["attributes"]["skyfold"]
    with reading(f"{store.url}/{layout.ZARR_KEY}", "the root of a release"):
        if sealed:
            check_root(data, about, f"{store.url}/{layout.ZARR_KEY}")
        for kind in ("images", "catalogs", "densities"):
            for name in about.get(kind, []):
                check_key(name)
        for name in dict(about.get("held", {})).values():
            check_key(name)
        dict((root.get("consolidated_metadata") or {}).get("metadata", {}))
