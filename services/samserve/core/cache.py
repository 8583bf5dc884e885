"""The cache of embeddings that both services share: the only place that speaks to Redis.

Trouble with Redis is a counted miss, never an error: the cache makes things fast, the encoder makes them true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from samserve.core.embedding import HEAD, DamagedEmbedding, Embedding, Head, pack, unpack, unpack_head
from samserve.core.telemetry import CACHE_OUTCOMES

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Names everything that changes an embedding, and whose it is."""

    tenant: str
    model_version: str
    image_id: str

    def __str__(self) -> str:
        return f"samserve:{self.tenant}:{self.model_version}:{self.image_id}"


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """url: redis://...; ttl in seconds from the last use; timeout of one command in seconds."""

    url: str
    ttl: int = 24 * 3600
    timeout: float = 0.3
    connections: int = 16


class EmbeddingCache:
    """Embeddings under their keys, kept for a time that begins anew with each use."""

    def __init__(self, options: CacheOptions) -> None:
        pool = ConnectionPool.from_url(
            options.url,
            max_connections=options.connections,
            socket_timeout=options.timeout,
            socket_connect_timeout=options.timeout,
            socket_read_size=2**18,  # a 2 MiB value in a handful of reads instead of 32
            retry=Retry(NoBackoff(), 0),
        )
        self._redis = Redis(connection_pool=pool)
        self._ttl = options.ttl

    async def head(self, key: CacheKey) -> Head | None:
        """What is known of the embedding, without fetching it."""
        packed = await self._fetch(key, head_only=True)
        return None if packed is None else await self._read(key, packed, unpack_head)

    async def get(self, key: CacheKey) -> Embedding | None:
        """The embedding, or None if there is none, none whole, or no Redis."""
        packed = await self._fetch(key, head_only=False)
        return None if packed is None else await self._read(key, packed, unpack)

    async def put(self, key: CacheKey, embedding: Embedding) -> None:
        """Store it; a failure is logged and counted, and matters to nobody else."""
        try:
            packed = await asyncio.to_thread(pack, embedding)
            await self._redis.set(str(key), packed, ex=self._ttl)
            CACHE_OUTCOMES.labels("stored").inc()
        except (RedisError, OSError, asyncio.TimeoutError) as problem:
            self._trouble("put", problem)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _fetch(self, key: CacheKey, head_only: bool) -> bytes | None:
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.getrange(str(key), 0, HEAD - 1) if head_only else pipe.get(str(key))
                pipe.expire(str(key), self._ttl)
                packed: bytes | None = (await pipe.execute())[0]
        except (RedisError, OSError, asyncio.TimeoutError) as problem:
            self._trouble("get", problem)
            return None
        CACHE_OUTCOMES.labels("hit" if packed else "miss").inc()
        return packed or None

    async def _read(self, key: CacheKey, packed: bytes, read: Callable[[bytes], T]) -> T | None:
        """Unpack an entry; a damaged one is a miss, and deleted so that it is so only once."""
        try:
            return read(packed)
        except DamagedEmbedding as problem:
            CACHE_OUTCOMES.labels("damaged").inc()
            log.warning("damaged cache entry, deleting it", key=str(key), problem=str(problem))
        try:
            await self._redis.delete(str(key))
        except (RedisError, OSError, asyncio.TimeoutError) as problem:
            self._trouble("delete", problem)
        return None

    def _trouble(self, what: str, problem: BaseException) -> None:
        CACHE_OUTCOMES.labels("error").inc()
        log.warning("cache trouble, going on without", operation=what, problem=f"{type(problem).__name__}: {problem}")
