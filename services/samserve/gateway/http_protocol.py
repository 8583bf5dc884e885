"""HTTP/1.1 as uvicorn speaks it, with bounds on a request's head: its bytes, and its time."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32 * 1024
HEAD_SECONDS = 10.0  # from a connection's start, or the first byte of a later request
LIVENESS = b"/healthz"  # answered whatever the number of connections, or a busy pod is restarted


class BoundedHttp(HttpToolsProtocol):
    """Ends a connection whose request's head is too large or too slow."""

    _head_bytes = 0
    _in_body = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_body:
            self._head_bytes = 0
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.close()

    def on_message_begin(self) -> None:
        self._in_body = False
        self._start_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._stop_timer()
        self.limit_concurrency = None if self.url == LIVENESS else self.config.limit_concurrency
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _end_slow(self) -> None:
        if not self._in_body:
            self.transport.close()

    def _start_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
