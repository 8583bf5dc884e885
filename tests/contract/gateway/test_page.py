"""The page as the gateway serves it: types, caching, isolation, and a sentence if there is none."""

from __future__ import annotations

import gzip
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from samserve.gateway import page
from samserve.gateway.service import Service
from samserve.infra.settings import GatewaySettings

SCRIPT = b"console.log('a script that is long enough to be compressed');" * 40


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html><title>samserve</title>")
    (tmp_path / "sw.js").write_text("// a service worker")
    (tmp_path / "assets" / "index-abc.js").write_bytes(SCRIPT)
    (tmp_path / "assets" / "index-abc.js.gz").write_bytes(gzip.compress(SCRIPT))
    (tmp_path / "assets" / "kernel-abc.wasm").write_bytes(b"\0asm")
    (tmp_path.parent / "secret.txt").write_text("not below the folder")
    return tmp_path


def serving_page(service: Service, folder: Path) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(page.routes(service, folder))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


@pytest.fixture
def visitor(service: Service, built: Path) -> httpx.AsyncClient:
    return serving_page(service, built)


async def test_page_is_isolated_and_checked_each_time(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.get("/")
    assert answer.status_code == 200 and "samserve" in answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cross-origin-embedder-policy"] == "require-corp"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]

    again = await visitor.get("/", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304 and not again.content


async def test_assets_are_kept_for_ever_and_sent_compressed(visitor: httpx.AsyncClient) -> None:
    packed = await visitor.get("/assets/index-abc.js")
    assert packed.headers["content-encoding"] == "gzip" and packed.content == SCRIPT
    assert "immutable" in packed.headers["cache-control"]
    assert packed.headers["cross-origin-embedder-policy"] == "require-corp"  # it may be a worker

    plain = await visitor.get("/assets/index-abc.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers and plain.content == SCRIPT
    assert plain.headers["etag"] != packed.headers["etag"]

    wasm = await visitor.get("/assets/kernel-abc.wasm")
    assert wasm.headers["content-type"] == "application/wasm"


async def test_service_worker_is_checked_each_time(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.head("/sw.js")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "address", ["/assets/none.js", "/assets/../../secret.txt", "/assets/%2e%2e/%2e%2e/secret.txt"]
)
async def test_only_files_of_the_page_are_served(visitor: httpx.AsyncClient, address: str) -> None:
    answer = await visitor.get(address)
    assert answer.status_code == 404 and "not below" not in answer.text


async def test_page_that_is_not_built_says_how_to_build_it(
    service: Service, tmp_path: Path
) -> None:
    answer = await serving_page(service, tmp_path / "none").get("/")
    assert answer.status_code == 404
    assert "make web" in answer.text and answer.text.count("\n") == 1


class TestEmbedded:
    @pytest.fixture
    def settings(self) -> GatewaySettings:
        return GatewaySettings(page_embedders=("https://portal.example.com",))

    async def test_page_may_be_framed_by_the_named_origins(
        self, visitor: httpx.AsyncClient
    ) -> None:
        answer = await visitor.get("/")
        assert "cross-origin-opener-policy" not in answer.headers
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors https://portal.example.com" in policy


def test_embedders_are_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMSERVE_PAGE_EMBEDDERS", "https://a.example, http://b.example:8080")
    assert GatewaySettings().page_embedders == ("https://a.example", "http://b.example:8080")
    monkeypatch.setenv("SAMSERVE_PAGE_EMBEDDERS", "https://a.example; script-src *")
    with pytest.raises(ValueError, match="expected origins"):
        GatewaySettings()
