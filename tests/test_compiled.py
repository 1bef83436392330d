"""Compiled loops: the same numbers as Python gives, also where machine code cannot be kept."""

from __future__ import annotations

import numpy as np
import pytest

from skyfold.compiled import compiled

SOURCE = '''
def running(values, out):
    """Largest value so far."""
    top = values[0]
    for n in range(values.size):
        top = max(top, values[n])
        out[n] = top
'''


def running(values, out):
    """Largest value so far."""
    top = values[0]
    for n in range(values.size):
        top = max(top, values[n])
        out[n] = top


def of_no_file():
    space: dict = {}
    exec(SOURCE, space)
    return space["running"]


@pytest.mark.parametrize("function", [running, of_no_file()])
def test_the_same_numbers(function):
    values = np.random.default_rng(0).normal(0, 1, 1000)
    expected, found = np.empty(1000), np.empty(1000)
    running(values, expected)
    fast = compiled(function)
    fast(values, found)
    np.testing.assert_array_equal(found, expected)
    assert (fast.__name__, fast.__doc__) == ("running", "Largest value so far.")
