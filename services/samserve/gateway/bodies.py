"""Bounds the bodies of requests: their size, their time, and the memory of all together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

from samserve.core.errors import Overloaded
from samserve.gateway.problem import BodyTooLarge, BodyTooSlow, UnsupportedBody


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits on bodies.

    Attributes:
        most: Bytes of one body.
        all_together: Bytes of all bodies in flight.
        seconds: To receive one.
    """

    most: int
    all_together: int
    seconds: float


class Bodies:
    """Counts the bytes of all bodies in flight. One for each process."""

    def __init__(self, limits: BodyLimits) -> None:
        self.limits = limits
        self.held = 0  # bytes


class Body:
    """The body of one request. Its `receive` replaces the server's, for the route to call."""

    def __init__(self, bodies: Bodies, scope: Scope, receive: Receive) -> None:
        self._bodies = bodies
        self._scope = scope
        self._receive = receive
        self._size = 0
        self._complete = False
        self._deadline = asyncio.get_running_loop().time() + bodies.limits.seconds

    async def receive(self) -> Message:
        """Receive the next part.

        Raises:
            BodyTooLarge: The body is over its limit, as announced or as counted.
            BodyTooSlow: Its time is over.
            UnsupportedBody: It is compressed.
            Overloaded: The bodies in flight take all their memory.
        """
        if self._complete:
            return await self._receive()  # tells that the caller has left
        if self._size == 0:
            self._check_headers()

        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as late:
            seconds = self._bodies.limits.seconds
            raise BodyTooSlow(
                "body", f"body: not received within {seconds:g} s; send it faster"
            ) from late

        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            self._complete = not message.get("more_body", False)
        return message

    def release(self) -> None:
        """Give the memory back, once the request is answered."""
        self._bodies.held -= self._size
        self._size = 0

    def _check_headers(self) -> None:
        headers = dict(self._scope["headers"])
        coding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        if coding != "identity":
            raise UnsupportedBody(
                "content-encoding", "content-encoding: send the body uncompressed"
            )
        announced = headers.get(b"content-length", b"")
        if announced.isdigit():
            self._check_size(int(announced))

    def _count(self, size: int) -> None:
        self._size += size
        self._bodies.held += size
        self._check_size(self._size)
        if self._bodies.held > self._bodies.limits.all_together:
            raise Overloaded("the gateway's memory for requests")

    def _check_size(self, size: int) -> None:
        most = self._bodies.limits.most
        if size > most:
            raise BodyTooLarge("body", f"body: {size:,} bytes; the limit is {most:,}")
