"""Work on a stream of batches, a bounded number of items at a time. Pure asyncio, no wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


async def bounded(
    batches: AsyncIterator[Iterable[A]], work: Callable[[A], Awaitable[B]], in_flight: int
) -> AsyncGenerator[list[B]]:
    """The items' results, in the order in which they are done, those that are ready together in one list.

    A batch is read once fewer than `in_flight` items are worked on or wait to be taken away, so that a slow taker slows
    the reading, and at most one batch waits. Raises what `work` and `batches` raise. Closed early, it cancels the work.
    """
    done: asyncio.Queue[asyncio.Task[B] | None] = asyncio.Queue()
    room = asyncio.Semaphore(in_flight)
    tasks: set[asyncio.Task[B]] = set()

    async def finish(item: A) -> B:
        return await work(item)

    async def read() -> None:
        while True:
            async with room:  # no further batch before there is room for an item of it
                batch = await anext(batches, None)
            if batch is None:
                break
            for item in batch:
                await room.acquire()
                task = asyncio.create_task(finish(item))
                tasks.add(task)
                task.add_done_callback(done.put_nowait)
        for _ in range(in_flight):
            await room.acquire()  # all of it: every result has been taken away

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: done.put_nowait(None))
    try:
        while not reader.done():
            ready = [await done.get()]
            while not done.empty():
                ready.append(done.get_nowait())
            finished = [task for task in ready if task is not None]
            tasks.difference_update(finished)
            if finished:
                yield [task.result() for task in finished]
            for _ in finished:
                room.release()
        await reader
    finally:
        for task in (reader, *tasks):
            task.cancel()
        await asyncio.wait((reader, *tasks))
