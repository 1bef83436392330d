"""Every reader of stored bytes on its kept corpus and on mutants of what writers give.

Longer, and guided by coverage: ``python -m tests.fuzz --seconds 600``.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from tests.fuzz.mutation import mutations
from tests.fuzz.targets import TARGETS, survive

CORPUS = Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
MUTANTS = 150


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.filterwarnings("ignore")  # of numbers that nobody wrote
def test_a_reader_returns_or_names_the_fault(name):
    target = TARGETS[name]
    seeds = target.seeds()
    kept = [one.read_bytes() for one in sorted((CORPUS / name).glob("*"))]
    mutants = itertools.islice(mutations(seeds, random.Random(len(name))), MUTANTS)
    for data in [*kept, *mutants]:
        survive(target, data)
    assert name in ("record", "table_model") or survive(target, seeds[0])
