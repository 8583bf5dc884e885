"""The metadata of a call: its tenant, its deadline, and the trace that it belongs to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from samserve.core.errors import InvalidInput, shorten
from samserve.core.limits import LONGEST_TIMEOUT
from samserve.infra import tracing

TENANT_KEY = "samserve-tenant"
EDGE_KEY = "samserve-edge"  # the secret by which services know the edge
IMAGE_KEY = "samserve-image"  # the image of a call, by which load balancers choose a decoder
TIMEOUT_KEY = "samserve-timeout-ms"  # Ray Serve hides gRPC's own deadline from its replicas
LONGEST_SECONDS = (10**LONGEST_TIMEOUT - 1) / 1000  # of a timeout

_TIMEOUT = re.compile(rf"[0-9]{{1,{LONGEST_TIMEOUT}}}")


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
