"""The last answers of a server that stops reach their callers.

gRPC closes a connection together with the last call on it, whatever has come in unread meanwhile, such as the
caller's word that it has room for more. The kernel answers that with a reset and drops what it had still to send: on
loopback 1 to 3% of answers of 300 KB and more were lost so, none of 30 KB, and none of 720 of any size if the call ends
a moment after its message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio

MOMENT = 0.25  # seconds: a megabyte's way through a TCP connection that has rested, at round trips of 20 ms


class DelayedStatus(grpc.aio.ServerInterceptor):
    """Sends a unary call's status after its message instead of with it; once `draining`, a moment after it.

    On the wire that is the same call. It costs a call 0.15 ms.
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
        answer: Any = (
            handler.unary_unary
        )  # of grpc.aio, which shares its handlers' types with the server of threads

        async def part(request: Any, context: Any) -> None:
            await context.write(await answer(request, context))
            await delay_if_draining(self._draining)

        return grpc.unary_stream_rpc_method_handler(
            part, handler.request_deserializer, handler.response_serializer
        )


async def delay_if_draining(draining: asyncio.Event) -> None:
    """Between a call's last message and its end."""
    if draining.is_set():
        await asyncio.sleep(MOMENT)
