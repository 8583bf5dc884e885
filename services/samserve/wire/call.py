"""The scope in which a call is answered: its id, its trace, its metrics, its log line.

A call is logged once, when it has been answered, if it failed or was slow. Other calls are only
counted. Failures that are part of normal operation are logged at debug level. Each line has the
ids of the request and of the image, as does every line that is logged during the call.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import grpc
import structlog
from google.rpc.status_pb2 import Status
from structlog.contextvars import bound_contextvars

from samserve.infra.metrics import REQUEST_SECONDS, REQUESTS, REQUESTS_NOW
from samserve.infra.stages import StageClock
from samserve.infra.tracing import Kind, continue_trace, span
from samserve.wire.request_id import REQUEST_ID_KEY, request_id_of
from samserve.wire.status import DETAILS_KEY, code_of, status_of

log = structlog.get_logger()

# Codes that need an operator's attention.
ALERTING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}

# A new image is first requested by its id, users cancel, and refusals must cost next to nothing.
ROUTINE = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
}


@dataclass(slots=True)
class Call:
    """A call that is being answered.

    Attributes:
        request_id: The request's id in logs and metadata; empty for a step of a stream.
        code: OK until the call fails or is cancelled.
        status: What the caller is told about a failure.
    """

    request_id: str = ""
    code: grpc.StatusCode = grpc.StatusCode.OK
    status: Status = field(default_factory=Status)

    @property
    def failed(self) -> bool:
        """Whether the call has failed or was cancelled."""
        return self.code is not grpc.StatusCode.OK

    def fail(self, error: Exception) -> None:
        """Note that the call failed with this error."""
        self.code = code_of(error)
        self.status = status_of(error)

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The request's id, and the details of a failure."""
        request_id = (REQUEST_ID_KEY, self.request_id)
        if not self.failed:
            return (request_id,)
        return (request_id, (DETAILS_KEY, self.status.SerializeToString()))


@contextmanager
def call_scope(
    method: str,
    metadata: Iterable[tuple[str, str | bytes]],
    *,
    clock: StageClock | None = None,
    slow: float = math.inf,
    request_id: str = "",
    traced: bool = True,
    counted: bool = True,
) -> Iterator[Call]:
    """Answer a call in the block. An error ends the block and becomes the call's status.

    Args:
        method: Name of the call in metrics, logs and traces.
        metadata: The caller's metadata: request id and trace.
        clock: Timer of the call's stages, for its log line.
        slow: Seconds after which a call is logged although it succeeded.
        request_id: Used instead of the metadata's.
        traced: Whether the call is one span. Parts of a stream have spans of their own instead.
        counted: Whether the call is counted, timed and logged; false for items of a stream.
    """
    call = Call(request_id or request_id_of(metadata))

    with (
        bound_contextvars(request_id=call.request_id),
        continue_trace(metadata),
        _observe(call, method, clock, slow) if counted else nullcontext(),
    ):
        try:
            with span(method, Kind.SERVER) if traced else nullcontext():
                yield call
        except Exception as error:
            call.fail(error)


@contextmanager
def observe_call(
    method: str, *, clock: StageClock | None = None, slow: float = math.inf
) -> Iterator[Call]:
    """Count, time and log a call or a step of a stream; errors pass through.

    Use it where `call_scope` cannot be used: within a scope, or around the yields of a generator.
    """
    call = Call()
    with _observe(call, method, clock, slow):
        yield call


@contextmanager
def _observe(call: Call, method: str, clock: StageClock | None, slow: float) -> Iterator[None]:
    started = time.perf_counter()
    try:
        with REQUESTS_NOW.labels(method).track_inprogress():
            yield
    except (asyncio.CancelledError, GeneratorExit):
        call.code = grpc.StatusCode.CANCELLED
        raise
    finally:
        seconds = time.perf_counter() - started
        REQUESTS.labels(method, call.code.name).inc()
        REQUEST_SECONDS.labels(method).observe(seconds)
        if call.failed or seconds > slow:
            _log_call(call, method, seconds, clock)


def _log_call(call: Call, method: str, seconds: float, clock: StageClock | None) -> None:
    level = logging.INFO
    if call.code in ALERTING:
        level = logging.WARNING
    elif call.code in ROUTINE:
        level = logging.DEBUG

    stages = {} if clock is None else clock.milliseconds
    log.log(
        level,
        "failed call" if call.failed else "slow call",
        method=method,
        code=call.code.name,
        reason=call.status.message,
        milliseconds=round(1000 * seconds, 1),
        stages={stage: round(ms, 1) for stage, ms in stages.items()},
    )
