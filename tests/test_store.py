"""Objects behind a URL: whole or absent, created once, errors named without credentials."""

from __future__ import annotations

import pickle
import sys

import pytest

from skyfold.access.store import Store
from skyfold.errors import InvalidRequestError, MissingDependencyError, StoreUnavailableError


def test_objects_come_back(tmp_path):
    store = Store(tmp_path / "a")
    store.write("x/y", b"one")
    store.write("x/y", b"two")
    assert store.read("x/y") == b"two"
    assert store.sizes() == {"x/y": 3}
    assert store.size("x/y") == 3
    assert store.exists("x/y")
    assert pickle.loads(pickle.dumps(store)).read("x/y") == b"two"
    store.delete("x/y")
    assert not store.exists("x/y")
    with pytest.raises(FileNotFoundError):
        store.read("x/y")


def test_an_object_is_created_once_and_whole(tmp_path):
    store = Store(tmp_path)
    store.create("seal", b"first")
    with pytest.raises(FileExistsError):
        store.create("seal", b"second")
    assert store.read("seal") == b"first"
    assert list(store.sizes()) == ["seal"]  # nothing partial stays


def test_memory_is_a_store_too():
    store = Store("memory://test-store/a")
    store.create("k", b"v")
    with pytest.raises(FileExistsError):
        store.create("k", b"w")
    assert store.read("k") == b"v"
    store.delete_prefix("")
    assert store.sizes() == {}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file" / "release")
    with pytest.raises(StoreUnavailableError, match=r"cannot write .*file/release/k"):
        store.write("k", b"v")


def test_an_unreachable_server_is_named_without_its_secret(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    store = Store("s3://bucket/release", options)
    with pytest.raises(StoreUnavailableError) as caught:
        store.read("zarr.json")
    assert "s3://bucket/release/zarr.json" in str(caught.value)
    assert "planted-secret" not in str(caught.value)


def test_urls_that_nothing_opens_are_named(monkeypatch):
    with pytest.raises(InvalidRequestError, match=r"foo://x cannot be opened: .*; give a folder"):
        Store("foo://x")
    with pytest.raises(StoreUnavailableError, match=r"cannot open ftp://nowhere\.invalid/a"):
        Store("ftp://nowhere.invalid/a")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingDependencyError, match="gs:// needs a library"):
        Store("gs://bucket/a")
