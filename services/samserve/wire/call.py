"""What the services tell about themselves: metrics, structured logs, and the timer of stages.

A call is logged once, when it has been answered, if it failed or was slow; quick ones are only counted, and so, unless
debugging, are the failures of every day. Its line bears the request's id and the image's, as does every line written
while it is answered.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from samserve.infra.metrics import REQUEST_SECONDS, REQUESTS, REQUESTS_NOW
from samserve.infra.stages import StageClock

log = structlog.get_logger()

OURS = {"UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED"}  # codes that someone on call should see
# Every new image is first asked for by its id, people click on, and refusing must cost next to nothing.
EVERYDAY = {"NOT_FOUND", "CANCELLED", "RESOURCE_EXHAUSTED"}


@dataclass(slots=True)
class Outcome:
    """How an RPC ended: the name of its gRPC code, and what its caller was told if it failed."""

    code: str = "OK"
    reason: str = ""


@contextmanager
def observe_call(
    method: str, clock: StageClock | None = None, slow: float = math.inf
) -> Iterator[Outcome]:
    """Count and time an RPC; log it if it fails or takes more than `slow` seconds. The block tells the outcome if it is
    not OK. clock: of its stages.
    """
    started, outcome = time.perf_counter(), Outcome()
    try:
        with REQUESTS_NOW.labels(method).track_inprogress():
            yield outcome
    except (asyncio.CancelledError, GeneratorExit):
        outcome.code = "CANCELLED"
        raise
    finally:
        seconds = time.perf_counter() - started
        REQUESTS.labels(method, outcome.code).inc()
        REQUEST_SECONDS.labels(method).observe(seconds)
        if outcome.code != "OK" or seconds > slow:
            _log_answer(method, outcome, seconds, clock)


def _log_answer(method: str, outcome: Outcome, seconds: float, clock: StageClock | None) -> None:
    level = (
        logging.WARNING
        if outcome.code in OURS
        else logging.DEBUG
        if outcome.code in EVERYDAY
        else logging.INFO
    )
    stages = (
        {} if clock is None else {stage: round(ms, 1) for stage, ms in clock.milliseconds.items()}
    )
    log.log(
        level,
        "slow call" if outcome.code == "OK" else "failed call",
        method=method,
        code=outcome.code,
        reason=outcome.reason,
        milliseconds=round(1000 * seconds, 1),
        stages=stages,
    )
