"""Work on a stream of batches with a bounded number of items in flight. Pure asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


async def bounded(
    batches: AsyncIterator[Iterable[A]], work: Callable[[A], Awaitable[B]], in_flight: int
) -> AsyncGenerator[list[B]]:
    """Yield the items' results as they finish; those that are ready together come in one list.

    The next batch is read when fewer than `in_flight` items are worked on or wait to be yielded.
    So a slow consumer slows the reading, and at most one batch waits. Errors of `work` and
    `batches` are raised. Closing the generator early cancels the work.

    Args:
        batches: The items.
        work: Called for each item, in a task of its own.
        in_flight: The bound.
    """
    finished: asyncio.Queue[asyncio.Task[B] | None] = asyncio.Queue()
    places = asyncio.Semaphore(in_flight)
    tasks: set[asyncio.Task[B]] = set()

    async def run(item: A) -> B:
        return await work(item)

    async def read() -> None:
        while True:
            # Read a batch only when there is a place for one of its items.
            async with places:
                batch = await anext(batches, None)
            if batch is None:
                break

            for item in batch:
                await places.acquire()
                task = asyncio.create_task(run(item))
                tasks.add(task)
                task.add_done_callback(finished.put_nowait)

        # All places are free only after every result has been yielded.
        for _ in range(in_flight):
            await places.acquire()

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: finished.put_nowait(None))  # wakes the loop below
    try:
        while not reader.done():
            # Wait for one result, and take along those that are ready.
            ready = [await finished.get()]
            while not finished.empty():
                ready.append(finished.get_nowait())

            results = [task for task in ready if task is not None]
            tasks.difference_update(results)
            if results:
                yield [task.result() for task in results]
            for _ in results:
                places.release()
        await reader
    finally:
        for task in (reader, *tasks):
            task.cancel()
        await asyncio.wait((reader, *tasks))
