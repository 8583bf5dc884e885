"""Bounds how many images are encoded at once, and decides whose is next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from enum import IntEnum

from samserve.core.caller import current_caller
from samserve.core.errors import Overloaded
from samserve.core.fair_queue import FairQueue
from samserve.infra.metrics import WAITING

SHORTEST_RETRY, LONGEST_RETRY = 0.1, 10.0  # seconds after which a refused caller may retry


class Priority(IntEnum):
    """Triton's priority levels; the lowest number is served first."""

    INTERACTIVE = 1
    BULK = 2


class EncodeSlots:
    """Slots for images that are decoded and encoded. Interactive callers go before bulk ones.

    Among callers of one priority, tenants share the slots by their weights. A full queue refuses
    the tenant that has most in it.

    For one event loop. Callers wait here rather than in Triton's queue, because work that waits
    here is dropped when its caller leaves.
    """

    def __init__(self, slots: int, queue: int) -> None:
        """Create slots for `slots` images in flight, and a queue for `queue` callers."""
        self._slots = slots
        self._free = slots
        self._queue = queue

        self._waiting: dict[Priority, FairQueue[asyncio.Future[None]]] = {
            priority: FairQueue() for priority in sorted(Priority)
        }
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

        caller = current_caller()
        if self._count() >= self._queue:
            self._make_room(caller.tenant, caller.plan.share, priority)

        granted = asyncio.get_running_loop().create_future()
        waiting = self._waiting[priority]
        number = waiting.push(caller.tenant, granted, caller.plan.share)
        WAITING.labels(priority.name.lower()).inc()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                waiting.remove(number)
            elif granted.exception() is None:  # cancelled just after the slot was granted
                self._give_back()
            raise
        finally:
            WAITING.labels(priority.name.lower()).dec()

    def _seconds_until_free(self) -> float:
        seconds = (1 + self._count() / self._slots) * self._seconds_per_image
        return round(min(max(seconds, SHORTEST_RETRY), LONGEST_RETRY), 1)

    def _give_back(self) -> None:
        """Hand the slot to the next caller, or free it."""
        for waiting in self._waiting.values():
            while len(waiting):
                granted = waiting.pop()
                if not granted.done():  # its caller has not just left
                    granted.set_result(None)
                    return
        self._free += 1

    def _make_room(self, tenant: str, weight: float, priority: Priority) -> None:
        """Refuse the newest image of the tenant that has most in the queue, or the one to come."""
        refusal = Overloaded("the embedding service's queue", self._seconds_until_free())
        for level, waiting in reversed(self._waiting.items()):
            dropped = waiting.pop_excess(tenant, weight) if level >= priority else None
            if dropped is not None:
                if not dropped.done():
                    dropped.set_exception(refusal)
                return
        raise refusal

    def _count(self) -> int:
        return sum(map(len, self._waiting.values()))
