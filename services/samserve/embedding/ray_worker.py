"""What Ray Serve's processes do otherwise: each runs a function of this module as it starts.

Ray Serve is made for clusters and for callers that trust each other: its gRPC servers and HAProxy's
pages listen on all interfaces, HAProxy's admin socket is open to every user, connections to
replicas are shared by all callers, and HAProxy is replaced half a minute after its death. None of
it can be configured, so this module replaces the functions and texts that decide it. It fails if
Ray no longer has them. See docs/decisions/0028.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from grpc.aio._server import Server  # grpc.aio.Server is its abstract base

LOOPBACK = "127.0.0.1"
HEADERS_S = 10  # time for a connection's first headers, and for those of each request

# Lines of HAProxy's configuration: Ray's, ours.
_LOOPBACK_LINES = (
    ("bind :{{ config.metrics_port }}", f"bind {LOOPBACK}:{{{{ config.metrics_port }}}}"),
    ("bind *:{{ config.stats_port }}", f"bind {LOOPBACK}:{{{{ config.stats_port }}}}"),
)
_SAFE_LINES = (
    ("mode 666 level admin", "mode 600 level admin"),
    ("    option abortonclose", f"    option abortonclose\n    timeout http-request {HEADERS_S}s"),
    # A connection to a replica serves one caller's connection: a response that breaks it, with
    # headers larger than HAProxy's buffer, ends nobody else's calls.
    ("http-reuse always", "http-reuse never"),
)


def set_up() -> None:
    """Keep callers apart in HAProxy, and replace it as soon as it dies."""
    _rewrite_haproxy_config(_SAFE_LINES)
    _restart_haproxy()


def set_up_on_loopback() -> None:
    """Also listen on this machine's loopback interface only."""
    set_up()
    _rewrite_haproxy_config(_LOOPBACK_LINES)
    _bind_grpc_to_loopback()


def _bind_grpc_to_loopback() -> None:
    """Ray Serve's servers all listen on `[::]`, an address that no option changes."""
    server: Any = Server
    listen = server.add_insecure_port

    def add_insecure_port(self: Any, address: str) -> Any:
        return listen(self, address.replace("[::]", LOOPBACK))

    server.add_insecure_port = add_insecure_port


def _rewrite_haproxy_config(lines: tuple[tuple[str, str], ...]) -> None:
    from ray.serve._private import haproxy

    config = haproxy.HAPROXY_CONFIG_TEMPLATE
    for theirs, ours in lines:
        if theirs not in config:
            raise RuntimeError(f"Ray's HAProxy configuration has no {theirs!r}; use Ray 2.60")
        config = config.replace(theirs, ours)

    haproxy.HAPROXY_CONFIG_TEMPLATE = config


def _restart_haproxy() -> None:
    """Start HAProxy again as soon as it dies.

    HAProxy outlives a manager that dies. The next manager's HAProxy takes over from it.
    """
    from ray.serve._private.haproxy import HAProxyApi

    start = HAProxyApi._start_and_wait_for_haproxy
    starting = asyncio.Lock()
    watches = set()  # a task without a reference may be garbage-collected

    async def start_and_watch(api: Any, *arguments: str, **options: Any) -> Any:
        async with starting:
            if "-sf" not in arguments and (left := _running(api)):
                arguments = (*arguments, "-sf", *left)
            process = await start(api, *arguments, **options)

        watch = asyncio.ensure_future(replace_when_dead(api, process))
        watches.add(watch)
        watch.add_done_callback(watches.discard)
        return process

    async def replace_when_dead(api: Any, process: Any) -> None:
        await process.wait()
        async with starting:  # a process that takes over ends the one before it
            pass

        if api._proc is process:
            api._proc = await api._start_and_wait_for_haproxy()

    HAProxyApi._start_and_wait_for_haproxy = start_and_watch


def _running(api: Any) -> list[str]:
    """Process ids of the HAProxy that runs with this manager's configuration."""
    pids = [folder.name for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [pid for pid in pids if api._is_our_haproxy(int(pid))]
