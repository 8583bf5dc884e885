"""The metadata of a call: its tenant, its deadline, and the trace that it belongs to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from samserve.core.errors import InvalidInput, shorten
from samserve.core.limits import LONGEST_TIMEOUT, MAX_METADATA_BYTES, check_count
from samserve.infra import tracing

TENANT_KEY = "samserve-tenant"
DEFAULT_TENANT = "public"
EDGE_KEY = "samserve-edge"  # the secret by which services know the edge
IMAGE_KEY = "samserve-image"  # the image of a call, by which load balancers choose a decoder
TIMEOUT_KEY = "samserve-timeout-ms"  # Ray Serve hides gRPC's own deadline from its replicas
LONGEST_SECONDS = (10**LONGEST_TIMEOUT - 1) / 1000  # of a timeout

_TENANT = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TIMEOUT = re.compile(rf"[0-9]{{1,{LONGEST_TIMEOUT}}}")


def tenant_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the tenant whose cache entries the call may use: `samserve-tenant`, or "public".

    Raises:
        InvalidInput: The tenant's name is invalid, or the metadata are over their limit.
    """
    size = sum(len(key) + len(value) for key, value in metadata)
    check_count(size, MAX_METADATA_BYTES, "metadata", "bytes")

    tenant = next((str(value) for key, value in metadata if key == TENANT_KEY), DEFAULT_TENANT)

    if not _TENANT.fullmatch(tenant):
        raise InvalidInput(
            TENANT_KEY,
            f"invalid tenant {shorten(tenant)!r}: use 1 to 64 letters, digits, '_', '.' or '-'",
        )
    return tenant


def seconds_left(metadata: Iterable[tuple[str, str | bytes]]) -> float:
    """Return the seconds until the caller's deadline: `samserve-timeout-ms`, or infinity.

    Raises:
        InvalidInput: The value is not a whole number, or has too many digits.
    """
    timeout = next((str(value) for key, value in metadata if key == TIMEOUT_KEY), "")
    if not timeout:
        return math.inf

    if not _TIMEOUT.fullmatch(timeout):
        raise InvalidInput(
            TIMEOUT_KEY,
            f"invalid {TIMEOUT_KEY} {shorten(timeout)!r}: "
            f"send a whole number of milliseconds, at most {LONGEST_TIMEOUT} digits",
        )
    return int(timeout) / 1000


def call_options(seconds: float, metadata: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Return the keyword arguments of a call that may take so many seconds.

    They hold gRPC's own deadline, the same in the metadata, and the current trace.
    """
    milliseconds = round(1000 * min(seconds, LONGEST_SECONDS))
    timeout = (TIMEOUT_KEY, str(max(1, milliseconds)))
    return {"timeout": seconds, "metadata": (*metadata, timeout, *tracing.inject_headers())}
