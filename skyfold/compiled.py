"""Loops that are compiled where they are first called: numba, which a producer has installed.

For loops that wait for their own last step, which numpy cannot take all at once, and for what
writers do many times; nothing that a reader needs. Machine code is kept beside the module, or where
numba keeps it for the user, so that the next process need not compile again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

_LOOSE = {"reassoc", "contract"}  # sums in any order: what is compiled so chooses, it codes nothing
P = ParamSpec("P")
R = TypeVar("R")


@cache
def can_compile() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Function of arrays and numbers, compiled by numba at its first call.

    Parameters
    ----------
    function : callable
        In the part of Python that numba knows; it may call numpy, and nothing of ours.
    """
    return _compiled(function, _LOOSE)


def compiled_exactly(function: Callable[P, R]) -> Callable[P, R]:
    """As `compiled`, with every number that Python would give: nothing reordered, nothing fused."""
    return _compiled(function, False)


def _compiled(function: Callable[P, R], fastmath: set[str] | bool) -> Callable[P, R]:
    @cache
    def machine_code() -> Callable[P, R]:
        from numba import njit

        try:
            return njit(cache=True, nogil=True, fastmath=fastmath)(function)
        except RuntimeError:  # nowhere to keep it: it lives as long as the process
            return njit(nogil=True, fastmath=fastmath)(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return machine_code()(*args, **kwargs)

    return run
