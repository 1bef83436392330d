"""Fixtures of the catalogs: see `conftest_catalogs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `conftest_catalogs`, beside the tests

from conftest_catalogs import columns, galaxies, galaxies_survey

__all__ = ["columns", "galaxies", "galaxies_survey"]
