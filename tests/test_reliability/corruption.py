"""Flip bytes of a release and read what they touch.

``python -m tests.test_reliability.corruption [--count 10000] [--totals FILE]``.

For each position of a sample over all objects one byte is changed, and reading what it holds must
raise a named error or give the very same result. Then `verify` must name the objects so changed:
one of each kind at a time, root and manifest by themselves. Prints how many positions of each kind
of object were detected while reading, were without effect there (and found by `verify`), or gave
another result without a word, of which there must be none. Totals are told after each round over
all kinds, so that a run which is stopped counts too.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from skyfold import DataRelease, open_release
from skyfold.errors import SkyfoldError
from skyfold.images.index import shard_key
from skyfold.layout import MANIFEST_KEY, ZARR_KEY

ALONE = (ZARR_KEY, MANIFEST_KEY)  # what `verify` stands on: it looks no further
DETECTED, SAME, WRONG = OUTCOMES = "detected", "no effect", "WRONG"
Found = Counter[tuple[str, str]]  # how often, by kind of object and outcome


def kind_of(key: str) -> str:
    """Kind of object, for the table: layers by name, others by their file."""
    parts = key.split("/")
    if "c" in parts:
        place = parts.index("c")
        return f"{parts[0]} {'/'.join(parts[3 if parts[0] == 'images' else 2 : place])}"
    return f"{parts[0]} {parts[-1]}" if len(parts) > 1 else key


def _plain(value: Any) -> Any:
    """Bytes and text that two results are compared by."""
    if hasattr(value, "colnames"):
        return [(name, _plain(np.ma.getdata(np.asarray(value[name])))) for name in value.colnames]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return repr(value)


def read_all(url: str, key: str) -> Any:
    """Everything that an object takes part in, through the public client."""
    release = open_release(url)
    first = key.partition("/")[0]
    out: list[Any] = []
    if first in ("images", "models", "zarr.json"):
        for one in _images_of(release, key):
            for level in ("latent", "bounded", "exact"):
                window = release.images.read(one, level)
                out += [window.values, window.flags]
            out.append(release.images.header(one).tostring())
            out.append(repr(release.images.entry(one)))
    if first in ("catalogs", "models", "zarr.json"):
        catalog = release.catalogs["galaxies"]
        out += [catalog.som[name] for name in sorted(catalog.som)]
        out += [catalog.read(level=level) for level in catalog.levels]
        out.append(catalog.where("mag < 22"))
    if first in ("densities", "zarr.json"):
        densities = release.densities["pz"]
        out += [densities.read(level=level) for level in ("latent", "bounded", "exact")]
    if first in ("fidelity.ecsv", "zarr.json"):
        out.append(repr(release.fidelity.rows()))
    if first == MANIFEST_KEY:
        out.append(repr(release.manifest()))
    return _plain(out)


def _images_of(release: DataRelease, key: str) -> list[str]:
    """Images that a shard belongs to; all of them for other objects."""
    entries = release.images.entries.values()
    own = [one.id for one in entries if key in {shard_key(one, layer) for layer in one.bytes}]
    return own or list(release.images)


def outcome(url: str, key: str, expected: Any) -> str:
    """What reading says of a changed object."""
    try:
        found = read_all(url, key)
    except SkyfoldError:
        return DETECTED
    return SAME if found == expected else WRONG


def flips(
    url: str, count: int, seed: int = 0, tell: Callable[[Found], None] | None = None
) -> Found:
    """Flip `count` bytes, as many of each kind of object; outcomes by kind.

    Parameters
    ----------
    tell : callable, optional
        Of what was found so far, after each round over all kinds.

    Raises
    ------
    AssertionError
        If `verify` does not name exactly the changed objects.
    """
    folder, source = Path(url), random.Random(seed)
    keys = sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())
    members: dict[str, list[str]] = {}
    for key in keys:
        members.setdefault(kind_of(key), []).append(key)
    expected: dict[str, Any] = {}
    found: Found = Counter()
    kinds = cycle(sorted(members))
    for done in range(0, count, len(members)):
        changed: dict[str, bytes] = {}
        for kind in islice(kinds, min(len(members), count - done)):
            key = source.choice(members[kind])
            if key not in expected:
                expected[key] = read_all(url, key)
            changed[key] = _flipped((folder / key).read_bytes(), source)
            with _in_place(folder, {key: changed[key]}):
                found[kind, outcome(url, key, expected[key])] += 1
                if key in ALONE:
                    del changed[key]
                    _require_verify(url, {key})
        with _in_place(folder, changed):
            _require_verify(url, set(changed))
        if tell is not None:
            tell(found)
    return found


def _flipped(sound: bytes, source: random.Random) -> bytes:
    changed = bytearray(sound)
    changed[source.randrange(len(changed))] ^= source.randrange(1, 256)
    return bytes(changed)


@contextmanager
def _in_place(folder: Path, changed: dict[str, bytes]) -> Iterator[None]:
    """Objects with other bytes, put back at the end."""
    sound = {key: (folder / key).read_bytes() for key in changed}
    try:
        for key, data in changed.items():
            (folder / key).write_bytes(data)
        yield
    finally:
        for key, data in sound.items():
            (folder / key).write_bytes(data)


def _require_verify(url: str, keys: set[str]) -> None:
    try:
        problems = set(open_release(url).verify())
    except SkyfoldError:  # the root: nothing opens, which says it
        assert keys == {ZARR_KEY}, keys
        return
    assert problems == keys, (keys, problems)


def by_kind(found: Found) -> dict[str, dict[str, int]]:
    """Counts of each outcome for each kind of object, and for all."""
    kinds = sorted({kind for kind, _ in found})
    table = {kind: {what: found[kind, what] for what in OUTCOMES} for kind in kinds}
    return table | {"all": {what: sum(row[what] for row in table.values()) for what in OUTCOMES}}


def _row(kind: str, counts: dict[str, int]) -> str:
    told = ", ".join(f"{what} {count}" for what, count in counts.items())
    return f"{kind:40} {sum(counts.values()):6} positions: {told}"


def main() -> None:
    """Print the table, and exit with 1 if a change was silent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", nargs="?", help="a sealed release of every kind; it is restored")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--totals", type=Path, help="JSON file of the counts so far")
    given = parser.parse_args()

    def tell(found: Found) -> None:
        table = by_kind(found)
        print(_row("so far", table["all"]), flush=True)
        if given.totals is not None:
            partial = given.totals.with_suffix(".partial")
            partial.write_text(json.dumps(table, indent=1))
            partial.replace(given.totals)  # a run may be killed at any time

    table = by_kind(flips(given.base or _build(), given.count, given.seed, tell))
    for kind, counts in table.items():
        print(_row(kind, counts))
    print("verify named each")
    sys.exit(1 if table["all"][WRONG] else 0)


def _build() -> str:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.test_reliability.whole_release import build

    return build(Path(tempfile.mkdtemp()))


if __name__ == "__main__":
    main()
