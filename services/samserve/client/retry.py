"""Retries of unary calls that failed; client/hedging.py is for those that take too long.

gRPC's own retries do not suffice. They give up on a request of more than 256 KiB, and on a call
whose response has begun. Every response of Ray Serve's proxy has begun, failures too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import count
from random import SystemRandom
from typing import Any

import grpc

from samserve.client.hedging import AttemptBudget, Hedge
from samserve.core.errors import DeadlinePassed, Overloaded, SamserveError, Unavailable
from samserve.wire.metadata import call_options
from samserve.wire.status import DETAILS_KEY, error_of

ATTEMPTS = 4  # for a failure without details; one with details is retried until the timeout
LONGEST = 5.0  # seconds between two attempts
AT_ONCE = 0.05  # seconds before the second attempt, if a connection or a proxy failed


class RetryingCaller:
    """Makes the unary calls to one service. Threads may share it."""

    def __init__(self, stage: str, metadata: Sequence[tuple[str, str]]) -> None:
        """Create a caller.

        Args:
            stage: The service's name in errors.
            metadata: Pairs sent with each attempt.
        """
        self._stage = stage
        self._metadata = metadata
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
        hedge: Hedge | None = None,
        prompts: int = 1,
    ) -> Any:
        """Make a call; retry it if it fails with Unavailable or Overloaded.

        The pause between attempts is the delay the service asks for, doubled with each attempt. It
        is shortened by a random part, so that callers who failed together do not return together.
        A failure without details comes from a connection or a proxy, perhaps because of another
        caller: the second attempt follows at once.

        Args:
            method: A stub's method.
            request: The message to send.
            timeout: Seconds for all attempts together.
            hedge: Makes the attempts, for a request that may be made twice at once.
            prompts: As in `Hedge.call`.

        Raises:
            SamserveError: As `error_of` translates. If the time runs out in a later attempt, the
                error of the attempt before it, which says why.
        """
        deadline = time.monotonic() + timeout
        last_error: SamserveError | None = None

        for attempt in count(1):
            seconds = deadline - time.monotonic()
            try:
                if hedge is None:
                    response = method(request, **call_options(seconds, self._metadata))
                else:
                    response = hedge.call(
                        method, request, timeout=seconds, metadata=self._metadata, prompts=prompts
                    )
            except grpc.RpcError as problem:
                error = error_of(problem, self._stage)

                if not isinstance(error, (Unavailable, Overloaded)):
                    if last_error is not None and isinstance(error, DeadlinePassed):
                        raise last_error from problem
                    raise error from problem

                last_error = error
                detailed = _has_details(problem)
                pause = _pause(error.retry_after, attempt, detailed)

                attempts_left = detailed or (attempt < ATTEMPTS and self._budget.spend())
                if not attempts_left or time.monotonic() + pause >= deadline:
                    raise error from problem
            else:
                self._budget.earn()
                return response

            time.sleep(pause)

        raise AssertionError("unreachable: the attempts end by returning or raising")


def _pause(retry_after: float, attempt: int, detailed: bool) -> float:
    seconds: float = min(retry_after * 2 ** (attempt - 1), LONGEST)
    if attempt == 1 and not detailed:
        seconds = AT_ONCE
    return seconds * SystemRandom().uniform(0.5, 1)


def _has_details(problem: Any) -> bool:
    """Whether samserve itself sent the status, and with it a delay to wait."""
    return any(pair.key == DETAILS_KEY for pair in problem.trailing_metadata() or ())
