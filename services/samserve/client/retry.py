"""Trying a call again when what it failed for may have passed.

gRPC's own retries will not do: they give up on a request of more than 256 KiB, and on a call whose answer has begun, as
every answer of Ray Serve's proxy has, a failure too.
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

ATTEMPTS = (
    4  # where nobody answers; a service that says when to come back is asked until the time is up
)
LONGEST = 5.0  # seconds between two attempts


def call_with_retry(
    call: Any, request: Any, timeout: float, metadata: Sequence[tuple[str, str]], stage: str
) -> Any:
    """The answer to a unary gRPC call, all attempts within `timeout` seconds. Raises as error_of does; stage: as there.

    Pauses are what the service asks for, doubled with each attempt, and of random length, so that callers who failed
    together do not come again together. If the time runs out in a later attempt, what the one before it failed with is
    raised, since that says why.
    """
    give_up = time.monotonic() + timeout
    said: SamserveError | None = None
    for attempt in count(1):
        try:
            return call(request, **call_options(give_up - time.monotonic(), metadata))
        except grpc.RpcError as problem:
            error = error_of(problem, stage)
            if not isinstance(error, (Unavailable, Overloaded)):
                raise said if said and isinstance(error, DeadlinePassed) else error from problem
            said = error
            pause = min(error.retry_after * 2 ** (attempt - 1), LONGEST) * SystemRandom().uniform(
                0.5, 1
            )
            told_when = any(sent.key == DETAILS_KEY for sent in problem.trailing_metadata() or ())
            if (attempt >= ATTEMPTS and not told_when) or time.monotonic() + pause >= give_up:
                raise error from problem
        time.sleep(pause)
    raise AssertionError("unreachable: the attempts end by returning or raising")
