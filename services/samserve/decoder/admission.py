"""Bounds how many prompts are decoded or wait to be."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from samserve.core.errors import Overloaded
from samserve.infra.metrics import DECODE_WAITING

SHORTEST_RETRY, LONGEST_RETRY = 0.1, 10.0  # seconds after which a refused caller may retry


class DecodeQueue:
    """Places for work in the pool. For one event loop.

    The pool's own queue keeps the order and drops cancelled work; this class bounds its length.
    Releasing a place and taking another without awaiting cannot lose it.
    """

    def __init__(self, threads: int, queue: int) -> None:
        """Create places for `threads` prompts that are decoded and `queue` prompts that wait."""
        self._threads = threads
        self._queue = queue
        self._taken = 0

        self._seconds_per_prompt = 0.01  # a moving average, while all threads are busy
        self._last_release = 0.0

    @contextmanager
    def place(self, prompts: int = 1) -> Iterator[None]:
        """Hold places for a call's prompts.

        A call with more prompts than there are places is accepted when nothing else is.

        Raises:
            Overloaded: There are too few places.
        """
        places = self._threads + self._queue
        if self._taken and self._taken + min(prompts, places) > places:
            raise Overloaded("the decoder's queue", self._seconds_until_free())

        if not self._taken:
            self._last_release = time.monotonic()
        self._add(prompts)
        try:
            yield
        finally:
            self._measure(prompts)
            self._add(-prompts)

    def _seconds_until_free(self) -> float:
        """Estimate when the prompts that wait now will have been answered."""
        seconds = self._taken * self._seconds_per_prompt
        return round(min(max(seconds, SHORTEST_RETRY), LONGEST_RETRY), 1)

    def _measure(self, prompts: int) -> None:
        now = time.monotonic()
        if self._taken > self._threads:
            seconds = (now - self._last_release) / prompts
            self._seconds_per_prompt += 0.1 * (seconds - self._seconds_per_prompt)
        self._last_release = now

    def _add(self, prompts: int) -> None:
        self._taken += prompts
        DECODE_WAITING.set(max(self._taken - self._threads, 0))
