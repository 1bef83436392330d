"""What stored densities rest on must never change: a new number is a new `codec_id`."""

import hashlib

import numpy as np
import pytest

from skyfold.codecs.amplitude import core_amplitude, hermite_shapes, masses, step_units, wavelet
from skyfold.codecs.density_tables import built_in_map, tables
from skyfold.densities.index import SHAPES, quadrature


def digest(values):
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()[:16]


def decoded():
    core = np.array([[200, 20, 45, 3, -7, 2], [10, -9, 30, 0, 0, 0], [50, 70, -9, 5, 1, 1]])
    amplitude = core_amplitude(core, hermite_shapes(SHAPES), 201)
    coefficients = np.arange(603).reshape(3, 201) % 11 - 5
    amplitude += wavelet(201).on_grid(coefficients * step_units(np.array([[12], [5], [20]])))
    return amplitude


FROZEN = {
    "shapes": lambda: hermite_shapes(SHAPES),
    "wavelet of 200": lambda: wavelet(200).synthesis,
    "wavelet of 201": lambda: wavelet(201).synthesis,
    "relations": lambda: np.concatenate([wavelet(201).parent, wavelet(201).before]),
    "centres": lambda: wavelet(201).centre,
    "steps": lambda: step_units(np.arange(31)),
    "tables": tables,
    "map with core": lambda: built_in_map(core=True),
    "map without core": lambda: built_in_map(core=False),
    "amplitude": decoded,
    "masses": lambda: masses(decoded(), 1e-5),
    "densities": lambda: masses(decoded(), 1e-5) / quadrature(np.linspace(0, 3, 201), "trapezoid"),
}
DIGESTS = {
    "shapes": "a34a15e03d9b0428",
    "wavelet of 200": "82aa2fa77e151f0f",
    "wavelet of 201": "b54e9383dcf4d26a",
    "relations": "5d498a24664dc7f4",
    "centres": "9a7e99f59a1adc3f",
    "steps": "8d9923c3e47881d8",
    "tables": "9dacb9ddc1485405",
    "map with core": "15176993c602c625",
    "map without core": "cd25000cf65b71b8",
    "amplitude": "238becf4f91c6a58",
    "masses": "ef0df2bbaee2d1d9",
    "densities": "7460a05dee2b6e52",
}


@pytest.mark.parametrize("name", FROZEN)
def test_numbers_are_those_of_the_format(name):
    assert digest(FROZEN[name]()) == DIGESTS[name]
