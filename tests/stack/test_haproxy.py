"""HAProxy keeps callers of the embedding service apart, and ends connections that do nothing."""

from __future__ import annotations

import socket
import threading

import grpc
from samserve.local.stack import Stack
from samserve.v1 import embedding_pb2 as pb
from samserve.v1 import embedding_pb2_grpc as rpc
from stacks import CAP, Photos, until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and SETTINGS
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]  # channels of a process may share one
LONG = "x" * 100_000  # a name that comes back in the error, larger than HAProxy's buffer


def closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_connections_that_send_no_request_are_closed(stack: Stack) -> None:
    host, _, port = stack.addresses.embedding.rpartition(":")
    connections = [socket.create_connection((host, int(port))) for _ in range(20)]
    for number, connection in enumerate(connections):
        connection.sendall(PREFACE if number % 2 else PREFACE[:10])
    assert not all(closed(connection) for connection in connections)
    until(lambda: all(closed(connection) for connection in connections))
    for connection in connections:
        connection.close()


def test_another_callers_broken_calls_end_none_of_mine(stack: Stack, new_photo: Photos) -> None:
    address, done = stack.addresses.embedding, threading.Event()

    def break_calls() -> None:
        with grpc.insecure_channel(address, OWN_CONNECTION) as channel:
            embed = rpc.EmbeddingServiceStub(channel).Embed
            for _ in range(60):
                refused = embed.future(pb.EmbedRequest(data=b"x", model=LONG), timeout=CAP)
                assert refused.exception() is not None
        done.set()

    stranger = threading.Thread(target=break_calls)
    request = pb.EmbedRequest(data=new_photo())
    failures, answers = [], 0
    with grpc.insecure_channel(address, OWN_CONNECTION) as channel:
        embed = rpc.EmbeddingServiceStub(channel).Embed
        embed(request, timeout=CAP)
        stranger.start()
        while not done.is_set() or answers < 100:
            try:
                embed(request, timeout=CAP)
                answers += 1
            except grpc.RpcError as error:
                failures.append(f"{error.code()}: {error.details()}")
    stranger.join()
    assert failures == []
