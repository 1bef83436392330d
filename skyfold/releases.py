"""The releases of a product: its catalog of releases, and releases that stand beside each other.

::

    <product>/_releases/<name>.json    one object a release, created when it is sealed
    <product>/releases.json            all of them in one, for web servers that cannot list
    <product>/<name>/                  the release

An entry says what the release itself does not, so that building it twice gives the same bytes: when
it was published, and by which run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skyfold.access.seal import read_manifest
from skyfold.access.store import Store
from skyfold.access.trust import reading
from skyfold.errors import ReleaseNotFoundError
from skyfold.images.index import shard_key
from skyfold.layout import MANIFEST_KEY, PROVENANCE_KEY

if TYPE_CHECKING:
    import os

    from skyfold.release import DataRelease

CATALOG_KEY = "releases.json"
ENTRIES = "_releases"


def list_releases(
    url: str | os.PathLike[str], *, options: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Sealed releases of a product, oldest first.

    Parameters
    ----------
    url : str or Path
        Of the product: the folder in which its releases lie, such as ``s3://bucket/product``.
    options : dict, optional
        For the file system, as in `open_release`.

    Returns
    -------
    list of dict
        ``name``, ``url``, ``digest`` (of the manifest: pin a release by it), ``published``
        (ISO 8601), ``base``, ``images``, ``objects``, ``bytes``, ``flow_run``, ``skyfold``.

    Raises
    ------
    ReleaseNotFoundError
        If no release was ever published there.
    CorruptDataError
        If the catalog is not one.
    StoreUnavailableError

    Examples
    --------
    >>> skyfold.list_releases("s3://bucket/demo")  # doctest: +SKIP
    """
    store = Store(url, options)
    place = store.root if store.is_local else store.url
    try:
        entries = store.read_json(CATALOG_KEY)
    except FileNotFoundError as error:
        raise ReleaseNotFoundError(
            f"no catalog of releases at {place}: it has no {CATALOG_KEY}; give the URL of a "
            "product, which is that of a release without its last part"
        ) from error
    with reading(f"{store.url}/{CATALOG_KEY}", "a catalog of releases"):
        return [entry | {"url": f"{store.url}/{entry['name']}"} for entry in entries["releases"]]


def image_provenance(release: DataRelease, image_id: str) -> dict[str, Any]:
    """What one image of a release was made of and by.

    Parameters
    ----------
    release : DataRelease
    image_id : str

    Returns
    -------
    dict
        ``image``, ``release``; ``held_by`` (the release that holds its layers), ``input`` (file,
        HDU, SHA-256), ``recipe`` (digest of all input that its bytes depend on), ``model`` and
        ``objects`` (keys of the objects that hold it, with the SHA-256 of each); ``config``,
        ``skyfold`` and ``environment`` of the build; ``published`` and ``flow_run`` from the
        catalog of releases, where there is one.

    Raises
    ------
    UnknownNameError
        If the release has no such image.
    """
    entry = release.images.entry(image_id)
    held_by = entry.release or release.store.url.rpartition("/")[2]
    home = sibling(release.store, held_by)
    built = home.read_json(PROVENANCE_KEY)
    listed = read_manifest(home.read(MANIFEST_KEY), MANIFEST_KEY)
    keys = [shard_key(entry, layer) for layer in sorted(entry.bytes)]
    return {
        "image": image_id,
        "release": release.name,
        "held_by": held_by,
        "input": {"file": entry.file, "hdu": entry.hdu, "sha256": entry.digest},
        "recipe": entry.recipe,
        "model": entry.model,
        "objects": {key: listed[key]["sha256"] for key in keys if key in listed},
        "config": built.get("config"),
        "skyfold": built.get("skyfold"),
        "environment": built.get("environment"),
        **_publication(home),
    }


def _publication(release: Store) -> dict[str, Any]:
    """When and by which run a release was published; nothing where no catalog says so."""
    product, _, name = release.url.rpartition("/")
    try:
        entry = Store(product, release.options).read_json(f"{ENTRIES}/{name}.json")
    except FileNotFoundError:
        return {"published": None, "flow_run": None}
    return {"published": entry["published"], "flow_run": entry["flow_run"]}


def sibling(store: Store, name: str) -> Store:
    """Another release of the same product.

    Parameters
    ----------
    store : Store
        A release.
    name : str
        Last part of the other's URL.
    """
    return Store(f"{store.url.rpartition('/')[0]}/{name}", store.options)
