"""Sends a call's message before its status, so that the last answers reach their callers.

When a server shuts down, gRPC closes a connection together with the last call on it. If the caller
has sent something meanwhile, such as a window update, it is unread. The kernel then resets the
connection and drops the data that it had still to send.

Measured on loopback: 1 to 3% of answers of 300 KB and more were lost, and none of 30 KB. With a
pause between message and status none of 720 answers of any size was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio

from samserve.core.errors import InvalidInput
from samserve.decoder.transfers import Transfers
from samserve.infra.metrics import REQUESTS
from samserve.wire.call import call_scope

MOMENT = 0.25  # seconds; enough for a megabyte on an idle TCP connection with 20 ms round trips


class DelayedStatus(grpc.aio.ServerInterceptor):
    """Receives the message of a call with one request and sends its status in separate steps.

    The message is received by `Transfers`, which bounds it. While `draining` is set, the status is
    sent after a pause. The caller sees the same call. It costs 0.15 ms a call.
    """

    def __init__(self, draining: asyncio.Event, transfers: Transfers) -> None:
        self._draining = draining
        self._transfers = transfers

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if not handler or handler.request_streaming:
            return handler

        # Typed as the threaded server's, which shares the class; it is a coroutine function.
        method: Any = handler.unary_unary or handler.unary_stream
        name = handler_call_details.method.rpartition("/")[2]

        async def respond(_: Any, context: Any) -> None:
            request = await self._receive(name, context)
            answer = await method(request, context)
            del request  # its bytes are not needed while the answer is sent
            if handler.unary_unary:  # a stream's method has sent its messages
                await self._transfers.send(context, answer)
            await delay_if_draining(self._draining)

        return grpc.stream_stream_rpc_method_handler(
            respond, handler.request_deserializer, handler.response_serializer
        )

    async def _receive(self, name: str, context: Any) -> Any:
        """Return the call's message, or end the call with the reason why there is none."""
        with call_scope(name, context.invocation_metadata() or (), counted=False) as call:
            request = await self._transfers.receive(context)
            if request is grpc.aio.EOF:
                raise InvalidInput("request", "the call has no message")
            return request

        REQUESTS.labels(name, call.code.name).inc()
        return await context.abort(call.code, call.status.message, call.trailing_metadata)


async def delay_if_draining(draining: asyncio.Event) -> None:
    """Pause between a call's last message and its status."""
    if draining.is_set():
        await asyncio.sleep(MOMENT)
