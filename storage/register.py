"""Writing the catalog of releases, so that writers who meet lose nothing and need no lock.

Each release has an object of its own, created once and never replaced. The list of all of them is
made from these objects, and made again until it agrees with them: of writers who meet, the last one
to look sees every object.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from skyfold.access.store import Store
from skyfold.releases import CATALOG_KEY, ENTRIES

if TYPE_CHECKING:
    from collections.abc import Mapping


def register_release(release: Store, entry: Mapping[str, Any]) -> bool:
    """Enter a sealed release into the catalog of its product, unless it is there.

    Parameters
    ----------
    release : Store
        The release; the product lies one level above.
    entry : mapping
        See `skyfold.releases.list_releases`; `name` is filled in.

    Returns
    -------
    bool
        Whether it was entered now.
    """
    product_url, _, name = release.url.rpartition("/")
    product = Store(product_url, release.options)
    data = json.dumps({**entry, "name": name}, sort_keys=True, indent=1).encode()
    try:
        product.create(f"{ENTRIES}/{name}.json", data)
        is_new = True
    except FileExistsError:
        is_new = False
    _list_all(product)
    return is_new


def _list_all(product: Store) -> None:
    """Write the list until what it says is what there is."""
    while True:
        keys = [key for key in product.sizes(ENTRIES) if key.endswith(".json")]
        entries = [product.read_json(key) for key in keys]
        entries.sort(key=lambda entry: (entry["published"], entry["name"]))
        wanted = json.dumps({"releases": entries}, sort_keys=True, indent=1).encode()
        try:
            if product.read(CATALOG_KEY) == wanted:
                return
        except FileNotFoundError:
            pass
        product.write(CATALOG_KEY, wanted)
