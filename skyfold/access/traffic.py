"""What a release has read from its store so far: requests, bytes, rounds, and what a cache gave."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Traffic:
    """Counts of what was asked of a store.

    Attributes
    ----------
    requests : int
        Requests that the store answered.
    bytes : int
        Bytes that it sent.
    rounds : int
        Times that a reader waited for the store; the requests of one round run side by side.
    cached_bytes : int
        Bytes that a cache gave instead.

    Examples
    --------
    >>> before = release.traffic.snapshot()  # doctest: +SKIP
    >>> release.images.cutout(position, 30 * u.arcsec)  # doctest: +SKIP
    >>> release.traffic - before  # doctest: +SKIP
    Traffic(requests=6, bytes=9120, rounds=2, cached_bytes=0)
    """

    requests: int = 0
    bytes: int = 0
    rounds: int = 0
    cached_bytes: int = 0
    _lock: Any = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, *, requests: int = 0, size: int = 0, rounds: int = 0, cached: int = 0) -> None:
        """Count more; safe from any thread."""
        with self._lock:
            self.requests += requests
            self.bytes += size
            self.rounds += rounds
            self.cached_bytes += cached

    def snapshot(self) -> Traffic:
        """The counts as they are now."""
        with self._lock:
            return Traffic(self.requests, self.bytes, self.rounds, self.cached_bytes)

    def __sub__(self, before: Traffic) -> Traffic:
        now = self.snapshot()
        return Traffic(
            now.requests - before.requests,
            now.bytes - before.bytes,
            now.rounds - before.rounds,
            now.cached_bytes - before.cached_bytes,
        )
