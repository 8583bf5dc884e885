"""Which path leads to which service, how long it may take, and when a call is made again."""

from __future__ import annotations

from typing import Any

from samserve.edge.clusters import DECODER, EMBEDDING, GATEWAY
from samserve.edge.values import FILTERS, Json, seconds, typed
from samserve.infra.settings import EdgeSettings
from samserve.wire.channel import largest_message
from samserve.wire.metadata import IMAGE_KEY, TENANT_KEY

SEGMENTATION = "/samserve.v1.SegmentationService/"
EMBEDDINGS = "/samserve.v1.EmbeddingService/"

STREAMS = {
    SEGMENTATION: ("Interact", "GenerateMasks"),
    EMBEDDINGS: ("EmbedMany", "GetEmbedding"),
}

# A call that has not reached a service may always be made again.
NOT_REACHED = "connect-failure,refused-stream,reset-before-request"
SMALL = 64 * 1024  # bytes; a click by reference is smaller, one that brings the image is not

KEY_WITHIN = 512  # bytes of a body, in which some clients put their key
BASE64 = 3  # halves of an image's bytes that a JSON body may have

OPEN_PATHS = ("/healthz", "/readyz")  # answered without a key


def virtual_host(settings: EdgeSettings) -> Json:
    """Return the routes, in the order in which they are tried."""
    return {
        "name": "samserve",
        "domains": ["*"],
        "routes": [
            _too_large(settings),
            *_services(settings, SEGMENTATION, DECODER),
            *_services(settings, EMBEDDINGS, EMBEDDING),
            _unknown_call(),
            *(_health(path) for path in OPEN_PATHS),
            _everything(settings),
            _rest(settings),
        ],
        **_cors(settings),
    }


def _services(settings: EdgeSettings, service: str, cluster: str) -> list[Json]:
    """Routes of a gRPC service: its streams, clicks, and the rest."""
    routes = [_stream(settings, service + name, cluster) for name in STREAMS[service]]
    if cluster == DECODER:
        routes.append(_click(settings, f"{service}Predict"))
    routes.append(_unary(settings, {"prefix": service}, cluster))
    if cluster == DECODER:
        # A call that names no image must not be placed by its tenant alone.
        routes = [route for each in routes for route in (_placed(each), each)]
    return routes


def _placed(route: Json) -> Json:
    """The same route for calls that name their image, which choose the decoder by it."""
    match = {**route["match"], "headers": [{"name": IMAGE_KEY, "present_match": True}]}
    keys = [{"header": {"header_name": name}} for name in (IMAGE_KEY, TENANT_KEY)]
    return {**route, "match": match, "route": {**route["route"], "hash_policy": keys}}


def _stream(settings: EdgeSettings, path: str, cluster: str) -> Json:
    """A stream lives as long as something is sent on it."""
    action = {
        "cluster": cluster,
        "timeout": "0s",
        "idle_timeout": seconds(settings.edge_stream_idle_s),
        "max_stream_duration": {"max_stream_duration": "0s"},
        "retry_policy": {"retry_on": NOT_REACHED, "num_retries": 2, **_other_host()},
    }
    return {"match": {"path": path}, "route": action}


def _click(settings: EdgeSettings, path: str) -> Json:
    """A click by reference is idempotent: it is made again, also beside an attempt that is late."""
    route = _unary(settings, {"path": path}, DECODER)
    if settings.edge_hedge_s:
        # Hedging applies to requests that fit into the buffer.
        route["route"]["retry_policy"]["per_try_timeout"] = seconds(settings.edge_hedge_s)
        route["route"]["hedge_policy"] = {"hedge_on_per_try_timeout": True}
    return route


def _unary(settings: EdgeSettings, match: Json, cluster: str) -> Json:
    most = seconds(settings.edge_call_s)
    action = {
        "cluster": cluster,
        "timeout": "0s",
        "idle_timeout": most,
        "max_stream_duration": {"max_stream_duration": most, "grpc_timeout_header_max": most},
        "retry_policy": {"retry_on": NOT_REACHED, "num_retries": 2, **_other_host()},
    }
    return {"match": match, "route": action, "request_body_buffer_limit": SMALL}


def _other_host() -> Json:
    """Further attempts go to another host; by the table, to the next one."""
    kind = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    predicate = {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": typed(kind)}
    return {"retry_host_predicate": [predicate], "host_selection_retry_max_attempts": 5}


def _rest(settings: EdgeSettings) -> Json:
    """HTTP: to the gateway, which retries by itself. A key may be at a body's beginning."""
    route = _unary(settings, {"prefix": "/"}, GATEWAY)
    route["route"]["retry_policy"]["num_retries"] = 1
    body = {"max_request_bytes": KEY_WITHIN, "allow_partial_message": True, "pack_as_bytes": True}
    return {**route, **_authorised(check_settings={"with_request_body": body})}


def _everything(settings: EdgeSettings) -> Json:
    """Server-sent events."""
    route = _stream(settings, "", GATEWAY)
    pattern = r"/v1/images/[^/]+/everything"
    return {**route, "match": {"safe_regex": {"regex": pattern}}}


def _health(path: str) -> Json:
    return {
        "match": {"path": path},
        "route": {"cluster": GATEWAY, "timeout": "5s"},
        **_authorised(disabled=True),
    }


def _authorised(**how: Any) -> Json:
    """How the authoriser is asked about a route's calls."""
    settings = typed(f"{FILTERS}.ext_authz.v3.ExtAuthzPerRoute", **how)
    return {"typed_per_filter_config": {"envoy.filters.http.ext_authz": settings}}


def _too_large(settings: EdgeSettings) -> Json:
    """Refuse a body by its announced length, before anything of it is read."""
    most = BASE64 * largest_message(settings.max_image_bytes) // 2
    header = {"name": "content-length", "range_match": {"start": most + 1, "end": 2**62}}
    return {
        "match": {"prefix": "/", "headers": [header]},
        "direct_response": {
            "status": 413,
            "body": {"inline_string": f"The body is over the limit of {most:,} bytes."},
        },
    }


def _unknown_call() -> Json:
    """Other gRPC services, such as reflection, are not public: UNIMPLEMENTED."""
    return {"match": {"prefix": "/", "grpc": {}}, "direct_response": {"status": 404}}


def _cors(settings: EdgeSettings) -> Json:
    if not settings.edge_cors_origins:
        return {}
    every = settings.edge_cors_origins == ("*",)
    origins = (
        [{"safe_regex": {"regex": ".*"}}]
        if every
        else [{"exact": o} for o in settings.edge_cors_origins]
    )
    policy = typed(
        f"{FILTERS}.cors.v3.CorsPolicy",
        allow_origin_string_match=origins,
        allow_methods="GET, POST, DELETE, OPTIONS",
        allow_headers=(
            "authorization, content-type, x-grpc-web, x-user-agent, grpc-timeout, x-request-id, "
            f"{IMAGE_KEY}, samserve-timeout-ms"
        ),
        expose_headers=(
            "grpc-status, grpc-message, grpc-status-details-bin, x-request-id, retry-after, "
            "samserve-embedding"
        ),
        max_age="600",
    )
    return {"typed_per_filter_config": {"envoy.filters.http.cors": policy}}
