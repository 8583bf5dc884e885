"""One EmbedMany call: items go in, what comes out is told by a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeAlias

import grpc

from samserve.core.errors import SamserveError, Unavailable
from samserve.v1 import embedding_pb2 as pb
from samserve.wire.status import error_of

SERVICE = "the embedding service"
MESSAGE_ITEMS, MESSAGE_BYTES = 64, 4 * 2**20
_PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_BROKEN = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)  # a replica or proxy that died

Start: TypeAlias = Callable[[Iterator[pb.EmbedManyRequest]], Any]


class EmbedStream:
    """Sends items in messages of moderate size. Tells each response, and at last the error it ended with and whether
    that may pass: an end is an error, since the caller closes a stream only when it wants nothing more of it."""

    def __init__(
        self,
        start: Start,
        tell: Callable[[EmbedStream, pb.EmbedManyResponse], None],
        tell_end: Callable[[EmbedStream, SamserveError, bool], None],
    ) -> None:
        self._tell, self._tell_end = tell, tell_end
        self._items: SimpleQueue[pb.EmbedManyRequest.Item | None] = SimpleQueue()
        self._call = start(_messages(self._items))
        Thread(target=self._listen, name="samserve-answers", daemon=True).start()

    def send(self, item: pb.EmbedManyRequest.Item) -> None:
        self._items.put(item)

    def close(self) -> None:
        self._items.put(None)
        self._call.cancel()

    def _listen(self) -> None:
        error: SamserveError = Unavailable(f"{SERVICE} ended the stream")
        passing = True
        try:
            for response in self._call:
                self._tell(self, response)
        except grpc.RpcError as problem:
            passing = problem.code() in _PASSING or problem.code() in _BROKEN
            error = error_of(problem, SERVICE)
        self._tell_end(self, error, passing)


def _messages(items: SimpleQueue[pb.EmbedManyRequest.Item | None]) -> Iterator[pb.EmbedManyRequest]:
    """What has gathered in the queue, in messages of moderate size, until a None. Nobody else takes from the queue."""
    held: list[pb.EmbedManyRequest.Item] = []
    while (item := held.pop() if held else items.get()) is not None:
        request, size = pb.EmbedManyRequest(items=[item]), len(item.data)
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
