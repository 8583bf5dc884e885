import asyncio
import math
from collections.abc import Callable

import numpy as np
import pytest
from fakes import FakeCache
from samserve.core.embedding import Embedding
from samserve.core.errors import DeadlinePassed, Unavailable
from samserve.core.geometry import Size
from samserve.embedding.claims import ReplicaClaims
from samserve.embedding.single_flight import Flight, Shared, SingleFlight
from samserve.infra.cache import CacheKey

KEY = CacheKey("public", "v1", "ab" * 32)
MADE = Embedding("v1", Size(4, 3), {"embedding": np.zeros(8, np.float16)})


class Maker:
    """Makes an embedding in two steps that the test releases, and stores it; counts the steps."""

    def __init__(self, cache: FakeCache) -> None:
        self.cache = cache
        self.started = self.begun = self.finished = 0
        self.decoded, self.encoded = asyncio.Event(), asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self, flight: Flight) -> Embedding:
        self.started += 1
        await self.decoded.wait()
        flight.begin()
        self.begun += 1
        await self.encoded.wait()
        if self.failure is not None:
            raise self.failure
        await self.cache.put(KEY, MADE)
        self.finished += 1
        return MADE

    def go(self) -> None:
        self.decoded.set()
        self.encoded.set()


@pytest.fixture
def cache() -> FakeCache:
    return FakeCache()


@pytest.fixture
def maker(cache: FakeCache) -> Maker:
    return Maker(cache)


class Replica:
    """One process: its callers share a flight, and its flights claim the entry."""

    def __init__(self, cache: FakeCache, patience: float = 60, expiry: float = 5) -> None:
        self.flights: SingleFlight[CacheKey, Embedding | None] = SingleFlight()
        self.claims = ReplicaClaims(cache, patience=patience, expiry=expiry)

    async def call(self, maker: Maker) -> "Shared[Embedding | None]":
        async def work(flight: Flight) -> Embedding | None:
            async with self.claims.claim(KEY) as claim:
                return await maker(flight) if await claim.acquire() else None

        return await self.flights.run(KEY, work, math.inf)


def asking(
    replica: Replica, maker: Maker, callers: int = 1
) -> list["asyncio.Task[Shared[Embedding | None]]"]:
    return [asyncio.create_task(replica.call(maker)) for _ in range(callers)]


async def until(true: Callable[[], object]) -> None:
    for _ in range(5000):
        if true():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never came true")


async def test_callers_in_one_process_share_one_flight(cache: FakeCache, maker: Maker) -> None:
    calls = asking(Replica(cache), maker, 5)
    maker.go()
    shared = await asyncio.gather(*calls)
    assert shared == [Shared(MADE, joined=False)] + 4 * [Shared(MADE, joined=True)]
    assert (maker.started, cache.claims) == (1, {})


async def test_another_replica_waits_until_the_entry_appears(
    cache: FakeCache, maker: Maker
) -> None:
    (first,) = asking(Replica(cache), maker)
    await until(lambda: maker.started)
    (second,) = asking(Replica(cache), maker)
    await asyncio.sleep(0.05)
    assert not second.done()
    maker.go()
    assert await first == Shared(MADE, joined=False)
    assert await second == Shared(None, joined=False)
    assert maker.started == 1


async def test_when_the_holder_dies_another_takes_over(cache: FakeCache, maker: Maker) -> None:
    cache.claims[KEY] = "a replica that was killed"
    (call,) = asking(Replica(cache), maker)
    maker.go()
    await asyncio.sleep(0.05)
    assert not maker.started
    cache.claims.clear()  # as the claim's expiry does
    assert await call == Shared(MADE, joined=False)


async def test_a_claim_is_renewed_while_the_work_goes_on(cache: FakeCache, maker: Maker) -> None:
    (call,) = asking(Replica(cache, expiry=0.03), maker)
    await until(lambda: cache.renewed >= 3)
    maker.go()
    await call
    renewed = cache.renewed
    await asyncio.sleep(0.05)
    assert cache.renewed == renewed


async def test_without_redis_callers_of_one_process_still_share(
    cache: FakeCache, maker: Maker
) -> None:
    cache.down = True
    calls = asking(Replica(cache), maker, 5)
    maker.go()
    assert [shared.result for shared in await asyncio.gather(*calls)] == [MADE] * 5
    assert maker.started == 1


async def test_the_wait_for_another_replica_is_bounded(cache: FakeCache, maker: Maker) -> None:
    cache.claims[KEY] = "a replica that never ends"
    calls = asking(Replica(cache, patience=0.05), maker, 3)
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [DeadlinePassed] * 3
    assert cache.claims[KEY] == "a replica that never ends"


async def test_a_caller_that_leaves_does_not_stop_the_others(
    cache: FakeCache, maker: Maker
) -> None:
    first, second = asking(Replica(cache), maker, 2)
    await until(lambda: maker.started)
    first.cancel()
    maker.go()
    assert await second == Shared(MADE, joined=True)
    assert maker.started == 1


async def test_work_without_callers_is_cancelled_before_it_begins(
    cache: FakeCache, maker: Maker
) -> None:
    replica = Replica(cache)
    calls = asking(replica, maker, 2)
    await until(lambda: maker.started)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    maker.go()
    (late,) = asking(
        replica, maker
    )  # the former work is still ending; this one must not share its end
    assert await late == Shared(MADE, joined=False)
    assert (maker.started, maker.begun) == (2, 1)
    assert not cache.claims


async def test_a_caller_that_leaves_while_another_replica_works_leaves_no_claim(
    cache: FakeCache, maker: Maker
) -> None:
    cache.claims[KEY] = "another replica"
    (call,) = asking(Replica(cache), maker)
    await asyncio.sleep(0.02)
    call.cancel()
    await asyncio.wait([call])
    cache.claims.clear()
    await asyncio.sleep(0.1)
    assert (cache.claims, maker.started) == ({}, 0)


async def test_work_that_has_begun_finishes_without_callers(cache: FakeCache, maker: Maker) -> None:
    (call,) = asking(Replica(cache), maker)
    maker.decoded.set()
    await until(lambda: maker.begun)
    call.cancel()
    maker.go()
    await until(lambda: not cache.claims)
    assert cache.entries[KEY] is MADE


async def test_a_failure_reaches_all_waiting_callers_and_no_later_one(
    cache: FakeCache, maker: Maker
) -> None:
    replica = Replica(cache)
    maker.failure = Unavailable("Triton is away")
    calls = asking(replica, maker, 3)
    maker.go()
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [Unavailable] * 3
    maker.failure = None
    assert await asking(replica, maker)[0] == Shared(MADE, joined=False)


async def test_after_a_failure_in_one_replica_another_tries(cache: FakeCache, maker: Maker) -> None:
    failing = Maker(cache)
    failing.failure = Unavailable("the image encoder ran out of memory")
    (first,) = asking(Replica(cache), failing)
    await until(lambda: failing.started)
    (second,) = asking(Replica(cache), maker)
    failing.go()
    maker.go()
    with pytest.raises(Unavailable):
        await first
    assert await second == Shared(MADE, joined=False)
