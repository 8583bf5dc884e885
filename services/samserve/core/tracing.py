"""Where requests are traced. Off, and OpenTelemetry not imported, unless a program sets it up.

Context travels between processes as W3C's `traceparent` in gRPC's metadata.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from samserve.core.spans import Spans

Metadata = Iterable[tuple[str, str | bytes]]

_OFF: AbstractContextManager[Any] = nullcontext()
_spans: Spans | None = None  # this process's, as the metrics are


class Kind(Enum):
    """OpenTelemetry's kinds of spans: work of one's own, answering a call, making one."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


def set_up(service: str, endpoint: str) -> None:
    """Trace this process and send the spans to `endpoint`, http(s)://host:port of OTLP over gRPC; empty: do not."""
    if endpoint:
        from samserve.core import spans

        spans.export(f"samserve-{service}", endpoint)
        _trace()


def join() -> None:
    """Trace this process if its program has set up OpenTelemetry for itself."""
    if "opentelemetry.sdk.trace" in sys.modules:
        _trace()


def span(name: str, kind: Kind = Kind.INTERNAL) -> AbstractContextManager[Any]:
    """A span for the length of a block, within the one around it."""
    return _OFF if _spans is None else _spans.span(name, kind.name)


def continued(metadata: Metadata) -> AbstractContextManager[Any]:
    """Spans in the block belong to the caller's, if its metadata names one."""
    return _OFF if _spans is None else _spans.continued(metadata)


def carried() -> tuple[tuple[str, str], ...]:
    """Metadata that carries the span around to a service that is asked; empty if there is none."""
    return () if _spans is None else _spans.carried()


def note(key: str, value: str) -> None:
    """An attribute of the span around."""
    if _spans is not None:
        _spans.note(key, value)


def _trace() -> None:
    global _spans
    from samserve.core.spans import Spans

    _spans = Spans()
