"""Trying a call again when what it failed for may have passed.

gRPC's own retries will not do: they give up on a request of more than 256 KiB, and on a call whose answer has begun, as
every answer of Ray Serve's proxy has, a failure too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import SystemRandom
from typing import Any

import grpc

from samserve.core.errors import Overloaded, Unavailable, error_of

PAUSES = (0.5, 1.0, 2.0)  # seconds at most before the second attempt, the third, the last


def patiently(call: Any, request: Any, timeout: float, metadata: Sequence[tuple[str, str]], stage: str) -> Any:
    """The answer to a unary gRPC call, all attempts within `timeout` seconds. Raises as error_of does; stage: as there.

    Pauses are of random length, so that callers who failed together do not come again together.
    """
    give_up = time.monotonic() + timeout
    for most in (*PAUSES, None):
        try:
            return call(request, timeout=give_up - time.monotonic(), metadata=metadata)
        except grpc.RpcError as problem:
            error = error_of(problem, stage)
            pause = 0.0 if most is None else SystemRandom().uniform(most / 2, most)
            passing = isinstance(error, (Unavailable, Overloaded)) and most is not None
            if not passing or time.monotonic() + pause >= give_up:
                raise error from problem
        time.sleep(pause)
    raise AssertionError("unreachable: the last attempt returns or raises")
