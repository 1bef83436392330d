"""One Prefect server for all tests of flows, and one stack for those that ask for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prefect():
    from prefect.testing.utilities import prefect_test_harness

    import flows  # noqa: F401 - its settings come before Prefect is imported

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """The processes of `make stack`, for tests that ``SKYFOLD_STACK`` asks for.

    1 starts them anew; the folder of a stack that runs, such as build/stack, uses that one.
    """
    asked = os.environ.get("SKYFOLD_STACK")
    if not asked:
        pytest.skip("SKYFOLD_STACK=1 asks for it")
    from flows.stack import Stack, up

    if asked != "1":
        yield Stack.load(Path(asked))
        return
    started = up(tmp_path_factory.mktemp("stack") / "s", workers=2, port=0, say=print)
    yield started
    started.stop()
