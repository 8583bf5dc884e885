import asyncio
from collections.abc import AsyncIterator

import pytest
from samserve.embedding.bounded import bounded


class Work:
    """Work on the items of some batches; each item finishes when the test says so."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches, self.read = batches, 0
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.let_go = {item: asyncio.Event() for batch in batches for item in batch}

    async def source(self) -> AsyncIterator[list[int]]:
        for batch in self.batches:
            self.read += 1
            yield batch

    async def work(self, item: int) -> int:
        self.begun.append(item)
        try:
            await self.let_go[item].wait()
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise
        return item

    def finish(self, *items: int) -> None:
        for item in items:
            self.let_go[item].set()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_results_come_as_they_finish_and_together_if_they_are_ready() -> None:
    work = Work([[1, 2, 3]])
    results = bounded(work.source(), work.work, in_flight=3)
    work.finish(2)
    assert await anext(results) == [2]
    work.finish(3, 1)
    assert sorted(await anext(results)) == [1, 3]
    assert [rest async for rest in results] == []


async def test_no_more_items_than_the_bound_are_in_flight() -> None:
    work = Work([[1, 2], [3, 4], [5, 6]])
    results = bounded(work.source(), work.work, in_flight=3)
    first = asyncio.ensure_future(anext(results))
    await settled()
    assert (work.begun, work.read) == ([1, 2, 3], 2)
    work.finish(*range(1, 7))
    assert sorted((await first) + [item async for ready in results for item in ready]) == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]


async def test_a_slow_consumer_stops_the_reading() -> None:
    work = Work([[item] for item in range(10)])
    work.finish(*range(10))
    results = bounded(work.source(), work.work, in_flight=2)
    taken = await anext(results)
    await settled()
    assert work.read <= 2
    assert sorted(taken + [item async for ready in results for item in ready]) == list(range(10))


async def test_one_in_flight_is_enough() -> None:
    work = Work([[1, 2], [], [3]])
    work.finish(1, 2, 3)
    assert [ready async for ready in bounded(work.source(), work.work, in_flight=1)] == [
        [1],
        [2],
        [3],
    ]


async def test_closing_early_cancels_the_work() -> None:
    work = Work([[1, 2, 3]])
    results = bounded(work.source(), work.work, in_flight=3)
    work.finish(1)
    assert await anext(results) == [1]
    await results.aclose()
    assert sorted(work.cancelled) == [2, 3]


async def test_an_error_of_the_source_is_raised() -> None:
    async def source() -> AsyncIterator[list[int]]:
        yield [1]
        raise OSError("gone")

    work = Work([[1]])
    with pytest.raises(OSError, match="gone"):
        await anext(bounded(source(), work.work, in_flight=2))
    assert work.cancelled == [1]
