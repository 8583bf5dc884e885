"""Where the edge listens: one port for all callers, and one for Prometheus."""

from __future__ import annotations

from pathlib import Path

from samserve.edge import tls
from samserve.edge.access_log import access_log
from samserve.edge.clusters import ADMIN
from samserve.edge.filters import http_filters
from samserve.edge.routes import virtual_host
from samserve.edge.values import FILTERS, Json, extension, seconds, socket_address
from samserve.infra.addresses import bare_host
from samserve.infra.settings import EdgeSettings

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
MOST_HEAD_KB = 24  # twice the metadata that services accept, and what proxies add
MOST_HEADERS = 100
HANDSHAKE_S = 10.0  # for TLS
LONGEST_S = 3600.0  # of a connection; then callers reconnect, perhaps to another edge
BUFFER = 2**20  # bytes of a connection that wait to be read or sent
WINDOW = 2**20  # bytes under way on a stream; small ones make uploads slow


def listeners(settings: EdgeSettings, folder: Path) -> list[Json]:
    """Return the listeners."""
    made = [_public(settings, folder)]
    if settings.metrics_port:
        made.append(_metrics(settings))
    return made


def _public(settings: EdgeSettings, folder: Path) -> Json:
    chain: Json = {
        "filters": [_manager(settings)],
        "transport_socket_connect_timeout": seconds(HANDSHAKE_S),
    }
    if (transport := tls.downstream(settings, folder)) is not None:
        chain["transport_socket"] = transport
    return {
        "name": "public",
        "address": socket_address(bare_host(settings.host), settings.edge_port),
        "per_connection_buffer_limit_bytes": BUFFER,
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
        # Threads get equal numbers of connections, also of few, long ones.
        "connection_balance_config": {"exact_balance": {}},
    }


def _manager(settings: EdgeSettings) -> Json:
    """HTTP/1.1 and HTTP/2 on one port: by ALPN, or by the first bytes without TLS."""
    return extension(
        "envoy.filters.network.http_connection_manager",
        MANAGER,
        stat_prefix="edge",
        codec_type="AUTO",
        route_config={
            "name": "routes",
            "virtual_hosts": [virtual_host(settings)],
            "validate_clusters": True,
        },
        http_filters=http_filters(settings),
        access_log=access_log(settings.edge_access_log),
        **_times(settings),
        **_strictness(settings),
        **_identity(settings),
        http2_protocol_options={
            "max_concurrent_streams": settings.edge_calls_per_connection,
            "initial_stream_window_size": WINDOW,
            "initial_connection_window_size": 4 * WINDOW,
            # A caller that is gone without a word is noticed.
            "connection_keepalive": {"interval": "30s", "timeout": "20s"},
        },
    )


def _times(settings: EdgeSettings) -> Json:
    return {
        "request_headers_timeout": seconds(settings.edge_head_s),
        "stream_idle_timeout": seconds(settings.edge_call_s),  # unless the route has another
        "delayed_close_timeout": "1s",
        "drain_timeout": "5s",
    }


def _strictness(settings: EdgeSettings) -> Json:
    """One meaning for each request: what two parsers could read in two ways is refused."""
    return {
        "common_http_protocol_options": {
            "idle_timeout": seconds(settings.edge_idle_s),
            "max_connection_duration": seconds(LONGEST_S),
            "max_headers_count": MOST_HEADERS,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "max_request_headers_kb": MOST_HEAD_KB,
        "http1_safe_max_connection_duration": True,
        "http_protocol_options": {"accept_http_10": False},
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
    }


def _identity(settings: EdgeSettings) -> Json:
    """Who called, as the services learn it, and what callers learn about the edge."""
    return {
        "use_remote_address": True,
        "xff_num_trusted_hops": settings.edge_trusted_hops,
        "internal_address_config": {"unix_sockets": False, "cidr_ranges": []},
        "forward_client_cert_details": "SANITIZE",
        "preserve_external_request_id": True,
        "server_header_transformation": "PASS_THROUGH",
        "local_reply_config": {
            "body_format": {
                "json_format": {
                    "type": "about:blank",
                    "title": "%RESPONSE_CODE_DETAILS%",
                    "status": "%RESPONSE_CODE%",
                    "detail": "%LOCAL_REPLY_BODY%",
                },
                "content_type": "application/problem+json",
            }
        },
    }


def _metrics(settings: EdgeSettings) -> Json:
    """Serve the metrics and the readiness of the admin socket, and nothing else of it."""
    paths = {"/metrics": "/stats/prometheus", "/ready": "/ready"}
    routes = [
        {"match": {"path": path}, "route": {"cluster": ADMIN, "prefix_rewrite": inner}}
        for path, inner in paths.items()
    ]
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        MANAGER,
        stat_prefix="metrics",
        codec_type="HTTP1",
        request_headers_timeout=seconds(settings.edge_head_s),
        common_http_protocol_options={"idle_timeout": seconds(settings.edge_idle_s)},
        route_config={"virtual_hosts": [{"name": "metrics", "domains": ["*"], "routes": routes}]},
        http_filters=[extension("envoy.filters.http.router", f"{FILTERS}.router.v3.Router")],
    )
    return {
        "name": "metrics",
        "address": socket_address(bare_host(settings.host), settings.metrics_port),
        "filter_chains": [{"filters": [manager]}],
        # Prometheus must see what happens when the public port is full.
        "ignore_global_conn_limit": True,
        "bypass_overload_manager": True,
    }
