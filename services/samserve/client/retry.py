"""Retries of unary calls.

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

from samserve.core.errors import DeadlinePassed, Overloaded, SamserveError, Unavailable
from samserve.wire.metadata import call_options
from samserve.wire.status import DETAILS_KEY, error_of

ATTEMPTS = 4  # for a failure without details; one with details is retried until the timeout
LONGEST = 5.0  # seconds between two attempts


def call_with_retry(
    call: Any, request: Any, *, timeout: float, metadata: Sequence[tuple[str, str]], stage: str
) -> Any:
    """Make a unary gRPC call; retry it if it fails with Unavailable or Overloaded.

    The pause between attempts is the delay the service asks for, doubled with each attempt. It is
    shortened by a random part, so that callers who failed together do not return together.

    Args:
        call: a stub's method.
        request: the message to send.
        timeout: seconds for all attempts together.
        metadata: pairs sent with each attempt.
        stage: the service's name in errors.

    Raises:
        SamserveError: as `error_of` translates. If the time runs out in a later attempt, the
            error of the attempt before it, which says why.
    """
    deadline = time.monotonic() + timeout
    last_error: SamserveError | None = None

    for attempt in count(1):
        try:
            return call(request, **call_options(deadline - time.monotonic(), metadata))
        except grpc.RpcError as problem:
            error = error_of(problem, stage)

            if not isinstance(error, (Unavailable, Overloaded)):
                if last_error is not None and isinstance(error, DeadlinePassed):
                    raise last_error from problem
                raise error from problem

            last_error = error
            pause = _pause(error.retry_after, attempt)

            attempts_left = attempt < ATTEMPTS or _has_details(problem)
            if not attempts_left or time.monotonic() + pause >= deadline:
                raise error from problem

        time.sleep(pause)

    raise AssertionError("unreachable: the attempts end by returning or raising")


def _pause(retry_after: float, attempt: int) -> float:
    seconds: float = min(retry_after * 2 ** (attempt - 1), LONGEST)
    return seconds * SystemRandom().uniform(0.5, 1)


def _has_details(problem: Any) -> bool:
    """Whether samserve itself sent the status, and with it a delay to wait."""
    return any(pair.key == DETAILS_KEY for pair in problem.trailing_metadata() or ())
