"""The services behind the edge: where they are, who is well, and which of them gets a call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samserve.edge import tls
from samserve.edge.values import (
    Json,
    extension,
    is_address,
    seconds,
    socket_address,
    split_server,
    typed,
)
from samserve.infra.settings import EdgeSettings

DECODER, EMBEDDING, GATEWAY = "decoder", "embedding", "gateway"
AUTHORISER, ADMIN = "authoriser", "admin"

CONNECT_S = 2.0
CALLS = 4096  # in progress with one service; beyond, calls are refused as overload
WAITING = 1024  # for a connection
GATEWAY_IDLE_S = 60.0  # shorter than the gateway's 75 s, so no request meets a closing connection
MOST_PER_CONNECTION = 100  # calls; a decoder takes 128
WINDOW = 2**20  # bytes under way on a stream


def clusters(settings: EdgeSettings, folder: Path) -> list[Json]:
    """Return all clusters."""
    made = [
        _decoder(settings, folder),
        _service(EMBEDDING, settings.embedding_url, settings, folder),
        _gateway(settings, folder),
        {
            "name": ADMIN,
            "type": "STATIC",
            "connect_timeout": seconds(CONNECT_S),
            "load_assignment": {
                "cluster_name": ADMIN,
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {"endpoint": {"address": {"pipe": {"path": str(folder / "admin")}}}}
                        ]
                    }
                ],
            },
        },
    ]
    if settings.edge_authorisation != "off":
        made.append(_base(AUTHORISER, (settings.edge_authorisation,), http2=True))
    return made


def _decoder(settings: EdgeSettings, folder: Path) -> Json:
    """Clicks on one image go to the decoder that has prepared it, unless it is far busier.

    By Maglev's table: when a decoder comes or goes, nearly nothing moves between the others. On a
    ring every eighth image would, because its points are shared among as many decoders as there
    are.
    """
    cluster = _service(DECODER, settings.decoder_url, settings, folder)
    balance = {"hash_balance_factor": settings.edge_balance_percent}
    return cluster | {
        "lb_policy": "MAGLEV",
        "common_lb_config": {"consistent_hashing_lb_config": balance},
        # A decoder that drains says so before it refuses calls.
        "health_checks": [
            {
                "grpc_health_check": {},
                "timeout": "2s",
                "interval": "2s",
                "no_traffic_interval": "2s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
            }
        ],
        "ignore_health_on_host_removal": True,
    }


def _gateway(settings: EdgeSettings, folder: Path) -> Json:
    cluster = _base(GATEWAY, settings.gateway_url, http2=False)
    _secure(cluster, settings, folder, settings.gateway_url, "http/1.1")
    return cluster | {
        "lb_policy": "LEAST_REQUEST",
        "health_checks": [
            {
                "http_health_check": {"path": "/healthz"},
                "timeout": "2s",
                "interval": "5s",
                "no_traffic_interval": "5s",
                "unhealthy_threshold": 2,
                "healthy_threshold": 1,
            }
        ],
        "ignore_health_on_host_removal": True,
    }


def _service(name: str, servers: Sequence[str], settings: EdgeSettings, folder: Path) -> Json:
    cluster = _base(name, servers, http2=True)
    _secure(cluster, settings, folder, servers, "h2")
    return cluster | {"lb_policy": "LEAST_REQUEST"}


def _base(name: str, servers: Sequence[str], *, http2: bool) -> Json:
    hosts = [split_server(server) for server in servers]
    endpoints = [{"endpoint": {"address": socket_address(*host)}} for host in hosts]
    threshold = {
        "max_connections": WAITING,
        "max_pending_requests": WAITING,
        "max_requests": CALLS,
        # Attempts beyond the first, as a share of the calls: trouble must not multiply the load.
        "retry_budget": {"budget_percent": {"value": 10}, "min_retry_concurrency": 3},
        "track_remaining": True,
    }
    return {
        "name": name,
        **_discovery(all(is_address(host) for host, _ in hosts)),
        "connect_timeout": seconds(CONNECT_S),
        "per_connection_buffer_limit_bytes": WINDOW,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [threshold]},
        "outlier_detection": _outliers(),
        "upstream_connection_options": {"tcp_keepalive": {}},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _protocol(http2)
        },
    }


def _discovery(static: bool) -> Json:
    """Addresses as listed, or all addresses of a name, as a headless Service has them."""
    if static:
        return {"type": "STATIC"}
    kind = "envoy.extensions.clusters.dns.v3.DnsCluster"
    return {
        "cluster_type": extension(
            "envoy.cluster.dns", kind, dns_refresh_rate="5s", respect_dns_ttl=True
        )
    }


def _outliers() -> Json:
    """Leave out hosts that cannot be reached or do not answer in time.

    A host that answers is never left out, whatever it answers: UNAVAILABLE of all decoders means
    that Triton is down, not they.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_failure_percentage": 0,
        "interval": "1s",
        "base_ejection_time": "5s",
        "max_ejection_time": "30s",
        "max_ejection_percent": 50,
    }


def _protocol(http2: bool) -> Json:
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    if not http2:
        return typed(
            kind,
            common_http_protocol_options={"idle_timeout": seconds(GATEWAY_IDLE_S)},
            explicit_http_config={"http_protocol_options": {}},
        )
    options = {
        "max_concurrent_streams": MOST_PER_CONNECTION,
        "initial_stream_window_size": WINDOW,
        "initial_connection_window_size": 4 * WINDOW,
        # A decoder that stands still is noticed although its connection stays open.
        "connection_keepalive": {"interval": "10s", "timeout": "10s", "interval_jitter": {}},
    }
    return typed(kind, explicit_http_config={"http2_protocol_options": options})


def _secure(
    cluster: Json, settings: EdgeSettings, folder: Path, servers: Sequence[str], protocol: str
) -> None:
    name = split_server(servers[0])[0]
    if (transport := tls.upstream(settings, folder, name, protocol)) is not None:
        cluster["transport_socket"] = transport
