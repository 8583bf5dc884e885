"""What every gRPC end of ours shares: message sizes, deadlines, tenants, and times in answers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from samserve.core.cache_status import CacheStatus
from samserve.core.errors import InvalidInput
from samserve.infra import tracing
from samserve.v1 import types_pb2 as types

TENANT_KEY = "samserve-tenant"
DEFAULT_TENANT = "public"
TIMEOUT_KEY = "samserve-timeout-ms"  # gRPC's own deadline is not shown to those behind Ray Serve
_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_OVERHEAD = 2**20  # prompts, logits and framing around an image


def message_limits(max_image_bytes: int) -> list[tuple[str, int]]:
    """Channel and server options that let an image through, or an embedding of SAM 2's size (8 MiB)."""
    most = max(max_image_bytes, 16 * 2**20) + _OVERHEAD
    return [("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", most)]


# A name may stand for many servers, as `dns:///` and a headless Service do: calls go to each in turn.
EVERY_SERVER = ("grpc.lb_policy_name", "round_robin")


def tenant_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Whose cache entries the call may touch: metadata `samserve-tenant`, or the public one."""
    tenant = next((str(value) for key, value in metadata if key == TENANT_KEY), DEFAULT_TENANT)
    if not _TENANT.fullmatch(tenant):
        raise InvalidInput(TENANT_KEY, "a tenant is 1 to 64 letters, digits, '_', '.' or '-'")
    return tenant


def seconds_left(metadata: Iterable[tuple[str, str | bytes]]) -> float:
    """How long the caller waits: metadata `samserve-timeout-ms`, or for ever."""
    told = next((str(value) for key, value in metadata if key == TIMEOUT_KEY), "")
    if told and not (told.isascii() and told.isdigit()):
        raise InvalidInput(
            TIMEOUT_KEY, f"{TIMEOUT_KEY} is {told!r}, not a whole number of milliseconds"
        )
    return int(told) / 1000 if told else math.inf


def call_options(seconds: float, metadata: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """What a call is made with that shall wait so long: gRPC's own deadline, and ours; and the trace it belongs to."""
    ours = (TIMEOUT_KEY, str(max(1, round(1000 * seconds))))
    return {"timeout": seconds, "metadata": (*metadata, ours, *tracing.inject_headers())}


def stage_times(milliseconds: dict[str, float]) -> list[types.StageTime]:
    return [types.StageTime(stage=stage, milliseconds=ms) for stage, ms in milliseconds.items()]


def cache_status_to_proto(status: CacheStatus) -> str:
    """Translate to the wire, by name."""
    return f"CACHE_STATUS_{status.name}"


def cache_status_from_proto(status: types.CacheStatus) -> CacheStatus:
    """Translate from the wire."""
    return CacheStatus[types.CacheStatus.Name(status).removeprefix("CACHE_STATUS_")]
