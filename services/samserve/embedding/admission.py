"""How many images are under way at once, whose is next, and when to say that it is too many."""

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

SHORTEST, LONGEST = 0.1, 10.0  # seconds to send a caller away for


class Priority(IntEnum):
    """Triton's priority levels: the lower goes first."""

    INTERACTIVE = 1
    BULK = 2


class EncodeSlots:
    """Slots for the images being decoded and encoded; who finds none waits, the interactive ones in front.

    Waiting here and not in Triton's queue, a caller who goes away takes the work along. For one event loop.
    """

    def __init__(self, slots: int, queue: int) -> None:
        """slots: images under way at once; queue: callers that may wait besides."""
        self._slots, self._free, self._queue = slots, slots, queue
        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []  # a heap
        self._number = count()
        self._seconds = 1.0  # that an image takes, about
        for priority in Priority:
            WAITING.labels(priority.name.lower())  # 0 before anyone has waited, rather than unknown

    async def slot(self, priority: Priority) -> AbstractContextManager[None]:
        """Wait for a slot, to be entered at once: `with await admission.slot(...):`. Raises Overloaded if too many wait
        already.
        """
        await self._enter(priority)
        return self._held()

    @contextmanager
    def _held(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self._seconds += 0.1 * (time.monotonic() - started - self._seconds)
            self._leave()

    async def _enter(self, priority: Priority) -> None:
        if self._free:
            self._free -= 1
            return
        if len(self._waiting) >= self._queue:
            expected = (1 + len(self._waiting) / self._slots) * self._seconds
            raise Overloaded(
                "the embedding service's queue", round(min(max(expected, SHORTEST), LONGEST), 1)
            )
        turn = asyncio.get_running_loop().create_future()
        entry = (priority, next(self._number), turn)
        heapq.heappush(self._waiting, entry)
        WAITING.labels(priority.name.lower()).inc()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(entry)
                heapq.heapify(self._waiting)
            else:  # given a slot and cancelled at once
                self._leave()
            raise
        finally:
            WAITING.labels(priority.name.lower()).dec()

    def _leave(self) -> None:
        """Give the slot to who is next; it counts as taken all the while."""
        if self._waiting:
            heapq.heappop(self._waiting)[2].set_result(None)
        else:
            self._free += 1
