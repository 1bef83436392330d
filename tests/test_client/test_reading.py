"""What reading costs: rounds, requests and bytes, caches in memory and on disk, other servers."""

from __future__ import annotations

import functools
import http.server
import multiprocessing
import os
import pickle
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from skyfold import errors, open_release
from skyfold.access.cache import DiskCache, MemoryCache
from skyfold.access.store import Store
from skyfold.compiled import ENVIRONMENT, MOST_THREADS, reader_threads, readers
from skyfold.images.details import decode_places, encode_places
from skyfold.ladder import LEVELS
from skyfold.layout import LAYERS

IMAGE = "night1/r"  # two by three tiles
TILE = (slice(0, 60), slice(0, 60))


def needed_bytes(release, level: str) -> int:
    """Stored bytes of the first tile's chunks, and of layers without tiles."""
    entry = release.images.entry(IMAGE)
    places = release.images.places(entry)
    held = {layer: places.get(layer, {}).get(0, (0, 0))[1] for layer in LAYERS}
    held |= {layer: entry.bytes.get(layer, 0) for layer in ("background", "checksum")}
    return sum(held[layer] for layer in entry.layers_at(level))


@pytest.mark.parametrize("level", LEVELS)
def test_a_cutout_is_two_rounds_of_what_it_needs(tiny_url, level):
    release = open_release(tiny_url, cache=False)
    entry = release.images.entry(IMAGE)
    release.network(entry.model)
    before = release.traffic.snapshot()
    release.images.section(IMAGE, *TILE, level=level)
    cost = release.traffic - before
    assert cost.rounds == 2
    assert cost.requests <= 1 + len(entry.layers_at(level))
    assert cost.bytes <= 1.3 * needed_bytes(release, level)


def test_refining_fetches_what_is_missing_alone(tiny_url):
    release = open_release(tiny_url, cache=False)
    rough = release.images.section(IMAGE, *TILE, level="latent")
    known = release.images.entry(IMAGE).layers_at("latent")
    before = release.traffic.snapshot()
    fine = release.images.refine(rough, "bounded")
    cost = release.traffic - before
    places = release.images.places(release.images.entry(IMAGE))
    new = [x for x in release.images.entry(IMAGE).layers_at("bounded") if x not in known]
    assert cost.rounds == 1
    assert cost.bytes == sum(places[layer][0][1] for layer in new if layer in places)
    fresh = open_release(tiny_url, cache=False).images.section(IMAGE, *TILE, level="bounded")
    np.testing.assert_array_equal(fine.data, fresh.data)


@pytest.mark.parametrize("level", LEVELS)
def test_several_threads_decode_the_same(tiny_url, monkeypatch, level):
    images = open_release(tiny_url, cache=False).images
    with readers(compiled=False):
        assert reader_threads() == 1
        plain = [images.read(image_id, level) for image_id in images]
    monkeypatch.setenv(ENVIRONMENT, "3")
    with readers(compiled=True):
        assert reader_threads() == 3
        fast = [images.read(image_id, level) for image_id in images]
        monkeypatch.setenv(ENVIRONMENT, "")
        assert 1 <= reader_threads() <= MOST_THREADS
    for one, other in zip(plain, fast, strict=True):
        np.testing.assert_array_equal(other.values, one.values)
        np.testing.assert_array_equal(other.flags, one.flags)
        np.testing.assert_array_equal(other.sigma, one.sigma)


def test_tiles_of_many_cutouts_are_fetched_once(tiny_url):
    release = open_release(tiny_url, cache=False)
    entry = release.images.entry(IMAGE)
    ra, dec = entry.celestial_wcs().pixel_to_world_values(*np.meshgrid(np.arange(40, 90), 50))
    one = release.images.cutout(SkyCoord(ra[0, 0], dec[0, 0], unit="deg"), 20, image_id=IMAGE)
    before = release.traffic.snapshot()
    release.images.cutouts(SkyCoord(ra[0], dec[0], unit="deg"), 20, image_id=IMAGE)
    assert (release.traffic - before).bytes == 0
    assert one.shape == (20, 20)


def test_a_disk_cache_serves_the_next_process(tiny_url, tmp_path):
    first = open_release(tiny_url, cache=tmp_path / "cache")
    values = first.images.read(IMAGE, "bounded").values
    second = open_release(tiny_url, cache=tmp_path / "cache")
    opened = second.traffic.snapshot()
    np.testing.assert_array_equal(second.images.read(IMAGE, "bounded").values, values)
    cost = second.traffic - opened
    assert cost.requests == cost.bytes == 0
    assert cost.cached_bytes > 0


def test_the_environment_names_a_cache(tiny_url, tmp_path, monkeypatch):
    monkeypatch.setenv("SKYFOLD_CACHE", str(tmp_path))
    monkeypatch.setenv("SKYFOLD_CACHE_BYTES", "1e7")
    assert open_release(tiny_url).reader.disk.limit == 10**7
    assert open_release(tiny_url, cache=False).reader.disk is None
    monkeypatch.delenv("SKYFOLD_CACHE")
    assert open_release(tiny_url).reader.disk is None


def test_damage_in_the_cache_is_fetched_again(tmp_path):
    cache = DiskCache(tmp_path)
    cache.put("a", b"pixels")
    (path,) = (p for p in tmp_path.rglob("*") if p.is_file())
    path.write_bytes(path.read_bytes().replace(b"pix", b"pox"))
    assert cache.get("a") is None
    assert not path.exists()


def fill(folder: Path, first: int) -> None:
    cache = DiskCache(folder, 400_000)
    for number in range(first, first + 60):
        cache.put(str(number), bytes([number % 256]) * 9000)
        held = cache.get(str(number))
        assert held is None or held == bytes([number % 256]) * 9000


def test_the_cache_is_bounded_while_processes_share_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=fill, args=(tmp_path, 1000 * n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    held = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 100_000 < held <= 400_000 * (1 + 3 / 16)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = DiskCache(tmp_path / "file")
    cache.put("a", b"x")
    assert cache.get("a") is None


def test_memory_forgets_the_oldest():
    memory = MemoryCache(1000)
    for number in range(20):
        memory.put(("k", number, number + 1), bytes(100))
        memory.get(("k", 0, 1))
    assert memory.get(("k", 0, 1)) == bytes(100)
    assert memory.get(("k", 5, 6)) is None
    memory.put(("k", 50, 51), bytes(999))
    assert memory.get(("k", 50, 51)) is None


def test_near_ranges_are_one_request(tmp_path):
    store = Store(tmp_path)
    data = bytes(range(256)) * 40
    store.write("a", data)
    store.write("b", data[::-1])
    ranges = [("a", 5000, 6000), ("a", 0, 1000), ("a", 1100, 2100), ("b", 7, 9), ("a", 0, 1000)]
    found = store.read_ranges([*ranges, ("a", 10_000, 10_250)])
    assert found[:5] == [(data if k == "a" else data[::-1])[i:j] for k, i, j in ranges]
    assert found[5] == data[10_000:]
    assert store.traffic.requests == 4  # 100 bytes between two ranges of 1000 are worth it
    assert store.traffic.bytes == 2100 + 1000 + 2 + len(data[10_000:])
    assert store.read_ranges([]) == []
    assert store.read_end("a", 10) == data[-10:]
    with pytest.raises(FileNotFoundError):
        store.read_ranges([("a", 0, 1), ("c", 0, 1)])


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server without ranges, as Python has it."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web(tiny_url):
    handler = functools.partial(Quiet, directory=tiny_url)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_web_server_without_ranges_serves_a_release(web, tiny_url):
    release = open_release(web, cache=False)
    local = open_release(tiny_url, cache=False)
    for level in ("latent", "exact"):
        there, here = (one.images.section(IMAGE, *TILE, level=level) for one in (release, local))
        np.testing.assert_array_equal(there.data, here.data)
    assert release.traffic.requests > 0


def read_one(release) -> float:
    return float(release.images.section(IMAGE, *TILE, level="sources").data.sum())


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_release_goes_to_other_processes(tiny_url, method):
    release = open_release(tiny_url, cache=False)
    expected = read_one(release)
    assert len(pickle.dumps(release)) < 2000
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(read_one, [release, release]) == [expected] * 2
    one, other = pickle.loads(pickle.dumps(release)), pickle.loads(pickle.dumps(release))
    assert one is other


def test_threads_share_a_release(tiny_url):
    release = open_release(tiny_url, cache=False)
    windows = [(image, level) for image in release.images for level in LEVELS] * 3
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: release.images.section(one[0], *TILE, one[1]), windows))
    again = open_release(tiny_url, cache=False)
    for (image, level), cutout in zip(windows, found, strict=True):
        expected = again.images.section(image, *TILE, level).data
        np.testing.assert_allclose(cutout.data, expected, rtol=2e-6)


def test_places_of_chunks_come_back():
    absent = np.full((6, 2), 2**64 - 1, np.uint64)
    index = absent.copy()
    index[[4, 0, 3]] = [[0, 10], [10, 300], [310, 7]]
    data = encode_places({"latent": index, "guard": absent})
    places = decode_places(data, "here")
    assert places["latent"] == {4: (0, 10), 0: (10, 300), 3: (310, 7)}
    assert places["guard"] == {}
    index[3, 0] = 311
    with pytest.raises(ValueError, match="latent"):
        encode_places({"latent": index})
    for bad in (b"", data[:-3], zlib.compress(b"\x09\x01"), zlib.compress(b"\xff" * 20)):
        with pytest.raises(errors.CorruptDataError, match="here"):
            decode_places(bad, "here")


def test_one_missing_shard_fails_its_image_alone(tiny_url, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_url, copy)
    release = open_release(copy, cache=False)
    entry = release.images.entry(IMAGE)
    shard = next((copy / f"images/{entry.set}/{entry.group}/background/c/{entry.row}").rglob("0"))
    while shard.is_dir():
        shard = shard / "0"
    os.remove(shard)
    positions = SkyCoord([entry.ra] * 2, [entry.dec] * 2, unit="deg")
    bad = release.images.cutouts(positions, 20, image_id=IMAGE)
    assert all(isinstance(error, errors.CorruptDataError) for error in bad.failures.values())
    assert len(bad.failures) == 2
    found = release.images.epochs(positions[0], 20)
    assert len(found) - len(found.failures) == len(release.images) - 1


@pytest.mark.parametrize("window", [5, slice(0.5, 3), "0:3"])
def test_windows_are_slices_of_whole_numbers(tiny_url, window):
    images = open_release(tiny_url, cache=False).images
    with pytest.raises(errors.InvalidRequestError, match="slice of whole numbers"):
        images.read(IMAGE, "bounded", rows=window)


@pytest.mark.parametrize("url", ["", 5, None])
def test_releases_have_an_address(url):
    with pytest.raises(errors.InvalidRequestError, match="give its folder"):
        open_release(url)


def test_what_no_image_has_is_named(tiny_url):
    images = open_release(tiny_url, cache=False).images
    position = SkyCoord(150, 2, unit="deg")
    with pytest.raises(
        errors.UnknownNameError, match=r"no image of band 'q' in .*; bands are g, i, r"
    ):
        images.cutout(position, 20, band="q")
    with pytest.raises(errors.OutsideFootprintError, match=r"nan .*is not finite"):
        images.cutout(SkyCoord(np.nan, 2, unit="deg"), 20)
