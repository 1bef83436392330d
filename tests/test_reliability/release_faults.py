"""Faults of object storage while a release is built, sealed, read, verified, listed and collected.

``python -m tests.test_reliability.release_faults [--times 1] [--seed 0] [OPERATION ...]``.

Every kind of fault meets every operation, at a request drawn from those that the operation makes;
one that passes is played once, one that stays from there on. The operation must end as if nothing
had happened or in a named error. Then what is sealed must be the undisturbed release byte for byte,
what is not must not open, and the operation must succeed once the store is well. Prints how often
each operation was mended, ended in a named error, or went wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyfold import list_releases, open_release
from skyfold.access.store import Store
from skyfold.errors import ReleaseNotFoundError, SkyfoldError, UnsealedReleaseError
from skyfold.layout import MANIFEST_KEY
from storage.gc import find_garbage, remove_garbage
from tests.test_reliability.faults import FAULTS, Fault, FaultyServer, Plan, faulty_server
from tests.test_reliability.life import AT_ONCE, archive, build, death, publish

MENDED, NAMED = "mended", "named"
LEFT = "left"  # garbage, by a removal that was told of a seal that is not there
PRODUCT = "s3://bucket/product"
PATIENCE = 30.0  # s that a server which is well may take, on a busy machine
HALF_WAY = 30  # change at which the second release of the product is left unfinished
Objects = dict[str, bytes]
Options = dict[str, Any]


def _read(level: str) -> Callable[[Options], Any]:
    def run(options: Options) -> bytes:
        image = open_release(f"{PRODUCT}/dr1", options=options).images.read("night1/a", level)
        return bytes(image.values.tobytes())

    return run


def _collect(options: Options) -> None:
    product = Store(PRODUCT, options)
    remove_garbage(product, find_garbage(product, older_than=AT_ONCE))


@dataclass(frozen=True)
class Operation:
    """One operation, the state of the product that it begins with, and that it ends with.

    Attributes
    ----------
    before, after : str
        Names of states, see `Products`.
    run : callable
        Of the options of a store; what it returns must be the same each time.
    """

    before: str
    after: str
    run: Callable[[Options], Any]


def _same(state: str, run: Callable[[Options], Any]) -> Operation:
    return Operation(state, state, run)


OPERATIONS = {
    "open": _same("sealed", lambda options: open_release(f"{PRODUCT}/dr1", options=options).about),
    **{f"read {one}": _same("sealed", _read(one)) for one in ("latent", "sources", "bounded")},
    "read exact": _same("sealed", _read("exact")),
    "verify": _same(
        "sealed", lambda options: open_release(f"{PRODUCT}/dr1", options=options).verify()
    ),
    "list": _same("sealed", lambda options: list_releases(PRODUCT, options=options)),
    "archive": Operation("nothing", "archived", lambda options: archive(PRODUCT, "dr1", options)),
    "publish": Operation("archived", "sealed", lambda options: publish(PRODUCT, "dr1", options)),
    "collect": Operation("unfinished", "sealed", _collect),
}


class Products:
    """States of a product on a faulty server, put there past its faults."""

    def __init__(self, server: FaultyServer) -> None:
        self.server = server
        self.well = server.options(connect_timeout=PATIENCE, read_timeout=PATIENCE)
        self.direct = Store(PRODUCT, self.well | {"endpoint_url": server.behind})
        self.direct.fs.mkdir("bucket")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "product"
            self.states = {"nothing": _objects(folder)}
            archive(folder, "dr1")
            self.states["archived"] = _objects(folder)
            publish(folder, "dr1")
            self.states["sealed"] = _objects(folder)
            with death().at(folder, HALF_WAY):
                build(folder, "dr2")
            self.states["unfinished"] = _objects(folder)

    def lay(self, state: str) -> None:
        """Make the product what it is in a state."""
        self.server.plan = Plan()
        there, wanted = self.found(), self.states[state]
        if extra := [self.direct.path(key) for key in there.keys() - wanted.keys()]:
            self.direct.fs.rm(extra)
        changed = {key: data for key, data in wanted.items() if there.get(key) != data}
        self.direct.fs.pipe({self.direct.path(key): data for key, data in changed.items()})

    def found(self) -> Objects:
        """Objects that are there."""
        paths = {self.direct.path(key): key for key in self.direct.sizes()}
        data = self.direct.fs.cat(list(paths)) if paths else {}
        return {key: data[path] for path, key in paths.items()}

    def requests(self, operation: Operation) -> tuple[int, Any]:
        """How many an undisturbed operation makes, and what it gives."""
        self.lay(operation.before)
        value = operation.run(self.well)
        assert self.found() == self.states[operation.after]
        return len(self.server.plan.seen), value


def _objects(folder: Path) -> Objects:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class _From:
    """Matches requests from one on."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, method: str, path: str) -> bool:
        self.left -= 1
        return self.left < 0


def play(products: Products, name: str, fault: Fault, at: int, expected: Any) -> str:
    """One fault in one operation: `MENDED`, `NAMED`, `LEFT`, or what went wrong."""
    operation = OPERATIONS[name]
    is_reading = operation.before == operation.after
    if not is_reading:
        products.lay(operation.before)
    times = 10**6 if fault.is_lasting else 1
    products.server.plan = Plan(fault, _From(at), times)
    try:
        value = operation.run(products.server.options(connect_timeout=PATIENCE, read_timeout=0.5))
        told = MENDED if value == expected else f"gave {str(value)[:200]}"
    except SkyfoldError:
        told = NAMED
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    asked, products.server.plan = products.server.plan.seen, Plan()
    if name == "verify" and told.startswith("gave"):
        told = NAMED  # what came damaged was named by its key
    if is_reading:
        changes = [one for one in asked if one[0] not in ("GET", "HEAD")]
        return f"reading changed something: {changes[0]}" if changes else told
    if told == MENDED and (other := _unlike(products, operation)):
        told = LEFT if name == "collect" else other
    return _harm(products) or _again(products, operation) or told


def _harm(products: Products) -> str:
    """What a consumer finds wrong after a fault."""
    found, whole = products.found(), products.states["sealed"]
    if f"dr1/{MANIFEST_KEY}" in found:
        other = [key for key in whole if key.startswith("dr1/") and found.get(key) != whole[key]]
        return f"sealed with other bytes: {other[:3]}" if other else ""
    try:
        open_release(f"{PRODUCT}/dr1", options=products.direct.options)
    except (ReleaseNotFoundError, UnsealedReleaseError):
        return ""
    return "open without a seal"


def _again(products: Products, operation: Operation) -> str:
    """What goes wrong when the operation is repeated on a store that is well."""
    operation.run(products.well)
    other = _unlike(products, operation)
    return f"done again, {other}" if other else ""


def _unlike(products: Products, operation: Operation) -> str:
    """What is otherwise than the operation leaves it."""
    found, wanted = products.found(), products.states[operation.after]
    other = {key for key in found | wanted if found.get(key) != wanted.get(key)}
    return f"other bytes: {sorted(other)[:3]}" if other else ""


def sample(
    products: Products, names: Sequence[str], kinds: Sequence[str], seed: int
) -> Counter[tuple[str, str]]:
    """Outcomes by operation, where each meets each kind of fault at a request that is drawn."""
    source, found = random.Random(seed), Counter[tuple[str, str]]()
    for name in names:
        count, expected = products.requests(OPERATIONS[name])
        for fault in map(FAULTS.__getitem__, kinds):
            at = source.randrange(count)
            told = play(products, name, fault, at, expected)
            if told not in (MENDED, NAMED, LEFT):
                print(f"{name}: {fault.name} at request {at} of {count}: {told}", flush=True)
                told = "WRONG"
            found[name, told] += 1
        print(f"{name:14} {count:4} requests, {_row(name, found)}", flush=True)
    return found


def _row(name: str, found: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{what} {found[name, what]}" for what in (MENDED, NAMED, LEFT, "WRONG"))


def main() -> None:
    """Print the table, and exit with 1 if something went wrong."""
    import logging

    logging.disable(logging.CRITICAL)  # sockets that were cut
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operations", nargs="*", default=list(OPERATIONS))
    parser.add_argument("--times", type=int, default=1, help="requests drawn for each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with faulty_server() as server:
        found = sample(Products(server), given.operations, list(FAULTS) * given.times, given.seed)
    print(f"{len(FAULTS)} kinds x {len(given.operations)} operations x {given.times}")
    sys.exit(1 if any(what == "WRONG" for _, what in found) else 0)


if __name__ == "__main__":
    main()
