"""The cache of embeddings that both services share. No other file imports redis.

Trouble with Redis is a counted miss, never an error: without it answers are slower, not wrong.
Every operation has a time limit, and a circuit breaker bypasses Redis while it is down or slow.
Entries may have been written by anyone: one that is damaged, of another kind than expected, or not
sealed with the secret if there is one, is a miss too.

Beside the entries the cache keeps claims, so that one of several replicas encodes an image while
the others wait. A claim expires by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import structlog
from redis import Redis as SyncRedis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry as SyncRetry

from samserve.codec.packed import DamagedEmbedding, pack, unpack, unpack_header
from samserve.core.embedding import MOST_TEXT, Contract, Embedding, EmbeddingHeader
from samserve.core.errors import Unavailable
from samserve.core.family import TRUNK
from samserve.infra import tracing
from samserve.infra.breaker import Breaker, BreakerOpen
from samserve.infra.cache_options import CacheOptions
from samserve.infra.metrics import CACHE_BYTES, CACHE_OUTCOMES
from samserve.infra.seal import Seal

log = structlog.get_logger()

CONNECTIONS = 16  # to Redis, and so operations at once
GRACE = 0.05  # seconds between an operation's time limit and its end

NO_EXPIRY = -1  # PTTL's answer for a key that has none

Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Everything that an entry depends on, and its owner.

    Attributes:
        owner: Of the entry.
        model_version: Of the model, or of the part of it, that made the entry.
        image_id: Of the image; for a phrase, the word for that kind.
        part: What the entry is of the image; empty for the embedding.
    """

    owner: str
    model_version: str
    image_id: str
    part: str = ""

    def __str__(self) -> str:
        name = f"samserve:{self.owner}:{self.model_version}:{self.image_id}"
        return f"{name}:{self.part}" if self.part else name


def trunk_key(key: CacheKey) -> CacheKey:
    """Return the key of an image's trunk, from that of its embedding."""
    return replace(key, part=TRUNK)


def phrase_key(owner: str, head: str, digest: str) -> CacheKey:
    """Return the key of a phrase's features, by a version of the head."""
    return CacheKey(owner, head, "phrase", digest)


def concept_key(key: CacheKey, head: str, digest: str) -> CacheKey:
    """Return the key of what a version of the head found of a concept on an image.

    Args:
        key: Of the image's embedding.
        head: Version of the head.
        digest: Of the concept.
    """
    return CacheKey(key.owner, head, f"{key.model_version}:{key.image_id}", f"concept:{digest}")


class Claim(Enum):
    """The answer to a replica that asks to encode an image."""

    GRANTED = "granted"  # encode it; other replicas wait
    HELD = "held"  # another replica encodes it, or Redis was too slow: ask again soon
    STORED = "stored"  # the embedding is in the cache by now
    ALONE = "alone"  # Redis is down or refuses, so replicas cannot coordinate


class UnsupportedRedis(Exception):
    """Redis runs in a mode in which it cannot be the cache."""


class _NoAnswer(Exception):
    """Redis is down, slow, or refuses.

    Attributes:
        passing: Whether a second attempt may succeed at once.
        refusal: What Redis answered; empty if it did not answer.
    """

    def __init__(self, passing: bool, refusal: str = "") -> None:
        super().__init__()
        self.passing = passing
        self.refusal = refusal


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
        self._seal = Seal(options.secret)
        self._name = options.name
        self._ttl = options.ttl
        self._timeout = options.timeout
        # Not the pool's own queue: operations that waited here then ask the breaker first, and do
        # not wait for a Redis that is known to be down.
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._breaker = Breaker("Redis")

    async def head(self, key: CacheKey, contract: Contract | None = None) -> EmbeddingHeader | None:
        """Return the embedding's header without fetching its tensors. See `get`."""
        entry = await self._fetch(key, self._get_header(key))
        return None if entry is None else await self._read_header(key, entry, contract)

    async def get(self, key: CacheKey, contract: Contract | None = None) -> Embedding | None:
        """Return the embedding, or None if it is missing, damaged, or Redis is down.

        Args:
            key: Of the entry.
            contract: What the embedding must be like; an entry that breaks it counts as damaged.
        """
        entry = await self._fetch(key, ("GET", self._name(key)))
        if entry is None:
            return None

        # In a thread, since the checksum and the decoding take milliseconds.
        try:
            return await asyncio.to_thread(self._open, key, entry, contract)
        except DamagedEmbedding as problem:
            await self._delete_damaged(key, problem)
            return None

    async def put(self, key: CacheKey, embedding: Embedding) -> None:
        """Store the embedding, with one retry, since the encode was expensive.

        A failure is counted; the caller goes on.
        """
        entry = await asyncio.to_thread(
            lambda: self._seal.close(self._name(key), embedding.packed or pack(embedding))
        )
        command = ("SET", self._name(key), entry, "EX", self._ttl)

        try:
            await self._call("put", command)
        except _NoAnswer as problem:
            if not problem.passing or await self._try_call("put", command) is None:
                return

        CACHE_OUTCOMES.labels("stored").inc()
        CACHE_BYTES.labels("written").inc(len(entry))

    async def delete(self, key: CacheKey) -> bool:
        """Delete the entry. Returns whether there was one.

        Raises:
            Unavailable: Redis did not answer, so that the entry may still be there.
        """
        deleted = await self._try_call("delete", ("DEL", self._name(key)))
        if deleted is None:
            raise Unavailable("the cache did not answer; the embedding may not be deleted")
        return bool(deleted[0])

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
        name, milliseconds = self._claim_name(key), int(1000 * seconds)
        take = ("SET", name, token, "NX", "PX", milliseconds)
        try:
            _, holder, left, entry = await self._call(
                "claim", take, ("GET", name), ("PTTL", name), self._get_header(key)
            )
        except _NoAnswer as problem:
            return Claim.HELD if problem.passing else Claim.ALONE

        granted = holder == token.encode()
        if entry and await self._read_header(key, entry) is not None:
            if granted:
                await self.release(key, token)
            return Claim.STORED

        # No replica made such a claim, and it would block the image for good.
        if left == NO_EXPIRY or left > milliseconds:
            log.warning("claim without a proper expiry gets one", key=name)
            await self._try_call("claim", ("PEXPIRE", name, milliseconds))

        return Claim.GRANTED if granted else Claim.HELD

    async def renew(self, key: CacheKey, token: str, seconds: float) -> None:
        """Set a claim's lifetime to `seconds` from now, if it is still held."""
        if await self._holds(key, token):
            expiry = ("PEXPIRE", self._claim_name(key), int(1000 * seconds))
            await self._try_call("renew", expiry)

    async def release(self, key: CacheKey, token: str) -> None:
        """Release a claim, if it is still held."""
        if await self._holds(key, token):
            await self._try_call("release", ("DEL", self._claim_name(key)))

    async def _holds(self, key: CacheKey, token: str) -> bool:
        """Return whether the claim is still held; it may have expired and gone to another replica.

        It may also expire before the caller's next command. The claim that is then ended or
        prolonged is another replica's, which costs one more encode or a few seconds. A script would
        prevent that, but many managed Redis users may run none.
        """
        answers = await self._try_call("holder", ("GET", self._claim_name(key)))
        return answers is not None and answers[0] == token.encode()

    async def check(self) -> None:
        """Warn if Redis is down or refuses, or if its settings do not suit a cache."""
        try:
            await self._call("check", ("PING",))
        except _NoAnswer as problem:
            reason = f"refuses: {problem.refusal}" if problem.refusal else "does not answer"
            log.warning(f"Redis {reason}: every image is a cache miss")
            return

        try:
            (memory,) = await self._call("check", ("INFO", "memory"))
        except _NoAnswer as problem:
            log.warning(
                "Redis did not tell its memory settings: set maxmemory and the policy allkeys-lru",
                problem=problem.refusal or "no answer",
            )
            return

        for warning in memory_warnings(memory):
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

    def _get_header(self, key: CacheKey) -> Command:
        return ("GETRANGE", self._name(key), 0, self._seal.header_bytes - 1)

    async def _read_header(
        self, key: CacheKey, entry: bytes, contract: Contract | None = None
    ) -> EmbeddingHeader | None:
        try:
            header = unpack_header(self._seal.open_header(self._name(key), entry), contract)
            _check_version(key, header.model_version)
        except DamagedEmbedding as problem:
            await self._delete_damaged(key, problem)
            return None
        return header

    def _open(self, key: CacheKey, entry: bytes, contract: Contract | None) -> Embedding:
        """Unpack an entry. Raises DamagedEmbedding."""
        embedding = unpack(self._seal.open(self._name(key), entry), contract)
        _check_version(key, embedding.model_version)
        return embedding

    async def _delete_damaged(self, key: CacheKey, problem: DamagedEmbedding) -> None:
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
            is_refusal = isinstance(problem, AuthenticationError | ResponseError)
            refusal = str(problem) if is_refusal else ""
            raise _NoAnswer(passing=not self._breaker.open, refusal=refusal) from problem

        error = next((answer for answer in answers if isinstance(answer, RedisError)), None)
        if error is not None:
            self._count_error(operation, error)
            raise _NoAnswer(passing=False, refusal=str(error)) from error

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


def _check_version(key: CacheKey, model_version: str) -> None:
    if model_version != key.model_version:
        raise DamagedEmbedding(f"the entry is of model version {model_version[:MOST_TEXT]!r}")


def refuse_cluster(url: str, timeout: float) -> None:
    """Check, before anything else is started, that Redis is not a cluster of several masters.

    A Redis that does not answer or does not tell passes.

    Raises:
        UnsupportedRedis: It is one.
    """
    redis = SyncRedis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=SyncRetry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    with closing(redis), suppress(RedisError, OSError):
        facts: dict[str, str] = redis.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]
        if int(facts.get("cluster_size", 0)) > 1:
            raise UnsupportedRedis(
                f"REDIS_URL names a Redis Cluster of {facts['cluster_size']} masters, which is not "
                "supported: each key would be asked of one node; use a single Redis or a proxy"
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
