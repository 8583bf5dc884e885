"""Retries of unary calls that failed; client/hedging.py is for those that take too long.

gRPC's own retries do not suffice. They give up on a request of more than 256 KiB, and on a call
whose response has begun. Every response of Ray Serve's proxy has begun, failures too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from random import SystemRandom
from typing import Any

import grpc

from samserve.client.hedging import AsyncHedge, AttemptBudget, Hedge
from samserve.client.servers import for_attempts
from samserve.core.errors import DeadlinePassed, Overloaded, SamserveError, Unavailable
from samserve.wire.metadata import call_options
from samserve.wire.status import DETAILS_KEY, error_of

ATTEMPTS = 4  # for a failure without details; one with details is retried until the timeout
LONGEST = 5.0  # seconds between two attempts
AT_ONCE = 0.05  # seconds before the second attempt, if a connection or a proxy failed


class Attempts:
    """The attempts of one call: the time that is left, and what follows a failure."""

    def __init__(self, stage: str, budget: AttemptBudget, timeout: float) -> None:
        """Begin a call.

        Args:
            stage: The service's name in errors.
            budget: Bounds attempts after failures without details.
            timeout: Seconds for all attempts together.
        """
        self._stage = stage
        self._budget = budget
        self._deadline = time.monotonic() + timeout
        self._failed = 0
        self._last_error: SamserveError | None = None

    @property
    def seconds_left(self) -> float:
        """Seconds until the call's deadline."""
        return self._deadline - time.monotonic()

    def pause_after(self, problem: Any) -> float:
        """Return the seconds to wait before the next attempt, after one failed.

        The pause is the delay the service asks for, doubled with each attempt. It is shortened by a
        random part, so that callers who failed together do not return together. A failure without
        details comes from a connection or a proxy, perhaps because of another caller: the second
        attempt follows at once.

        Args:
            problem: A grpc.RpcError, plain or aio.

        Raises:
            SamserveError: There is no next attempt. If the time ran out in a later attempt, the
                error of the attempt before it, which says why.
        """
        error = error_of(problem, self._stage)
        if not isinstance(error, (Unavailable, Overloaded)):
            if self._last_error is not None and isinstance(error, DeadlinePassed):
                raise self._last_error from problem
            raise error from problem

        self._last_error = error
        self._failed += 1
        detailed = _has_details(problem)
        pause = _pause(error.retry_after, self._failed, detailed)

        attempts_left = detailed or (self._failed < ATTEMPTS and self._budget.spend())
        if not attempts_left or pause >= self.seconds_left:
            raise error from problem
        return pause


class RetryingCaller:
    """Makes the unary calls to one service; retries Unavailable and Overloaded.

    Threads may share it.
    """

    def __init__(self, stage: str) -> None:
        """Create a caller; `stage` is the service's name in errors."""
        self._stage = stage
        self._budget = AttemptBudget()

    def hedge(self) -> Hedge:
        """Return a hedge for one method, within this service's budget."""
        return Hedge(self._budget)

    def call(
        self,
        method: Any,
        request: Any,
        *,
        timeout: float,
        metadata: Sequence[tuple[str, str]] = (),
        hedge: Hedge | None = None,
        prompts: int = 1,
    ) -> Any:
        """Make a call.

        Args:
            method: A stub's method.
            request: The message to send.
            timeout: Seconds for all attempts together.
            metadata: Pairs sent with each attempt.
            hedge: Makes the attempts, for a request that may be made twice at once.
            prompts: As in `Hedge.call`.

        Raises:
            SamserveError: As `Attempts.pause_after` does.
        """
        attempts = Attempts(self._stage, self._budget, timeout)
        method = for_attempts(method)
        while True:
            seconds = attempts.seconds_left
            try:
                if hedge is None:
                    response = method(request, **call_options(seconds, metadata))
                else:
                    response = hedge.call(
                        method, request, timeout=seconds, metadata=metadata, prompts=prompts
                    )
            except grpc.RpcError as problem:
                pause = attempts.pause_after(problem)
            else:
                self._budget.earn()
                return response

            time.sleep(pause)


class AsyncRetryingCaller:
    """The same for asyncio."""

    def __init__(self, stage: str) -> None:
        """Create a caller; `stage` is the service's name in errors."""
        self._stage = stage
        self._budget = AttemptBudget()

    def hedge(self) -> AsyncHedge:
        """Return a hedge for one method, within this service's budget."""
        return AsyncHedge(self._budget)

    async def call(
        self,
        method: Any,
        request: Any,
        *,
        timeout: float,  # noqa: ASYNC109  # gRPC's own deadline, which the server learns
        metadata: Sequence[tuple[str, str]] = (),
        hedge: AsyncHedge | None = None,
        prompts: int = 1,
    ) -> Any:
        """Make a call. Arguments and errors as of `RetryingCaller.call`."""
        attempts = Attempts(self._stage, self._budget, timeout)
        method = for_attempts(method)
        while True:
            seconds = attempts.seconds_left
            try:
                if hedge is None:
                    response = await method(request, **call_options(seconds, metadata))
                else:
                    response = await hedge.call(
                        method, request, timeout=seconds, metadata=metadata, prompts=prompts
                    )
            except grpc.RpcError as problem:
                pause = attempts.pause_after(problem)
            else:
                self._budget.earn()
                return response

            await asyncio.sleep(pause)


def _pause(retry_after: float, attempt: int, detailed: bool) -> float:
    seconds: float = min(retry_after * 2 ** (attempt - 1), LONGEST)
    if attempt == 1 and not detailed:
        seconds = AT_ONCE
    return seconds * SystemRandom().uniform(0.5, 1)


def _has_details(problem: Any) -> bool:
    """Whether samserve itself sent the status, and with it a delay to wait."""
    return any(key == DETAILS_KEY for key, _ in problem.trailing_metadata() or ())
