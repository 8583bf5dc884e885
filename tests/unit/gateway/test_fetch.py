"""The fetcher against servers of this machine and names that lie."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Sequence

import pytest
import raw_web
from raw_web import Web, page
from samserve.core.errors import InvalidInput
from samserve.gateway import fetch
from samserve.gateway.fetch import Fetcher, FetchFailed, FetchLimits, resolve_name
from samserve.infra import hosts
from samserve.infra.hosts import AllowedHost

FIELD = "image.value"
LIMITS = FetchLimits(bytes=100_000)


@pytest.fixture
async def server() -> AsyncIterator[Web]:
    async with raw_web.running() as server:
        yield server


async def fetched(
    url: str, *allowed: AllowedHost, limits: FetchLimits = LIMITS, **options: object
) -> bytes:
    resolve = options.pop("resolve", resolve_name)
    fetcher = Fetcher(allowed, limits, resolve=resolve)  # type: ignore[arg-type]
    try:
        return await fetcher.fetch(url, FIELD, **options)  # type: ignore[arg-type]
    finally:
        await fetcher.close()


def private(server: Web, name: str = "127.0.0.1") -> AllowedHost:
    return AllowedHost(name, server.port, private=True)


class Names:
    """A resolver whose answers change from call to call."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.calls = 0

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        self.calls += 1
        return self.answers[min(self.calls, len(self.answers)) - 1]


async def test_a_listed_private_host_is_fetched_with_its_name_and_headers(server: Web) -> None:
    server.pages["/a.png?x=1"] = page(b"image")
    url = server.url("/a.png?x=1", "studio.lan")
    body = await fetched(
        url,
        private(server, "studio.lan"),
        resolve=Names(["127.0.0.1"]),
        headers={"Authorization": "Token x"},
    )
    assert body == b"image"
    (head,) = server.requests
    assert f"Host: studio.lan:{server.port}" in head
    assert "Authorization: Token x" in head
    assert "Accept-Encoding: identity" in head


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0177.0.0.1",
        "0x7f000001",
        "127.1",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
    ],
)
async def test_loopback_in_any_notation_is_refused(server: Web, host: str) -> None:
    server.pages["/"] = page(b"secret")
    listed = AllowedHost(host.strip("[]"), server.port)
    with pytest.raises(InvalidInput, match="private or reserved address") as problem:
        await fetched(server.url("/", host), listed)
    assert problem.value.field == FIELD
    assert server.requests == []


@pytest.mark.parametrize("address", ["::1", "169.254.169.254", "10.0.0.1", "fe80::1", "0.0.0.0"])  # noqa: S104
async def test_a_name_with_a_private_address_is_refused(address: str) -> None:
    names = Names(["8.8.8.8", address])
    with pytest.raises(FetchFailed, match="private or reserved"):
        await fetched("http://images.example/", AllowedHost("images.example"), resolve=names)


async def test_metadata_is_refused_even_for_a_private_host() -> None:
    names = Names(["169.254.169.254"])
    host = AllowedHost("studio.lan", 80, private=True)
    with pytest.raises(FetchFailed, match=r"169\.254\.169\.254"):
        await fetched("http://studio.lan/", host, resolve=names)


async def test_the_connection_goes_to_the_checked_address(
    server: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name changes from an allowed address to loopback between check and connect."""
    allowed = hosts.is_allowed
    monkeypatch.setattr(
        fetch, "is_allowed", lambda text, **kind: text == "127.0.0.2" or allowed(text, **kind)
    )
    server.pages["/"] = page(b"secret")
    names = Names(["127.0.0.2"], ["127.0.0.1"])
    host = AllowedHost("images.example", server.port)

    async with raw_web.running("127.0.0.2", server.port) as public:
        public.pages["/"] = page(b"image")
        assert await fetched(server.url("/", "images.example"), host, resolve=names) == b"image"
    assert names.calls == 1
    assert server.requests == []

    names = Names(["127.0.0.2"], ["127.0.0.1"])
    async with raw_web.running("127.0.0.2", server.port) as public:
        public.pages["/"] = page(status="302 Found", Location="/next")
        with pytest.raises(FetchFailed, match="private or reserved"):
            await fetched(server.url("/", "images.example"), host, resolve=names)
    assert server.requests == []


async def test_the_certificate_must_name_the_host_and_not_its_address() -> None:
    named: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate: the handshake fails
    context.sni_callback = lambda _, name, __: named.append(name)

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("the handshake succeeded")

    async with await asyncio.start_server(never, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        host = AllowedHost("studio.lan", port, private=True)
        with pytest.raises(FetchFailed, match=r"studio\.lan"):
            await fetched(f"https://studio.lan:{port}/", host, resolve=Names(["127.0.0.1"]))
    assert named == ["studio.lan"]


async def test_the_next_address_is_tried_if_one_accepts_no_connection(server: Web) -> None:
    server.pages["/"] = page(b"image")
    names = Names(["127.0.0.3", "127.0.0.1"])
    host = private(server, "studio.lan")
    assert await fetched(server.url("/", "studio.lan"), host, resolve=names) == b"image"


async def test_a_redirect_on_the_same_host_keeps_the_credentials(server: Web) -> None:
    server.pages["/a"] = page(status="302 Found", Location="b")
    server.pages["/b"] = page(b"image")
    body = await fetched(server.url("/a"), private(server), headers={"Authorization": "Token x"})
    assert body == b"image"
    assert all("Authorization: Token x" in head for head in server.requests)


@pytest.mark.parametrize(
    "place", ["http://other.example/", "//other.example/", "file:///etc/passwd", "http://[::1]/"]
)
async def test_a_redirect_to_an_unlisted_host_is_refused(server: Web, place: str) -> None:
    server.pages["/"] = page(status="302 Found", Location=place)
    with pytest.raises(InvalidInput, match=r"allowed hosts|unsupported scheme"):
        await fetched(server.url("/"), private(server), to_listed_hosts=True)


async def test_a_redirect_to_another_listed_host_is_followed_only_without_credentials(
    server: Web,
) -> None:
    async with raw_web.running() as storage:
        storage.pages["/b"] = page(b"image")
        server.pages["/a"] = page(status="303 See Other", Location=storage.url("/b"))
        both = private(server), private(storage)
        with pytest.raises(FetchFailed, match="redirect to another host"):
            await fetched(server.url("/a"), *both)

        body = await fetched(
            server.url("/a"), *both, headers={"Authorization": "Token x"}, to_listed_hosts=True
        )
        assert body == b"image"
        (head,) = storage.requests
        assert "Authorization" not in head


async def test_redirects_end(server: Web) -> None:
    server.pages["/"] = page(status="302 Found", Location="/")
    with pytest.raises(FetchFailed, match="more than 3 redirects"):
        await fetched(server.url("/"), private(server))
    assert len(server.requests) == LIMITS.redirects + 1


async def test_a_body_announced_over_the_limit_is_refused(server: Web) -> None:
    server.pages["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n"
    with pytest.raises(FetchFailed, match="100,001 bytes or more; the limit is 100,000"):
        await fetched(server.url("/"), private(server))


async def test_a_body_without_a_length_is_cut_off_at_the_limit(server: Web) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while True:
            writer.write(bytes(10_000))
            await writer.drain()
            sent += 10_000

    server.pages["/"] = endless
    with pytest.raises(FetchFailed, match="the limit is 100,000"):
        await fetched(server.url("/"), private(server))
    assert sent < 2**25  # what the kernel's buffers take


async def test_a_slow_body_ends_with_the_time(server: Web) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    server.pages["/"] = slow
    with pytest.raises(FetchFailed, match=r"took longer than 0\.3 s"):
        await fetched(server.url("/"), private(server), limits=FetchLimits(1000, seconds=0.3))


async def test_an_encoded_body_is_refused_and_not_inflated(server: Web) -> None:
    server.pages["/"] = page(gzip.compress(bytes(1_000_000)), Content_Encoding="gzip")
    with pytest.raises(FetchFailed, match="content encoding 'gzip'"):
        await fetched(server.url("/"), private(server))


@pytest.mark.parametrize(
    ("answer", "problem", "status"),
    [
        (page(status="401 Unauthorized"), "answered HTTP 401", 401),
        (page(status="204 No Content"), "answered HTTP 204", 204),
        (page(status="302 Found"), "answered HTTP 302", 302),
        (b"no HTTP\r\n\r\n", "no valid answer", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "no valid answer", 0),
        (b"", "no valid answer", 0),
    ],
)
async def test_any_other_answer_is_an_error_with_its_status(
    server: Web, answer: bytes, problem: str, status: int
) -> None:
    server.pages["/"] = answer
    with pytest.raises(FetchFailed, match=problem) as caught:
        await fetched(server.url("/"), private(server))
    assert caught.value.status == status
    assert caught.value.field == FIELD


async def test_a_host_that_is_down_or_unknown_is_an_error() -> None:
    async with raw_web.running() as server:
        pass
    with pytest.raises(FetchFailed, match="cannot be connected to"):
        await fetched(server.url("/"), private(server))

    async def unknown(name: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    with pytest.raises(FetchFailed, match="unknown host"):
        await fetched("http://a.example/", AllowedHost("a.example"), resolve=unknown)


async def test_fetches_at_once_are_bounded(server: Web) -> None:
    open_now, most = 0, 0
    both, go = asyncio.Event(), asyncio.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        if open_now == 2:
            both.set()
        await go.wait()
        open_now -= 1
        writer.write(page(b"image"))
        await writer.drain()

    server.pages["/"] = held
    fetcher = Fetcher([private(server)], FetchLimits(100, in_flight=2))
    fetches = [asyncio.create_task(fetcher.fetch(server.url("/"), FIELD)) for _ in range(6)]
    await both.wait()
    go.set()
    assert await asyncio.gather(*fetches) == [b"image"] * 6
    assert most == 2
    await fetcher.close()
