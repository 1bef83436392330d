"""What a look at a night's images tells: trails on too many, and points that are too wide."""

import numpy as np
import pytest
import synthetic
from scipy.ndimage import gaussian_filter
from small_release import build_release

from skyfold import open_release
from storage.night import FEWEST, STRIPS, Look, look_at, point_radii, strange_looks, strips


@pytest.mark.parametrize(
    ("crossed", "count", "of_base", "is_told"),
    [
        (0, 10, 0, False),
        (1, 10, 0, True),
        (1, 24, 0, False),  # one image in 200 may be: of 24 one is, in 11 nights of a hundred
        (2, 24, 0, True),
        (1, 64, 0, False),
        (2, 64, 0, True),
        (1, 10, 2, False),
        (3, 10, 2, False),
        (4, 10, 2, True),
        (10, 10, 20, False),
    ],
)
def test_how_many_are_too_many(crossed, count, of_base, is_told):
    night = {"r": Look([number < crossed for number in range(count)]), "z": Look([True] * 9)}
    base = {"r": Look([number < of_base for number in range(20)]), "i": Look([False] * 20)}
    told = strange_looks(night, base)
    assert bool(told) == is_told
    for one in told:
        assert (one["band"], one["number"]) == ("r", "crossed")
        assert one["low"] <= one["high"] < one["value"] == crossed / count


def stars(width: float, seed: int, *, galaxies: bool = True) -> np.ndarray:
    """Stars, as many galaxies twice as wide, cosmic rays, and noise of 1."""
    shape = (512, 512)
    rng = np.random.default_rng(seed)
    kinds = [np.zeros(shape), np.zeros(shape)]
    for plane in kinds:
        at = tuple(rng.integers(20, 492, (2, 30)))
        plane[at] = np.exp(rng.uniform(6, 9, 30))
    image = gaussian_filter(kinds[0], width) + galaxies * gaussian_filter(kinds[1], 2 * width)
    image[tuple(rng.integers(20, 492, (2, 4)))] += 300.0
    return image + rng.normal(size=shape)


def radii(width: float, seeds: range, **more: bool) -> list[np.ndarray]:
    good = np.ones((512, 512), bool)
    return [point_radii(stars(width, seed, **more), good) for seed in seeds]


def test_radii_are_those_of_the_smallest_round_sources():
    found = np.quantile(np.concatenate(radii(1.7, range(4))), 0.25)
    assert found == pytest.approx(1.177 * 1.7, rel=0.1)  # of a Gaussian


@pytest.mark.parametrize(
    ("factor", "is_told"), [(1.0, False), (1.1, False), (1.5, True), (0.6, True)]
)
def test_a_night_whose_points_are_wider_is_told(factor, is_told):
    base = {"r": Look([False] * 8, radii(1.7, range(8)))}
    told = strange_looks({"r": Look([False] * 3, radii(1.7 * factor, range(20, 23)))}, base)
    assert [one["number"] for one in told] == ["width"] * is_told
    for one in told:
        assert not one["low"] <= one["value"] <= one["high"]
        assert one["value"] / factor == pytest.approx((one["low"] * one["high"]) ** 0.5, rel=0.15)


def test_few_points_tell_no_width():
    base = {"r": Look([False] * 8, radii(1.7, range(8)))}
    assert not strange_looks({"r": Look([False], [np.full(FEWEST - 1, 9.0)])}, base)
    assert strange_looks({"r": Look([False], [np.full(FEWEST, 9.0)])}, base)


def test_a_night_whose_seeing_varies_as_in_its_base_is_not_told():
    seeing = [0.9, 1.1, 1.3, 1.6, 1.9, 2.3]
    one = [radii(width, range(seed, seed + 1))[0] for seed, width in enumerate(seeing)]
    other = [radii(width, range(seed, seed + 1))[0] for seed, width in enumerate(seeing, 20)]
    for some in (other, other[:4], other[1::2]):
        assert not strange_looks({"r": Look([False] * 6, some)}, {"r": Look([False] * 6, one)})


def test_trails_are_seen_in_what_was_stored(tmp_path):
    shape = (384, 384)
    wcs = synthetic.simple_wcs(shape)
    for number in range(2):
        pixels = synthetic.sky(shape, sources=60, sigma=12.0, background=400, seed=number)
        if number == 1:
            pixels = pixels + synthetic.trail(shape, 0.7, -60.0, 3 * 12.0)
        path = tmp_path / f"raw/{number}.fits"
        synthetic.write_fits(path, pixels.round().astype("u2"), wcs, FILTER="r", GAIN=2.0)
    table = '[[images]]\nset = "s"\nfiles = ["raw/*.fits"]\nband = "header:FILTER"\n'
    url = str(tmp_path / "test" / "dr1")
    build_release(synthetic.survey_toml(tmp_path, table), url, seal=False)
    release = open_release(url, unsealed=True)
    entries = release.images.entries.values()
    assert look_at(release, entries)["r"].crossed == [False, True]


def test_a_stretch_of_the_detector_without_sources_is_told():
    rng = np.random.default_rng(5)
    share = np.linspace(1, 2, STRIPS)  # a detector whose edge sees less

    def seen(times: float, dead: tuple[int, ...] = ()) -> dict[str, Look]:
        counts = rng.poisson(times * 20 * np.stack([share, np.ones(STRIPS)]))
        counts[0, list(dead)] = 0
        return {"r": Look([False], sources=counts)}

    base = seen(10)
    assert not any(strange_looks(seen(times), base) for times in (0.1, 1, 5, 20) for _ in range(50))
    for dead in ((0,), (0, 1), (5,)):
        (told,) = strange_looks(seen(3, dead), base)
        assert (told["number"], told["value"]) == ("strip", 0.0)
    assert not strange_looks(seen(0.05, (3,)), base)  # too few sources to tell
    assert not strange_looks({"r": Look([False])}, base)


def test_sources_are_counted_by_strips_of_columns_and_rows():
    found = np.zeros(3, [("x", "f8"), ("y", "f8")])
    found["x"], found["y"] = (-0.4, 40.0, 79.4), (0.0, 0.0, 159.0)
    columns, rows = strips(found, (160, 80))
    assert columns.tolist() == [1, 0, 0, 0, 1, 0, 0, 1]
    assert rows.tolist() == [2, 0, 0, 0, 0, 0, 0, 1]
