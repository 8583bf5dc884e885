"""Work on a stream of batches, a bounded number of items at a time. Pure asyncio, no wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


async def as_done(
    batches: AsyncIterator[Iterable[A]], work: Callable[[A], Awaitable[B]], in_flight: int
) -> AsyncGenerator[list[B]]:
    """The items' results, in the order in which they are done, those that are ready together in one list.

    A batch is read once fewer than `in_flight` items are worked on or wait to be taken away, so that a slow taker slows
    the reading, and at most one batch waits. Raises what `work` and `batches` raise. Closed early, it cancels the work.
    """
    done: asyncio.Queue[B | None] = asyncio.Queue()
    room = asyncio.Semaphore(in_flight)

    async def finish(item: A) -> None:
        done.put_nowait(await work(item))

    async def read() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    async with room:  # no further batch before there is room for an item of it
                        batch = await anext(batches, None)
                    if batch is None:
                        return
                    for item in batch:
                        await room.acquire()
                        group.create_task(finish(item))
        finally:
            done.put_nowait(None)

    reader = asyncio.create_task(read())
    try:
        ended = False
        while not ended:
            ready = [await done.get()]
            while not done.empty():
                ready.append(done.get_nowait())
            results = [one for one in ready if one is not None]
            ended = len(results) < len(ready)
            if results:
                yield results
            for _ in results:
                room.release()
        await reader
    finally:
        reader.cancel()
        await asyncio.wait([reader])
