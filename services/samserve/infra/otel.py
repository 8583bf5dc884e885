"""OpenTelemetry behind infra/tracing.py; no other file imports it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import context, trace
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Metadata = Iterable[tuple[str, str | bytes]]


class OtelTracer:
    """Makes spans with the tracer of this process."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("samserve")
        self._w3c = TraceContextTextMapPropagator()

    def span(self, name: str, kind: str) -> AbstractContextManager[Span]:
        return self._tracer.start_as_current_span(name, kind=SpanKind[kind])

    @contextmanager
    def continue_trace(self, metadata: Metadata) -> Iterator[None]:
        headers = {key: str(value) for key, value in metadata}
        token = context.attach(self._w3c.extract(headers))
        try:
            yield
        finally:
            context.detach(token)

    def inject_headers(self) -> tuple[tuple[str, str], ...]:
        headers: dict[str, str] = {}
        self._w3c.inject(headers)
        return tuple(headers.items())

    def set_attribute(self, key: str, value: str) -> None:
        trace.get_current_span().set_attribute(key, value)


def export(service: str, endpoint: str) -> None:
    """Send this process's spans in batches to an OTLP endpoint over gRPC.

    OTEL_TRACES_SAMPLER sets which traces are sampled.
    """
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    trace.set_tracer_provider(provider)
