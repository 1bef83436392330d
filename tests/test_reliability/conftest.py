"""A sealed release of every kind, made once; tests that change it take a copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_reliability.whole_release import build


@pytest.fixture(scope="session")
def whole_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def whole_copy(whole_url: str, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(whole_url, tmp_path / "product" / "dr1"))
