"""One Prefect server for all tests of flows, in memory of this session."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def prefect():
    from prefect.testing.utilities import prefect_test_harness

    import flows  # noqa: F401 - its settings come before Prefect is imported

    with prefect_test_harness(server_startup_timeout=180):
        yield
