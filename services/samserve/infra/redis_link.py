"""The connection to the cache's Redis: time limits, a circuit breaker, and counted failures.

Trouble with Redis is never an error of the caller. An operation without an answer raises NoAnswer
and counts it; the caller continues as after a miss.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, closing, suppress
from typing import Any, TypeVar

import structlog
from redis import Redis as SyncRedis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError, WatchError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry as SyncRetry

from samserve.infra import tracing
from samserve.infra.breaker import Breaker, BreakerOpen
from samserve.infra.metrics import CACHE_OUTCOMES

log = structlog.get_logger()

CONNECTIONS = 16  # to Redis, and so operations at once
GRACE = 0.05  # seconds between an operation's time limit and its end

Command = tuple[Any, ...]
Answer = TypeVar("Answer")


class UnsupportedRedis(Exception):
    """Redis runs in a mode in which it cannot be the cache."""


class NoAnswer(Exception):
    """Redis is down, slow, or refuses.

    Attributes:
        passing: Whether a second attempt may succeed at once.
        refusal: What Redis answered; empty if it did not answer.
    """

    def __init__(self, passing: bool, refusal: str = "") -> None:
        super().__init__()
        self.passing = passing
        self.refusal = refusal


class RedisLink:
    """Sends commands to one Redis. For one event loop."""

    def __init__(self, url: str, timeout: float) -> None:
        """Connect at the first command; `timeout` in seconds is the limit of one operation."""
        pool = ConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS + 1,  # one listens
            # _in_time sets the time limit.
            socket_timeout=None,
            socket_connect_timeout=None,
            # A value of 2 MiB then takes a handful of reads instead of 32.
            socket_read_size=2**18,
            retry=Retry(NoBackoff(), 0),
            # With notifications, redis-py 8 hands out connections that a restarted server closed.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        self._redis = Redis.from_pool(pool)  # closes the pool with itself
        self._timeout = timeout
        # Not the pool's own queue: operations that waited here then ask the breaker first, and do
        # not wait for a Redis that is known to be down.
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._breaker = Breaker("Redis")

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def try_call(self, operation: str, *commands: Command) -> list[Any] | None:
        """Return the answers as `call` does, or None without an answer."""
        try:
            return await self.call(operation, *commands)
        except NoAnswer:
            return None

    async def call(self, operation: str, *commands: Command) -> list[Any]:
        """Send the commands together and return their answers. Raises NoAnswer, and counts it."""
        answers = await self._guarded(operation, lambda: self._send(commands))
        error = next((answer for answer in answers if isinstance(answer, RedisError)), None)
        if error is not None:
            self._count_error(operation, error)
            raise NoAnswer(passing=False, refusal=str(error)) from error
        return answers

    async def call_if(
        self, operation: str, names: Sequence[str], values: Sequence[object], *commands: Command
    ) -> bool:
        """Send the commands as one transaction if some keys have these values.

        Returns:
            Whether they had, and kept them meanwhile. Raises NoAnswer as `call`.
        """

        async def send() -> bool:
            async with self._redis.pipeline(transaction=True) as pipe:
                await pipe.watch(*names)
                if await pipe.mget(*names) != list(values):
                    return False
                pipe.multi()  # type: ignore[no-untyped-call]
                for command in commands:
                    pipe.execute_command(*command)
                try:
                    await pipe.execute()
                except WatchError:
                    return False
                return True

        return await self._guarded(operation, send)

    async def listen(self, channel: str) -> AsyncIterator[bytes]:
        """Yield what is published on a channel, until the connection ends."""
        with suppress(RedisError, OSError):
            async with aclosing(self._redis.pubsub()) as subscription:
                await subscription.subscribe(channel)
                async for message in subscription.listen():
                    if message["type"] == "message":
                        yield message["data"]

    async def _guarded(self, operation: str, send: Callable[[], Awaitable[Answer]]) -> Answer:
        try:
            async with self._slots:
                with tracing.span(f"redis {operation}", tracing.Kind.CLIENT), self._breaker.guard():
                    return await self._in_time(send)
        except BreakerOpen:
            CACHE_OUTCOMES.labels("bypassed").inc()
            raise NoAnswer(passing=False) from None
        except (TimeoutError, RedisError, OSError) as problem:
            self._count_error(operation, problem)
            is_refusal = isinstance(problem, AuthenticationError | ResponseError)
            refusal = str(problem) if is_refusal else ""
            raise NoAnswer(passing=not self._breaker.open, refusal=refusal) from problem

    async def _in_time(self, send: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return all answers within the time limit.

        The limit ends in two steps. An answer that arrived while this process was too busy to read
        it is not late: the grace lets the event loop read it first.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            last_look = loop.call_later(
                self._timeout, lambda: limit.reschedule(loop.time() + GRACE)
            )
            try:
                return await send()
            finally:
                last_look.cancel()
        raise TimeoutError  # for the type checker; a timeout ends the block with an error

    async def _send(self, commands: tuple[Command, ...]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
        return answers

    def _count_error(self, operation: str, problem: BaseException) -> None:
        CACHE_OUTCOMES.labels("error").inc()
        log.warning(
            "cache operation failed, continuing without cache",
            operation=operation,
            problem=f"{type(problem).__name__}: {problem}",
        )


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
