"""One EmbedMany call: sends items, and reports responses from a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

import grpc

from samserve.client.bulk_scheduler import MESSAGE_BYTES, SERVICE
from samserve.core.errors import SamserveError, Unavailable
from samserve.v1 import embedding_pb2 as pb
from samserve.wire.status import error_of

MESSAGE_ITEMS = 64

_TEMPORARY = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # A replica or a proxy died:
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)

StartCall: TypeAlias = Callable[[Iterator[pb.EmbedManyRequest]], Any]


class EmbedStream:
    """An open EmbedMany call that sends items in messages of moderate size."""

    def __init__(
        self,
        start: StartCall,
        *,
        on_response: Callable[[pb.EmbedManyResponse], None],
        on_end: Callable[[SamserveError, bool], None],
    ) -> None:
        """Open the call.

        Args:
            start: the EmbedMany call.
            on_response: called with each response, from the stream's thread.
            on_end: called once with the error that ended the stream, and whether a retry may help.
                A regular end is an error too, since only the caller closes a stream.
        """
        self._on_response = on_response
        self._on_end = on_end
        self._items: SimpleQueue[pb.EmbedManyRequest.Item | None] = SimpleQueue()
        self._call = start(_messages(self._items))
        Thread(target=self._listen, name="samserve-answers", daemon=True).start()

    def send(self, item: pb.EmbedManyRequest.Item) -> None:
        self._items.put(item)

    def close(self) -> None:
        self._items.put(None)
        self._call.cancel()

    def _listen(self) -> None:
        error: SamserveError = Unavailable(
            f"{SERVICE} ended the stream; start the run again to continue"
        )
        temporary = True

        try:
            for response in self._call:
                self._on_response(response)
        except grpc.RpcError as problem:
            temporary = problem.code() in _TEMPORARY
            error = error_of(problem, SERVICE)

        self._on_end(error, temporary)


def _messages(items: SimpleQueue[pb.EmbedManyRequest.Item | None]) -> Iterator[pb.EmbedManyRequest]:
    """Group the queued items into messages of moderate size, until a None.

    This must be the queue's only consumer.
    """
    held: list[pb.EmbedManyRequest.Item] = []  # did not fit into the last message

    while (item := held.pop() if held else items.get()) is not None:
        request = pb.EmbedManyRequest(items=[item])
        size = len(item.data)

        # Fill the message with what is queued already.
        while (
            len(request.items) < MESSAGE_ITEMS
            and not items.empty()
            and (item := items.get()) is not None
        ):
            size += len(item.data)
            if size > MESSAGE_BYTES:
                held.append(item)
                break
            request.items.append(item)

        yield request

        if item is None:
            return
