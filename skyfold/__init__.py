"""Open a data release of survey images and catalogs, and decode the part that you need.

>>> import skyfold
>>> release = skyfold.open_release("s3://bucket/demo/dr1")  # doctest: +SKIP
"""

from skyfold import errors
from skyfold.fidelity import Choice, FidelityRecord
from skyfold.images import ImageLibrary
from skyfold.release import DataRelease, open_release

__version__ = "0.1.0"

__all__ = [
    "Choice",
    "DataRelease",
    "FidelityRecord",
    "ImageLibrary",
    "__version__",
    "errors",
    "open_release",
]
