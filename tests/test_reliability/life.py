"""The life of a product as chance has it: builds, kills, resumes, seals, reads, removals.

``python -m tests.test_reliability.life [--examples 200] [--steps 30] [--seed 0]``.

A state machine of hypothesis plays it with the real parts, three releases of which each refers to
the images of the one before. A kill stops every change of the product from one change on, as the
end of a process does: what was half written stays behind. After each step no release without a seal
may open, each sealed one must verify, and its objects must be those of a product that nothing
disturbed; what a removal finds may be carried out much later, when more has been sealed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from skyfold import list_releases, open_release
from skyfold.access.store import Store
from skyfold.errors import ReleaseNotFoundError, SealedReleaseError, UnsealedReleaseError
from skyfold.fidelity.record import FidelityRecord
from skyfold.images.network import Network, model_digest
from skyfold.layout import FIDELITY_KEY, MANIFEST_KEY, PROVENANCE_KEY
from storage.builder import ReleaseBuilder
from storage.config import load_config
from storage.gc import Garbage, find_garbage, remove_garbage
from storage.images.archive import archive_image, inspect_image
from storage.images.entries import plan_groups
from storage.images.writer import refer, write_indexes
from storage.register import register_release
from storage.survey import find_images
from tests import synthetic
from tests.resume import CHANGES

BASES = {"dr1": None, "dr2": "dr1", "dr3": "dr2"}  # each holds one image more
AT_ONCE = timedelta(0)
MOST_CHANGES = 65  # of one release, from nothing to its entry into the catalog
NOT_LISTED = "not in the manifest"
EVENTS: Counter[str] = Counter()  # of all lives so far


class KilledError(BaseException):
    """The process is no more; nothing in it may catch this."""


class Death:
    """Refuses every change below a folder from one change on, while `at` lasts."""

    def __init__(self) -> None:
        self.folder = ""
        self.left: int | None = None
        sys.addaudithook(self._watch)

    def _watch(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left is None or event not in CHANGES:
            return
        if str(arguments[0]).startswith(self.folder):
            self.left -= 1
            if self.left < 0:
                raise KilledError

    @contextmanager
    def at(self, folder: Path, change: int | None) -> Iterator[None]:
        """Die at the change of that number, from 1; None lives on."""
        self.folder, self.left = str(folder), None if change is None else change - 1
        try:
            yield
        except KilledError:
            EVENTS["kills"] += 1
        finally:
            self.left = None


death = cache(Death)  # one hook a process: it cannot be taken back


class Meeting(Store):
    """A store in which something happens once so many objects were removed.

    Attributes
    ----------
    has_met : bool
    """

    def __init__(self, url: Path, removed: int, happens: Callable[[], None]) -> None:
        super().__init__(url)
        self.left, self.happens, self.has_met = removed, happens, False
        self._look()

    def _look(self) -> None:
        if self.left == 0:
            self.has_met = True
            self.happens()

    def delete(self, key: str) -> None:
        """Remove an object, and let happen what is due."""
        super().delete(key)
        self.left -= 1
        self._look()


@cache
def survey() -> tuple[list[Any], list[Any], dict[str, bytes]]:
    """Images, their entries and a model that needs no training."""
    folder, shape = Path(tempfile.mkdtemp()), (40, 52)
    for name, dtype, number in (("a", "i2", 1), ("b", "f4", 2), ("c", "i2", 3)):
        pixels = synthetic.sky(shape, sources=6, sigma=9.0, background=300, seed=number)
        wcs = synthetic.simple_wcs(shape)
        synthetic.write_fits(folder / f"raw/{name}.fits", pixels.round().astype(dtype), wcs)
    images = '[[images]]\nset = "night1"\nfiles = ["raw/*.fits"]\nband = "r"\n'
    config = load_config(synthetic.survey_toml(folder, images))
    refs, _ = find_images(config)
    entries = [inspect_image(ref, options={}, step=config.levels.step) for ref in refs]
    return refs, entries, synthetic.cosine_files()


def build(product: Path | str, name: str, options: dict[str, Any] | None = None) -> None:
    """What the flows do for a release; what is done is skipped."""
    if not ReleaseBuilder(Store(f"{product}/{name}", options)).is_sealed():
        archive(product, name, options)
    publish(product, name, options)


def archive(product: Path | str, name: str, options: dict[str, Any] | None = None) -> None:
    """All of a release but its seal."""
    refs, entries, files = survey()
    builder = ReleaseBuilder(Store(f"{product}/{name}", options))
    count = list(BASES).index(name) + 1
    network = Network(files, model_digest(files))
    base = BASES[name]
    release = open_release(f"{product}/{base}", options=options) if base else None
    builder.write_model(files)
    referred, new = refer(entries[:count], release, network.digest)
    placed, groups = plan_groups(new, network.channels, network.tables)
    builder.start({"name": f"test/{name}", "images": ["night1"]}, groups)
    by_id = {ref.id: ref for ref in refs}
    written = [archive_image(builder, network, by_id[one.id], one, options={})[0] for one in placed]
    write_indexes(builder, [*referred, *written])
    builder.store.write(FIDELITY_KEY, FidelityRecord.from_rows([]).to_ecsv().encode())
    builder.store.write(PROVENANCE_KEY, json.dumps({"test": True}).encode())


def publish(product: Path | str, name: str, options: dict[str, Any] | None = None) -> None:
    """Seal a release and enter it into the catalog of releases."""
    builder = ReleaseBuilder(Store(f"{product}/{name}", options))
    if not builder.is_sealed():
        builder.seal()
    builder.clear_staging()
    register_release(builder.store, {"published": name})


def content(release: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        str(path.relative_to(release)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in release.rglob("*")
        if path.is_file()
    }


def pixels(release: Path) -> dict[tuple[str, str], bytes]:
    """What is read at every level."""
    images = open_release(release).images
    return {
        (one, level): np.ascontiguousarray(images.read(one, level).values).tobytes()
        for one in images
        for level in open_release(release).levels
    }


@cache
def undisturbed() -> tuple[dict[str, dict[str, str]], dict[str, dict[tuple[str, str], bytes]]]:
    """Digests of files and pixels of each release, where nothing happened on the way."""
    product = Path(tempfile.mkdtemp()) / "product"
    for name in BASES:
        build(product, name)
    return (
        {name: content(product / name) for name in BASES},
        {name: pixels(product / name) for name in BASES},
    )


class ReleaseLife(RuleBasedStateMachine):
    """Three releases of one product, in a folder of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.files, self.pixels = undisturbed()
        self.folder = Path(tempfile.mkdtemp())
        self.product = self.folder / "product"
        self.garbage: list[Garbage] = []

    def teardown(self) -> None:
        """Nothing stays behind."""
        shutil.rmtree(self.folder)

    def sealed(self) -> list[str]:
        """Releases with a manifest."""
        return [name for name in BASES if (self.product / name / MANIFEST_KEY).exists()]

    @precondition(lambda self: len(self.sealed()) < len(BASES))
    @rule(change=st.integers(1, MOST_CHANGES))
    def build_killed(self, change: int) -> None:
        """Start or resume the next release, which is perhaps not to see the end."""
        with death().at(self.product, change):
            build(self.product, list(BASES)[len(self.sealed())])

    @rule(data=st.data())
    def build(self, data: st.DataObject) -> None:
        """Start or resume the next release, or one that is sealed, to the end."""
        name = data.draw(st.sampled_from(list(BASES)[: len(self.sealed()) + 1]))
        EVENTS["builds again" if name in self.sealed() else "builds to the end"] += 1
        build(self.product, name)
        assert name in self.sealed()
        assert name in self.listed()

    @precondition(lambda self: self.product.exists())
    @rule(name=st.sampled_from(list(BASES)))
    def stray_writer(self, name: str) -> None:
        """Some other process writes where it should not."""
        Store(self.product / name).write("images/night1/stray", b"stray")

    @precondition(lambda self: self.product.exists())
    @rule()
    def gc_dry(self) -> None:
        """Find what may go; nothing that a sealed release lists is among it."""
        before = content(self.product)
        self.garbage = find_garbage(Store(self.product), older_than=AT_ONCE)
        assert content(self.product) == before
        named = {key for one in self.garbage for key in one.keys}
        kept = {f"{name}/{key}" for name in self.sealed() for key in self.files[name]}
        assert not named & kept

    @precondition(lambda self: self.garbage)
    @rule(change=st.none() | st.integers(1, MOST_CHANGES))
    def gc_real(self, change: int | None) -> None:
        """Remove what was found at some time; whole, or until killed."""
        with death().at(self.product, change):
            remove_garbage(Store(self.product), self.garbage)
            EVENTS["removals"] += len(self.garbage)
            self.garbage = []

    @precondition(lambda self: len(self.sealed()) < len(BASES))
    @rule(change=st.integers(1, MOST_CHANGES), removed=st.integers(0, 8))
    def gc_meets_seal(self, change: int, removed: int) -> None:
        """What was abandoned is resumed and sealed after so many of its objects were removed."""
        self.build_killed(change)
        name, product = list(BASES)[min(len(self.sealed()), 2)], Store(self.product)
        found = find_garbage(product, older_than=AT_ONCE)
        meeting = Meeting(self.product, removed, lambda: build(self.product, name))
        remove_garbage(meeting, found)
        is_due = name in {one.release for one in found}
        EVENTS["seals while gc removes"] += meeting.has_met and is_due

    @precondition(lambda self: self.sealed())
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        """The same pixels at every level, and no way to change them."""
        name = data.draw(st.sampled_from(self.sealed()))
        EVENTS["reads"] += 1
        assert pixels(self.product / name) == self.pixels[name]
        with pytest.raises(SealedReleaseError):
            ReleaseBuilder(Store(self.product / name)).describe({})

    def listed(self) -> list[str]:
        """Names in the catalog of releases."""
        try:
            return [one["name"] for one in list_releases(self.product)]
        except ReleaseNotFoundError:
            return []

    @invariant()
    def unsealed_is_refused(self) -> None:
        """To a consumer there is no release without its seal."""
        assert set(self.listed()) <= set(self.sealed())
        for name in set(BASES) - set(self.sealed()):
            with pytest.raises((ReleaseNotFoundError, UnsealedReleaseError)):
                open_release(self.product / name)

    @invariant()
    def sealed_is_whole(self) -> None:
        """All of it, byte for byte, beside what stray writers and kills left."""
        for name in self.sealed():
            found = content(self.product / name)
            assert {key: found.get(key) for key in self.files[name]} == self.files[name]
            problems = open_release(self.product / name).verify()
            assert set(problems.values()) <= {NOT_LISTED}
            assert set(problems) <= set(found) - set(self.files[name])


def live(examples: int, steps: int, number: int = 0) -> None:
    """Play so many lives; hypothesis tells the shortest one that goes wrong."""
    undisturbed()
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    seed(number)(ReleaseLife)
    run_state_machine_as_test(ReleaseLife, settings=chosen)


def main() -> None:
    """Play many lives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    live(given.examples, given.steps, given.seed)
    print(f"{given.examples} lives of up to {given.steps} steps: {dict(EVENTS)}")


if __name__ == "__main__":
    main()
