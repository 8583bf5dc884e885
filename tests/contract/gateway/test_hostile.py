"""Requests of strangers: refused within bounded memory, while others are answered."""

from __future__ import annotations

import asyncio
import gzip
import resource
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

import httpx
import orjson
import pytest
from contract.gateway.conftest import serving
from fastapi import FastAPI
from prometheus_client import REGISTRY
from samserve.core.errors import InvalidInput
from samserve.gateway.http_protocol import MAX_HEAD_BYTES
from samserve.gateway.json_body import parse_json
from samserve.gateway.problem import BodyTooLarge
from samserve.gateway.service import Service
from samserve.infra.settings import GatewaySettings

MIB = 2**20
MOST_GROWTH = 160  # MiB, of the whole process with its services
CHUNK = bytes(MIB)
MASKS = f"/v1/images/{'0' * 64}/masks"


@pytest.fixture
def settings() -> GatewaySettings:
    return GatewaySettings(
        max_body_bytes=8 * MIB, max_bodies_bytes=24 * MIB, upload_s=60, max_requests=32
    )


@pytest.fixture
async def url(gateway_app: FastAPI) -> AsyncIterator[str]:
    async with serving(gateway_app) as url:
        yield url


def peak() -> int:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def answered(status: str, route: str = "/v1/images") -> float:
    """Requests that were answered with this status so far."""
    labels = {"route": route, "status": status}
    return REGISTRY.get_sample_value("samserve_http_requests_total", labels) or 0


async def request(url: str, head: str, *parts: bytes) -> bytes:
    """Send a request as it stands, and return what comes back until the connection ends."""
    _, _, address = url.partition("//")
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + b"\r\n\r\n")
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def end(requests: Iterable[asyncio.Task[bytes]]) -> None:
    """Close the connections of requests, and wait until they are closed."""
    for each in requests:
        each.cancel()
    await asyncio.wait(requests)


async def test_a_body_of_a_gigabyte_is_refused_as_announced_and_as_counted(
    url: str, service: Service
) -> None:
    before = peak()
    head = "POST /v1/images HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: "
    announced = await request(url, f"{head}{2**30}")
    assert b" 413 " in announced
    assert b"1,073,741,824 bytes; the limit is 8,388,608" in announced

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1024):
            yield CHUNK

    async with httpx.AsyncClient(base_url=url) as http:
        try:
            counted = await http.post("/v1/images", content=endless())
            assert counted.status_code == 413
        except (httpx.WriteError, httpx.ReadError):
            pass  # the connection was closed while it was still being written to
        assert (await http.get("/healthz")).status_code == 200
    assert peak() - before < MOST_GROWTH
    assert service.bodies.held == 0


async def test_bodies_that_stop_are_ended_and_their_memory_given_back(
    url: str, service: Service
) -> None:
    service.bodies.limits = replace(service.bodies.limits, seconds=1)
    head = "POST /v1/images HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4000000"
    answers = await asyncio.gather(*(request(url, head, bytes(100_000)) for _ in range(20)))
    assert all(b"408 Request Timeout" in answer for answer in answers)
    assert service.bodies.held == 0


async def test_bodies_together_have_a_limit(url: str, service: Service) -> None:
    head = "POST /v1/images HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8000000"
    parts = [CHUNK] * 7
    before = answered("429")
    sent = [asyncio.create_task(request(url, head, *parts)) for _ in range(8)]
    _, waiting = await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
    assert answered("429") > before  # 56 MiB do not fit into 24
    assert waiting  # for the rest of what fits

    await end(waiting)
    while service.bodies.held:  # noqa: ASYNC110  # until the gateway notices that they have left
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("target", ["/v1/images", MASKS])
async def test_a_caller_that_leaves_amid_its_body_is_no_failure(
    url: str, service: Service, target: str
) -> None:
    kind = "content-type: application/json" if target == MASKS else "content-type: image/png"
    head = f"POST {target} HTTP/1.1\r\nhost: x\r\n{kind}\r\ncontent-length: 4000000"
    route = "/v1/images/{image_id}/masks" if target == MASKS else target
    before = answered("499", route), answered("500", route), answered("400", route)
    leaving = asyncio.create_task(request(url, head, bytes(100_000)))
    while not service.bodies.held:  # noqa: ASYNC110  # until the gateway waits for the rest
        await asyncio.sleep(0.01)

    await end([leaving])
    while service.bodies.held:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    after = answered("499", route), answered("500", route), answered("400", route)
    assert after == (before[0] + 1, *before[1:])


async def test_a_compressed_body_is_not_unpacked(url: str, service: Service) -> None:
    bomb = gzip.compress(bytes(64 * MIB))
    async with httpx.AsyncClient(base_url=url) as http:
        for coding in ("gzip", "deflate", "br", "zstd"):
            headers = {"content-encoding": coding, "content-type": "application/json"}
            answer = await http.post(MASKS, content=bomb, headers=headers)
            assert answer.status_code == 415
            assert answer.json()["field"] == "content-encoding"


async def test_a_million_prompts_and_deep_nesting_are_refused(url: str) -> None:
    before = peak()
    prompts = b'{"prompts":[' + b",".join([b"{}"] * 1_000_000) + b"]}"
    deep = b'{"prompts":' + b"[" * 15_000 + b"]" * 15_000 + b"}"
    headers = {"content-type": "application/json"}
    async with httpx.AsyncClient(base_url=url) as http:
        many = await http.post(MASKS, content=prompts, headers=headers)
        nested = await http.post(MASKS, content=deep, headers=headers)
    assert (many.status_code, nested.status_code) == (413, 400)
    assert "the limit is 20,000" in many.json()["detail"]
    assert "invalid JSON" in nested.json()["detail"]
    assert peak() - before < MOST_GROWTH


async def test_heads_are_bounded_in_bytes_and_in_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samserve.gateway.http_protocol.HEAD_SECONDS", 0.2)
    head = "GET /healthz HTTP/1.1\r\nhost: x"
    long = [
        f"\r\nx-{number}: {'a' * 8000}".encode() for number in range(2 * MAX_HEAD_BYTES // 8000)
    ]
    _, _, address = url.partition("//")
    host, port = address.split(":")

    async def send(*parts: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()

    assert await send(head.encode(), *long) == b""
    assert await send(head.encode()) == b""  # and then nothing
    assert await send(b"") == b""
    assert b"200 OK" in await send(head.encode(), b"\r\nconnection: close\r\n\r\n")


async def test_a_later_requests_head_is_bounded_in_time_too(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, address = url.partition("//")
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b"200 OK" in await reader.readuntil(b"ok")
    monkeypatch.setattr("samserve.gateway.http_protocol.HEAD_SECONDS", 0.2)
    writer.write(b"GET /healthz HTTP/1.1\r\nhost:")  # and then nothing
    assert b"HTTP" not in await reader.read()
    writer.close()


async def test_more_requests_than_the_most_are_refused_in_each_surfaces_form(
    url: str, service: Service
) -> None:
    head = "POST /v1/images HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 10"
    waiting = [
        asyncio.create_task(request(url, head)) for _ in range(service.settings.max_requests)
    ]
    async with httpx.AsyncClient(base_url=url) as http:
        answer = await http.get("/v1/models")
        while answer.status_code == 200 and not any(task.done() for task in waiting):
            answer = await http.get("/v1/models")
        assert (answer.status_code, answer.json()["code"]) == (429, "OVERLOADED")
        assert int(answer.headers["retry-after"]) >= 1
        roboflow = await http.get("/info")
        assert (roboflow.status_code, list(roboflow.json())) == (429, ["message"])
        for probe in ("/healthz", "/readyz"):
            assert (await http.get(probe)).status_code == 200

        await end(waiting)
        while (await http.get("/v1/models")).status_code == 429:  # noqa: ASYNC110  # others end
            await asyncio.sleep(0.01)


async def test_only_the_liveness_probe_is_answered_beyond_the_most_connections(
    gateway_app: FastAPI,
) -> None:
    async with (
        serving(gateway_app, max_connections=1) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        for _ in range(2):  # on one connection
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/v1/models")).status_code == 503
            assert (await http.get("/readyz")).status_code == 503


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":NaN}', b"\xff", b'{"a":1}x'])
def test_no_json_is_refused_with_its_place(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="invalid JSON"):
        parse_json(body, 10)


def test_json_has_a_limit_of_values() -> None:
    body = orjson.dumps(list(range(100)))
    assert parse_json(body, 101) == list(range(100))
    with pytest.raises(BodyTooLarge, match="100 values in the JSON; the limit is 99"):
        parse_json(body, 99)
