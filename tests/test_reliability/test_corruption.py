"""Damage is known when what it touches is read, and `verify` names it, whole or on a sample."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from skyfold import open_release
from skyfold.errors import CorruptDataError, SkyfoldError
from tests.test_reliability.corruption import WRONG, flips, read_all


def test_flipped_bytes_are_never_silent(whole_copy):
    found = flips(str(whole_copy), 60, seed=4)
    assert sum(count for (_, what), count in found.items() if what == WRONG) == 0
    assert sum(found.values()) == 60


@pytest.mark.parametrize("key", ["images/night1/index.parquet", "catalogs/galaxies/catalog.json"])
def test_a_cut_object_is_named(whole_copy, key):
    path = whole_copy / key
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CorruptDataError, match=key):
        read_all(str(whole_copy), key)
    assert list(open_release(whole_copy).verify()) == [key]


def _shards(folder: Path, layer: str) -> list[Path]:
    found = sorted(one for one in folder.glob(f"{layer}/c/**/*") if one.is_file())
    assert found
    return found


@pytest.mark.parametrize("layer", ["images/night1/*/bounded", "images/night1/*/latent"])
def test_dropped_and_swapped_shards_are_known(whole_copy, layer):
    shards = _shards(whole_copy, layer)
    reference = read_all(str(whole_copy), "images/")
    first, second = shards[0].read_bytes(), shards[-1].read_bytes()
    shards[0].write_bytes(second)
    shards[-1].write_bytes(first)
    with pytest.raises(SkyfoldError):
        read_all(str(whole_copy), "images/")
    assert len(open_release(whole_copy).verify()) == 2
    shards[-1].write_bytes(second)
    shards[0].unlink()
    with pytest.raises(CorruptDataError):
        read_all(str(whole_copy), "images/")
    assert list(open_release(whole_copy).verify().values()) == ["missing"]
    shards[0].write_bytes(first)
    assert read_all(str(whole_copy), "images/") == reference


def test_verify_on_a_sample(whole_copy):
    release = open_release(whole_copy)
    told: list[tuple[int, int]] = []
    assert release.verify(lambda *done: told.append(done), sample=0.3, threads=2) == {}
    assert 0 < told[-1][1] < len(release.manifest())
    shutil.copy(whole_copy / "zarr.json", whole_copy / "stray.json")
    assert release.verify(sample=0.01) == {"stray.json": "not in the manifest"}
