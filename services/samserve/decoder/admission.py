"""Bounds the work that is done in the decoder's pool or waits for it, and keeps its order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, TypeVar

from samserve.core.errors import Overloaded
from samserve.core.limits import DEFAULT_BATCHES
from samserve.infra.metrics import DECODE_WAITING
from samserve.infra.pool import submit

Result = TypeVar("Result")

SHORTEST_RETRY, LONGEST_RETRY = 0.1, 10.0  # seconds after which a refused caller may retry


class DecodeQueue:
    """Places for work in the pool. For one event loop.

    A piece of work is one prompt, one image to hash or one image to prepare. It holds its place
    until its thread is done, or until it is dropped because its caller left before it began.

    The work of a call with several prompts (a batch) does not compete for places. It enters the
    pool piece by piece: all batches together have at most as many pieces there as there are
    threads, and take turns. So a click waits for the pieces that threads work on at most, however
    large the batches are, and an accepted batch always finishes.

    A prompt of many points takes several times as long as a click. Batches with such prompts leave
    one thread to others, if there are several.

    Attributes:
        quiet: Set while no work is in the pool or about to enter it, for threads that give way.
    """

    def __init__(self, threads: int, queue: int, batches: int = DEFAULT_BATCHES) -> None:
        """Create the places.

        Args:
            threads: Of the pool.
            queue: Pieces of work that may wait for a thread.
            batches: Calls of several prompts that may be in progress.
        """
        self._threads = threads
        self._queue = queue
        self._most_batches = batches

        self._taken = 0  # by work in the pool, and by work about to enter it
        self._turns = asyncio.Semaphore(threads)  # first come, first served
        self._long_turns = asyncio.Semaphore(max(threads - 1, 1))
        self._turns_taken = 0
        self._batches: dict[object, int] = {}  # prompts that are not answered yet, of each batch

        self.quiet = threading.Event()
        self.quiet.set()

        self._seconds_per_piece = 0.01  # a moving average, while all threads are busy
        self._last_done = 0.0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place during the block, for work that is about to enter the pool.

        Giving it back and calling `submit` without awaiting in between cannot lose it.

        Raises:
            Overloaded: There is none.
        """
        self._check_places()
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)

    def submit(self, pool: Executor, work: Callable[..., Result], *args: Any) -> Future[Result]:
        """Submit a piece of work to the pool.

        Raises:
            Overloaded: There is no place.
        """
        self._check_places()
        return self._submit(pool, work, *args)

    async def run(self, pool: Executor, work: Callable[..., Result], *args: Any) -> Result:
        """Run a piece of work in the pool; it is dropped if the caller leaves before it began.

        Raises:
            Overloaded: There is no place.
        """
        return await asyncio.wrap_future(self.submit(pool, work, *args))

    async def run_batch(
        self, pool: Executor, pieces: Iterable[Callable[[], Result]], count: int, long: bool = False
    ) -> list[Result]:
        """Run a call's pieces of work in turns with those of other calls; return their results.

        Args:
            pool: To run them in.
            pieces: Each is taken when it begins to wait for its turn. Those that have not begun
                are dropped if the caller leaves, or once one has failed.
            count: How many they are.
            long: Whether some of them are prompts of many points.

        Raises:
            Overloaded: Too many calls of several pieces are in progress.
        """
        if len(self._batches) >= self._most_batches:
            raise Overloaded("the decoder's queue of batches", self._seconds_until_batch_done())

        batch = object()
        self._batches[batch] = count
        numbered = enumerate(pieces)
        results: dict[int, Result] = {}

        async def take_turns() -> None:
            for number, piece in numbered:
                turn = await self._submit_in_turn(pool, piece, long)
                results[number] = await asyncio.wrap_future(turn)
                self._batches[batch] -= 1

        takers = [asyncio.create_task(take_turns()) for _ in range(min(self._threads, count))]
        try:
            await asyncio.gather(*takers)
        finally:
            for taker in takers:
                taker.cancel()
            del self._batches[batch]
        return [results[number] for number in range(count)]

    async def _submit_in_turn(
        self, pool: Executor, piece: Callable[[], Result], long: bool
    ) -> Future[Result]:
        turns = [self._long_turns, self._turns] if long else [self._turns]
        held: list[asyncio.Semaphore] = []
        try:
            for each in turns:
                await each.acquire()
                held.append(each)
        except asyncio.CancelledError:
            for each in held:
                each.release()
            raise

        self._turns_taken += 1
        return self._submit(pool, piece, turns=held)

    def _submit(
        self,
        pool: Executor,
        work: Callable[..., Result],
        *args: Any,
        turns: Sequence[asyncio.Semaphore] = (),
    ) -> Future[Result]:
        if not self._taken:
            self._last_done = time.monotonic()

        loop = asyncio.get_running_loop()
        future = submit(pool, work, *args)
        self._add(1)
        future.add_done_callback(
            lambda future: loop.call_soon_threadsafe(self._give_back, future, turns)
        )
        return future

    def _give_back(self, future: Future[Any], turns: Sequence[asyncio.Semaphore]) -> None:
        """Free the place of work that a thread has done, or that was dropped."""
        if not future.cancelled():
            self._measure()
        if turns:
            self._turns_taken -= 1
        for turn in turns:
            turn.release()
        self._add(-1)

    def _check_places(self) -> None:
        # Batches do not compete for places.
        if self._taken - self._turns_taken >= self._threads + self._queue:
            raise Overloaded("the decoder's queue", self._seconds_for(self._taken))

    def _seconds_until_batch_done(self) -> float:
        """Estimate when the first batch will be done; they take turns."""
        return self._seconds_for(min(self._batches.values()) * len(self._batches))

    def _seconds_for(self, pieces: int) -> float:
        """Estimate how long so many pieces of work take."""
        seconds = pieces * self._seconds_per_piece
        return round(min(max(seconds, SHORTEST_RETRY), LONGEST_RETRY), 1)

    def _measure(self) -> None:
        now = time.monotonic()
        if self._taken >= self._threads:
            seconds = now - self._last_done
            self._seconds_per_piece += 0.1 * (seconds - self._seconds_per_piece)
        self._last_done = now

    def _add(self, places: int) -> None:
        self._taken += places
        if self._taken:
            self.quiet.clear()
        else:
            self.quiet.set()
        DECODE_WAITING.set(max(self._taken - self._threads, 0))
