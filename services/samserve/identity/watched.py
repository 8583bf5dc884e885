"""The current keys, read again whenever they change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from samserve.core.errors import Unavailable
from samserve.identity.snapshot import InvalidKeyStore, Snapshot
from samserve.identity.store import KeyStore

POLL_SECONDS = 0.4  # between two looks at the store's version: a key is revoked within a second

log = structlog.get_logger()


class WatchedKeys:
    """A snapshot in memory, so that no call waits for the store. For one event loop."""

    def __init__(
        self, store: KeyStore, grace: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin without keys.

        Args:
            store: To watch.
            grace: Seconds for which keys are believed while the store does not answer.
            clock: Seconds.
        """
        self._store = store
        self._grace = grace
        self._clock = clock
        self._version: str | None = None
        self._snapshot = Snapshot()
        self._confirmed = float("-inf")
        self._failing = False

    def current(self) -> Snapshot:
        """Return the keys. Raises Unavailable if they are not known, or no longer."""
        if self._clock() - self._confirmed > self._grace:
            raise Unavailable("the keys cannot be checked now; try again")
        return self._snapshot

    async def watch(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(POLL_SECONDS)

    async def refresh(self) -> None:
        """Read the keys if they have changed. A failure is logged once and tried again."""
        asked = self._clock()
        try:
            version = await asyncio.to_thread(self._store.version)
            if version != self._version:
                self._snapshot = await asyncio.to_thread(self._store.load)
                self._version = version
                log.info("keys loaded", keys=len(self._snapshot.keys))
        except InvalidKeyStore as problem:
            if not self._failing:
                log.error("keys not readable", problem=str(problem), grace=self._grace)
            self._failing = True
            return
        self._failing = False
        self._confirmed = asked
