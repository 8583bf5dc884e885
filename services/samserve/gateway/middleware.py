"""The scope in which a request is answered: its id, its trace, its metrics, its log line."""

from __future__ import annotations

import logging
import time
from functools import cache

import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from samserve.core.caller import Caller, acting_for
from samserve.core.errors import Overloaded, SamserveError
from samserve.gateway.bodies import Bodies, Body
from samserve.gateway.problem import LEFT
from samserve.gateway.route import REFUSAL
from samserve.infra.metrics import HTTP_REQUEST_SECONDS, HTTP_REQUESTS, HTTP_REQUESTS_NOW
from samserve.infra.tracing import Kind, continue_trace, span
from samserve.wire.callers import IDENTITY_KEYS, Callers
from samserve.wire.request_id import REQUEST_ID_KEY, request_id_of

REQUEST_ID_HEADER = REQUEST_ID_KEY.encode()
CALLER_HEADERS = {key.encode() for key in IDENTITY_KEYS}
READ_HEADERS = {REQUEST_ID_HEADER, b"traceparent", b"tracestate"} | CALLER_HEADERS
UNKNOWN_ROUTE = "unknown"

log = structlog.get_logger()


@cache
def _counter(route: str, status: int) -> Counter:
    """The counter of a route's answers; to look it up takes longer than to count."""
    return HTTP_REQUESTS.labels(route, str(status))


@cache
def _timer(route: str) -> Histogram:
    return HTTP_REQUEST_SECONDS.labels(route)


class Observed:
    """Answers requests through an application, within bounds, and counts, times and logs them."""

    def __init__(
        self, app: ASGIApp, *, bodies: Bodies, callers: Callers, most: int, slow: float
    ) -> None:
        """Wrap an application.

        Args:
            app: Answers the requests.
            bodies: The bodies in flight.
            callers: Tell who makes a request.
            most: Requests in progress; a surface's routes refuse further ones, the probes do not.
            slow: Seconds after which a request is logged although it succeeded.
        """
        self._app = app
        self._bodies = bodies
        self._callers = callers
        self._most = most
        self._slow = slow
        self._running = 0
        HTTP_REQUESTS_NOW.set_function(lambda: self._running)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        headers = [
            (key.decode("latin-1"), value.decode("latin-1"))
            for key, value in scope["headers"]
            if key in READ_HEADERS
        ]
        request_id = request_id_of(headers)
        status, started = LEFT, time.perf_counter()

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((REQUEST_ID_HEADER, request_id.encode()))
            await send(message)

        body = Body(self._bodies, scope, receive)
        self._running += 1
        caller = self._caller(scope, headers)
        bound = bind_contextvars(request_id=request_id, tenant=caller.tenant)
        try:
            with acting_for(caller), continue_trace(headers), span("HTTP", Kind.SERVER):
                await self._app(scope, body.receive, send_noted)
        finally:
            reset_contextvars(**bound)
            self._running -= 1
            body.release()
            self._note(scope, status, time.perf_counter() - started, request_id)

    def _caller(self, scope: Scope, headers: list[tuple[str, str]]) -> Caller:
        """Return who makes the request. A refusal is left to the route, which knows its form."""
        try:
            caller = self._callers.read([each for each in headers if each[0] in IDENTITY_KEYS])
        except SamserveError as refusal:
            scope[REFUSAL] = refusal
            return Caller()

        if self._running > self._most:
            scope[REFUSAL] = Overloaded("the gateway")
        return caller

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
        _counter(route, status).inc()
        _timer(route).observe(seconds)
        if status < 500 and seconds <= self._slow:
            return
        log.log(
            logging.WARNING if status >= 500 else logging.INFO,
            "failed request" if status >= 500 else "slow request",
            method=scope["method"],
            route=route,
            status=status,
            milliseconds=round(1000 * seconds, 1),
            request_id=request_id,
        )
