"""Spans reach a collector; tests/contract has the rest of tracing."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc
from samserve.infra.settings import DecoderSettings, load_settings

PROGRAM = """
import sys
from samserve.infra import tracing
from samserve.infra.stages import StageClock

tracing.set_up("decoder", sys.argv[1])
with tracing.span("Predict"), StageClock().stage("decode"):
    pass
"""


class Collector(rpc.TraceServiceServicer):
    """Keeps the service and name of each span that it receives."""

    def __init__(self) -> None:
        self.spans: set[tuple[str, str]] = set()

    def Export(
        self, request: pb.ExportTraceServiceRequest, _: grpc.ServicerContext
    ) -> pb.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            attributes = {
                pair.key: pair.value.string_value for pair in resource.resource.attributes
            }
            self.spans |= {
                (attributes["service.name"], span.name)
                for scope in resource.scope_spans
                for span in scope.spans
            }
        return pb.ExportTraceServiceResponse()


def test_the_spans_of_a_program_that_ends_reach_the_collector() -> None:
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(2))
    rpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    subprocess.run(
        [sys.executable, "-c", PROGRAM, f"http://127.0.0.1:{port}"], check=True, timeout=60
    )
    server.stop(None)
    assert collector.spans == {("samserve-decoder", "Predict"), ("samserve-decoder", "decode")}


def test_without_an_endpoint_opentelemetry_is_not_imported() -> None:
    loaded = "[n for n in sys.modules if 'opentelemetry' in n or n.endswith('otel')]"
    code = f"{PROGRAM}print(*{loaded})"
    done = subprocess.run(
        [sys.executable, "-c", code, ""], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("found", [None, object()])
def test_an_endpoint_needs_the_tracing_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: object
) -> None:
    monkeypatch.setattr("samserve.infra.settings.values.find_spec", lambda _: found)
    monkeypatch.setenv("SAMSERVE_OTLP_ENDPOINT", "http://collector:4317")
    if found is not None:
        assert load_settings(DecoderSettings).otlp_endpoint == "http://collector:4317"
        return
    with pytest.raises(SystemExit):
        load_settings(DecoderSettings)
    assert "samserve[tracing]" in capsys.readouterr().err


def test_an_endpoint_is_a_url(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAMSERVE_OTLP_ENDPOINT", "collector:4317")
    with pytest.raises(SystemExit):
        load_settings(DecoderSettings)
    assert "SAMSERVE_OTLP_ENDPOINT='collector:4317'" in capsys.readouterr().err
