import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
from prometheus_client import REGISTRY
from samserve.core.caller import Caller, acting_for
from samserve.core.errors import Overloaded
from samserve.core.plan import Plan
from samserve.decoder import admission as admission_module
from samserve.decoder.admission import DecodeQueue


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(admission_module, "time", clock)
    return clock


class FakePool(Executor):
    """A pool whose threads are the test: it begins the oldest work, and finishes it."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.running: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, work: Callable[[], Any]) -> Future[Any]:  # type: ignore[override]
        future: Future[Any] = Future()
        self.waiting.append((future, work))
        return future

    def begin(self) -> None:
        """Begin the oldest work that has not been dropped, if there is any."""
        while self.waiting:
            future, work = self.waiting.pop(0)
            if future.set_running_or_notify_cancel():
                self.running.append((future, work))
                return

    async def finish(self) -> None:
        """Finish the work that began first."""
        future, work = self.running.pop(0)
        try:
            future.set_result(work())
        except ValueError as error:
            future.set_exception(error)
        await settled()

    async def work(self) -> None:
        """Begin and finish until nothing is left."""
        self.begin()
        while self.running:
            await self.finish()
            self.begin()


@pytest.fixture
def pool() -> FakePool:
    return FakePool()


async def settled() -> None:
    """Let every callback run that is due."""
    for _ in range(10):
        await asyncio.sleep(0)


async def full(queue: DecodeQueue, pool: FakePool, places: int) -> list[asyncio.Task[str]]:
    calls = [asyncio.create_task(queue.run(pool, lambda: "click")) for _ in range(places)]
    await settled()
    return calls


async def batch(
    queue: DecodeQueue,
    pool: FakePool,
    prompts: int,
    done: list[str],
    name: str = "batch",
    long: bool = False,
) -> asyncio.Task[list[None]]:
    pieces = [lambda: done.append(name) for _ in range(prompts)]
    call = asyncio.create_task(queue.run_batch(pool, pieces, prompts, long))
    await settled()
    return call


def refusal(queue: DecodeQueue) -> Overloaded:
    with pytest.raises(Overloaded) as caught, queue.place():
        pass
    return caught.value


def waiting() -> float:
    return REGISTRY.get_sample_value("samserve_decode_waiting") or 0.0


async def test_work_beyond_threads_and_queue_is_refused_with_a_time_to_retry(
    pool: FakePool,
) -> None:
    queue = DecodeQueue(threads=2, queue=3)
    calls = await full(queue, pool, 5)
    assert waiting() == 3
    assert 0.1 <= refusal(queue).retry_after <= 10

    await pool.work()
    assert await asyncio.gather(*calls) == ["click"] * 5
    assert waiting() == 0


async def test_a_place_is_held_until_the_thread_is_done_not_until_the_caller_leaves(
    pool: FakePool,
) -> None:
    queue = DecodeQueue(threads=1, queue=0)
    (call,) = await full(queue, pool, 1)
    pool.begin()
    call.cancel()
    await settled()
    assert call.cancelled()
    refusal(queue)

    await pool.finish()
    with queue.place():
        pass


async def test_work_whose_caller_leaves_before_it_begins_is_dropped_and_frees_its_place(
    pool: FakePool,
) -> None:
    queue = DecodeQueue(threads=1, queue=1)
    _, second = await full(queue, pool, 2)
    second.cancel()
    await settled()
    with queue.place():
        pass

    pool.begin()
    await pool.finish()
    pool.begin()
    assert not pool.running


async def test_a_failure_frees_the_place(pool: FakePool) -> None:
    queue = DecodeQueue(threads=1, queue=0)
    call = asyncio.create_task(queue.run(pool, int, "bad"))
    await settled()
    await pool.work()
    with pytest.raises(ValueError, match="bad"):
        await call
    with queue.place():
        pass


async def test_a_click_waits_for_a_batchs_prompts_in_the_threads_at_most(pool: FakePool) -> None:
    queue, done = DecodeQueue(threads=2, queue=3), list[str]()
    many = await batch(queue, pool, 64, done)
    assert len(pool.waiting) == 2

    click = asyncio.create_task(queue.run(pool, lambda: done.append("click")))
    await settled()
    await pool.work()
    await asyncio.gather(many, click)
    assert done.index("click") <= 2
    assert done.count("batch") == 64


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (2, 1), (4, 3)])
async def test_batches_of_long_prompts_leave_a_thread_to_others(
    pool: FakePool, threads: int, most: int
) -> None:
    queue, done = DecodeQueue(threads, queue=3), list[str]()
    long = [await batch(queue, pool, 8, done, "long", long=True) for _ in range(4)]
    assert len(pool.waiting) == most

    short = await batch(queue, pool, 8, done, "short")
    assert len(pool.waiting) == threads

    long[0].cancel()
    await pool.work()
    await asyncio.gather(*long[1:], short)
    assert done.count("short") == 8
    assert done.count("long") >= 24


async def test_a_batch_is_accepted_and_finishes_beside_a_full_queue(pool: FakePool) -> None:
    queue, done = DecodeQueue(threads=2, queue=3), list[str]()
    clicks = await full(queue, pool, 5)
    many = await batch(queue, pool, 64, done)
    answered = 0
    while not many.done():  # each click that is answered is followed by another
        pool.begin()
        await pool.finish()
        clicks = [call for call in clicks if not call.done()]
        clicks += await full(queue, pool, 5 - len(clicks))
        answered += 1
    assert len(done) == 64
    assert answered <= 64 * 5

    await pool.work()
    await asyncio.gather(*clicks)


async def test_batches_take_turns(pool: FakePool) -> None:
    queue, done = DecodeQueue(threads=2, queue=3), list[str]()
    large = await batch(queue, pool, 64, done, "large")
    small = await batch(queue, pool, 4, done, "small")
    await pool.work()
    await asyncio.gather(large, small)
    assert done[:10].count("small") == 4


async def test_a_batch_does_not_take_the_clicks_places(pool: FakePool) -> None:
    queue, done = DecodeQueue(threads=2, queue=3), list[str]()
    many = await batch(queue, pool, 64, done)
    clicks = await full(queue, pool, 5)
    refusal(queue)
    await pool.work()
    await asyncio.gather(many, *clicks)


async def test_after_a_batchs_caller_leaves_no_further_prompt_begins(pool: FakePool) -> None:
    queue, done = DecodeQueue(threads=2, queue=3), list[str]()
    many = await batch(queue, pool, 64, done)
    pool.begin()
    many.cancel()
    await settled()
    await pool.work()
    assert done == ["batch"]
    assert waiting() == 0

    other = await batch(queue, pool, 3, done)  # the turns have been given back
    await pool.work()
    await other


async def test_a_failed_prompt_ends_its_batch(pool: FakePool) -> None:
    queue = DecodeQueue(threads=2, queue=3)
    pieces = [lambda: int("bad") for _ in range(64)]
    call = asyncio.create_task(queue.run_batch(pool, pieces, 64))
    await settled()
    begun = 0
    pool.begin()
    while pool.running:
        await pool.finish()
        begun += 1
        pool.begin()
    with pytest.raises(ValueError, match="bad"):
        await call
    assert begun <= 2


async def test_too_many_batches_are_refused_with_a_time_to_retry(
    pool: FakePool, clock: Clock
) -> None:
    queue, done = DecodeQueue(threads=1, queue=1, batches=2), list[str]()
    calls = [await batch(queue, pool, prompts, done) for prompts in (64, 10)]
    for _ in range(4):
        clock.now += 0.5
        pool.begin()
        await pool.finish()
    with pytest.raises(Overloaded) as caught:
        await queue.run_batch(pool, [], 1)
    # The smaller one has 8 prompts to go, in turns with the other's.
    pace = queue._seconds_per_piece
    assert caught.value.retry_after == pytest.approx(2 * 8 * pace, abs=0.06)

    await pool.work()
    await asyncio.gather(*calls)


@pytest.mark.parametrize(
    ("seconds", "least", "most"), [(0.02, 0.4, 0.7), (0.001, 0.1, 0.1), (5, 10, 10)]
)
async def test_the_time_to_retry_follows_the_recent_pace(
    pool: FakePool, clock: Clock, seconds: float, least: float, most: float
) -> None:
    queue = DecodeQueue(threads=2, queue=30)
    calls = await full(queue, pool, 32)
    for _ in range(50):  # one leaves and another comes
        clock.now += seconds
        pool.begin()
        await pool.finish()
        calls += await full(queue, pool, 1)
    assert least <= refusal(queue).retry_after <= most
    await pool.work()
    await asyncio.gather(*calls)


async def test_idle_time_does_not_count_as_slow(pool: FakePool, clock: Clock) -> None:
    queue = DecodeQueue(threads=1, queue=1)
    calls = await full(queue, pool, 2)
    before = refusal(queue).retry_after
    await pool.work()
    clock.now += 3600
    calls += await full(queue, pool, 2)
    assert refusal(queue).retry_after == before
    await pool.work()
    await asyncio.gather(*calls)


def of(tenant: str, weight: float = 1.0) -> AbstractContextManager[Caller]:
    return acting_for(Caller(tenant, tenant, Plan(weight=weight)))


async def calls_of(
    queue: DecodeQueue, pool: FakePool, tenant: str, count: int, done: list[str], weight: float = 1
) -> list[asyncio.Task[None]]:
    with of(tenant, weight):
        calls = [
            asyncio.create_task(queue.run(pool, lambda: done.append(tenant))) for _ in range(count)
        ]
    await settled()
    return calls


async def test_tenants_share_the_threads_by_their_weights(pool: FakePool) -> None:
    queue, done = DecodeQueue(threads=1, queue=60), list[str]()
    calls = [
        *await calls_of(queue, pool, "a", 40, done),
        *await calls_of(queue, pool, "b", 10, done),
        *await calls_of(queue, pool, "c", 10, done, weight=2),
    ]
    await pool.work()
    await asyncio.gather(*calls)
    first = done[:18]
    assert {tenant: first.count(tenant) for tenant in "abc"} == pytest.approx(
        {"a": 5, "b": 4, "c": 9}, abs=1
    )


async def test_a_full_queue_refuses_the_tenant_that_has_most_in_it(pool: FakePool) -> None:
    queue, done = DecodeQueue(threads=1, queue=4), list[str]()
    greedy = await calls_of(queue, pool, "a", 5, done)
    modest = await calls_of(queue, pool, "b", 1, done)
    (refused,) = [call for call in greedy if call.done()]
    assert isinstance(refused.exception(), Overloaded)

    (again,) = await calls_of(queue, pool, "a", 1, done)
    assert isinstance(again.exception(), Overloaded)
    await pool.work()
    await asyncio.gather(*modest, *(call for call in greedy if call is not refused))
    assert sorted(done) == ["a"] * 4 + ["b"]


async def test_batches_of_two_tenants_take_turns_by_tenant(pool: FakePool) -> None:
    queue, done = DecodeQueue(threads=1, queue=3), list[str]()
    with of("a"):
        calls = [await batch(queue, pool, 30, done, "a") for _ in range(3)]
    with of("b"):
        calls.append(await batch(queue, pool, 10, done, "b"))
    await pool.work()
    await asyncio.gather(*calls)
    assert done[:20].count("b") >= 9


async def test_work_that_a_thread_has_begun_is_not_lost_when_its_caller_leaves() -> None:
    queue, begun, go = DecodeQueue(threads=1, queue=1), threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        assert go.wait(60)
        return "done"

    with ThreadPoolExecutor(1) as threads:
        future = queue.submit(threads, work)
        await asyncio.to_thread(begun.wait, 60)
        assert not future.cancel()
        go.set()
        assert await asyncio.wrap_future(future) == "done"
