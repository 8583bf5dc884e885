"""A circuit breaker: bypasses a dependency that fails or is slow, and retries it after a rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()


class BreakerOpen(Exception):
    """The circuit is open: do not call the dependency now."""


class Breaker:
    """Opens after several failures in a row; after a rest, one call tries the dependency again.

    Calls that overlap and fail together, as by one stall, count as one failure: only a call that
    began after the last counted failure adds another. Slowness counts if the caller's timeout makes
    the call fail. Not thread-safe.
    """

    def __init__(
        self,
        name: str,
        failures: int = 3,
        rest: float = 2.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a closed breaker.

        Args:
            name: Name of the dependency, for the log.
            failures: Failures in a row that open the circuit.
            rest: Seconds until an open circuit lets one call through.
            now: The clock, in seconds.
        """
        self._name = name
        self._most = failures
        self._rest = rest
        self._now = now
        self._failures = 0
        self._counted = float("-inf")  # when the last failure was counted
        self._retry_at = 0.0  # when the next call may try, while open
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether calls are held back."""
        return self._failures >= self._most

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Run the block as one call, and learn from its outcome.

        Raises:
            BreakerOpen: The circuit is open; the block does not run.
        """
        trial = self.open
        if trial and (self._trying or self._now() < self._retry_at):
            raise BreakerOpen(self._name)

        self._trying = trial
        began = self._now()
        try:
            yield
        except Exception:
            self._fail(began)
            raise
        else:
            self._succeed()
        finally:
            if trial:  # a cancelled trial proves nothing: the next call may try
                self._trying = False

    def _fail(self, began: float) -> None:
        if not self.open and began >= self._counted:
            self._failures += 1
            self._counted = self._now()
            if self.open:
                log.warning(
                    "circuit opened",
                    dependency=self._name,
                    failures=self._failures,
                    seconds=self._rest,
                )

        self._retry_at = self._now() + self._rest

    def _succeed(self) -> None:
        if self.open:
            log.info("circuit closed", dependency=self._name)
        self._failures = 0
