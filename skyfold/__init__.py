"""Open a data release of survey images and catalogs, and decode the part that you need.

Names are loaded when they are first used (SPEC 1 of Scientific Python), so that importing the
package costs nothing to who only asks for its version.

>>> import skyfold
>>> release = skyfold.open_release("s3://bucket/demo/dr1")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skyfold import errors
    from skyfold.fidelity.record import Choice, FidelityRecord
    from skyfold.images.library import ImageLibrary
    from skyfold.release import DataRelease, open_release
    from skyfold.releases import list_releases

__version__ = "0.1.0"

__all__ = [
    "Choice",
    "DataRelease",
    "FidelityRecord",
    "ImageLibrary",
    "__version__",
    "errors",
    "list_releases",
    "open_release",
]

_HOMES = {
    "Choice": "skyfold.fidelity.record",
    "DataRelease": "skyfold.release",
    "FidelityRecord": "skyfold.fidelity.record",
    "ImageLibrary": "skyfold.images.library",
    "list_releases": "skyfold.releases",
    "open_release": "skyfold.release",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("skyfold.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'skyfold' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
