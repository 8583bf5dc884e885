"""A circuit breaker: keeps calls away from a neighbour that fails or is slow, and tries it again by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()


class BreakerOpen(Exception):
    """The neighbour is not to be called now."""


class Breaker:
    """Open after `failures` in a row, for `rest` seconds; then one call goes through, and its outcome decides.

    Calls that fail together, as by one stall, are one failure: in a row is what begins after the last one was noted.
    A slow neighbour is one whose calls fail by a timeout of the caller's. Not for several threads.
    """

    def __init__(
        self,
        name: str,
        failures: int = 3,
        rest: float = 2.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._most, self._rest, self._now = name, failures, rest, now
        self._failures = 0
        self._noted = float("-inf")  # when the last failure was counted
        self._again = 0.0  # when the next call may try; of meaning only while open
        self._trying = False

    @property
    def open(self) -> bool:
        return self._failures >= self._most

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Learn from how the block ends. Raises BreakerOpen instead of entering it while the breaker is open."""
        trial = self.open
        if trial and (self._trying or self._now() < self._again):
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
            if trial:  # one that was cancelled has told nothing: the next call may try
                self._trying = False

    def _fail(self, began: float) -> None:
        if not self.open and began >= self._noted:
            self._failures += 1
            self._noted = self._now()
            if self.open:
                log.warning(
                    "too many failures, going around it", neighbour=self._name, seconds=self._rest
                )
        self._again = self._now() + self._rest

    def _succeed(self) -> None:
        if self.open:
            log.info("it answers again", neighbour=self._name)
        self._failures = 0
