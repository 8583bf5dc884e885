"""The channel to a service: balanced over its servers, and aware of those that do not answer."""

from __future__ import annotations

import json

import grpc.aio

from samserve.wire.channel import message_limits, proxy_options

MAX_MESSAGE = 64 * 2**20  # bytes

# A connection with calls in flight is tested this often, and closed if nothing comes back. The
# answer to a ping waits behind an upload in the sender's buffers: with 5 s, uploads of 16 MB at
# 1 MB/s were cut off.
KEEPALIVE_MS = 6_000
KEEPALIVE_TIMEOUT_MS = 20_000

# A server is left out for some seconds if nearly all calls to it have failed. Calls that lost
# against a later attempt count as failed (client/hedging.py).
_OUTLIERS = {
    "interval": "2s",
    "baseEjectionTime": "5s",
    "maxEjectionTime": "30s",
    "maxEjectionPercent": 50,
    "failurePercentageEjection": {
        "threshold": 95,
        "enforcementPercentage": 100,
        "minimumHosts": 2,
        "requestVolume": 5,
    },
    "childPolicy": [{"round_robin": {}}],
}

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            # client/bulk_scheduler.py reopens this stream.
            "name": [{"service": "samserve.v1.EmbeddingService", "method": "EmbedMany"}]
        },
    ],
    # The first policy that this version of gRPC knows.
    "loadBalancingConfig": [{"outlier_detection_experimental": _OUTLIERS}, {"round_robin": {}}],
}


def open_channel(
    address: str, credentials: grpc.ChannelCredentials | None, host: str = ""
) -> grpc.Channel:
    """Return a channel, which connects at the first call.

    Args:
        address: Of the service.
        credentials: For TLS.
        host: Name that the certificate must have; empty: the address's.
    """
    if credentials is None:
        return grpc.insecure_channel(address, _options(address))
    return grpc.secure_channel(address, credentials, _options(address, host))


def open_async_channel(
    address: str, credentials: grpc.ChannelCredentials | None, host: str = ""
) -> grpc.aio.Channel:
    """Return a channel for asyncio. Arguments as of `open_channel`."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, _options(address))
    return grpc.aio.secure_channel(address, credentials, _options(address, host))


def _options(address: str, host: str = "") -> list[tuple[str, str | int]]:
    return [
        *([("grpc.ssl_target_name_override", host)] if host else []),
        *message_limits(MAX_MESSAGE),
        *proxy_options(address),
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        # Without these gRPC 1.85 waits a minute for the answer to a ping, and sends two pings in a
        # pause between messages.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
    ]
