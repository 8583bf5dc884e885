"""Readiness of each part of a stack, as a client would see it."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from samserve.local import triton
from samserve.local.process import accepts_connections
from samserve.local.state import Addresses

TIMEOUT = 2.0  # seconds for one answer


def readiness(addresses: Addresses) -> dict[str, bool]:
    """Whether each part is ready to serve."""
    return {
        "redis": accepts_connections(_port_of(addresses.redis.split("/")[2])),
        "triton": not addresses.triton_http or triton.ready(_port_of(addresses.triton_http)),
        "embedding": embedding_ready(addresses.embedding),
        "decoder": decoder_ready(addresses.decoder),
    }


def decoder_ready(address: str) -> bool:
    """Whether the decoder's grpc.health.v1 answers SERVING."""
    with grpc.insecure_channel(address) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT)
        except grpc.RpcError:
            return False

    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def embedding_ready(address: str) -> bool:
    """Whether Ray Serve lists the application; it has no grpc.health.v1, only its own API."""
    with grpc.insecure_channel(address) as channel:

        def method(name: str) -> Any:
            return channel.unary_unary(f"/ray.serve.RayServeAPIService/{name}")

        try:
            applications: bytes = method("ListApplications")(b"", timeout=TIMEOUT)
            method("Healthz")(b"", timeout=TIMEOUT)
        except grpc.RpcError:
            return False

    return b"embedding" in applications


def _port_of(address: str) -> int:
    return int(address.rsplit(":", 1)[1])
