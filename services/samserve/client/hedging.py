"""Further attempts of calls that take unusually long.

A server that stands still, without closing its connections, neither answers nor refuses a call. So
after a few times the usual duration a call is made once more, on the next server, and the first
answer counts. Only for calls that may safely be made twice (docs/decisions/0030).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

import grpc.aio

from samserve.wire.metadata import call_options

MOST_ATTEMPTS = 5  # of one call at once
USUAL = 0.95  # quantile of recent durations
FACTOR = 3  # times the usual duration
SHORTEST_DELAY = 0.1  # seconds
FIRST_DELAY = 1.0  # seconds, until enough calls have been timed
SHARE = 4  # the delay is at most this part of the caller's time
FEWEST_TIMED, MOST_TIMED = 16, 128  # calls

# The connection or the server failed.
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

FULL_BUDGET = 50.0
EARNED = 0.1  # further attempts for each call that succeeds


class AttemptBudget:
    """Bounds the attempts beyond each call's first, so that trouble does not multiply the load.

    Each further attempt costs one; each call that succeeds earns a tenth.
    """

    def __init__(self) -> None:
        self._left = FULL_BUDGET
        self._lock = Lock()

    def earn(self) -> None:
        with self._lock:
            self._left = min(self._left + EARNED, FULL_BUDGET)

    def spend(self) -> bool:
        """Pay for one further attempt. Returns whether there was enough."""
        with self._lock:
            enough = self._left >= 1
            self._left -= enough
        return enough


class UsualTime:
    """How long the calls of one method take, and when to make one a second time."""

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=MOST_TIMED)  # seconds for one prompt
        self._delay = FIRST_DELAY
        self._lock = Lock()

    def delay(self, prompts: int, timeout: float) -> float:
        """Return the seconds after which a call has taken unusually long."""
        return min(self._delay * prompts, timeout / SHARE)

    def note(self, seconds: float, prompts: int) -> None:
        """Note how long a call took."""
        with self._lock:
            self._durations.append(seconds / prompts)
            if len(self._durations) >= FEWEST_TIMED:
                usual = sorted(self._durations)[int(USUAL * len(self._durations))]
                self._delay = max(FACTOR * usual, SHORTEST_DELAY)


class Hedge:
    """Makes calls of one method, and knows how long they take. Threads may share it."""

    def __init__(self, budget: AttemptBudget) -> None:
        self._budget = budget
        self._usual = UsualTime()

    def call(
        self,
        method: Any,
        request: Any,
        *,
        timeout: float,
        metadata: Sequence[tuple[str, str]],
        prompts: int = 1,
    ) -> Any:
        """Make a unary call, more than once if it takes unusually long. Raises grpc.RpcError.

        Args:
            method: A stub's method.
            request: The message to send.
            timeout: Seconds for all attempts together.
            metadata: Pairs sent with each attempt.
            prompts: How much work the request is.
        """
        deadline = time.monotonic() + timeout
        delay: float | None = self._usual.delay(prompts, timeout)
        started: dict[Any, float] = {}  # attempt -> time
        finished: SimpleQueue[Any] = SimpleQueue()

        def start() -> None:
            now = time.monotonic()
            attempt = method.future(request, **call_options(max(deadline - now, 0.0), metadata))
            started[attempt] = now
            attempt.add_done_callback(finished.put)

        try:
            start()
            while True:
                try:
                    attempt = finished.get(timeout=delay)
                except Empty:
                    if self._budget.spend():
                        start()
                    else:
                        delay = None
                    if len(started) == MOST_ATTEMPTS:
                        delay = None
                    continue

                code = attempt.code()
                if code is grpc.StatusCode.OK:
                    self._usual.note(time.monotonic() - started[attempt], prompts)
                elif code in _BROKEN and not all(other.done() for other in started):
                    continue  # another attempt may be answered
                return attempt.result()
        finally:
            for attempt in started:
                attempt.cancel()


class AsyncHedge:
    """The same for asyncio."""

    def __init__(self, budget: AttemptBudget) -> None:
        self._budget = budget
        self._usual = UsualTime()

    async def call(
        self,
        method: Any,
        request: Any,
        *,
        timeout: float,  # noqa: ASYNC109  # gRPC's own deadline, which the server learns
        metadata: Sequence[tuple[str, str]],
        prompts: int = 1,
    ) -> Any:
        """Make a unary call. Arguments and errors as of `Hedge.call`."""
        deadline = time.monotonic() + timeout
        delay: float | None = self._usual.delay(prompts, timeout)
        started: dict[asyncio.Task[Any], float] = {}  # attempt -> time

        async def attempt() -> Any:
            seconds = max(deadline - time.monotonic(), 0.0)
            return await method(request, **call_options(seconds, metadata))

        def start() -> None:
            started[asyncio.create_task(attempt())] = time.monotonic()

        try:
            start()
            while True:
                running = [task for task in started if not task.done()]
                done, _ = await asyncio.wait(
                    running, timeout=delay, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    if self._budget.spend():
                        start()
                    else:
                        delay = None
                    if len(started) == MOST_ATTEMPTS:
                        delay = None
                    continue

                first = min(done, key=lambda task: task.exception() is not None)
                problem = first.exception()
                if problem is None:
                    self._usual.note(time.monotonic() - started[first], prompts)
                elif _is_broken(problem) and not all(task.done() for task in started):
                    continue  # another attempt may be answered
                return first.result()
        finally:
            for task in started:
                task.cancel()
            await asyncio.gather(*started, return_exceptions=True)


def _is_broken(problem: BaseException) -> bool:
    return isinstance(problem, grpc.aio.AioRpcError) and problem.code() in _BROKEN
