import numpy as np
import pytest

from storage.images.quantised import lattice_step

RANDOM = np.random.default_rng(7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("sigma_steps", "zero_steps"), [(1.5, 0.0), (10, 0.3), (10, 3000.37), (700, 0.5), (3e4, 0.0)]
)
@pytest.mark.parametrize("scale", [4e-12, 0.0137, 1.0, 37.0])
def test_lattice_is_found_at_any_scale(dtype, sigma_steps, zero_steps, scale):
    count = np.rint(RANDOM.normal(0, sigma_steps, (200, 210)))
    count[::40, ::41] += np.rint(50 * sigma_steps)  # stars
    image = ((zero_steps + count) * scale).astype(dtype)
    image[:20] = 0
    image[30, :5] = np.nan
    assert lattice_step(image) == pytest.approx(scale, rel=1e-4)


def test_sparse_counts_need_their_common_divisor():
    count = RANDOM.integers(1, 2**20, 1000) * 6
    assert lattice_step(count.astype(np.float64)) == pytest.approx(6.0)
    assert lattice_step((count % 5 * 6.0 + 6).astype(np.float32)) == pytest.approx(6.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 3000.0])
@pytest.mark.parametrize("scale", [4e-12, 1.0, 37.0])
def test_continuous_values_are_on_no_lattice(dtype, offset, scale):
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(offset, 30, (150, 150))
        noise[:5] += np.random.default_rng(seed).exponential(1e4, 150)
        assert lattice_step((noise * scale).astype(dtype)) is None
        assert lattice_step((noise * scale).astype(np.float32).astype(dtype)) is None


def test_one_value_off_the_lattice_is_enough():
    image = np.rint(RANDOM.normal(0, 10, (300, 300))) * 0.1
    assert lattice_step(image) == pytest.approx(0.1)
    image[150, 151] = 0.05
    assert lattice_step(image) is None


@pytest.mark.parametrize("values", [[], [np.nan], [0.0, 0.0], [1.0, 1.0, 5.0], [1.0, 2.0, 4.5]])
def test_too_few_values_show_nothing(values):
    assert lattice_step(np.array(values, np.float32)) is None
