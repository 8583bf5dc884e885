"""Bounds the work that is done in the decoder's pool or waits for it, and decides whose is next."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from samserve.core.caller import current_caller
from samserve.core.errors import Overloaded
from samserve.core.fair_queue import FairQueue
from samserve.core.holders import Holders
from samserve.core.limits import DEFAULT_BATCHES
from samserve.decoder.piece import Piece
from samserve.infra.fair_turns import FairTurns
from samserve.infra.metrics import DECODE_WAITING

Result = TypeVar("Result")

AHEAD = 1  # pieces in the pool that wait for a thread, so that none is idle meanwhile

SHORTEST_RETRY, LONGEST_RETRY = 0.1, 10.0  # seconds after which a refused caller may retry


class DecodeQueue:
    """Places for work in the pool. For one event loop.

    A piece of work is one prompt, one image to hash or one image to prepare. It holds its place
    until its thread is done, or until it is dropped because its caller left before it began.

    Work waits here and not in the pool, so that tenants share the threads by their weights. A full
    queue drops the newest piece of the tenant that has most in it.

    The work of a call with several prompts (a batch) does not compete for places. It enters the
    pool piece by piece: all batches together have at most as many pieces there as there are
    threads, and take turns. So a click waits for the pieces that threads work on at most, however
    large the batches are, and an accepted batch always finishes.

    A prompt of many points takes several times as long as a click. Batches with such prompts leave
    one thread to others, if there are several.

    Attributes:
        quiet: Set while no work is in the pool or about to enter it, for threads that give way.
    """

    def __init__(
        self, threads: int, queue: int, batches: int = DEFAULT_BATCHES, share: float = 1.0
    ) -> None:
        """Create the places.

        Args:
            threads: Of the pool.
            queue: Pieces of work that may wait for a thread.
            batches: Calls of several prompts that may be in progress.
            share: Part of them that may be one tenant's.
        """
        self._threads = threads
        self._queue = queue
        self._batch_holders = Holders(batches, share)

        self._taken = 0  # by work in the pool, and by work about to enter it
        self._waiting: FairQueue[Piece[Any]] = FairQueue()
        self._in_pool = 0
        self._turns = FairTurns(threads)
        self._long_turns = FairTurns(max(threads - 1, 1))
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
        return self._submit(pool, partial(work, *args))

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
        refusal = Overloaded("the decoder's queue of batches", self._seconds_until_batch_done())
        with self._batch_holders.hold(refusal):
            return await self._run_batch(pool, pieces, count, long)

    async def _run_batch(
        self, pool: Executor, pieces: Iterable[Callable[[], Result]], count: int, long: bool
    ) -> list[Result]:
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
        held: list[FairTurns] = []
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
        work: Callable[[], Result],
        *,
        turns: Sequence[FairTurns] = (),
    ) -> Future[Result]:
        if not self._taken:
            self._last_done = time.monotonic()

        piece = Piece(work, in_turn=bool(turns))
        self._add(1)
        caller = current_caller()
        number = self._waiting.push(caller.tenant, piece, caller.plan.share)

        loop = asyncio.get_running_loop()
        piece.add_done_callback(
            lambda _: loop.call_soon_threadsafe(self._give_back, pool, piece, number, turns)
        )
        self._fill(pool)
        return piece

    def _fill(self, pool: Executor) -> None:
        """Let the next pieces enter the pool."""
        while self._in_pool < self._threads + AHEAD and len(self._waiting):
            piece = self._waiting.pop()
            if not piece.done():
                self._in_pool += 1
                piece.enter(pool)

    def _give_back(
        self, pool: Executor, piece: Piece[Any], number: int, turns: Sequence[FairTurns]
    ) -> None:
        """Free the place of work that a thread has done, or that was dropped."""
        if piece.entered:
            self._in_pool -= 1
            if not piece.cancelled():
                self._measure()
        else:
            self._waiting.remove(number)
        if turns:
            self._turns_taken -= 1
        for turn in turns:
            turn.release()
        self._add(-1)
        self._fill(pool)

    def _check_places(self) -> None:
        # Batches do not compete for places.
        if self._taken - self._turns_taken < self._threads + self._queue:
            return
        refusal = Overloaded("the decoder's queue", self._seconds_for(self._taken))
        caller = current_caller()
        dropped = self._waiting.pop_excess(
            caller.tenant, caller.plan.share, lambda piece: not piece.in_turn
        )
        if dropped is None:
            raise refusal
        dropped.refuse(refusal)

    def _seconds_until_batch_done(self) -> float:
        """Estimate when the first batch will be done; they take turns."""
        return self._seconds_for(min(self._batches.values(), default=0) * len(self._batches))

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
