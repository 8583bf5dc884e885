"""What happens to a request before it is routed, in this order."""

from __future__ import annotations

from samserve.edge.clusters import AUTHORISER
from samserve.edge.values import FILTERS, Json, extension
from samserve.infra.settings import EdgeSettings
from samserve.wire.callers import KEY_ID_KEY, PLAN_KEY
from samserve.wire.metadata import EDGE_KEY, TENANT_KEY

AUTHORISER_S = "1s"
TOKENS = "envoy.filters.http.jwt_authn"
MOST_TENANTS = 10_000  # whose calls are counted apart, for rate limits

# Headers that only the edge may set, or that services must not believe.
INTERNAL = (
    EDGE_KEY,
    KEY_ID_KEY,
    PLAN_KEY,
    "x-forwarded-host",
    "x-real-ip",
    "forwarded",
    "x-original-url",
)


def http_filters(settings: EdgeSettings) -> list[Json]:
    """Return the filters of a request."""
    return [
        _without_internal_headers(settings),
        *([_cors()] if settings.edge_cors_origins else []),
        _grpc_web(),
        *([_tokens(settings)] if settings.edge_jwks_file else []),
        *([_authoriser(settings)] if settings.edge_authorisation != "off" else []),
        *([_tenant_limit(settings)] if settings.edge_tenant_calls_per_s else []),
        extension(
            "envoy.filters.http.router",
            f"{FILTERS}.router.v3.Router",
            suppress_envoy_headers=True,
        ),
    ]


def _without_internal_headers(settings: EdgeSettings) -> Json:
    """A stranger's claim to be the edge is removed first, before anything reads it.

    Without an authoriser nobody else names the tenant, so the caller's word stands.
    """
    names = INTERNAL if settings.edge_authorisation == "off" else (*INTERNAL, TENANT_KEY)
    removed: list[Json] = [{"remove": name} for name in names]
    removed.append({"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}})
    return extension(
        "envoy.filters.http.header_mutation",
        f"{FILTERS}.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": removed},
    )


def _cors() -> Json:
    return extension("envoy.filters.http.cors", f"{FILTERS}.cors.v3.Cors")


def _grpc_web() -> Json:
    return extension("envoy.filters.http.grpc_web", f"{FILTERS}.grpc_web.v3.GrpcWeb")


def _tokens(settings: EdgeSettings) -> Json:
    """Check the signature, issuer, audience and time of a token; the authoriser gets its claims.

    A call without a valid token passes here without claims: it may have a key. The authoriser
    refuses it if it has neither.
    """
    provider = {
        "issuer": settings.edge_jwt_issuer,
        "audiences": list(settings.edge_jwt_audiences),
        "local_jwks": {"filename": settings.edge_jwks_file, "watched_directory": _folder(settings)},
        "forward": False,
        "payload_in_metadata": "token",
        "require_expiration": True,
    }
    allowed = {"requires_any": {"requirements": [{"provider_name": "tokens"}, _OPTIONAL]}}
    return extension(
        TOKENS,
        f"{FILTERS}.jwt_authn.v3.JwtAuthentication",
        providers={"tokens": provider},
        rules=[{"match": {"prefix": "/"}, "requires": allowed}],
    )


_OPTIONAL: Json = {"allow_missing_or_failed": {}}


def _folder(settings: EdgeSettings) -> Json:
    return {"path": settings.edge_jwks_file.rpartition("/")[0] or "."}


def _authoriser(settings: EdgeSettings) -> Json:
    """Ask whose the call is. If the authoriser does not answer, nobody gets in."""
    service = {"envoy_grpc": {"cluster_name": AUTHORISER}, "timeout": AUTHORISER_S}
    return extension(
        "envoy.filters.http.ext_authz",
        f"{FILTERS}.ext_authz.v3.ExtAuthz",
        grpc_service=service,
        transport_api_version="V3",
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
        include_peer_certificate=bool(settings.edge_client_ca_file),
        metadata_context_namespaces=[TOKENS] if settings.edge_jwks_file else [],
        validate_mutations=True,
        stat_prefix="samserve",
    )


def _tenant_limit(settings: EdgeSettings) -> Json:
    calls = settings.edge_tenant_calls_per_s
    bucket = {"max_tokens": 2 * calls, "tokens_per_fill": calls, "fill_interval": "1s"}
    every = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return extension(
        "envoy.filters.http.local_ratelimit",
        f"{FILTERS}.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="tenant",
        # The bucket of calls without a tenant.
        token_bucket=bucket,
        filter_enabled={**every, "runtime_key": "edge.tenant_limit"},
        filter_enforced={**every, "runtime_key": "edge.tenant_limit_enforced"},
        # Without a value: one bucket for each value.
        descriptors=[{"entries": [{"key": "tenant"}], "token_bucket": bucket}],
        rate_limits=[
            {
                "actions": [
                    {"request_headers": {"header_name": TENANT_KEY, "descriptor_key": "tenant"}}
                ]
            }
        ],
        max_dynamic_descriptors=MOST_TENANTS,
        rate_limited_as_resource_exhausted=True,
        response_headers_to_add=[{"header": {"key": "retry-after", "value": "1"}}],
    )
