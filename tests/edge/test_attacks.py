"""Attacks on the edge, while another client's calls go on as if nothing were."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable

import grpc
import pytest
from edge.attackers import LooseHttp2, another_client, exchange
from edge.conftest import Edge, Start
from edge.fakes_behind import CAP, Decoder, Gateway
from samserve.v1 import segmentation_pb2 as pb
from samserve.v1 import segmentation_pb2_grpc as rpc
from stacks import metric, until

HOST = b"host: a\r\n"
HIDDEN = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
PREDICT = "/samserve.v1.SegmentationService/Predict"

# Bytes that two parsers could cut into requests differently.
AMBIGUOUS = {
    "a length and chunks": b"content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"content-length: 0\r\ncontent-length: 38\r\n\r\n",
    "a list of lengths": b"content-length: 0, 38\r\n\r\n",
    "a signed length": b"content-length: +0\r\n\r\n",
    "a length in hexadecimal": b"content-length: 0x0\r\n\r\n",
    "a space before the colon": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "two codings": b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding twice": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "a NUL in a header": b"x: a\x00b\r\n\r\n",
    "a chunk's size that overflows": b"transfer-encoding: chunked\r\n\r\n10000000000000000\r\n\r\n",
    "a chunk's size with a sign": b"transfer-encoding: chunked\r\n\r\n-0\r\n\r\n",
    "an underscore": b"transfer_encoding: chunked\r\n\r\n",
    "a header's name with a line in it": b"a\nb: c\r\n\r\n",
}


@pytest.fixture
def seen(gateway: Gateway) -> Callable[[], bytes]:
    """What has reached the gateway since the test began."""
    before = [len(received) for received in gateway.received]

    def bytes_since() -> bytes:
        old = [*before, *([0] * len(gateway.received))]
        return b"\n".join(
            received[start:] for received, start in zip(gateway.received, old, strict=False)
        )

    return bytes_since


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_request_is_refused_and_what_follows_it_is_not_read(
    name: str, edge: Edge, seen: Callable[[], bytes]
) -> None:
    with another_client(edge.address):
        sent = b"POST /v1/models HTTP/1.1\r\n" + HOST + AMBIGUOUS[name] + HIDDEN
        answer = exchange(edge.address, sent)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501")) or answer == b""
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b"/smuggled" not in seen()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no host
        b"GET /v1/%2e%2e%2fsmuggled HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /v1/a%5c..%5csmuggled HTTP/1.1\r\n" + HOST + b"\r\n",
        b"CONNECT a:80 HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / smuggled HTTP/1.1\r\n" + HOST + b"\r\n",
    ],
)
def test_a_malformed_request_line_is_refused(
    sent: bytes, edge: Edge, seen: Callable[[], bytes]
) -> None:
    answer = exchange(edge.address, sent)
    assert answer == b"" or answer.split()[1] in (b"400", b"404", b"426")
    assert b"smuggled" not in seen()


@pytest.mark.parametrize(
    "line", [b"x: a\r\n transfer-encoding: chunked", b"x: a\rtransfer-encoding: b"]
)
def test_an_odd_header_reaches_services_as_one_line(
    line: bytes, edge: Edge, seen: Callable[[], bytes]
) -> None:
    exchange(edge.address, b"POST /v1/odd HTTP/1.1\r\n" + HOST + line + b"\r\n\r\n")
    head = seen().partition(b"POST /v1/odd")[2].partition(b"\r\n\r\n")[0]
    names = [each.partition(b":")[0] for each in head.split(b"\r\n")[1:]]
    assert names.count(b"content-length") == 1
    assert b"transfer-encoding" not in names


BASE = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/v1/models")]


@pytest.mark.parametrize(
    ("more", "body"),
    [
        ([("transfer-encoding", "chunked")], b"0\r\n\r\n" + HIDDEN),
        ([("connection", "keep-alive, x")], b""),
        ([("x", "a\r\ntransfer-encoding: chunked")], b"0\r\n\r\n" + HIDDEN),
        ([("x", "a\nb: c")], b""),
        ([("x\r\ny", "a")], b""),
        ([("x: y", "a")], b""),
        ([("content-length", "0")], HIDDEN),
        ([("content-length", "3")], HIDDEN),
        ([("X-Upper", "a")], b""),
        ([(":path", "/smuggled")], b""),
        ([(":status", "200")], b""),
    ],
)
def test_http2_carries_nothing_that_is_a_line_in_http1(
    more: list[tuple[str, str]], body: bytes, edge: Edge, seen: Callable[[], bytes]
) -> None:
    with another_client(edge.address), LooseHttp2(edge.address) as attacker:
        outcome = attacker.outcome(attacker.send([*BASE, *more], body))
    assert outcome in ("reset", "closed", "400")
    assert b"/smuggled" not in seen()
    assert b"transfer-encoding: chunked" not in seen()


def test_a_path_with_a_line_in_it_is_refused(edge: Edge, seen: Callable[[], bytes]) -> None:
    for path in ("/ HTTP/1.1\r\nhost: b\r\n\r\nGET /smuggled", "/a b", "smuggled", ""):
        headers = [*BASE[:3], (":path", path)]
        with LooseHttp2(edge.address) as attacker:
            outcome = attacker.outcome(attacker.send(headers))
        assert outcome in ("reset", "closed", "400", "404"), path
    assert b"smuggled" not in seen()


async def test_ten_thousand_silent_connections_keep_nobody_out(edge: Edge) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    wanted = min(10_000, most - 2_000)
    host, port = edge.address.split(":")
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> None:
        _, writer = await asyncio.open_connection(host, int(port))
        writers.append(writer)

    try:
        for _ in range(wanted // 500):
            await asyncio.gather(*(connect() for _ in range(500)))
        assert metric(edge.metrics, "envoy_listener_downstream_cx_active") >= len(writers)

        def new_client() -> None:
            with another_client(edge.address):
                pass

        await asyncio.to_thread(new_client)
    finally:
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)
    refused = metric(edge.metrics, "envoy_listener_downstream_global_cx_overflow")
    assert refused == 0


async def test_heads_that_come_slowly_are_ended_and_others_are_served(edge: Edge) -> None:
    host, port = edge.address.split(":")
    ended = 0

    async def dribble() -> None:
        nonlocal ended
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/models HTTP/1.1\r\nhost: a\r\nx: ")
        try:
            while not reader.at_eof():
                writer.write(b"a")
                await writer.drain()
                try:
                    async with asyncio.timeout(0.2):
                        await reader.read(4096)
                except TimeoutError:
                    continue
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
        ended += 1

    def others() -> None:
        with another_client(edge.address):
            pass

    slow = [asyncio.create_task(dribble()) for _ in range(300)]
    await asyncio.to_thread(others)
    await asyncio.wait_for(asyncio.gather(*slow), CAP)
    assert ended == len(slow)


def test_rapid_resets_end_their_own_connection_only(edge: Edge, decoders: list[Decoder]) -> None:
    headers = [
        *[pair for pair in BASE if pair[0] != ":path"],
        (":path", PREDICT),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    before = sum(len(each.images) for each in decoders)
    sent = 0
    with another_client(edge.address):
        for _ in range(3):
            with LooseHttp2(edge.address) as attacker:
                while not attacker.ended() and sent < 60_000:
                    try:
                        for _ in range(50):
                            stream = attacker.h2.get_next_available_stream_id()
                            attacker.h2.send_headers(stream, headers)
                            attacker.h2.reset_stream(stream, error_code=8)
                            sent += 1
                        attacker.flush()
                    except OSError:
                        break
    assert sent < 3 * 2_000  # each connection was ended long before its 20,000
    assert metric(edge.metrics, "envoy_http_downstream_rq_too_many_premature_resets") >= 3
    assert sum(len(each.images) for each in decoders) >= before


def test_large_heads_and_metadata_are_refused_and_hurt_nobody(
    edge: Edge, seen: Callable[[], bytes]
) -> None:
    many = b"".join(b"x-%d: a\r\n" % number for number in range(200))
    with another_client(edge.address), grpc.insecure_channel(edge.address) as channel:
        large = b"GET / HTTP/1.1\r\n" + HOST + b"x: " + 60_000 * b"a" + b"\r\n\r\n"
        assert exchange(edge.address, large).split()[1] == b"431"
        assert exchange(edge.address, b"GET / HTTP/1.1\r\n" + HOST + many + b"\r\n")[:12] in (
            b"HTTP/1.1 431",
            b"",
        )
        stub = rpc.SegmentationServiceStub(channel)
        for _ in range(20):
            with pytest.raises(grpc.RpcError):
                stub.Predict(pb.PredictRequest(), timeout=CAP, metadata=(("x", 60_000 * "a"),))
    assert b"aaaa" not in seen()


def test_a_body_over_the_limit_is_refused_by_its_announced_length(
    edge: Edge, seen: Callable[[], bytes]
) -> None:
    head = b"POST /v1/images HTTP/1.1\r\n" + HOST + b"content-length: 999999999\r\n\r\n"
    assert exchange(edge.address, head).split()[1] == b"413"
    assert b"999999999" not in seen()


def test_a_stranger_is_not_the_edge(edge: Edge, decoders: list[Decoder]) -> None:
    forged = (
        ("samserve-edge", "secret"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-retry-on", "5xx"),
        ("x-forwarded-host", "other"),
        ("x-real-ip", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
    )
    for each in decoders:
        each.metadata.clear()
    with grpc.insecure_channel(edge.address) as channel:
        rpc.SegmentationServiceStub(channel).Predict(
            pb.PredictRequest(), timeout=CAP, metadata=(*forged, ("x-forwarded-for", "10.0.0.1"))
        )
    (got,) = [metadata for each in decoders for metadata in each.metadata]
    assert not {key for key, _ in forged} & got.keys()
    assert (
        got["x-forwarded-for"].split(",")[0] == "10.0.0.1" != got["x-forwarded-for"].split(",")[-1]
    )


def test_connections_beyond_the_limit_are_closed_and_open_ones_go_on(start: Start) -> None:
    edge = start(SAMSERVE_EDGE_CONNECTIONS=20)
    host, port = edge.address.split(":")

    async def flood() -> None:
        made = [await asyncio.open_connection(host, int(port)) for _ in range(100)]
        for _, writer in made:
            writer.transport.abort()

    with another_client(edge.address):
        asyncio.run(flood())
        until(lambda: metric(edge.metrics, "envoy_listener_downstream_global_cx_overflow") > 0)
