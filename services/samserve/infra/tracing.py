"""Traces of requests. Off, with OpenTelemetry not imported, unless a program sets them up.

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
_tracer: OtelTracer | None = None  # one for the process, like the metrics


class Kind(Enum):
    """OpenTelemetry's kinds of spans."""

    INTERNAL = "internal"  # work inside this process
    SERVER = "server"  # a call that is answered
    CLIENT = "client"  # a call to another process


def set_up(service: str, endpoint: str) -> None:
    """Trace this process.

    Args:
        service: Name of the service, without `samserve-`.
        endpoint: OTLP endpoint over gRPC, as http(s)://host:port; empty means no traces.
    """
    if endpoint:
        from samserve.infra import otel

        otel.export(f"samserve-{service}", endpoint)
        _enable()


def join() -> None:
    """Trace this process if its program has set up OpenTelemetry itself."""
    if "opentelemetry.sdk.trace" in sys.modules:
        _enable()


def span(name: str, kind: Kind = Kind.INTERNAL) -> AbstractContextManager[Any]:
    """Trace the block as a span within the current one."""
    return _OFF if _tracer is None else _tracer.span(name, kind.name)


def continue_trace(metadata: Metadata) -> AbstractContextManager[Any]:
    """Continue the caller's trace in the block, if the call's metadata has one."""
    return _OFF if _tracer is None else _tracer.continue_trace(metadata)


def inject_headers() -> tuple[tuple[str, str], ...]:
    """Return metadata that carries the current span to a called service; empty without one."""
    return () if _tracer is None else _tracer.inject_headers()


def set_attribute(key: str, value: str) -> None:
    """Set an attribute of the current span."""
    if _tracer is not None:
        _tracer.set_attribute(key, value)


def _enable() -> None:
    global _tracer
    from samserve.infra.otel import OtelTracer

    _tracer = OtelTracer()
