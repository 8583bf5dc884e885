"""Where requests are traced. Off, and OpenTelemetry not imported, unless a program sets it up.

Context travels between processes as W3C's `traceparent` in gRPC's metadata.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samserve.infra.otel import Metadata, OtelTracer

_OFF: AbstractContextManager[Any] = nullcontext()
_tracer: OtelTracer | None = None  # this process's, as the metrics are


class Kind(Enum):
    """OpenTelemetry's kinds of spans: work of one's own, answering a call, making one."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


def set_up(service: str, endpoint: str) -> None:
    """Trace this process and send the spans to `endpoint`, http(s)://host:port of OTLP over gRPC; empty: do not."""
    if endpoint:
        from samserve.infra import otel as spans

        spans.export(f"samserve-{service}", endpoint)
        _trace()


def join() -> None:
    """Trace this process if its program has set up OpenTelemetry for itself."""
    if "opentelemetry.sdk.trace" in sys.modules:
        _trace()


def span(name: str, kind: Kind = Kind.INTERNAL) -> AbstractContextManager[Any]:
    """A span for the length of a block, within the one around it."""
    return _OFF if _tracer is None else _tracer.span(name, kind.name)


def continue_trace(metadata: Metadata) -> AbstractContextManager[Any]:
    """Spans in the block belong to the caller's, if its metadata names one."""
    return _OFF if _tracer is None else _tracer.continue_trace(metadata)


def inject_headers() -> tuple[tuple[str, str], ...]:
    """Metadata that carries the span around to a service that is asked; empty if there is none."""
    return () if _tracer is None else _tracer.inject_headers()


def note(key: str, value: str) -> None:
    """An attribute of the span around."""
    if _tracer is not None:
        _tracer.note(key, value)


def _trace() -> None:
    global _tracer
    from samserve.infra.otel import OtelTracer

    _tracer = OtelTracer()
