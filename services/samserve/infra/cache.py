"""The cache of embeddings that both services share: the only place that speaks to Redis.

Trouble with Redis is a counted miss, never an error: the cache makes things fast, the encoder makes them true. It never
costs much time either: every operation is bounded, and while Redis is away or slow a circuit breaker goes around it.

Beside the entries it keeps claims: who of several replicas is making an entry now. A claim expires by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from samserve.codec.packed import HEAD, DamagedEmbedding, pack, unpack, unpack_header
from samserve.core.embedding import Embedding, EmbeddingHeader
from samserve.infra import tracing
from samserve.infra.breaker import Breaker, BreakerOpen
from samserve.infra.metrics import CACHE_BYTES, CACHE_OUTCOMES

log = structlog.get_logger()

CONNECTIONS = 16
GRACE = 0.05  # seconds between a timeout and its consequence
# Only its holder may prolong or end a claim: it may have expired, and be another's by now.
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = (
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
)


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Names everything that changes an embedding, and whose it is."""

    tenant: str
    model_version: str
    image_id: str

    def __str__(self) -> str:
        return f"samserve:{self.tenant}:{self.model_version}:{self.image_id}"


class Claim(Enum):
    """What a replica that wants to make an entry is told."""

    GRANTED = "granted"  # make it: the others wait for you
    HELD = "held"  # another makes it, or Redis was too slow to say: ask again soon
    STORED = "stored"  # it is there by now
    ALONE = "alone"  # Redis is away or refuses: nobody else can know


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """url: redis://...; ttl in seconds from the last use; timeout of one operation in seconds."""

    url: str
    ttl: int
    timeout: float


class _NoAnswer(Exception):
    """Redis is away, slow, or refuses; passing: the same may be answered a moment later."""

    def __init__(self, passing: bool) -> None:
        super().__init__()
        self.passing = passing


class EmbeddingCache:
    """Embeddings under their keys, kept for a time that begins anew with each use."""

    def __init__(self, options: CacheOptions) -> None:
        pool = ConnectionPool.from_url(
            options.url,
            max_connections=CONNECTIONS,
            socket_timeout=None,  # see _send
            socket_connect_timeout=None,
            socket_read_size=2**18,  # a 2 MiB value in a handful of reads instead of 32
            retry=Retry(NoBackoff(), 0),
            # With them, redis-py 8 hands out connections that a restarted server has closed.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self._redis = Redis.from_pool(pool)  # the pool is closed with it
        self._ttl, self._timeout = options.ttl, options.timeout
        # Not the pool's own queue: who leaves ours asks the breaker first, and does not wait for a Redis known as away.
        self._turn = asyncio.Semaphore(CONNECTIONS)
        self._breaker = Breaker("Redis")

    async def head(self, key: CacheKey) -> EmbeddingHeader | None:
        """What is known of the embedding, without fetching it."""
        packed = await self._fetch(key, ("GETRANGE", str(key), 0, HEAD - 1))
        return None if packed is None else await self._head(key, packed)

    async def get(self, key: CacheKey) -> Embedding | None:
        """The embedding, or None if there is none, none whole, or no Redis."""
        packed = await self._fetch(key, ("GET", str(key)))
        try:
            return None if packed is None else await asyncio.to_thread(unpack, packed)
        except DamagedEmbedding as problem:
            await self._drop(key, problem)
            return None

    async def put(self, key: CacheKey, embedding: Embedding) -> None:
        """Store it, at the second try if need be: it was dear. A failure is counted, and matters to nobody else."""
        packed = await asyncio.to_thread(pack, embedding)
        command = ("SET", str(key), packed, "EX", self._ttl)
        try:
            await self._insist("put", command)
        except _NoAnswer as problem:
            if not problem.passing or await self._ask("put", command) is None:
                return
        CACHE_OUTCOMES.labels("stored").inc()
        CACHE_BYTES.labels("written").inc(len(packed))

    async def claim(self, key: CacheKey, token: str, seconds: float) -> Claim:
        """Ask to be the one who makes the entry, for `seconds`; `token` is the asker's own. One round trip.

        The claim comes before the look: whoever held it stored the entry before giving it up. Who holds it is read, as
        it may be ourselves, by a claim whose answer came too late.
        """
        name = _claim_of(key)
        take = ("SET", name, token, "NX", "PX", int(1000 * seconds))
        try:
            _, holder, packed = await self._insist(
                "claim", take, ("GET", name), ("GETRANGE", str(key), 0, HEAD - 1)
            )
        except _NoAnswer as problem:
            return Claim.HELD if problem.passing else Claim.ALONE
        granted = holder == token.encode()
        if packed and await self._head(key, packed) is not None:
            if granted:
                await self.release(key, token)
            return Claim.STORED
        return Claim.GRANTED if granted else Claim.HELD

    async def renew(self, key: CacheKey, token: str, seconds: float) -> None:
        """Hold the claim for `seconds` from now on, if it is still held."""
        await self._ask("renew", ("EVAL", _RENEW, 1, _claim_of(key), token, int(1000 * seconds)))

    async def release(self, key: CacheKey, token: str) -> None:
        """Give the claim up, if it is still held."""
        await self._ask("release", ("EVAL", _RELEASE, 1, _claim_of(key), token))

    async def check(self) -> None:
        """Warn of a Redis that is away, or set up so that it will not do as a cache."""
        answers = await self._ask("check", ("INFO", "memory"))
        for warning in (
            ["Redis does not answer: every image is a miss"]
            if answers is None
            else warnings(answers[0])
        ):
            log.warning(warning)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _fetch(self, key: CacheKey, command: tuple[Any, ...]) -> bytes | None:
        answers = await self._ask("get", command, ("EXPIRE", str(key), self._ttl))
        if answers is None:
            return None
        packed: bytes | None = answers[0] or None
        CACHE_OUTCOMES.labels("hit" if packed else "miss").inc()
        CACHE_BYTES.labels("read").inc(len(packed or b""))
        return packed

    async def _head(self, key: CacheKey, packed: bytes) -> EmbeddingHeader | None:
        try:
            return unpack_header(packed)
        except DamagedEmbedding as problem:
            await self._drop(key, problem)
            return None

    async def _drop(self, key: CacheKey, problem: DamagedEmbedding) -> None:
        """A damaged entry is a miss, and deleted so that it is so only once."""
        CACHE_OUTCOMES.labels("damaged").inc()
        log.warning("damaged cache entry, deleting it", key=str(key), problem=str(problem))
        await self._ask("delete", ("DEL", str(key)))

    async def _ask(self, what: str, *commands: tuple[Any, ...]) -> list[Any] | None:
        """As _insist, but None when there is no answer."""
        try:
            return await self._insist(what, *commands)
        except _NoAnswer:
            return None

    async def _insist(self, what: str, *commands: tuple[Any, ...]) -> list[Any]:
        """The answers to the commands, sent together. Raises _NoAnswer, counted."""
        try:
            async with self._turn:
                with tracing.span(f"redis {what}", tracing.Kind.CLIENT), self._breaker.guard():
                    answers = await self._send(commands)
        except BreakerOpen:
            CACHE_OUTCOMES.labels("bypassed").inc()
            raise _NoAnswer(passing=False) from None
        except (TimeoutError, RedisError, OSError) as problem:
            self._trouble(what, problem)
            raise _NoAnswer(passing=not self._breaker.open) from problem
        refused = next((answer for answer in answers if isinstance(answer, RedisError)), None)
        if refused is not None:
            self._trouble(what, refused)
            raise _NoAnswer(passing=False) from refused
        return answers

    async def _send(self, commands: tuple[tuple[Any, ...], ...]) -> list[Any]:
        """All answers, within the timeout. What came while this process was too busy to look is not late."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit, self._redis.pipeline(transaction=False) as pipe:
            last_look = loop.call_later(
                self._timeout, lambda: limit.reschedule(loop.time() + GRACE)
            )
            try:
                for command in commands:
                    pipe.execute_command(*command)
                answers: list[Any] = await pipe.execute(raise_on_error=False)
            finally:
                last_look.cancel()
        return answers

    def _trouble(self, what: str, problem: BaseException) -> None:
        CACHE_OUTCOMES.labels("error").inc()
        log.warning(
            "cache trouble, going on without",
            operation=what,
            problem=f"{type(problem).__name__}: {problem}",
        )


def _claim_of(key: CacheKey) -> str:
    return f"{key}:claim"


def warnings(memory: Mapping[str, Any]) -> list[str]:
    """What is wrong with Redis as a cache, by its INFO memory; each sentence names the setting to change. Pure."""
    if not memory.get("maxmemory"):
        return ["Redis has no maxmemory: the cache grows until the machine is full; set maxmemory"]
    if memory.get("maxmemory_policy") == "noeviction":
        return [
            "Redis will refuse writes once maxmemory is reached, as its maxmemory-policy is noeviction: "
            "set maxmemory-policy to allkeys-lru"
        ]
    return []
