"""How many prompts may be decoded or wait for it, and when to say that it is too many."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from samserve.core.errors import Overloaded
from samserve.infra.metrics import DECODE_WAITING

SHORTEST, LONGEST = 0.1, 10.0  # seconds to send a caller away for


class DecodeQueue:
    """Places for those who need the pool. Its own queue keeps their order and forgets who goes away; this bounds it.

    For one event loop. Who leaves a place and takes another at once finds it free: nobody can come between.
    """

    def __init__(self, threads: int, queue: int) -> None:
        """threads: of the pool; queue: prompts that may wait besides."""
        self._threads, self._queue = threads, queue
        self._taken = 0
        self._pace, self._since = (
            0.01,
            0.0,
        )  # seconds a prompt, about, while all threads work; of the last to leave

    @contextmanager
    def place(self, prompts: int = 1) -> Iterator[None]:
        """Room for a call's prompts; one with more than may ever wait is let in once nobody else does. Raises
        Overloaded.
        """
        room = self._threads + self._queue
        if self._taken and self._taken + min(prompts, room) > room:
            raise Overloaded("the decoder's queue", self._until_free())
        if not self._taken:
            self._since = time.monotonic()
        self._count(prompts)
        try:
            yield
        finally:
            self._learn(prompts)
            self._count(-prompts)

    def _until_free(self) -> float:
        """Seconds until those who wait now have been answered."""
        return round(min(max(self._taken * self._pace, SHORTEST), LONGEST), 1)

    def _learn(self, prompts: int) -> None:
        now = time.monotonic()
        if self._taken > self._threads:
            self._pace += 0.1 * ((now - self._since) / prompts - self._pace)
        self._since = now

    def _count(self, prompts: int) -> None:
        self._taken += prompts
        DECODE_WAITING.set(max(self._taken - self._threads, 0))
