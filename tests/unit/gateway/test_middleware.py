"""The bound on requests in progress."""

from __future__ import annotations

import httpx
import pytest
from samserve.gateway.bodies import Bodies, BodyLimits
from samserve.gateway.middleware import Observed
from starlette.responses import PlainTextResponse


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/readyz", 200), ("/v1", 429)])
async def test_a_full_gateway_is_neither_restarted_nor_taken_out_of_service(
    path: str, status: int
) -> None:
    bodies = Bodies(BodyLimits(most=1, all_together=1, seconds=1))
    full = Observed(PlainTextResponse("ok"), bodies=bodies, most=0, slow=1)
    transport = httpx.ASGITransport(full)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        assert (await http.get(path)).status_code == status
