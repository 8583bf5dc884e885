"""The cache of embeddings that both services share. No other file imports redis.

Trouble with Redis is a counted miss, never an error: without it answers are slower, not wrong.
Every operation has a time limit, and a circuit breaker bypasses Redis while it is down or slow.

Beside the entries the cache keeps claims, so that one of several replicas encodes an image while
the others wait. A claim expires by itself.
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

from samserve.codec.packed import HEADER_BYTES, DamagedEmbedding, pack, unpack, unpack_header
from samserve.core.embedding import Embedding, EmbeddingHeader
from samserve.core.image import ImageRange
from samserve.infra import tracing
from samserve.infra.breaker import Breaker, BreakerOpen
from samserve.infra.metrics import CACHE_BYTES, CACHE_OUTCOMES

log = structlog.get_logger()

CONNECTIONS = 16  # to Redis, and so operations at once
GRACE = 0.05  # seconds between an operation's time limit and its end

# Only the holder may renew or release a claim, which may have expired and gone to another replica.
_IF_HELD = "if redis.call('GET', KEYS[1]) == ARGV[1] then return {} end return 0"
_RENEW = _IF_HELD.format("redis.call('PEXPIRE', KEYS[1], ARGV[2])")
_RELEASE = _IF_HELD.format("redis.call('DEL', KEYS[1])")

Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Everything that an embedding depends on, and the tenant that owns it."""

    tenant: str
    model_version: str
    image_id: str

    def __str__(self) -> str:
        return f"samserve:{self.tenant}:{self.model_version}:{self.image_id}"


class Claim(Enum):
    """The answer to a replica that asks to encode an image."""

    GRANTED = "granted"  # encode it; other replicas wait
    HELD = "held"  # another replica encodes it, or Redis was too slow: ask again soon
    STORED = "stored"  # the embedding is in the cache by now
    ALONE = "alone"  # Redis is down or refuses, so replicas cannot coordinate


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Options of the cache.

    Attributes:
        url: redis://..., rediss://... or unix://...
        ttl: Lifetime of an entry since its last use, in seconds.
        timeout: Time limit of one operation, in seconds.
        image_range: How images of 16 bits become 8, which changes their embeddings.
    """

    url: str
    ttl: int
    timeout: float
    image_range: ImageRange = "full"

    def name(self, key: CacheKey) -> str:
        """Return the name of an entry in Redis."""
        return str(key) if self.image_range == "full" else f"{key}:{self.image_range}"


class _NoAnswer(Exception):
    """Redis is down, slow, or refuses.

    Attributes:
        passing: Whether a second attempt may succeed at once.
    """

    def __init__(self, passing: bool) -> None:
        super().__init__()
        self.passing = passing


class EmbeddingCache:
    """Embeddings by key in Redis; each use prolongs an entry's lifetime."""

    def __init__(self, options: CacheOptions) -> None:
        pool = ConnectionPool.from_url(
            options.url,
            max_connections=CONNECTIONS,
            # _send sets the time limit.
            socket_timeout=None,
            socket_connect_timeout=None,
            # A value of 2 MiB then takes a handful of reads instead of 32.
            socket_read_size=2**18,
            retry=Retry(NoBackoff(), 0),
            # With notifications, redis-py 8 hands out connections that a restarted server closed.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self._redis = Redis.from_pool(pool)  # closes the pool with itself
        self._name = options.name
        self._ttl = options.ttl
        self._timeout = options.timeout
        # Not the pool's own queue: operations that waited here then ask the breaker first, and do
        # not wait for a Redis that is known to be down.
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._breaker = Breaker("Redis")

    async def head(self, key: CacheKey) -> EmbeddingHeader | None:
        """Return the embedding's header without fetching its tensors."""
        packed = await self._fetch(key, ("GETRANGE", self._name(key), 0, HEADER_BYTES - 1))
        return None if packed is None else await self._read_header(key, packed)

    async def get(self, key: CacheKey) -> Embedding | None:
        """Return the embedding, or None if it is missing, damaged, or Redis is down."""
        packed = await self._fetch(key, ("GET", self._name(key)))
        if packed is None:
            return None

        # In a thread, since the checksum and the decoding take milliseconds.
        try:
            return await asyncio.to_thread(unpack, packed)
        except DamagedEmbedding as problem:
            await self._delete(key, problem)
            return None

    async def put(self, key: CacheKey, embedding: Embedding) -> None:
        """Store the embedding, with one retry, since the encode was expensive.

        A failure is counted; the caller goes on.
        """
        packed = embedding.packed or await asyncio.to_thread(pack, embedding)
        command = ("SET", self._name(key), packed, "EX", self._ttl)

        try:
            await self._call("put", command)
        except _NoAnswer as problem:
            if not problem.passing or await self._try_call("put", command) is None:
                return

        CACHE_OUTCOMES.labels("stored").inc()
        CACHE_BYTES.labels("written").inc(len(packed))

    async def claim(self, key: CacheKey, token: str, seconds: float) -> Claim:
        """Ask to be the only replica that encodes the image. Takes one round trip.

        The claim is set before the entry is read: its last holder stored the entry before it
        released the claim. The holder is read back, since an earlier claim of this replica may have
        been set although its answer came too late.

        Args:
            key: The entry to make.
            token: Identifies this replica and attempt.
            seconds: Lifetime of the claim.
        """
        name = self._claim_name(key)
        take = ("SET", name, token, "NX", "PX", int(1000 * seconds))
        try:
            _, holder, packed = await self._call(
                "claim", take, ("GET", name), ("GETRANGE", self._name(key), 0, HEADER_BYTES - 1)
            )
        except _NoAnswer as problem:
            return Claim.HELD if problem.passing else Claim.ALONE

        granted = holder == token.encode()
        if packed and await self._read_header(key, packed) is not None:
            if granted:
                await self.release(key, token)
            return Claim.STORED

        return Claim.GRANTED if granted else Claim.HELD

    async def renew(self, key: CacheKey, token: str, seconds: float) -> None:
        """Set a claim's lifetime to `seconds` from now, if it is still held."""
        milliseconds = int(1000 * seconds)
        await self._try_call(
            "renew", ("EVAL", _RENEW, 1, self._claim_name(key), token, milliseconds)
        )

    async def release(self, key: CacheKey, token: str) -> None:
        """Release a claim, if it is still held."""
        await self._try_call("release", ("EVAL", _RELEASE, 1, self._claim_name(key), token))

    async def check(self) -> None:
        """Warn if Redis is down, or if its settings do not suit a cache."""
        answers = await self._try_call("check", ("INFO", "memory"))
        if answers is None:
            log.warning("Redis does not answer: every image is a cache miss")
            return

        for warning in memory_warnings(answers[0]):
            log.warning(warning)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _claim_name(self, key: CacheKey) -> str:
        return f"{self._name(key)}:claim"

    async def _fetch(self, key: CacheKey, command: Command) -> bytes | None:
        """Return what the command reads, and prolong the entry's lifetime."""
        answers = await self._try_call("get", command, ("EXPIRE", self._name(key), self._ttl))
        if answers is None:
            return None

        packed: bytes | None = answers[0] or None
        CACHE_OUTCOMES.labels("hit" if packed else "miss").inc()
        CACHE_BYTES.labels("read").inc(len(packed or b""))
        return packed

    async def _read_header(self, key: CacheKey, packed: bytes) -> EmbeddingHeader | None:
        try:
            return unpack_header(packed)
        except DamagedEmbedding as problem:
            await self._delete(key, problem)
            return None

    async def _delete(self, key: CacheKey, problem: DamagedEmbedding) -> None:
        """Delete a damaged entry, so that it is a miss only once."""
        CACHE_OUTCOMES.labels("damaged").inc()
        log.warning("damaged cache entry deleted", key=self._name(key), problem=str(problem))
        await self._try_call("delete", ("DEL", self._name(key)))

    async def _try_call(self, operation: str, *commands: Command) -> list[Any] | None:
        """Return the answers as _call does, or None without an answer."""
        try:
            return await self._call(operation, *commands)
        except _NoAnswer:
            return None

    async def _call(self, operation: str, *commands: Command) -> list[Any]:
        """Send the commands together and return their answers. Raises _NoAnswer, and counts it."""
        try:
            async with self._slots:
                with tracing.span(f"redis {operation}", tracing.Kind.CLIENT), self._breaker.guard():
                    answers = await self._send(commands)
        except BreakerOpen:
            CACHE_OUTCOMES.labels("bypassed").inc()
            raise _NoAnswer(passing=False) from None
        except (TimeoutError, RedisError, OSError) as problem:
            self._count_error(operation, problem)
            raise _NoAnswer(passing=not self._breaker.open) from problem

        refusal = next((answer for answer in answers if isinstance(answer, RedisError)), None)
        if refusal is not None:
            self._count_error(operation, refusal)
            raise _NoAnswer(passing=False) from refusal

        return answers

    async def _send(self, commands: tuple[Command, ...]) -> list[Any]:
        """Return all answers within the time limit.

        The limit ends in two steps. An answer that arrived while this process was too busy to read
        it is not late: the grace lets the event loop read it first.
        """
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

    def _count_error(self, operation: str, problem: BaseException) -> None:
        CACHE_OUTCOMES.labels("error").inc()
        log.warning(
            "cache operation failed, continuing without cache",
            operation=operation,
            problem=f"{type(problem).__name__}: {problem}",
        )


def memory_warnings(memory: Mapping[str, Any]) -> list[str]:
    """Return what makes Redis unfit as a cache, by its INFO memory, and the setting to change."""
    if not memory.get("maxmemory"):
        return [
            "Redis has no maxmemory, so the cache grows until the machine is full: set maxmemory"
        ]
    if memory.get("maxmemory_policy") == "noeviction":
        return [
            "Redis will refuse writes at maxmemory, since its maxmemory-policy is noeviction: "
            "set maxmemory-policy to allkeys-lru"
        ]
    return []
