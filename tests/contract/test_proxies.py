"""With http_proxy in the environment, parts on this machine reach each other directly."""

from __future__ import annotations

import asyncio
from pathlib import Path as File

import pytest
from contract.conftest import Path
from samserve.client import Click, Client

COINS = File(__file__).parents[2] / "examples" / "coins.png"


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that nobody runs. Requested before the parts, which open channels."""
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


async def test_a_click_reaches_decoder_embedding_service_and_triton(
    proxy: None, path: Path
) -> None:
    def click() -> int:
        with Client(path.decoder, path.embedding, timeout=60) as client:
            return len(client.segment(COINS, [Click(213, 193)]).masks)

    assert await asyncio.to_thread(click) == 3
