"""Bounds how many images are encoded at once, and decides which one is next."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import IntEnum
from itertools import count

from samserve.core.errors import Overloaded
from samserve.infra.metrics import WAITING

SHORTEST_RETRY, LONGEST_RETRY = 0.1, 10.0  # seconds after which a refused caller may retry


class Priority(IntEnum):
    """Triton's priority levels; the lowest number is served first."""

    INTERACTIVE = 1
    BULK = 2


class EncodeSlots:
    """Slots for images that are decoded and encoded. Interactive callers go before bulk ones.

    For one event loop. Callers wait here rather than in Triton's queue, because work that waits
    here is dropped when its caller leaves.
    """

    def __init__(self, slots: int, queue: int) -> None:
        """Create slots for `slots` images in flight, and a queue for `queue` callers."""
        self._slots = slots
        self._free = slots
        self._queue = queue

        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []  # a heap
        self._number = count()
        self._seconds_per_image = 1.0  # a moving average

        # Create the time series, so that they are 0 before the first caller waits.
        for priority in Priority:
            WAITING.labels(priority.name.lower())

    async def slot(self, priority: Priority) -> AbstractContextManager[None]:
        """Wait for a slot. Enter the result at once: `with await slots.slot(...):`.

        Raises:
            Overloaded: Too many callers wait already.
        """
        await self._take(priority)
        return self._hold()

    @contextmanager
    def _hold(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self._seconds_per_image += 0.1 * (seconds - self._seconds_per_image)
            self._give_back()

    async def _take(self, priority: Priority) -> None:
        if self._free:
            self._free -= 1
            return

        if len(self._waiting) >= self._queue:
            raise Overloaded("the embedding service's queue", self._seconds_until_free())

        # Wait in order of priority, then of arrival.
        granted = asyncio.get_running_loop().create_future()
        entry = (priority, next(self._number), granted)
        heapq.heappush(self._waiting, entry)
        WAITING.labels(priority.name.lower()).inc()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
            else:  # cancelled just after the slot was granted
                self._give_back()
            raise
        finally:
            WAITING.labels(priority.name.lower()).dec()

    def _seconds_until_free(self) -> float:
        seconds = (1 + len(self._waiting) / self._slots) * self._seconds_per_image
        return round(min(max(seconds, SHORTEST_RETRY), LONGEST_RETRY), 1)

    def _give_back(self) -> None:
        """Hand the slot to the next caller, or free it."""
        if self._waiting:
            _, _, granted = heapq.heappop(self._waiting)
            granted.set_result(None)
        else:
            self._free += 1
