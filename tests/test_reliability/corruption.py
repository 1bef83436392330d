"""Flip bytes of a release and read what they touch.

``python -m tests.test_reliability.corruption [--count 10000]``.

For each position of a sample over all objects one byte is changed; then `verify` must name the
object, and reading what it holds must raise a named error or give the very same result. Prints how
many positions of each kind of object were detected while reading, were without effect there (and
found by `verify`), or gave another result without a word, of which there must be none.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from skyfold import open_release
from skyfold.errors import SkyfoldError
from skyfold.layout import MANIFEST_KEY

DETECTED, SAME, WRONG = "detected", "no effect", "WRONG"


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
        for one in release.images:
            for level in ("latent", "bounded", "exact"):
                window = release.images.read(one, level)
                out += [window.values, window.flags]
            out.append(release.images.header(one).tostring())
            out.append(repr(release.images.entry(one)))
    if first in ("catalogs", "models", "zarr.json"):
        catalog = release.catalogs["galaxies"]
        out += [catalog.read(level=level) for level in catalog.levels]
        out += [release.catalogs["galaxies"].som[name] for name in sorted(catalog.som)]
        out.append(catalog.where("mag < 22"))
    if first in ("densities", "zarr.json"):
        densities = release.densities["pz"]
        out += [densities.read(level=level) for level in ("latent", "bounded", "exact")]
    if first in ("fidelity.ecsv", "zarr.json"):
        out.append(repr(release.fidelity.rows()))
    if first == MANIFEST_KEY:
        out.append(repr(release.manifest()))
    return _plain(out)


def outcome(url: str, key: str, expected: Any) -> str:
    """What reading says of a changed object."""
    try:
        found = read_all(url, key)
    except SkyfoldError:
        return DETECTED
    return SAME if found == expected else WRONG


def flips(url: str, count: int, seed: int = 0) -> Counter[tuple[str, str]]:
    """Flip `count` bytes, as many of each kind of object; outcomes by kind.

    Raises
    ------
    AssertionError
        If `verify` does not name exactly the changed object.
    """
    folder, source = Path(url), random.Random(seed)
    keys = sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())
    by_kind: dict[str, list[str]] = {}
    for key in keys:
        by_kind.setdefault(kind_of(key), []).append(key)
    expected: dict[str, Any] = {}
    found: Counter[tuple[str, str]] = Counter()
    for number in range(count):
        kind = sorted(by_kind)[number % len(by_kind)]
        key = source.choice(by_kind[kind])
        first = key.partition("/")[0]
        if first not in expected:
            expected[first] = read_all(url, key)
        path = folder / key
        sound = path.read_bytes()
        changed = bytearray(sound)
        changed[source.randrange(len(changed))] ^= source.randrange(1, 256)
        path.write_bytes(bytes(changed))
        try:
            found[kind, outcome(url, key, expected[first])] += 1
            _require_verify(url, key)
        finally:
            path.write_bytes(sound)
    return found


def _require_verify(url: str, key: str) -> None:
    try:
        problems = list(open_release(url).verify())
    except SkyfoldError:  # the root: nothing opens, which says it
        assert key == "zarr.json"
        return
    assert problems == [key], (key, problems)


def main() -> None:
    """Print the table, and exit with 1 if a change was silent."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", nargs="?", help="a sealed release of every kind; it is restored")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = flips(given.base or _build(), given.count, given.seed)
    for kind in sorted({kind for kind, _ in found}):
        told = ", ".join(f"{what} {found[kind, what]}" for what in (DETECTED, SAME, WRONG))
        print(f"{kind:40} {told}")
    total: Counter[str] = Counter()
    for (_, what), count in found.items():
        total[what] += count
    print(f"{given.count} positions: {dict(total)}; verify named each")
    sys.exit(1 if total[WRONG] else 0)


def _build() -> str:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.test_reliability.whole_release import build

    return build(Path(tempfile.mkdtemp()))


if __name__ == "__main__":
    main()
