"""The access log: one JSON object a call on stdout, without queries, keys or tokens."""

from __future__ import annotations

from samserve.edge.values import Json, extension
from samserve.wire.metadata import TENANT_KEY
from samserve.wire.request_id import REQUEST_ID_KEY

# A path has no query here: other products put keys there. What callers choose is cut.
FIELDS = {
    "timestamp": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
    "event": "call",
    "service": "edge",
    "request_id": f"%REQ({REQUEST_ID_KEY}):64%",
    "tenant": f"%REQ({TENANT_KEY}):64%",
    "method": "%REQ(:METHOD):16%",
    "path": "%PATH(NQ):256%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "reason": "%RESPONSE_CODE_DETAILS%",
    "received": "%BYTES_RECEIVED%",
    "sent": "%BYTES_SENT%",
    "milliseconds": "%DURATION%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "upstream": "%UPSTREAM_HOST%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "caller": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "tls": "%DOWNSTREAM_TLS_VERSION%",
}


def access_log(which: str) -> list[Json]:
    """Return the logs.

    Args:
        which: "all", "failures" (answers from 500 on, and gRPC's failures of the servers), "off".
    """
    if which == "off":
        return []
    log = extension(
        "envoy.access_loggers.stdout",
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        log_format={"json_format": FIELDS, "omit_empty_values": True},
    )
    if which == "failures":
        status = {"op": "GE", "value": {"default_value": 500, "runtime_key": "edge.log_from"}}
        codes = ["UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"]
        log["filter"] = {
            "or_filter": {
                "filters": [
                    {"status_code_filter": {"comparison": status}},
                    {"grpc_status_filter": {"statuses": codes}},
                ]
            }
        }
    return [log]
