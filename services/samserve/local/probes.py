"""Readiness of each part of a stack, as a client would see it."""

from __future__ import annotations

from typing import Any

import grpc
import redis
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from samserve.local import triton
from samserve.local.state import Addresses
from samserve.wire.channel import proxy_options

TIMEOUT = 2.0  # seconds for one answer


def readiness(addresses: Addresses) -> dict[str, bool]:
    """Whether each part is ready to serve."""
    edge = {"edge": edge_ready(addresses.edge_metrics)} if addresses.edge else {}
    identity = {"identity": identity_ready(addresses.identity)} if addresses.identity else {}
    return {
        "redis": redis_ready(addresses.redis),
        "triton": triton.ready(addresses.triton),
        "embedding": embedding_ready(addresses.embedding),
        "decoder": decoder_ready(addresses.decoder),
        "gateway": gateway_ready(addresses.gateway),
        **identity,
        **edge,
    }


def redis_ready(url: str) -> bool:
    """Whether a Redis at any URL that redis-py knows answers PING, or asks for a password."""
    try:
        with redis.Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT
        ) as client:
            client.ping()
    except redis.AuthenticationError:
        return True
    except (redis.RedisError, OSError, ValueError):
        return False

    return True


def decoder_ready(address: str) -> bool:
    """Whether the decoder's grpc.health.v1 answers SERVING."""
    return _is_serving(address)


def identity_ready(address: str) -> bool:
    """Whether the authoriser's grpc.health.v1 answers SERVING."""
    return _is_serving(address)


def _is_serving(address: str) -> bool:
    with grpc.insecure_channel(address, proxy_options(address)) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT)
        except grpc.RpcError:
            return False

    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def gateway_ready(url: str) -> bool:
    """Whether the gateway answers, and a decoder behind it."""
    return _answers(f"{url}/readyz")


def edge_ready(metrics: str) -> bool:
    """Whether the edge, whose metrics are at this address, accepts calls."""
    return _answers(f"http://{metrics}/ready")


def _answers(url: str) -> bool:
    with requests.Session() as session:
        session.trust_env = False  # a proxy of the environment does not know this machine
        try:
            return session.get(url, timeout=TIMEOUT).ok
        except requests.RequestException:
            return False


def embedding_ready(address: str) -> bool:
    """Whether Ray Serve lists the application; it has no grpc.health.v1, only its own API."""
    with grpc.insecure_channel(address, proxy_options(address)) as channel:

        def method(name: str) -> Any:
            return channel.unary_unary(f"/ray.serve.RayServeAPIService/{name}")

        try:
            applications: bytes = method("ListApplications")(b"", timeout=TIMEOUT)
            method("Healthz")(b"", timeout=TIMEOUT)
        except grpc.RpcError:
            return False

    return b"embedding" in applications
