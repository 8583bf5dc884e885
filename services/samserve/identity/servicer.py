"""Envoy's question whether a call may pass, translated. Nothing of credentials is logged."""

from __future__ import annotations

from typing import Any

import grpc.aio
import structlog
from google.protobuf.json_format import MessageToDict
from google.protobuf.wrappers_pb2 import BoolValue
from google.rpc.status_pb2 import Status

from samserve.core.caller import Caller
from samserve.core.errors import Overloaded, SamserveError, Unauthenticated
from samserve.identity.authoriser import Authoriser, Call
from samserve.identity.credentials import HEADERS, PARAMETERS
from samserve.identity.failures import Failures
from samserve.identity.refusal import body_of, headers_of, status_of
from samserve.identity.v1 import authorization_pb2 as pb
from samserve.identity.watched import WatchedKeys
from samserve.infra.metrics import AUTHORISED
from samserve.wire.callers import KEY_ID_KEY, PLAN_KEY
from samserve.wire.metadata import EDGE_KEY, TENANT_KEY
from samserve.wire.status import code_of

SERVICE = "envoy.service.auth.v3.Authorization"
TOKENS = "envoy.filters.http.jwt_authn"  # the filter of Envoy that verifies tokens
PAYLOAD = "token"  # where it puts their claims
NO_KEY_ID = "none"

log = structlog.get_logger()


class AuthorizationServicer:
    """Answers the edge."""

    def __init__(
        self, authoriser: Authoriser, keys: WatchedKeys, failures: Failures, edge_secret: str
    ) -> None:
        """Create the method.

        Args:
            authoriser: Decides.
            keys: That it decides by.
            failures: Of each address.
            edge_secret: Proves to the services that a call has passed here; may be empty.
        """
        self._authoriser = authoriser
        self._keys = keys
        self._failures = failures
        self._edge_secret = edge_secret

    async def Check(self, request: pb.CheckRequest, _: Any) -> pb.CheckResponse:  # noqa: N802
        call = _call(request.attributes)
        try:
            caller = self._authoriser.check(call, self._keys.current())
        except Unauthenticated as refusal:
            AUTHORISED.labels("unauthenticated").inc()
            wait = self._failures.add(call.address)
            if wait and not call.is_grpc:  # Envoy would tell a gRPC client to retry at once
                return _refused(Overloaded("the number of failed attempts", wait), call)
            return _refused(refusal, call)
        except SamserveError as refusal:
            AUTHORISED.labels(code_of(refusal).name.lower()).inc()
            return _refused(refusal, call)

        AUTHORISED.labels("ok").inc()
        return self._passed(caller)

    def _passed(self, caller: Caller) -> pb.CheckResponse:
        """Set the metadata that services believe, each of them, and remove the credentials."""
        headers = {
            TENANT_KEY: caller.tenant,
            KEY_ID_KEY: caller.key_id or NO_KEY_ID,
            PLAN_KEY: caller.plan.write(),
        }
        if self._edge_secret:
            headers[EDGE_KEY] = self._edge_secret
        return pb.CheckResponse(
            status=Status(code=0),
            ok_response=pb.OkHttpResponse(
                headers=_options(headers),
                headers_to_remove=HEADERS,
                query_parameters_to_remove=PARAMETERS,
            ),
        )


def add_to_server(servicer: AuthorizationServicer, server: grpc.aio.Server) -> None:
    """Register the method under Envoy's name of the service."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Check,
        request_deserializer=pb.CheckRequest.FromString,
        response_serializer=pb.CheckResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(SERVICE, {"Check": handler})
    server.add_generic_rpc_handlers((generic,))


def _call(attributes: pb.AttributeContext) -> Call:
    http = attributes.request.http
    found = attributes.metadata_context.filter_metadata
    claims = MessageToDict(found[TOKENS]).get(PAYLOAD, {}) if TOKENS in found else {}
    return Call(
        method=http.method,
        path=http.path,
        headers=http.headers,
        body=http.raw_body or http.body.encode(),
        address=attributes.source.address.socket_address.address,
        principal=attributes.source.principal,
        claims=claims if isinstance(claims, dict) else {},
    )


def _refused(error: SamserveError, call: Call) -> pb.CheckResponse:
    return pb.CheckResponse(
        status=Status(code=code_of(error).value[0]),
        denied_response=pb.DeniedHttpResponse(
            status=pb.HttpStatus(code=status_of(error)),
            headers=_options(headers_of(error, call.route)),
            body=body_of(error, call.route),
        ),
    )


def _options(headers: dict[str, str]) -> list[pb.HeaderValueOption]:
    replaced = BoolValue(value=False)
    return [
        pb.HeaderValueOption(header=pb.HeaderValue(key=key, value=value), append=replaced)
        for key, value in headers.items()
    ]
