"""Bytes that no library sends, and another client who is not to notice."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
import h2.config
import h2.connection
import h2.events
from edge.fakes_behind import CAP
from samserve.client import CachedImage, Click, Client
from samserve.core.errors import SamserveError
from stacks import until

FEWEST = 30  # calls of the other client during an attack
Headers = Sequence[tuple[str, str]]


def exchange(address: str, sent: bytes) -> bytes:
    """What comes back for raw bytes, until the server closes or falls silent."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=CAP) as connection:
        connection.sendall(sent)
        connection.settimeout(0.3)
        answer = b""
        try:
            while data := connection.recv(65536):
                answer += data
        except (TimeoutError, ConnectionError):
            pass
        return answer


class LooseHttp2:
    """An HTTP/2 connection that sends headers as they are given."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=CAP)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = h2.config.H2Configuration(
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            header_encoding="utf-8",
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.flush()

    def __enter__(self) -> LooseHttp2:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def flush(self) -> None:
        self._socket.sendall(self.h2.data_to_send())

    def send(self, headers: Headers, body: bytes = b"") -> int:
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=not body)
        if body:
            self.h2.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    def outcome(self, stream: int) -> str:
        """The status of an answer, "reset", or "closed" with the whole connection."""
        while True:
            try:
                data = self._socket.recv(65536)
            except ConnectionError:
                return "closed"
            if not data:
                return "closed"
            for event in self.h2.receive_data(data):
                match event:
                    case h2.events.ResponseReceived(stream_id=number, headers=headers):
                        if number == stream and headers:
                            return dict(headers)[":status"]
                    case h2.events.StreamReset(stream_id=number) if number == stream:
                        return "reset"
                    case h2.events.ConnectionTerminated():
                        return "closed"
            self.flush()

    def ended(self) -> bool:
        """Whether the server has ended the connection; reads what has come so far."""
        self._socket.settimeout(0.01)
        try:
            while True:
                data = self._socket.recv(65536)
                if not data:
                    return True
                events = self.h2.receive_data(data)
                if any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True
        finally:
            self._socket.settimeout(CAP)


@contextmanager
def another_client(target: str, **options: object) -> Iterator[list[Exception]]:
    """Calls all the while, and fails the test if one call fails, or if it makes too few.

    Yields:
        The failures so far.
    """
    failures: list[Exception] = []
    made = [0]
    over = threading.Event()

    def call() -> None:
        with Client(target, target, timeout=CAP, **options) as client:  # type: ignore[arg-type]
            while not over.is_set():
                try:
                    client.segment(CachedImage(f"{made[0]:064x}"), [Click(1, 1)])
                    made[0] += 1
                except (SamserveError, grpc.RpcError) as problem:
                    failures.append(problem)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        until(lambda: made[0] or failures)
        before = made[0]
        yield failures
        if not failures:
            until(lambda: made[0] >= before + FEWEST or failures)
    finally:
        over.set()
        thread.join()
    assert failures == []
