"""Comparisons with other ways to do the same; each is run by itself, none by the tests.

One thread, set before any library starts its own: throughput is per core, and no codec gains by
cores that another leaves idle.
"""

import os

_ONE = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "SKYFOLD_THREADS")
for _name in _ONE:
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
