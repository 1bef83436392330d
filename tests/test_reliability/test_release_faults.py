"""Faults of object storage while a release is written: some of what the command plays."""

from __future__ import annotations

import pytest

from tests.test_reliability.faults import faulty_server
from tests.test_reliability.release_faults import MENDED, NAMED, Products, sample

KINDS = ("reset after taking effect", "403 access denied")


@pytest.mark.s3
@pytest.mark.filterwarnings("ignore")  # of sockets that the proxy cuts
def test_a_fault_while_a_release_is_written_is_mended_or_named():
    with faulty_server() as server:
        found = sample(Products(server), ["archive", "publish"], KINDS, seed=1)
    assert found == {(one, how): 1 for one in ("archive", "publish") for how in (MENDED, NAMED)}
