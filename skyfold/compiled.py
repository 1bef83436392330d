"""Loops that are compiled where they are first called: numba, where it is installed.

Nothing needs it: whatever is compiled is written in numpy too, and gives the same bits. A producer
has it; who reads much installs it with ``pip install skyfold[fast]``. Machine code is kept beside
the module, or where numba keeps it for the user, so that the next process need not compile again.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, update_wrapper
from importlib.util import find_spec
from types import CodeType, FunctionType
from typing import Any, Generic, ParamSpec, TypeVar

_LOOSE = {"reassoc", "contract"}  # sums in any order: what is compiled so chooses, it codes nothing
_FEW = 256  # tiles: to read them takes less time than to load numba and its machine code
ENVIRONMENT = "SKYFOLD_THREADS"
MOST_THREADS = 8
_tiles_read = 0
_choice: bool | None = None
P = ParamSpec("P")
R = TypeVar("R")


@cache
def can_compile() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


@cache
def _numba_works() -> bool:
    """Whether numba compiles: it does not where it was told so, by ``NUMBA_DISABLE_JIT=1``."""
    try:
        import numba

        return not numba.config.DISABLE_JIT and bool(numba.njit(lambda: True)())
    except Exception:  # an installation that does not fit its numpy, or half of one
        return False


def count_read(tiles: int) -> None:
    """Note that this process is about to read so many tiles more."""
    global _tiles_read
    _tiles_read += tiles


def reads_compiled() -> bool:
    """Whether readers take compiled loops: numba is at hand, and this process reads many tiles."""
    if _choice is not None:
        return _choice
    if _tiles_read <= _FEW and "numba" not in sys.modules:
        return False
    return can_compile() and _numba_works()


def reader_threads() -> int:
    """How many threads readers take: one, or with compiled loops one for each core.

    Cores that the process may use, at most `MOST_THREADS`; or as many as the environment variable
    `SKYFOLD_THREADS` says.
    """
    if not reads_compiled():
        return 1
    given = os.environ.get(ENVIRONMENT, "")
    if given.isdigit() and int(given):
        return int(given)
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(mine or 1, MOST_THREADS)


@contextmanager
def readers(*, compiled: bool) -> Iterator[None]:
    """Have readers take compiled loops, or none, however much they read: to compare the two."""
    global _choice
    before, _choice = _choice, compiled
    try:
        yield
    finally:
        _choice = before


class Compiled(Generic[P, R]):
    """Function of arrays and numbers, compiled by numba at its first call.

    Parameters
    ----------
    function : callable
        In the part of Python that numba knows; it may call numpy, and what is compiled here.
    fastmath : bool or set of str
        What numba may do to sums and products.
    inline : {"never", "always"}
        Whether it becomes part of what calls it: in loops that saves most of the time, which goes
        to counting references of arrays.
    """

    def __init__(
        self, function: Callable[P, R], fastmath: set[str] | bool, inline: str = "never"
    ) -> None:
        self._function = function
        self._options = {"fastmath": fastmath, "nogil": True, "inline": inline}
        update_wrapper(self, function)

    @cached_property
    def _parts(self) -> dict[str, Compiled[Any, Any]]:
        """What it calls that is compiled here."""
        space = self._function.__globals__  # type: ignore[attr-defined]
        names = self._code.co_names
        return {name: space[name] for name in names if isinstance(space.get(name), Compiled)}

    @property
    def _code(self) -> CodeType:
        return self._function.__code__  # type: ignore[attr-defined]

    @cached_property
    def _digest(self) -> int:
        """Of all that machine code is made of; numba looks at less when it takes it from before."""
        consts = [one for one in self._code.co_consts if not isinstance(one, CodeType)]
        code = (self._code.co_code, consts, self._options)
        return zlib.crc32(repr((code, [one._digest for one in self._parts.values()])).encode())

    @cached_property
    def machine_code(self) -> Callable[P, R]:
        """What numba makes of it, for any types of arguments."""
        from numba import njit

        function = self._function
        if self._parts:
            parts = {name: one.machine_code for name, one in self._parts.items()}
            space = function.__globals__ | parts  # type: ignore[attr-defined]
            function = FunctionType(self._code, space, self._code.co_name)
            function.__qualname__ = f"{self._code.co_name}_{self._digest:08x}"
        try:
            return njit(cache=True, **self._options)(function)
        except RuntimeError:  # nowhere to keep it: it lives as long as the process
            return njit(**self._options)(function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function gives."""
        return self.machine_code(*args, **kwargs)


def compiled(function: Callable[P, R]) -> Compiled[P, R]:
    """A function that chooses and codes nothing: sums may be taken in any order."""
    return Compiled(function, _LOOSE)


def compiled_exactly(function: Callable[P, R]) -> Compiled[P, R]:
    """As `compiled`, with every number that Python would give: nothing reordered, nothing fused.

    An index that leaves its array is not noticed: where bytes that anyone may have written choose
    one, it has to be limited first.
    """
    return Compiled(function, fastmath=False)


def compiled_inside(function: Callable[P, R]) -> Compiled[P, R]:
    """As `compiled_exactly`, for what is called in loops."""
    return Compiled(function, fastmath=False, inline="always")
