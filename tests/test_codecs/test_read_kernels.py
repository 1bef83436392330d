"""Compiled readers: of any bytes the numbers that numpy gives, or the same refusal."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from skyfold import compiled
from skyfold.codecs.tables import SCALES, SHAPES, get_sided, get_table
from skyfold.compiled import count_read, readers, reads_compiled
from skyfold.errors import SkyfoldError
from tests.fuzz.mutation import mutations
from tests.fuzz.targets import TARGETS

CODED = ("interlaced", "kept", "skewed", "tagged", "latents", "sparse_latents")
MUTANTS = 1500


def both(read):
    """What a function gives, or how it refuses, by numpy and compiled."""
    found = []
    for one in (False, True):
        with readers(compiled=one):
            try:
                found.append(read())
            except SkyfoldError as error:
                found.append(type(error))
    return found


@pytest.mark.parametrize("name", CODED)
def test_any_bytes_are_read_alike(name):
    target = TARGETS[name]
    read = refused = 0
    for data in islice(mutations(target.seeds(), random.Random(name)), MUTANTS):
        plain, fast = both(lambda: target.run(data))  # noqa: B023
        if isinstance(plain, type):
            assert fast is plain
            refused += 1
        else:
            np.testing.assert_array_equal(fast, plain)
            read += 1
    assert read > 20
    assert refused > 10


def test_tables_are_whole():
    """Symbols are looked for between 0 and 2**24, without asking whether a table ends there."""
    for scale in range(SCALES):
        for shape in range(SHAPES):
            sided = get_sided(scale, shape, SCALES - 1 - scale, SHAPES - 1 - shape, 2 * scale)
            for table in (get_table(scale, shape), sided):
                assert table.sums[0] == 0
                assert table.sums[-1] == 2**24
                assert (np.diff(table.sums) > 0).all()


def test_numba_that_does_not_compile_is_left_alone():
    code = "from skyfold import compiled; print(compiled._numba_works())"
    for disabled in ("0", "1"):
        told = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"NUMBA_DISABLE_JIT": disabled},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == str(disabled == "0")


def test_compiled_loops_are_for_those_who_read_much(monkeypatch):
    monkeypatch.setattr(compiled, "_tiles_read", 0)
    monkeypatch.setattr(compiled, "sys", SimpleNamespace(modules={}))
    assert not reads_compiled()
    count_read(compiled._FEW + 1)
    assert reads_compiled()
    monkeypatch.setattr(compiled, "_numba_works", lambda: False)
    assert not reads_compiled()
