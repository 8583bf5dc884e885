"""Whose turn it is to make an embedding, so that many who want the same one at once have it made once."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from samserve.core.cache_status import CacheStatus
from samserve.core.embedding import Embedding
from samserve.core.errors import DeadlinePassed
from samserve.infra.cache import CacheKey, Claim
from samserve.infra.stages import StageClock

FIRST_PAUSE, LAST_PAUSE = 0.01, 0.05  # seconds between two looks at what another replica makes

Begin = Callable[[], float]
Make = Callable[[Begin], Awaitable[Embedding]]


class Claims(Protocol):
    """Where replicas agree who makes an entry; a claim expires by itself."""

    async def claim(self, key: CacheKey, token: str, seconds: float) -> Claim: ...
    async def renew(self, key: CacheKey, token: str, seconds: float) -> None: ...
    async def release(self, key: CacheKey, token: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Shared:
    """An embedding made in this process: for the one who asked (MISS), or for another who asked before (COALESCED)."""

    embedding: Embedding
    status: CacheStatus


@dataclass(slots=True)
class _Flight:
    """One embedding being made for `waiting` callers, the most patient of whom waits until `deadline`. begun: too late
    to stop it.
    """

    waiting: int = 0
    deadline: float = 0.0
    begun: bool = False

    def begin(self) -> float:
        """From here on it is made, whoever waits; the seconds for which somebody will."""
        self.begun = True
        return self.deadline - asyncio.get_running_loop().time()


class SingleFlight:
    """Callers in this process share one task a key; the tasks of several replicas take turns by a claim.

    expiry: seconds after which a dead replica's claim may be another's; patience: seconds to wait for other replicas.
    """

    def __init__(self, claims: Claims, patience: float, expiry: float = 5.0) -> None:
        self._claims, self._patience, self._expiry = claims, patience, expiry
        self._turns: dict[CacheKey, tuple[_Flight, asyncio.Task[Embedding | None]]] = {}

    async def take(
        self, key: CacheKey, make: Make, deadline: float, clock: StageClock
    ) -> Shared | None:
        """Have it made, here or by another replica; None: by another, and it is in the cache.

        `make` says when it begins what is too dear to throw away. Until then it is cancelled once no caller waits any
        more; one caller who goes never stops it for the others. Raises what `make` does, and DeadlinePassed.
        """
        if key in self._turns:
            turn, task = self._turns[key]
            with clock.stage("turn"):
                embedding = await self._wait(key, turn, task, deadline)
            return None if embedding is None else Shared(embedding, CacheStatus.COALESCED)
        turn = _Flight()
        task = asyncio.create_task(self._make(key, make, turn, clock))
        self._turns[key] = turn, task
        task.add_done_callback(lambda _: self._forget(key, task))
        embedding = await self._wait(key, turn, task, deadline)
        return None if embedding is None else Shared(embedding, CacheStatus.MISS)

    async def _wait(
        self, key: CacheKey, turn: _Flight, task: asyncio.Task[Embedding | None], deadline: float
    ) -> Embedding | None:
        turn.waiting += 1
        turn.deadline = max(turn.deadline, deadline)
        try:
            return await asyncio.shield(task)
        finally:
            turn.waiting -= 1
            if not turn.waiting and not turn.begun:
                self._forget(key, task)  # whoever comes now must not share a task that ends
                task.cancel()

    def _forget(self, key: CacheKey, task: asyncio.Task[Embedding | None]) -> None:
        if key in self._turns and self._turns[key][1] is task:
            del self._turns[key]

    async def _make(
        self, key: CacheKey, make: Make, turn: _Flight, clock: StageClock
    ) -> Embedding | None:
        token, claim = (
            f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}",
            Claim.HELD,
        )  # whom to look for
        try:
            with clock.stage("turn"):
                claim = await self._claim(key, token)
            match claim:
                case Claim.GRANTED:
                    return await self._holding(key, token, make(turn.begin))
                case Claim.ALONE:
                    return await make(turn.begin)
                case _:
                    return None
        finally:
            if claim in (
                Claim.GRANTED,
                Claim.HELD,
            ):  # HELD: cancelled, maybe just as it was granted
                await self._claims.release(key, token)

    async def _claim(self, key: CacheKey, token: str) -> Claim:
        """The claim, or word that it is not needed. Asks again and again: that survives whatever happens to Redis."""
        pause, give_up = FIRST_PAUSE, time.monotonic() + self._patience
        while (claim := await self._claims.claim(key, token, self._expiry)) is Claim.HELD:
            if time.monotonic() > give_up:
                raise DeadlinePassed("turn")
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LAST_PAUSE)
        return claim

    async def _holding(self, key: CacheKey, token: str, making: Awaitable[Embedding]) -> Embedding:
        renewing = asyncio.create_task(self._renew(key, token))
        try:
            return await making
        finally:
            renewing.cancel()

    async def _renew(self, key: CacheKey, token: str) -> None:
        while True:
            await asyncio.sleep(self._expiry / 3)
            await self._claims.renew(key, token, self._expiry)
