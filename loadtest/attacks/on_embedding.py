"""Attacks on the embedding service. Each runs until it is done or its process is ended."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
from samserve.v1 import embedding_pb2, embedding_pb2_grpc

from loadtest.attacks import files
from loadtest.attacks.http2 import RawConnection
from loadtest.attacks.target import (
    CLOSED,
    SENT,
    Target,
    open_channel,
)


def costly_files(target: Target) -> None:
    """Files of a few kB that take seconds to decode, six at a time, callers gone after 2 s."""
    _send_files(
        target,
        (files.bmp_of_runs(), files.webp_of_one_color(), files.bmp_of_runs(9_999)),
        at_once=6,
        timeout=2,
    )


def files_of_markers(target: Target) -> None:
    """JPEG and PNG files of millions of empty parts."""
    _send_files(target, (files.jpeg_of_markers(), files.png_of_chunks()), at_once=4, timeout=20)


def files_at_the_limit(target: Target) -> None:
    """Files of 36 megapixels of the costliest kinds, four at a time."""
    _send_files(target, (files.deep_png(), files.progressive_jpeg()), at_once=4, timeout=20)


def large_messages(target: Target) -> None:
    """Messages of 300 MB."""
    with open_channel(target.embedding) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        data = bytes(300 * 10**6)
        target.begin()
        for _ in range(3):
            with suppress(grpc.RpcError):
                stub.Embed(embedding_pb2.EmbedRequest(data=data), timeout=20)


def unfinished_embeds(target: Target) -> None:
    """Twelve calls on one connection that each send 32 MiB but for the last byte."""
    connection = RawConnection(target.embedding)
    target.begin()
    with suppress(*CLOSED):
        for _ in range(12):
            connection.send_part(connection.open("EmbeddingService/Embed"), SENT + 64, SENT)
        while connection.read(1):
            pass


def long_model_names(target: Target) -> None:
    """Model names of 100 kB, twenty a second: the answer's trailers pass HAProxy's buffer."""
    target.begin()
    with open_channel(target.embedding) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        request = embedding_pb2.EmbedRequest(image_id="0" * 64, model="x" * 100_000)
        for _ in range(200):
            with suppress(grpc.RpcError):
                stub.Embed(request, timeout=5)
            time.sleep(0.05)


def hostile_metadata(target: Target) -> None:
    """Metadata of 60 kB, and a time limit of 400 digits."""
    target.begin()
    for address in (target.decoder, target.embedding):
        with open_channel(address) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            request = embedding_pb2.EmbedRequest(image_id="0" * 64)
            for metadata in ([("x-large", "x" * 60_000)], [("samserve-timeout-ms", "9" * 400)]):
                for _ in range(50):
                    with suppress(grpc.RpcError):
                        stub.Embed(request, timeout=5, metadata=metadata)


def bulk_of_nothing(target: Target) -> None:
    """16 bulk streams of 10,000 invalid items in one request each."""
    items = [embedding_pb2.EmbedManyRequest.Item(id=n, data=b"x") for n in range(10_000)]
    request = embedding_pb2.EmbedManyRequest(items=items)
    target.begin()

    def stream(_: int) -> None:
        with open_channel(target.embedding) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            with suppress(grpc.RpcError):
                [None for _ in stub.EmbedMany(iter([request]), timeout=30)]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(stream, range(32)))


def silent_connections(target: Target) -> None:
    """4,200 connections that say nothing to the embedding service."""
    host, port = target.embedding.rsplit(":", 1)
    sockets: list[socket.socket] = []
    target.begin()
    with suppress(*CLOSED):
        sockets.extend(socket.create_connection((host, int(port)), timeout=5) for _ in range(4_200))
    time.sleep(60)


def _send_files(
    target: Target, contents: tuple[bytes, ...], *, at_once: int, timeout: float
) -> None:
    """Embed the files in turn, without end; each has a new hash."""

    def send(first: int) -> None:
        with open_channel(target.embedding) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            for number in range(first, 10**9, at_once):
                data = contents[number % len(contents)] + number.to_bytes(4, "big")
                request = embedding_pb2.EmbedRequest(data=data)
                with suppress(grpc.RpcError):
                    stub.Embed(request, timeout=timeout)
                time.sleep(0.05)

    target.begin()
    with ThreadPoolExecutor(at_once) as pool:
        for first in range(at_once):
            pool.submit(send, first)
