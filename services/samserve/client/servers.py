"""Channels to all decoders of an address, among which each call is placed by its image.

`Servers` and `AsyncServers` stand in for a gRPC channel: a stub is made of them.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock, Thread
from typing import Any, Self

import grpc
import grpc.aio

from samserve.client.channel import open_async_channel, open_channel
from samserve.client.placement import Candidate, choose
from samserve.wire.metadata import IMAGE_KEY, TENANT_KEY
from samserve.wire.status import DETAILS_KEY

RESOLVE_SECONDS = 5.0  # between two looks at a name
LISTS = ("ipv4:", "ipv6:")
NAME = "dns:///"

Metadata = Sequence[tuple[str, str | bytes]]
Open = Callable[[str], Any]  # a channel to one address
Bind = Callable[[Any], Any]  # a channel's method

# Nothing of the server is behind these, unless there are details.
_UNREACHABLE = grpc.StatusCode.UNAVAILABLE
_LATE = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


def open_servers(target: str, credentials: grpc.ChannelCredentials | None) -> Any:
    """Return a channel, or what stands in for one if the target may name several servers."""
    whole = open_channel(_target(target), credentials)
    if not _names_many(target):
        return whole
    host = _host(target)
    return Servers(target, lambda address: open_channel(address, credentials, host), whole)


def open_async_servers(target: str, credentials: grpc.ChannelCredentials | None) -> Any:
    """Return the same for asyncio."""
    whole = open_async_channel(_target(target), credentials)
    if not _names_many(target):
        return whole
    host = _host(target)
    return AsyncServers(
        target, lambda address: open_async_channel(address, credentials, host), whole
    )


def for_attempts(method: Any) -> Any:
    """Return a stub's method for the attempts of one call, each of which takes another server."""
    return method.for_attempts() if isinstance(method, PlacedMethod) else method


def key_of(metadata: Metadata | None) -> str | None:
    """Return what a call is placed by: tenant and image; None if it names no image."""
    pairs = dict(metadata or ())
    image = pairs.get(IMAGE_KEY)
    return None if image is None else f"{pairs.get(TENANT_KEY)!s}/{image!s}"


@dataclass(slots=True, eq=False)
class _Server(Candidate):
    """A decoder with its channel.

    Attributes:
        channel: To it alone.
        methods: Its methods, by their owner.
        open_calls: All of them, idle streams too.
    """

    channel: Any = None
    methods: dict[PlacedMethod, Any] = field(default_factory=dict)
    open_calls: int = 0


class Servers:
    """The decoders of a target. Threads may share it."""

    def __init__(self, target: str, open_one: Open, whole: Any) -> None:
        """Take a list of addresses as it is; look a name up at once, and again every few seconds.

        Args:
            target: `dns:///NAME:PORT`, `ipv4:A:1,B:2`, or `A:1,B:2`.
            open_one: Opens a channel to an address.
            whole: A channel to the target, for calls that name no image.
        """
        self._target = target
        self._open_one = open_one
        self._whole = whole
        self._servers: dict[str, _Server] = {}
        self._leaving: list[_Server] = []
        self._lock = Lock()
        self._found: set[str] = set()
        self._looked_at = time.monotonic()
        self._look_first()

    def _look_first(self) -> None:
        self._look()

    def unary_unary(self, *arguments: Any, **options: Any) -> PlacedMethod:
        return self._method(lambda channel: channel.unary_unary(*arguments, **options))

    def unary_stream(self, *arguments: Any, **options: Any) -> PlacedMethod:
        return self._method(lambda channel: channel.unary_stream(*arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> PlacedMethod:
        def bind(channel: Any) -> Any:
            return channel.stream_stream(*arguments, **options)

        return self._method(bind, idle=True)

    def _method(self, bind: Bind, *, idle: bool = False) -> PlacedMethod:
        return PlacedMethod(self, bind, idle=idle)

    def close(self) -> None:
        for channel in self._channels():
            channel.close()

    def _channels(self) -> list[Any]:
        servers = [*self._servers.values(), *self._leaving]
        return [self._whole, *(server.channel for server in servers)]

    def take(self, key: str | None, tried: set[Candidate], *, idle: bool) -> _Server | None:
        """Return the server for a call, which ends with `release`; None: any server will do."""
        if time.monotonic() - self._looked_at >= RESOLVE_SECONDS and self._target.startswith(NAME):
            self._looked_at = time.monotonic()
            Thread(target=self._look, name="samserve-servers", daemon=True).start()

        with self._lock:
            if key is None:
                return None
            self._apply()
            if not self._servers:
                return None
            server = choose(list(self._servers.values()), key, tried)
            server.open_calls += 1
            server.calls += not idle
            tried.add(server)
            return server

    def release(
        self, server: _Server, code: grpc.StatusCode, *, detailed: bool, idle: bool
    ) -> None:
        """Note how a call ended."""
        with self._lock:
            server.open_calls -= 1
            server.calls -= not idle
            if code is _UNREACHABLE and not detailed:
                server.note_miss(unreachable=True)
            elif code in _LATE and not detailed:
                if not idle:
                    server.note_miss(unreachable=False)
            else:
                server.note_answer()
            left = [each for each in self._leaving if not each.open_calls]
            self._leaving = [each for each in self._leaving if each.open_calls]
        for each in left:
            self._close(each.channel)

    def _close(self, channel: Any) -> None:
        channel.close()

    def _look(self) -> None:
        """Find the target's addresses; they count from the next call on."""
        if addresses := _addresses(self._target):
            self._found = addresses

    def _apply(self) -> None:
        """Open channels to new addresses. One that is gone is closed after its last call."""
        found = self._found
        for address in found - self._servers.keys():
            self._servers[address] = _Server(address, channel=self._open_one(address))
        for address in self._servers.keys() - found:
            self._leaving.append(self._servers.pop(address))


class AsyncServers(Servers):
    """The same for asyncio: for one event loop, which waits for no name."""

    def _look_first(self) -> None:
        if self._target.startswith(NAME):
            Thread(target=self._look, name="samserve-servers", daemon=True).start()
        else:
            self._look()

    def _method(self, bind: Bind, *, idle: bool = False) -> PlacedMethod:
        return AsyncPlacedMethod(self, bind, idle=idle)

    async def close(self) -> None:  # type: ignore[override]
        await asyncio.gather(*(channel.close() for channel in self._channels()))

    def _close(self, channel: Any) -> None:
        _in_background(channel.close())


class PlacedMethod:
    """A method of a service, each call of which is placed."""

    def __init__(
        self, servers: Servers, bind: Bind, *, idle: bool, origin: PlacedMethod | None = None
    ) -> None:
        """Create a method.

        Args:
            servers: Where it is called.
            bind: Makes the method of one channel.
            idle: Whether its calls are mostly idle, and so count as no load.
            origin: The method for whose attempts this one is.
        """
        self._servers = servers
        self._bind = bind
        self._idle = idle
        self._origin = origin
        self._tried: set[Candidate] = set()
        self._whole: Any = bind(servers._whole) if origin is None else origin._whole

    def for_attempts(self) -> Self:
        """Return the method for the attempts of one call."""
        return type(self)(self._servers, self._bind, idle=self._idle, origin=self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if isinstance(self._whole, grpc.UnaryUnaryMultiCallable):
            return self.future(*arguments, **options).result()
        return self._start(lambda method: method(*arguments, **options), options)

    def future(self, *arguments: Any, **options: Any) -> Any:
        return self._start(lambda method: method.future(*arguments, **options), options)

    def _start(self, call: Callable[[Any], Any], options: dict[str, Any]) -> Any:
        tried = self._tried if self._origin is not None else set()
        server = self._servers.take(key_of(options.get("metadata")), tried, idle=self._idle)
        if server is None:
            return call(self._whole)

        owner = self._origin or self
        method = server.methods.get(owner)
        if method is None:
            method = server.methods[owner] = self._bind(server.channel)
        try:
            handle = call(method)
        except BaseException:
            self._servers.release(server, grpc.StatusCode.CANCELLED, detailed=True, idle=self._idle)
            raise
        self._watch(server, handle)
        return handle

    def _watch(self, server: _Server, handle: Any) -> None:
        def note(done: Any) -> None:
            metadata = done.trailing_metadata()
            self._servers.release(
                server, done.code(), detailed=_has_details(metadata), idle=self._idle
            )

        handle.add_done_callback(note)


class AsyncPlacedMethod(PlacedMethod):
    """The same for asyncio."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._start(lambda method: method(*arguments, **options), options)

    def _watch(self, server: _Server, handle: Any) -> None:
        async def note() -> None:
            code, metadata = await handle.code(), await handle.trailing_metadata()
            self._servers.release(server, code, detailed=_has_details(metadata), idle=self._idle)

        handle.add_done_callback(lambda _: _in_background(note()))


_tasks: set[asyncio.Task[None]] = set()


def _in_background(work: Any) -> None:
    """Run a coroutine; keep a reference, so that it is not garbage-collected."""
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _has_details(metadata: Any) -> bool:
    return any(key == DETAILS_KEY for key, _ in metadata or ())


def _names_many(target: str) -> bool:
    return "," in target or target.startswith((NAME, *LISTS))


def _target(target: str) -> str:
    """Return a target as gRPC knows it, which takes no list of names."""
    if "," not in target or target.startswith(LISTS):
        return target
    return f"ipv4:{target}" if target[0].isdigit() else target.partition(",")[0]


def _host(target: str) -> str:
    """Return the host that a certificate must name, if it is not the address's own."""
    return target.removeprefix(NAME).rpartition(":")[0] if target.startswith(NAME) else ""


def _addresses(target: str) -> set[str]:
    """Return the addresses of a target; none if a name cannot be looked up now."""
    if not target.startswith(NAME):
        bare = target.removeprefix(LISTS[0]).removeprefix(LISTS[1])
        return {address.strip() for address in bare.split(",") if address.strip()}

    host, _, port = target.removeprefix(NAME).rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    # A server with addresses of both families must not count twice.
    family = min(each[0] for each in found)
    form = "{}:{}" if family == socket.AF_INET else "[{}]:{}"
    return {form.format(*each[4][:2]) for each in found if each[0] == family}
