"""A pace that a stream's steps are read at."""

from __future__ import annotations

import asyncio

BURST = 1.0  # seconds; a stream that was idle may read so many seconds' steps at once


class Pace:
    """Lets events pass at a mean rate; for one event loop."""

    def __init__(self, per_second: float) -> None:
        self._interval = 1 / per_second
        self._next = 0.0

    async def wait(self) -> None:
        """Wait until the next event may pass."""
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - BURST) + self._interval
        if self._next > now:
            await asyncio.sleep(self._next - now)
