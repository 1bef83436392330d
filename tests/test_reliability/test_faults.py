"""Faults of object storage: mended by trying again where that is safe, told by name where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from skyfold.access.store import Store
from skyfold.errors import SkyfoldError
from tests.test_reliability.faults import FAULTS, FaultyServer, Plan, faulty_server

pytestmark = [
    pytest.mark.s3,
    pytest.mark.filterwarnings("ignore"),  # of sockets that the proxy cuts
]
DATA = bytes(range(256)) * 4
OPERATIONS = ("read", "ranges", "end", "write", "create", "exists", "sizes", "size", "delete")
CHANGED = [name for name in FAULTS if name.startswith("body") or "status 200" in name]


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with faulty_server() as one:
        yield one


@pytest.fixture(scope="module")
def store(server: FaultyServer) -> Store:
    one = Store("s3://bucket/release", server.options(read_timeout=0.4))
    one.fs.mkdir("bucket")
    return one


def run(store: Store, operation: str) -> Any:
    """One operation on a store that holds `kept`, and perhaps `other`."""
    key = f"new-{time.monotonic_ns()}"
    ranges = [("kept", 3, 90), ("kept", 400, 600)]
    operations: dict[str, Callable[[], Any]] = {
        "read": lambda: store.read("kept"),
        "ranges": lambda: store.read_ranges(ranges),
        "end": lambda: store.read_end("kept", 20),
        "write": lambda: store.write("other", DATA) or key,
        "create": lambda: store.create(key, DATA) or key,
        "exists": lambda: (store.exists("kept"), store.exists("absent")),
        "sizes": lambda: store.sizes("kept"),
        "size": lambda: (store.size("kept"), store.size("absent")),
        "delete": lambda: store.delete("other"),
    }
    return operations[operation]()


def check(store: Store, operation: str, found: Any) -> None:
    """What an operation gave is the truth, and what it did is done."""
    expected = {
        "read": DATA,
        "ranges": [DATA[3:90], DATA[400:600]],
        "end": DATA[-20:],
        "exists": (True, False),
        "size": (len(DATA), 0),
    }
    if operation == "sizes":
        assert found == {"kept": len(DATA)}
    elif operation == "write":
        assert store.read("other") == DATA
    elif operation == "create":
        assert store.read(found) == DATA
    elif operation == "delete":
        assert not store.exists("other")
    else:
        assert found == expected[operation]


def prepare(server: FaultyServer, store: Store) -> None:
    server.plan = Plan()
    store.write("kept", DATA)
    store.write("other", b"old")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", [one for one, fault in FAULTS.items() if not fault.is_lasting])
def test_a_fault_that_passes_is_mended_or_named(server, store, name, operation):
    """Bodies that were changed on the way are known where their digest is: see the next test."""
    prepare(server, store)
    server.plan = Plan(FAULTS[name], times=1)
    try:
        found = run(store, operation)
    except SkyfoldError:
        assert name in CHANGED
        return
    server.plan = Plan()
    if name not in CHANGED or operation in ("write", "create", "delete"):
        check(store, operation, found)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", [one for one, fault in FAULTS.items() if fault.is_lasting])
def test_a_fault_that_stays_has_a_name(server, store, name, operation):
    prepare(server, store)
    server.plan = Plan(FAULTS[name], times=10**6)
    start = time.monotonic()
    absent = name == "404 no bucket"
    try:
        if absent:  # what S3 answers as for a missing object
            with suppress(SkyfoldError, FileNotFoundError):
                assert run(store, operation) in ((False, False), (0, 0), None)
        else:
            with pytest.raises(SkyfoldError):
                run(store, operation)
    finally:
        server.plan = Plan()
    assert time.monotonic() - start < 10
    assert store.read("kept") == DATA
