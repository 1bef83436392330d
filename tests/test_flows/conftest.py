"""One Prefect server for all tests of flows, and one stack for those that ask for it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session")
def prefect():
    from prefect.testing.utilities import prefect_test_harness

    import flows  # noqa: F401 - its settings come before Prefect is imported

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """The processes of `make stack`; ``SKYFOLD_STACK=1`` asks for tests that take them."""
    if not os.environ.get("SKYFOLD_STACK"):
        pytest.skip("SKYFOLD_STACK=1 asks for it")
    from flows.stack import up

    started = up(tmp_path_factory.mktemp("stack") / "s", workers=2, port=0, say=print)
    yield started
    started.stop()
