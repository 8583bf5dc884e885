"""What the services tell about themselves: metrics, structured logs, and the timer of stages.

A call is logged once, when it has been answered, if it failed or was slow; quick ones are only counted, and so, unless
debugging, are the failures of every day. Its line bears the request's id and the image's, as does every line written
while it is answered.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from prometheus_client import Counter, Gauge, Histogram

from samserve.core import tracing

CACHE_OUTCOMES = Counter("samserve_cache_outcomes_total", "Embedding cache operations by outcome.", ["outcome"])
CACHE_BYTES = Counter(
    "samserve_cache_bytes_total", "Bytes of embeddings read from the cache and written to it.", ["way"]
)
EMBEDDED = Counter(
    "samserve_embedded_total", "Images answered by the embedding service: hit, miss, coalesced.", ["model", "cache"]
)
MODEL_INFO = Gauge(
    "samserve_model_info",
    "1 for what this process answers with, 0 for what it no longer does. Of the embedding service: what Triton has "
    "loaded, by which variant and backend; of a decoder: every version whose embeddings it takes.",
    ["model", "version", "variant", "backend"],
    multiprocess_mode="livemax",
)
DECODED = Counter("samserve_decoded_total", "Prompts answered by the decoder.", ["model"])
RESIDENT_BYTES = Gauge("samserve_resident_bytes", "Bytes of images kept ready in this process.")
RESIDENT_LOOKUPS = Counter("samserve_resident_lookups_total", "Images looked for in this process.", ["outcome"])
RESIDENT_EVICTIONS = Counter("samserve_resident_evictions_total", "Images that made room for others in this process.")
REQUESTS = Counter("samserve_requests_total", "Answered RPCs by method and gRPC code.", ["method", "code"])
REQUESTS_NOW = Gauge(
    "samserve_requests_in_progress", "RPCs that are being answered.", ["method"], multiprocess_mode="livesum"
)
WAITING = Gauge(
    "samserve_embed_waiting", "Images that wait for a slot to be embedded.", ["priority"], multiprocess_mode="livesum"
)
DECODE_WAITING = Gauge("samserve_decode_waiting", "Prompts that wait for a thread to be decoded.")
REQUEST_SECONDS = Histogram(
    "samserve_request_seconds",
    "Time to answer an RPC.",
    ["method"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30),
)
STAGE_SECONDS = Histogram(
    "samserve_stage_seconds",
    "Time spent in one stage of a request.",
    ["stage"],
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)


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
def answering(method: str, clock: StageClock | None = None, slow: float = math.inf) -> Iterator[Outcome]:
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
    level = logging.WARNING if outcome.code in OURS else logging.DEBUG if outcome.code in EVERYDAY else logging.INFO
    stages = {} if clock is None else {stage: round(ms, 1) for stage, ms in clock.milliseconds.items()}
    log.log(
        level,
        "slow call" if outcome.code == "OK" else "failed call",
        method=method,
        code=outcome.code,
        reason=outcome.reason,
        milliseconds=round(1000 * seconds, 1),
        stages=stages,
    )


def about_image(image_id: str) -> None:
    """Say in the log's lines and the span of the call that is being answered which image it is about."""
    structlog.contextvars.bind_contextvars(image_id=image_id)
    tracing.note("samserve.image_id", image_id)


class StageClock:
    """Times the stages of one request; each request has its own."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self.latest = ""  # the stage that began last

    def add(self, milliseconds: dict[str, float]) -> None:
        """Take over the stages of a service that was asked; its own metrics have them already."""
        self.milliseconds.update(milliseconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to stage `name`, here and in the metrics, whether or not it fails; a span, too."""
        self.latest = name
        started = time.perf_counter()
        try:
            with tracing.span(name):
                yield
        finally:
            self.note(name, time.perf_counter() - started)

    def note(self, name: str, seconds: float) -> None:
        """Add a time that was taken elsewhere to stage `name`, here and in the metrics."""
        STAGE_SECONDS.labels(name).observe(seconds)
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + 1000 * seconds


def set_up_logs(service: str, level: str) -> None:
    """One JSON object a line on stderr, `service` in each."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(service=service)
