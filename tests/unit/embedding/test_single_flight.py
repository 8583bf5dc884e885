import asyncio
import math
from collections.abc import Callable

import numpy as np
import pytest
from fakes import FakeCache
from samserve.core.cache_status import CacheStatus
from samserve.core.embedding import Embedding
from samserve.core.errors import DeadlinePassed, Unavailable
from samserve.core.geometry import Size
from samserve.embedding.single_flight import Begin, Shared, SingleFlight
from samserve.infra.cache import CacheKey
from samserve.infra.stages import StageClock

KEY = CacheKey("public", "v1", "ab" * 32)
MADE = Embedding("v1", Size(4, 3), {"embedding": np.zeros(8, np.float16)})


class Maker:
    """Makes an embedding in two steps, each held until it is let go, and stores it; counts both."""

    def __init__(self, cache: FakeCache) -> None:
        self.cache = cache
        self.started = self.begun = self.finished = 0
        self.decoded, self.encoded = asyncio.Event(), asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self, begin: Begin) -> Embedding:
        self.started += 1
        await self.decoded.wait()
        begin()
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


def asking(
    turns: SingleFlight, maker: Maker, callers: int = 1
) -> list["asyncio.Task[Shared | None]"]:
    return [
        asyncio.create_task(turns.take(KEY, maker, math.inf, StageClock())) for _ in range(callers)
    ]


async def until(true: Callable[[], object]) -> None:
    for _ in range(5000):
        if true():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it never came true")


async def test_callers_of_one_process_share_one_making(cache: FakeCache, maker: Maker) -> None:
    calls = asking(SingleFlight(cache, 5), maker, 5)
    maker.go()
    made = [one for one in await asyncio.gather(*calls) if one is not None]
    assert [one.status for one in made] == [CacheStatus.MISS] + 4 * [CacheStatus.COALESCED]
    assert (maker.started, cache.claims) == (1, {})


async def test_another_replica_waits_until_the_entry_appears(
    cache: FakeCache, maker: Maker
) -> None:
    (first,) = asking(SingleFlight(cache, 5), maker)
    await until(lambda: maker.started)
    (second,) = asking(SingleFlight(cache, 5), maker)
    await asyncio.sleep(0.05)
    assert not second.done()
    maker.go()
    assert await first == Shared(MADE, CacheStatus.MISS)
    assert await second is None
    assert maker.started == 1


async def test_when_the_holder_dies_another_takes_over(cache: FakeCache, maker: Maker) -> None:
    cache.claims[KEY] = "a replica that was killed"
    (call,) = asking(SingleFlight(cache, 5), maker)
    maker.go()
    await asyncio.sleep(0.05)
    assert not maker.started
    cache.claims.clear()  # as the claim's expiry does
    assert await call == Shared(MADE, CacheStatus.MISS)


async def test_a_claim_is_renewed_while_the_work_goes_on(cache: FakeCache, maker: Maker) -> None:
    (call,) = asking(SingleFlight(cache, 5, expiry=0.03), maker)
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
    calls = asking(SingleFlight(cache, 5), maker, 5)
    maker.go()
    assert len([one for one in await asyncio.gather(*calls) if one is not None]) == 5
    assert maker.started == 1


async def test_nobody_waits_for_another_replica_for_ever(cache: FakeCache, maker: Maker) -> None:
    cache.claims[KEY] = "a replica that never ends"
    calls = asking(SingleFlight(cache, 0.05), maker, 3)
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [DeadlinePassed] * 3
    assert cache.claims[KEY] == "a replica that never ends"


async def test_a_caller_who_goes_stops_nothing_for_the_others(
    cache: FakeCache, maker: Maker
) -> None:
    first, second = asking(SingleFlight(cache, 5), maker, 2)
    await until(lambda: maker.started)
    first.cancel()
    maker.go()
    assert await second == Shared(MADE, CacheStatus.COALESCED)
    assert maker.started == 1


async def test_work_that_nobody_waits_for_is_not_begun(cache: FakeCache, maker: Maker) -> None:
    turns = SingleFlight(cache, 5)
    calls = asking(turns, maker, 2)
    await until(lambda: maker.started)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    maker.go()
    (late,) = asking(
        turns, maker
    )  # the former work is still ending; this one must not share its end
    assert await late == Shared(MADE, CacheStatus.MISS)
    assert (maker.started, maker.begun) == (2, 1)
    assert not cache.claims


async def test_a_caller_who_goes_while_another_replica_works_leaves_no_claim(
    cache: FakeCache, maker: Maker
) -> None:
    cache.claims[KEY] = "another replica"
    (call,) = asking(SingleFlight(cache, 5), maker)
    await asyncio.sleep(0.02)
    call.cancel()
    await asyncio.wait([call])
    cache.claims.clear()
    await asyncio.sleep(0.1)
    assert (cache.claims, maker.started) == ({}, 0)


async def test_work_that_has_begun_is_finished_even_if_nobody_waits(
    cache: FakeCache, maker: Maker
) -> None:
    (call,) = asking(SingleFlight(cache, 5), maker)
    maker.decoded.set()
    await until(lambda: maker.begun)
    call.cancel()
    maker.go()
    await until(lambda: not cache.claims)
    assert cache.entries[KEY] is MADE


async def test_a_failure_is_given_to_all_who_wait_and_to_nobody_later(
    cache: FakeCache, maker: Maker
) -> None:
    turns = SingleFlight(cache, 5)
    maker.failure = Unavailable("Triton is away")
    calls = asking(turns, maker, 3)
    maker.go()
    failures = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(failure) for failure in failures] == [Unavailable] * 3
    maker.failure = None
    assert await asking(turns, maker)[0] == Shared(MADE, CacheStatus.MISS)


async def test_a_failure_in_one_replica_is_anothers_turn(cache: FakeCache, maker: Maker) -> None:
    failing = Maker(cache)
    failing.failure = Unavailable("the image encoder ran out of memory")
    (first,) = asking(SingleFlight(cache, 5), failing)
    await until(lambda: failing.started)
    (second,) = asking(SingleFlight(cache, 5), maker)
    failing.go()
    maker.go()
    with pytest.raises(Unavailable):
        await first
    assert await second == Shared(MADE, CacheStatus.MISS)
