"""Threads for sweeps, which give way to people's clicks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

from samserve.core.errors import Overloaded
from samserve.core.holders import Holders
from samserve.core.limits import DEFAULT_SWEEPS
from samserve.infra.pool import run_in_pool

Result = TypeVar("Result")

PATIENCE = 1.0  # seconds that work gives way at most, before it begins and again within
RETRY_AFTER = 5.0  # seconds


class SweepPool:
    """Runs the pieces of sweeps. For one event loop.

    A piece is one point of a grid, or one mask to write. While clicks are in the decoder's queue,
    no piece begins, and those that have begun pause between spans of cells. A piece that has
    waited for PATIENCE goes on all the same, so that a sweep ends some time. Sweeps take turns,
    piece by piece.
    """

    def __init__(
        self,
        threads: int,
        quiet: threading.Event,
        sweeps: int = DEFAULT_SWEEPS,
        share: float = 1.0,
    ) -> None:
        """Create the threads.

        Args:
            threads: As many as decode clicks.
            quiet: Set while no click is in the decoder's queue.
            sweeps: That may be in progress.
            share: Part of them that one tenant may have.
        """
        self._executor = ThreadPoolExecutor(threads, "sweep")
        self._ahead = 2 * threads  # pieces of a sweep in the pool
        self._quiet = quiet
        self._most_sweeps = sweeps
        self._sweeps = Holders(sweeps, share)

    def sweep(self) -> AbstractContextManager[None]:
        """Count a sweep during the block. Raises Overloaded if there are too many."""
        refusal = Overloaded(f"the decoder's set of {self._most_sweeps} sweeps", RETRY_AFTER)
        return self._sweeps.hold(refusal)

    async def run(self, work: Callable[..., Result], *args: Any) -> Result:
        """Run a piece of work; it is dropped if the caller leaves before it began."""
        return await self._submit(partial(work, *args))

    async def results(self, pieces: Iterable[Callable[[], Result]]) -> AsyncIterator[Result]:
        """Yield the results of the pieces in order.

        Each piece is taken when it enters the pool. Those that have not begun are dropped if the
        caller leaves, or once one has failed.
        """
        running: deque[asyncio.Future[Result]] = deque()
        try:
            for piece in pieces:
                running.append(self._submit(piece))
                if len(running) >= self._ahead:
                    yield await running.popleft()
            while running:
                yield await running.popleft()
        finally:
            for future in running:
                future.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _submit(self, piece: Callable[[], Result]) -> asyncio.Future[Result]:
        def begin() -> Result:
            self.pause()()
            return piece()

        return run_in_pool(self._executor, begin)

    def pause(self) -> Callable[[], None]:
        """Return a function for one piece of work, which waits while there are clicks."""
        left = PATIENCE

        def wait() -> None:
            nonlocal left
            if left <= 0 or self._quiet.is_set():
                return
            begin = time.monotonic()
            self._quiet.wait(left)
            left -= time.monotonic() - begin

        return wait

    def close(self) -> None:
        """Drop what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)
