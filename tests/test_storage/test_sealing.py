"""The seal after an untidy build, the catalog of releases, drift, and what may be removed."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from small_release import build_release

from skyfold import list_releases, open_release
from skyfold.access.store import Store
from skyfold.errors import (
    CorruptDataError,
    ReleaseError,
    ReleaseNotFoundError,
    SealedReleaseError,
    StoreUnavailableError,
    UnsealedReleaseError,
)
from skyfold.layout import QUARANTINE_KEY
from skyfold.releases import image_provenance
from storage.builder import ReleaseBuilder
from storage.drift import FEWEST, growth, strange_numbers, worse_rows
from storage.gc import find_garbage, remove_garbage
from storage.register import register_release


@pytest.fixture(scope="module")
def unsealed(tiny_survey, tmp_path_factory) -> Path:
    url = tmp_path_factory.mktemp("unsealed") / "test" / "dr1"
    build_release(tiny_survey, str(url), seal=False)
    return url


@pytest.fixture
def release(unsealed, tmp_path) -> Path:
    """A copy of a release that is ready to be sealed."""
    return Path(shutil.copytree(unsealed, tmp_path / "product" / "dr1"))


STRAY = (
    "images/night1/int16_9x9/latent/c/0/0/0/0",  # of an earlier configuration
    "images/old/index.parquet",
    "models/" + "0" * 64 + "/decoder.onnx",  # trained and not noted, because the flow was killed
    "catalogs/dropped/catalog.json",
    "images/night1/.index.parquet.0123.partial",
)


def test_what_does_not_belong_is_removed_by_the_seal(release):
    for key in STRAY:
        path = release / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left by a build that was killed")
    objects = ReleaseBuilder(Store(release)).seal()
    assert not set(STRAY) & set(objects)
    found = {str(p.relative_to(release)) for p in release.rglob("*") if p.is_file()}
    assert found == set(objects) | {"manifest.json"}
    assert open_release(release).verify() == {}


def test_a_release_that_lacks_a_shard_is_not_sealed(release):
    lost = next(path for path in sorted(release.glob("images/**/c/**/*")) if path.is_file())
    lost.unlink()
    with pytest.raises(ReleaseError, match="lacks 1 objects"):
        ReleaseBuilder(Store(release)).seal()
    assert not (release / "manifest.json").exists()


@pytest.mark.filterwarnings("ignore")  # filters are the process's, and both threads change them
def test_of_two_that_seal_one_succeeds_and_the_bytes_are_the_same(release, tmp_path):
    alone = Path(shutil.copytree(release, tmp_path / "alone" / "dr1"))
    ReleaseBuilder(Store(alone)).seal()
    ends: list[object] = []

    def seal() -> None:
        try:
            ends.append(len(ReleaseBuilder(Store(release)).seal()))
        except SealedReleaseError as error:
            ends.append(error)

    threads = [threading.Thread(target=seal) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(end, int) for end in ends) >= 1
    assert (release / "manifest.json").read_bytes() == (alone / "manifest.json").read_bytes()
    assert open_release(release).verify() == {}


def test_arrays_that_are_there_keep_their_shards_when_started_again(release):
    builder = ReleaseBuilder(Store(release))
    before = {p: p.stat().st_mtime_ns for p in release.rglob("*") if p.is_file()}
    root = json.loads((release / "zarr.json").read_text())["attributes"]["skyfold"]
    builder.start({name: root[name] for name in root if name != "format"}, {})
    assert {p: p.stat().st_mtime_ns for p in release.rglob("*") if p.is_file()} == before


def entry(published: str) -> dict:
    return {"published": published, "digest": "d", "images": 1, "bytes": 2, "base": None}


def test_the_catalog_of_releases_lists_each_once_oldest_first(tmp_path):
    for name, time in (("dr2", "2026-02-02"), ("dr1", "2026-01-01"), ("dr2", "2027-01-01")):
        is_new = register_release(Store(tmp_path / name), entry(time))
        assert is_new == (time != "2027-01-01")
    found = list_releases(tmp_path)
    assert [one["name"] for one in found] == ["dr1", "dr2"]
    assert found[1]["published"] == "2026-02-02"
    assert found[0]["url"] == f"{tmp_path}/dr1"
    with pytest.raises(ReleaseNotFoundError, match="catalog of releases"):
        list_releases(tmp_path / "dr1")
    (tmp_path / "releases.json").write_text("<html>Bad gateway</html>")
    with pytest.raises(CorruptDataError, match="is not JSON"):
        list_releases(tmp_path)


def test_writers_of_the_catalog_who_meet_lose_nothing(tmp_path):
    names = [f"night{number}" for number in range(12)]
    threads = [
        threading.Thread(target=register_release, args=(Store(tmp_path / name), entry(name)))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one["name"] for one in list_releases(tmp_path)} == set(names)


def aged(folder: Path, days: float) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            time = path.stat().st_mtime - days * 86400
            os.utime(path, (time, time))


def test_only_what_is_abandoned_may_go(tiny_url, release, tmp_path):
    product = release.parent
    shutil.copytree(tiny_url, product / "sealed")
    (product / "sealed" / "_staging").mkdir()
    (product / "sealed" / "_staging" / "late.json").write_text("{}")
    (product / "raw").mkdir()
    (product / "raw" / "a.fits").write_bytes(b"somebody's own")
    (product / "cube").mkdir()
    (product / "cube" / "zarr.json").write_text('{"node_type": "group", "attributes": {}}')
    store = Store(product)
    assert find_garbage(store) == []
    aged(product, 8)
    found = {one.release: one for one in find_garbage(store)}
    assert set(found) == {"dr1", "sealed"}
    assert found["sealed"].keys == ("sealed/_staging/late.json",)
    assert found["dr1"].size == sum(p.stat().st_size for p in release.rglob("*") if p.is_file())
    assert (release / "zarr.json").exists()  # finding removes nothing
    remove_garbage(store, list(found.values()))
    assert not [path for path in release.rglob("*") if path.is_file()]
    assert (product / "raw" / "a.fits").exists()
    assert (product / "cube" / "zarr.json").exists()
    assert open_release(product / "sealed").verify() == {}
    assert find_garbage(store) == []


@pytest.mark.parametrize("sealed", [False, True])
def test_a_release_taken_for_a_product_loses_nothing(release, sealed):
    if sealed:
        ReleaseBuilder(Store(release)).seal()
    aged(release, 30)
    for part in ("", "images", "images/night1"):
        with pytest.raises(ReleaseError, match="give the URL of a product"):
            find_garbage(Store(release / part))
    assert find_garbage(Store(release / "models")) == []


def test_a_release_in_quarantine_waits_and_says_why(release):
    Store(release).write(QUARANTINE_KEY, b'{"reason": "8 losses exceed"}')
    aged(release, 30)
    with pytest.raises(UnsealedReleaseError, match="in quarantine: 8 losses exceed"):
        open_release(release)
    product = Store(release.parent)
    assert find_garbage(product) == []
    (found,) = find_garbage(product, quarantined=True)
    assert found.release == release.name
    ReleaseBuilder(Store(release)).seal()
    assert open_release(release).verify() == {}
    Store(release).write(QUARANTINE_KEY, b"{}")  # a seal cut before its end
    aged(release, 30)
    assert [one.reason for one in find_garbage(product)] == ["not of the sealed release"]


@pytest.mark.parametrize("note", ["", "[]", '{"other": 1}'])
def test_a_damaged_note_of_quarantine_hides_nothing(release, note):
    Store(release).write(QUARANTINE_KEY, note.encode())
    with pytest.raises(UnsealedReleaseError, match="still being written"):
        open_release(release)


def test_a_product_that_is_not_there_is_no_empty_one(tmp_path):
    with pytest.raises(ReleaseNotFoundError, match="check the URL"):
        find_garbage(Store(tmp_path / "typo"))


def test_an_unfinished_release_that_somebody_writes_is_left_alone(release):
    aged(release, 30)
    (release / "_staging").mkdir(exist_ok=True)
    (release / "_staging" / "now.json").write_text("{}")
    assert find_garbage(Store(release.parent)) == []


def test_a_release_that_was_sealed_since_it_was_found_stays(release):
    aged(release, 30)
    store = Store(release.parent)
    garbage = find_garbage(store)
    assert [one.release for one in garbage] == ["dr1"]
    ReleaseBuilder(Store(release)).seal()
    remove_garbage(store, garbage)
    assert open_release(release).verify() == {}


@pytest.mark.parametrize("removed", [1, 12, -1])
def test_a_removal_that_is_cut_off_is_found_again(release, monkeypatch, removed):
    store = Store(release.parent)
    (garbage,) = find_garbage(store, older_than=timedelta(0))
    left = removed % len(garbage.keys)

    def delete(store: Store, key: str, whole: Callable[[Store, str], None] = Store.delete) -> None:
        nonlocal left
        if left == 0:
            raise StoreUnavailableError("cut off")
        left -= 1
        whole(store, key)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "delete", delete)
        with pytest.raises(StoreUnavailableError):
            remove_garbage(store, [garbage])
    (rest,) = find_garbage(store, older_than=timedelta(0))
    assert len(rest.keys) == len(garbage.keys) - removed % len(garbage.keys)
    remove_garbage(store, [rest])
    assert store.sizes() == {}


def test_nothing_is_removed_by_a_manifest_that_is_damaged(release):
    ReleaseBuilder(Store(release)).seal()
    manifest = release / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"fidelity", b"fidelitx"))
    with pytest.raises(CorruptDataError, match="digest that it states"):
        find_garbage(Store(release.parent), older_than=timedelta(0))


def test_an_array_that_is_not_there_is_named(release):
    path = next(release.glob("images/night1/*/latent/zarr.json"))
    path.unlink()
    array = path.parent.relative_to(release)
    with pytest.raises(ReleaseError, match=f"no array {array} to write to"):
        ReleaseBuilder(Store(release)).arrays()(str(array))


def row(low: float, high: float, *, n=100, night="n1", level="sources") -> dict:
    what = {"kind": "images", "set": night, "band": "r", "level": level, "case": "photometry"}
    more = {"measure": "flux", "bin": "5-10", "unit": "sigma", "statistic": "p90"}
    return what | more | {"low": low, "high": high, "n": n}


@pytest.mark.parametrize(
    ("night", "is_worse"),
    [
        (row(0.26, 0.30), False),  # above, and within the margin
        (row(0.31, 0.40), True),
        (row(0.10, 0.90), False),  # so wide that it says nothing
        (row(0.31, 0.40, n=5), False),
        (row(float("nan"), float("nan")), False),
        (row(0.31, 0.40, level="latent"), False),  # the base has no such row
    ],
)
def test_a_loss_is_worse_if_its_interval_lies_above_the_bases(night, is_worse):
    found = worse_rows([night], [row(0.20, 0.24, night="n0"), row(0.10, 0.15, night="n00")])
    assert bool(found) == is_worse
    if is_worse:
        assert found[0]["allowed"] == pytest.approx(0.30)
        assert found[0]["set"] == "n1"


def test_a_loss_near_zero_is_no_loss_whatever_the_base_loses():
    assert not worse_rows([row(0.03, 0.04)], [row(0.0, 0.001)])
    assert worse_rows([row(0.06, 0.08)], [row(0.0, 0.001)])


def test_a_release_does_not_grow_over_itself(tiny_release):
    entries = list(tiny_release.images.entries.values())
    assert growth(entries, entries) == dict.fromkeys(sorted({e.band for e in entries}), 0.0)


@pytest.mark.parametrize(("factor", "is_strange"), [(0.5, True), (0.85, False), (1.2, False)])
def test_a_night_of_another_noise_is_strange(tiny_release, factor, is_strange):
    entry = next(e for e in tiny_release.images.entries.values() if e.noise is not None)
    noise = replace(entry.noise, sigma=factor * entry.noise.sigma)
    found = strange_numbers([replace(entry, noise=noise)] * 3, [entry] * FEWEST)
    assert [one["number"] for one in found] == ["noise"] * is_strange
    assert not strange_numbers([replace(entry, noise=noise)] * 3, [entry] * (FEWEST - 1))


def test_provenance_of_an_image_names_input_and_objects(tiny_release, tiny_survey):
    import hashlib

    image_id = next(iter(tiny_release.images))
    found = image_provenance(tiny_release, image_id)
    raw = (tiny_survey.parent / found["input"]["file"]).read_bytes()
    assert found["input"]["sha256"] == hashlib.sha256(raw).hexdigest()
    for key, digest in found["objects"].items():
        assert hashlib.sha256(tiny_release.read(key)).hexdigest() == digest
    assert len(found["objects"]) == len(tiny_release.images.entry(image_id).bytes)
