"""Turns that tenants share by their weights. For one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from samserve.core.caller import current_caller
from samserve.core.fair_queue import FairQueue


class FairTurns:
    """A semaphore whose waiters come next by weight, and each tenant's in order of arrival."""

    def __init__(self, turns: int) -> None:
        self._free = turns
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    async def acquire(self) -> None:
        """Wait for a turn."""
        if self._free:
            self._free -= 1
            return

        caller = current_caller()
        granted = asyncio.get_running_loop().create_future()
        number = self._waiting.push(caller.tenant, granted, caller.plan.share)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._waiting.remove(number)
            else:  # cancelled just after the turn was granted
                self.release()
            raise

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a turn during the block."""
        await self.acquire()
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Hand the turn to the next waiter, or free it."""
        while len(self._waiting):
            granted = self._waiting.pop()
            if not granted.done():  # its caller has not just left
                granted.set_result(None)
                return
        self._free += 1
