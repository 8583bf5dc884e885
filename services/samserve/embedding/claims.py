"""Claims on embeddings: of several replicas that want the same one, only one encodes it."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from samserve.core.errors import DeadlinePassed
from samserve.infra.cache import CacheKey, Claim

CLAIM_EXPIRY = 5.0  # seconds after which the claim of a dead replica expires
FIRST_PAUSE = 0.01  # seconds before a claim is tried again
LAST_PAUSE = 0.05


class ClaimStore(Protocol):
    """The place where replicas agree who encodes an image; a claim expires by itself."""

    async def claim(self, key: CacheKey, token: str, seconds: float) -> Claim: ...
    async def renew(self, key: CacheKey, token: str, seconds: float) -> None: ...
    async def release(self, key: CacheKey, token: str) -> None: ...


class ReplicaClaims:
    """Claims that this replica makes."""

    def __init__(self, store: ClaimStore, *, patience: float, expiry: float = CLAIM_EXPIRY) -> None:
        """Create claims in the store.

        Args:
            store: Shared by all replicas.
            patience: Seconds to wait for another replica.
            expiry: Lifetime of a claim in seconds; it is renewed while it is held.
        """
        self._store = store
        self._patience = patience
        self._expiry = expiry

    @asynccontextmanager
    async def claim(self, key: CacheKey) -> AsyncIterator[ReplicaClaim]:
        """Open a claim on an entry of the cache; it is released at the end of the block."""
        claim = ReplicaClaim(self._store, key, self._patience, self._expiry)
        try:
            yield claim
        finally:
            await claim.release()


class ReplicaClaim:
    """One claim on one entry."""

    def __init__(self, store: ClaimStore, key: CacheKey, patience: float, expiry: float) -> None:
        self._store = store
        self._key = key
        self._patience = patience
        self._expiry = expiry
        self._token = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"
        self._state: Claim | None = None  # None: never tried
        self._renewal: asyncio.Task[None] | None = None

    async def acquire(self) -> bool:
        """Wait for the claim, and keep it alive from then on.

        Returns:
            Whether to do the work; false if another replica has stored the entry meanwhile.
            Without Redis the work is done unclaimed.

        Raises:
            DeadlinePassed: Another replica holds the claim for longer than `patience`.
        """
        pause = FIRST_PAUSE
        give_up = time.monotonic() + self._patience
        # Try repeatedly instead of subscribing: that survives every failure of Redis.
        self._state = Claim.HELD
        while (state := await self._try()) is Claim.HELD:
            if time.monotonic() > give_up:
                raise DeadlinePassed("turn")
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LAST_PAUSE)

        self._state = state
        if state is Claim.GRANTED:
            self._renewal = asyncio.create_task(self._renew())
        return state is not Claim.STORED

    async def release(self) -> None:
        """Stop renewing the claim, and give it up if it may be held."""
        if self._renewal is not None:
            self._renewal.cancel()

        # HELD: cancelled while waiting, perhaps just as Redis granted the claim.
        if self._state in (Claim.GRANTED, Claim.HELD):
            await self._store.release(self._key, self._token)

    async def _try(self) -> Claim:
        return await self._store.claim(self._key, self._token, self._expiry)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._expiry / 3)
            await self._store.renew(self._key, self._token, self._expiry)
